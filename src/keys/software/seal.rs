//! The keystore's key hierarchy, all derivations on one screen. Knows no file.
//!
//! ```text
//! slot secret (passphrase by Argon2id, key file, recovery key)
//!   └─ seals ─ slot key: X25519 private key 32 ‖ keystore authenticator 32
//!        └─ opens ─ root key, sealed to the slot's public key and authenticator
//!             ├─ HKDF "keystore mac"   MAC over the file
//!             └─ HKDF "keystore wrap"  wraps key versions and the authenticator
//! ```
//!
//! Invariant: whoever holds an old root key cannot open a new one. That is why the root key is sealed to public keys: if it
//! wrapped the slots' keys, an old copy of the file and a removed slot's secret would open every later root. The
//! authenticator, which every slot ever made knows and nobody else, keeps strangers from sealing a root of their own to
//! the public keys that stand in the file.

use zeroize::{Zeroize, Zeroizing};

use super::KeystoreError;
use super::bytes::Bytes;
use super::file::{Argon2Cost, Slot, SlotKind};
use crate::crypto::{GcmSiv, Secret, hkdf, mac32, random_bytes};
use crate::format::ids::{KeyId, KeyVersion};
use crate::keys::Unlock;

const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes of a sealed slot key.
pub(super) const SEALED_SLOT_KEY: usize = NONCE + 64 + TAG;
/// Bytes of a sealed 32-byte key.
pub(super) const SEALED_KEY: usize = NONCE + 32 + TAG;
/// Bytes of a root key sealed to a slot: ephemeral public key, then the seal.
pub(super) const SEALED_ROOT: usize = 32 + SEALED_KEY;

/// What a slot's secret opens.
pub(super) struct SlotKey {
    private: Secret<32>,
    pub(super) authenticator: Secret<32>,
}

impl SlotKey {
    pub(super) fn new(authenticator: &Secret<32>) -> Self {
        Self {
            private: Secret::random(),
            authenticator: copy(authenticator),
        }
    }

    pub(super) fn public(&self) -> [u8; 32] {
        x25519_dalek::x25519(*self.private.expose(), x25519_dalek::X25519_BASEPOINT_BYTES)
    }

    /// Seals this slot key under the slot's secret; the slot's other fields are bound.
    pub(super) fn seal(
        &self,
        slot: &Slot,
        secret: &Unlock,
    ) -> Result<Bytes<SEALED_SLOT_KEY>, KeystoreError> {
        let mut text = Zeroizing::new([0; 64]);
        let (private, authenticator) = text.split_at_mut(32);
        private.copy_from_slice(self.private.expose());
        authenticator.copy_from_slice(self.authenticator.expose());
        Ok(seal(
            &secret_key(slot, secret)?,
            &slot_context(slot),
            &text[..],
        ))
    }

    /// Opens a slot with its secret; `None` when the secret is another one.
    pub(super) fn open(slot: &Slot, secret: &Unlock) -> Result<Option<Self>, KeystoreError> {
        let Some(text) = open::<SEALED_SLOT_KEY, 64>(
            &secret_key(slot, secret)?,
            &slot_context(slot),
            &slot.slot_key,
        ) else {
            return Ok(None);
        };
        let (private, authenticator) = text.expose().split_at(32);
        let halves = Secret::from_slice(private).zip(Secret::from_slice(authenticator));
        Ok(halves.map(|(private, authenticator)| Self {
            private,
            authenticator,
        }))
    }

    /// Opens the root key that was sealed to this slot.
    pub(super) fn open_root(&self, slot: &Slot) -> Option<RootKey> {
        let (ephemeral, sealed) = slot.root_key.0.split_first_chunk::<32>()?;
        let sealed = Bytes(*sealed.first_chunk::<SEALED_KEY>()?);
        let mut shared = x25519_dalek::x25519(*self.private.expose(), *ephemeral);
        let key = root_seal_key(&mut shared, &self.authenticator, ephemeral, &self.public())?;
        let secret = open::<SEALED_KEY, 32>(&key, &root_context(slot), &sealed)?;
        Some(RootKey::new(secret))
    }
}

/// The root key with what is derived from it.
pub(super) struct RootKey {
    secret: Secret<32>,
    wrap: GcmSiv,
    mac: Secret<32>,
}

impl RootKey {
    pub(super) fn random() -> Self {
        Self::new(Secret::random())
    }

    fn new(secret: Secret<32>) -> Self {
        let wrap = GcmSiv::new(&hkdf::<32>(&[secret.expose()], &[], &[b"keystore wrap"]));
        let mac = hkdf::<32>(&[secret.expose()], &[], &[b"keystore mac"]);
        Self { secret, wrap, mac }
    }

    pub(super) fn mac(&self, text: &[u8]) -> [u8; 32] {
        mac32(&self.mac, &[b"strongroom/1/keystore", text])
    }

    pub(super) fn verify(&self, text: &[u8], mac: &[u8; 32]) -> bool {
        let mut expected = self.mac(text);
        let mut given = *mac;
        Secret::from_bytes(&mut expected).ct_eq(&Secret::from_bytes(&mut given))
    }

    /// Seals this root key to a slot, given its public key and the authenticator.
    pub(super) fn seal_to(
        &self,
        slot: &Slot,
        authenticator: &Secret<32>,
    ) -> Option<Bytes<SEALED_ROOT>> {
        let ephemeral = Secret::<32>::random();
        let public =
            x25519_dalek::x25519(*ephemeral.expose(), x25519_dalek::X25519_BASEPOINT_BYTES);
        let mut shared = x25519_dalek::x25519(*ephemeral.expose(), slot.public.0);
        let key = root_seal_key(&mut shared, authenticator, &public, &slot.public.0)?;
        let sealed: Bytes<SEALED_KEY> = seal(&key, &root_context(slot), self.secret.expose());
        let mut bytes = [0; SEALED_ROOT];
        let (start, rest) = bytes.split_at_mut(32);
        start.copy_from_slice(&public);
        rest.copy_from_slice(&sealed.0);
        Some(Bytes(bytes))
    }

    pub(super) fn wrap_version(
        &self,
        key: &KeyId,
        version: KeyVersion,
        secret: &Secret<32>,
    ) -> Bytes<SEALED_KEY> {
        seal(&self.wrap, &version_context(key, version), secret.expose())
    }

    pub(super) fn unwrap_version(
        &self,
        key: &KeyId,
        version: KeyVersion,
        wrapped: &Bytes<SEALED_KEY>,
    ) -> Option<Secret<32>> {
        open(&self.wrap, &version_context(key, version), wrapped)
    }

    pub(super) fn wrap_authenticator(&self, authenticator: &Secret<32>) -> Bytes<SEALED_KEY> {
        seal(
            &self.wrap,
            b"strongroom/1/keystore authenticator",
            authenticator.expose(),
        )
    }

    pub(super) fn unwrap_authenticator(&self, wrapped: &Bytes<SEALED_KEY>) -> Option<Secret<32>> {
        open(&self.wrap, b"strongroom/1/keystore authenticator", wrapped)
    }
}

pub(super) fn copy<const N: usize>(secret: &Secret<N>) -> Secret<N> {
    let mut bytes = *secret.expose();
    Secret::from_bytes(&mut bytes)
}

/// HKDF(X25519 result ‖ authenticator, ephemeral ‖ slot public key, "keystore root"); `None` for a degenerate result.
fn root_seal_key(
    shared: &mut [u8; 32],
    authenticator: &Secret<32>,
    ephemeral: &[u8; 32],
    public: &[u8; 32],
) -> Option<GcmSiv> {
    let shared = Secret::<32>::from_bytes(shared);
    if shared.expose().iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut salt = [0; 64];
    let (first, second) = salt.split_at_mut(32);
    first.copy_from_slice(ephemeral);
    second.copy_from_slice(public);
    Some(GcmSiv::new(&hkdf::<32>(
        &[shared.expose(), authenticator.expose()],
        &salt,
        &[b"keystore root"],
    )))
}

/// The key that a slot's secret gives. The slot's kind and the secret's have been matched by the caller.
fn secret_key(slot: &Slot, secret: &Unlock) -> Result<GcmSiv, KeystoreError> {
    let label: &[u8] = match secret {
        Unlock::Passphrase(_) => b"keystore passphrase slot",
        Unlock::KeyFile(_) => b"keystore key-file slot",
        Unlock::RecoveryKey(_) => b"keystore recovery slot",
    };
    let derived: Secret<32> = match (secret, &slot.kind) {
        (Unlock::Passphrase(passphrase), SlotKind::Passphrase(cost)) => {
            argon2id(passphrase.expose(), &slot.salt.0, cost)?
        }
        (Unlock::KeyFile(key), SlotKind::KeyFile)
        | (Unlock::RecoveryKey(key), SlotKind::RecoveryKey) => copy(key),
        _ => return Err(KeystoreError::NoSuchSlotKind(secret.kind())),
    };
    Ok(GcmSiv::new(&hkdf::<32>(
        &[derived.expose()],
        &slot.salt.0,
        &[label],
    )))
}

/// Argon2id (RFC 9106) version 0x13, 32 bytes; the memory is wiped.
pub(super) fn argon2id(
    passphrase: &[u8],
    salt: &[u8],
    cost: &Argon2Cost,
) -> Result<Secret<32>, KeystoreError> {
    cost.check().map_err(KeystoreError::Damaged)?;
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|error| KeystoreError::Damaged(format!("Argon2id parameters: {error}")))?;
    let mut blocks: Vec<argon2::Block> = Vec::new();
    let needed = params.block_count();
    let refused = || KeystoreError::NoMemory(cost.memory_kib / 1024);
    blocks.try_reserve_exact(needed).map_err(|_| refused())?;
    blocks.resize(needed, argon2::Block::new());
    let mut out = [0; 32];
    let done = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, &mut out, blocks.as_mut_slice());
    blocks.iter_mut().for_each(Zeroize::zeroize);
    done.map_err(|error| KeystoreError::InvalidSecret(format!("Argon2id: {error}")))?;
    Ok(Secret::from_bytes(&mut out))
}

fn seal<const OUT: usize>(key: &GcmSiv, context: &[u8], text: &[u8]) -> Bytes<OUT> {
    let mut bytes = [0; OUT];
    let mut nonce = [0; NONCE];
    random_bytes(&mut nonce);
    let (start, rest) = bytes.split_at_mut(NONCE);
    start.copy_from_slice(&nonce);
    let (body, tag) = rest.split_at_mut(OUT - NONCE - TAG);
    body.copy_from_slice(text);
    tag.copy_from_slice(&key.seal(&nonce, context, body));
    Bytes(bytes)
}

fn open<const IN: usize, const N: usize>(
    key: &GcmSiv,
    context: &[u8],
    sealed: &Bytes<IN>,
) -> Option<Secret<N>> {
    let (nonce, rest) = sealed.0.split_first_chunk::<NONCE>()?;
    let (body, tag) = rest.split_last_chunk::<TAG>()?;
    let mut text: [u8; N] = body.try_into().ok()?;
    let opened = key.open(nonce, context, &mut text, tag);
    let secret = Secret::from_bytes(&mut text);
    opened.ok().map(|()| secret)
}

/// Everything of a slot that is not a seal: label, id, kind and parameters, salt, public key.
fn slot_context(slot: &Slot) -> Vec<u8> {
    let (kind, cost) = match &slot.kind {
        SlotKind::Passphrase(cost) => (1, [cost.memory_kib, cost.passes, cost.lanes]),
        SlotKind::KeyFile => (2, [0; 3]),
        SlotKind::RecoveryKey => (3, [0; 3]),
    };
    let mut context = b"strongroom/1/keystore slot\0".to_vec();
    context.extend_from_slice(&slot.id.0);
    context.push(kind);
    cost.iter()
        .for_each(|number| context.extend_from_slice(&number.to_le_bytes()));
    context.extend_from_slice(&slot.salt.0);
    context.extend_from_slice(&slot.public.0);
    context
}

fn root_context(slot: &Slot) -> Vec<u8> {
    [b"strongroom/1/keystore root\0".as_slice(), &slot.id.0].concat()
}

fn version_context(key: &KeyId, version: KeyVersion) -> Vec<u8> {
    [
        b"strongroom/1/keystore key\0".as_slice(),
        &key.0,
        &version.0.to_le_bytes(),
    ]
    .concat()
}
