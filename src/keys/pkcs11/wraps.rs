//! The bytes of wraps made by tokens (`docs/FORMAT.md`, section 1), and the calls that make and open them.
//!
//! Invariant: nothing that a token gives is believed: lengths are checked, a vector of zeros is refused, and what a mechanism
//! does not bind to its context is bound here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::object::ObjectHandle;
use rsa::oaep::EncryptingKey;
use rsa::traits::{PublicKeyParts, RandomizedEncryptor};
use rsa::{BoxedUint, PublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::fault::Fault;
use super::object::{Chain, Kind};
use super::raw::{Cipher, GCM_IV, GCM_TAG};
use super::token::Live;
use crate::crypto::{Secret, hkdf, mac32, random_bytes, verify32};
use crate::format::ids::KeyVersion;
use crate::format::wrap::{MAX_WRAPPED, WrapAlgorithm};
use crate::keys::{KeyError, Wrapped};

/// Bytes of a wrapped key.
const KEY: usize = 32;
/// Bytes of the hash of a context behind a key, where the mechanism has no place for the context.
const CHECK: usize = 16;
/// Two blocks that the token's key encrypts for the MAC key of `aes-cbc-hmac`; they name their purpose and are never a text.
const MAC_BLOCKS: &[u8; 32] = b"strongroom/1/pkcs11 cbc mac key.";
/// The label of that MAC key, and of what it is used for.
const MAC_LABEL: &[u8] = b"pkcs11 cbc mac";

/// A key with what is remembered of it; nothing here is asked for where the token must answer itself.
pub(super) struct Wrapper {
    pub chain: Chain,
    pub algorithm: WrapAlgorithm,
    /// The token refuses vectors and makes its own (CloudHSM).
    own_vectors: AtomicBool,
    public: Mutex<BTreeMap<KeyVersion, Arc<PublicKey>>>,
    macs: Mutex<BTreeMap<KeyVersion, Arc<Secret<32>>>>,
    /// Versions seen at the last look at all objects: which of them are there is asked for each time.
    seen: Mutex<Vec<KeyVersion>>,
}

impl Wrapper {
    pub fn new(chain: Chain, algorithm: WrapAlgorithm) -> Self {
        Self {
            chain,
            algorithm,
            own_vectors: AtomicBool::new(false),
            public: Mutex::default(),
            macs: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Every version that is there, ascending, as the token has them now.
    pub fn versions(&self, live: &Live) -> Result<Vec<KeyVersion>, Fault> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(versions) = live.versions_among(&self.chain, &seen)? {
            return Ok(versions);
        }
        let versions = live.versions(&self.chain)?;
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&versions);
        Ok(versions)
    }

    /// Wraps under this version.
    pub fn wrap(
        &self,
        live: &mut Live,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, Fault> {
        let bytes = match self.algorithm {
            WrapAlgorithm::AesGcm => self.wrap_gcm(live, version, context, secret)?,
            WrapAlgorithm::AesCbcHmac => self.wrap_cbc(live, version, context, secret)?,
            WrapAlgorithm::RsaOaepSha256 | WrapAlgorithm::RsaOaepSha1 => {
                let public = self.public_key(live, version)?;
                wrap_oaep(&public, self.algorithm, context, secret)?
            }
            _ => return Err(Fault::Decided(KeyError::IncorrectKey)),
        };
        Ok(self.wrapped(version, bytes))
    }

    /// Wraps without the token, where the public key is known.
    pub fn wrap_offline(
        &self,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Option<Result<Wrapped, KeyError>> {
        let public = self.known_public(version)?;
        let bytes = wrap_oaep(&public, self.algorithm, context, secret);
        Some(bytes.map(|bytes| self.wrapped(version, bytes)))
    }

    fn wrapped(&self, version: KeyVersion, bytes: Vec<u8>) -> Wrapped {
        Wrapped {
            version,
            algorithm: self.algorithm,
            bytes,
        }
    }

    /// Unwraps; the algorithm is the wrap's, as one key may have wrapped in two ways.
    pub fn unwrap(
        &self,
        live: &mut Live,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, Fault> {
        match (self.chain.kind, wrapped.algorithm) {
            (Kind::Aes, WrapAlgorithm::AesGcm) => self.unwrap_gcm(live, context, wrapped),
            (Kind::Aes, WrapAlgorithm::AesCbcHmac) => self.unwrap_cbc(live, context, wrapped),
            (Kind::Rsa, WrapAlgorithm::RsaOaepSha256 | WrapAlgorithm::RsaOaepSha1) => {
                self.unwrap_oaep(live, context, wrapped)
            }
            _ => Err(Fault::Decided(KeyError::IncorrectKey)),
        }
    }

    fn wrap_gcm(
        &self,
        live: &mut Live,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Vec<u8>, Fault> {
        let key = live.object(&self.chain, version)?;
        if !self.own_vectors.load(Ordering::Relaxed) {
            let mut iv = [0; GCM_IV];
            random_bytes(&mut iv);
            match seal_gcm(live, key, iv, context, secret) {
                // A token that makes its vectors itself wants zeros here (CloudHSM). One that takes zeros as they are is
                // found out with a key that is none, and the refusal stands.
                Err(fault) if fault.refuses_parameters() => {
                    if seal_gcm(live, key, [0; GCM_IV], context, &Secret::random()).is_err() {
                        return Err(fault);
                    }
                    self.own_vectors.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        seal_gcm(live, key, [0; GCM_IV], context, secret)
    }

    fn unwrap_gcm(
        &self,
        live: &mut Live,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, Fault> {
        let (iv, sealed) = wrapped.bytes.split_first_chunk::<GCM_IV>().ok_or(DAMAGED)?;
        if sealed.len() != KEY + GCM_TAG || *iv == [0; GCM_IV] {
            return Err(DAMAGED);
        }
        let key = live.object(&self.chain, wrapped.version)?;
        let mut iv = *iv;
        let mut cipher = Cipher::Gcm {
            iv: &mut iv,
            context,
        };
        let functions = Arc::clone(&live.functions);
        let text = functions.decrypt(&live.session, key, &mut cipher, sealed, sealed.len())?;
        Secret::from_slice(text.expose()).ok_or(DAMAGED)
    }

    fn wrap_cbc(
        &self,
        live: &mut Live,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Vec<u8>, Fault> {
        let mac = self.mac_key(live, version)?;
        let key = live.object(&self.chain, version)?;
        let mut iv = [0; 16];
        random_bytes(&mut iv);
        let text = cbc(live, key, iv, secret.expose())?;
        Ok(framed_cbc(&mac, context, &iv, &text))
    }

    fn unwrap_cbc(
        &self,
        live: &mut Live,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, Fault> {
        let mac = self.mac_key(live, wrapped.version)?;
        let (iv, text) = checked_cbc(&mac, context, &wrapped.bytes).ok_or(DAMAGED)?;
        let key = live.object(&self.chain, wrapped.version)?;
        let functions = Arc::clone(&live.functions);
        let mut cipher = Cipher::Cbc { iv };
        let opened = functions.decrypt(&live.session, key, &mut cipher, &text, KEY)?;
        Secret::from_slice(opened.expose())
            .ok_or(Fault::Misbehaves("CBC gave another length than it got"))
    }

    /// HKDF over what the token's key makes of two fixed blocks: bound to that key, and no object of its own.
    fn mac_key(&self, live: &mut Live, version: KeyVersion) -> Result<Arc<Secret<32>>, Fault> {
        let known = |macs: &BTreeMap<_, _>| macs.get(&version).cloned();
        if let Some(mac) = known(&self.macs.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(mac);
        }
        let key = live.object(&self.chain, version)?;
        let functions = Arc::clone(&live.functions);
        let mut cipher = Cipher::Cbc { iv: [0; 16] };
        let made = functions.encrypt(&live.session, key, &mut cipher, MAC_BLOCKS, KEY)?;
        if made.expose().len() != KEY {
            return Err(Fault::Misbehaves("CBC gave another length than it got"));
        }
        let mac = Arc::new(hkdf::<32>(&[made.expose()], &[], &[MAC_LABEL]));
        let mut macs = self.macs.lock().unwrap_or_else(PoisonError::into_inner);
        macs.insert(version, Arc::clone(&mac));
        Ok(mac)
    }

    fn unwrap_oaep(
        &self,
        live: &mut Live,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, Fault> {
        let key = live.object(&self.chain, wrapped.version)?;
        let mut cipher = match wrapped.algorithm {
            WrapAlgorithm::RsaOaepSha256 => Cipher::OaepSha256 { label: context },
            _ => Cipher::OaepSha1,
        };
        let room = wrapped.bytes.len();
        if !(2048 / 8..=MAX_WRAPPED).contains(&room) {
            return Err(DAMAGED);
        }
        let functions = Arc::clone(&live.functions);
        let text = functions.decrypt(&live.session, key, &mut cipher, &wrapped.bytes, room)?;
        opened_oaep(wrapped.algorithm, context, text.expose()).ok_or(DAMAGED)
    }

    /// Whether it wraps without its token.
    pub fn is_public_known(&self, version: KeyVersion) -> bool {
        self.known_public(version).is_some()
    }

    fn known_public(&self, version: KeyVersion) -> Option<Arc<PublicKey>> {
        let public = self.public.lock().unwrap_or_else(PoisonError::into_inner);
        public.get(&version).cloned()
    }

    fn public_key(&self, live: &mut Live, version: KeyVersion) -> Result<Arc<PublicKey>, Fault> {
        if let Some(known) = self.known_public(version) {
            return Ok(known);
        }
        let (modulus, exponent) = live.public_key(&self.chain, version)?;
        let key = Arc::new(parse_public(&modulus, &exponent)?);
        let mut public = self.public.lock().unwrap_or_else(PoisonError::into_inner);
        public.insert(version, Arc::clone(&key));
        Ok(key)
    }

    /// Lets go of what is remembered of a version.
    pub fn forget(&self, version: KeyVersion) {
        self.public
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&version);
        self.macs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&version);
    }
}

const DAMAGED: Fault = Fault::Decided(KeyError::InvalidCiphertext);

/// IV ‖ text ‖ tag, the vector as it stands after the call.
fn seal_gcm(
    live: &Live,
    key: ObjectHandle,
    mut iv: [u8; GCM_IV],
    context: &[u8],
    secret: &Secret<32>,
) -> Result<Vec<u8>, Fault> {
    let mut cipher = Cipher::Gcm {
        iv: &mut iv,
        context,
    };
    let room = KEY + GCM_TAG;
    let sealed = live
        .functions
        .encrypt(&live.session, key, &mut cipher, secret.expose(), room)?;
    if sealed.expose().len() != room {
        return Err(Fault::Misbehaves(
            "GCM gave another length than text and tag have",
        ));
    }
    if iv == [0; GCM_IV] {
        return Err(Fault::Misbehaves("GCM under a vector of zeros"));
    }
    Ok([&iv[..], sealed.expose()].concat())
}

fn cbc(live: &Live, key: ObjectHandle, iv: [u8; 16], text: &[u8; KEY]) -> Result<[u8; KEY], Fault> {
    let mut cipher = Cipher::Cbc { iv };
    let sealed = live
        .functions
        .encrypt(&live.session, key, &mut cipher, text, KEY)?;
    sealed
        .expose()
        .try_into()
        .map_err(|_| Fault::Misbehaves("CBC gave another length than it got"))
}

/// IV ‖ text ‖ MAC.
fn framed_cbc(mac: &Secret<32>, context: &[u8], iv: &[u8; 16], text: &[u8; KEY]) -> Vec<u8> {
    let tag = mac32(mac, &[MAC_LABEL, context, iv, text]);
    [&iv[..], text, &tag].concat()
}

/// IV and text of a wrap whose MAC is right.
fn checked_cbc(mac: &Secret<32>, context: &[u8], bytes: &[u8]) -> Option<([u8; 16], [u8; KEY])> {
    let (iv, rest) = bytes.split_first_chunk::<16>()?;
    let (text, rest) = rest.split_first_chunk::<KEY>()?;
    let tag: &[u8; 32] = rest.try_into().ok()?;
    verify32(mac, &[MAC_LABEL, context, iv, text], tag).then_some((*iv, *text))
}

fn parse_public(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, Fault> {
    let number = BoxedUint::from_be_slice_vartime;
    let start = modulus.iter().position(|byte| *byte != 0).unwrap_or(0);
    let modulus = modulus.get(start..).unwrap_or_default();
    PublicKey::new(number(modulus), number(exponent)).map_err(|error| {
        Fault::Decided(KeyError::InvalidState(format!(
            "the public key on the token: {error}"
        )))
    })
}

fn wrap_oaep(
    public: &PublicKey,
    algorithm: WrapAlgorithm,
    context: &[u8],
    secret: &Secret<32>,
) -> Result<Vec<u8>, KeyError> {
    let mut rng = getrandom::SysRng;
    let wrapped = match algorithm {
        // A TPM opens no other label, and would tell when it is too late. The version at the end of a context gives the 0.
        WrapAlgorithm::RsaOaepSha256 if context.last() != Some(&0) => {
            let text = "a context that is to be an OAEP label must end in a zero byte";
            return Err(KeyError::InvalidState(text.into()));
        }
        WrapAlgorithm::RsaOaepSha256 => {
            EncryptingKey::<Sha256>::new_with_label(public.clone(), context.to_vec())
                .encrypt_with_rng(&mut rng, secret.expose())
        }
        _ => {
            let mut text = Secret::<{ KEY + CHECK }>::zero();
            let (key, check) = text.expose_mut().split_at_mut(KEY);
            key.copy_from_slice(secret.expose());
            check.copy_from_slice(&context_check(context));
            EncryptingKey::<Sha1>::new(public.clone()).encrypt_with_rng(&mut rng, text.expose())
        }
    };
    let wrapped = wrapped.map_err(|error| KeyError::InvalidState(format!("RSA-OAEP: {error}")))?;
    if wrapped.len() != public.size() || wrapped.len() > MAX_WRAPPED {
        return Err(KeyError::InvalidState("the RSA key is too long".into()));
    }
    Ok(wrapped)
}

/// The key in what OAEP gave.
fn opened_oaep(algorithm: WrapAlgorithm, context: &[u8], text: &[u8]) -> Option<Secret<32>> {
    if algorithm == WrapAlgorithm::RsaOaepSha256 {
        return Secret::from_slice(text);
    }
    let (key, check) = text.split_first_chunk::<KEY>()?;
    let right: bool = check.ct_eq(&context_check(context)).into();
    right.then(|| Secret::from_slice(key)).flatten()
}

fn context_check(context: &[u8]) -> [u8; CHECK] {
    let hash: [u8; 32] = Sha256::digest(context).into();
    let mut check = [0; CHECK];
    check.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    check
}
