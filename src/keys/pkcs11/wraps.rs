//! Wrapping and unwrapping with a token's key.
//!
//! Invariant: nothing that a token gives is believed: lengths are checked, and a vector of zeros is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::object::ObjectHandle;
use rsa::PublicKey;

use super::bytes::{
    KEY, MAC_BLOCKS, checked_cbc, framed_cbc, mac_key, opened_oaep, parse_public, wrap_oaep,
};
use super::fault::Fault;
use super::object::{Chain, Kind};
use super::raw::{Cipher, GCM_IV, GCM_TAG};
use super::token::Live;
use crate::crypto::{Secret, random_bytes};
use crate::format::ids::KeyVersion;
use crate::format::wrap::{MAX_WRAPPED, WrapAlgorithm};
use crate::keys::{KeyError, Wrapped};

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
        let mac = Arc::new(mac_key(made.expose()));
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
        let parts = live.public_key(&self.chain, version)?;
        let key = Arc::new(parse_public(&parts.modulus, &parts.exponent)?);
        let mut public = self.public.lock().unwrap_or_else(PoisonError::into_inner);
        public.insert(version, Arc::clone(&key));
        Ok(key)
    }

    /// Lets go of what is remembered of other versions: another program may have destroyed one.
    pub fn keep_only(&self, versions: &[KeyVersion]) {
        let there = |version: &KeyVersion| versions.contains(version);
        self.public
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|version, _| there(version));
        self.macs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|version, _| there(version));
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
