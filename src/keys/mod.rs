//! Master keys: the provider trait, the software keystore, where secrets come from. Knows no path inside a volume.

mod descriptor;
mod secret_bytes;
pub mod software;
pub mod source;

pub use secret_bytes::{MAX_SECRET, SecretBytes};
pub use software::{Keystore, KeystoreError, Unlock};

use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::wrap::WrapAlgorithm;

/// A wrapped 32-byte key, and what is needed to find the key that unwraps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Version of the master key that wrapped it.
    pub version: KeyVersion,
    /// How it was wrapped.
    pub algorithm: WrapAlgorithm,
    /// At most 400 bytes.
    pub bytes: Vec<u8>,
}

/// Whether a key may be used, in the words of AWS KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum KeyState {
    /// All operations.
    Enabled,
    /// None but describe and enable.
    Disabled,
}

/// What `describe` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// The key.
    pub key: KeyId,
    /// Whether it may be used.
    pub state: KeyState,
    /// The version that wraps.
    pub current: KeyVersion,
    /// Every version that still unwraps, ascending.
    pub versions: Vec<KeyVersion>,
}

/// Why a provider refused, by cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No such key or version in this provider.
    #[error("key {0} is not in this keystore")]
    NotFound(String),
    /// The key is disabled.
    #[error("key {0} is disabled")]
    Disabled(String),
    /// The key's state does not allow this.
    #[error("{0}")]
    InvalidState(String),
    /// The wrapped bytes were made by another key.
    #[error("the data key was wrapped by another key")]
    IncorrectKey,
    /// The wrapped bytes or their context are not what was wrapped.
    #[error("the wrapped key is damaged or belongs to another file")]
    InvalidCiphertext,
    /// Wrong passphrase, key file or PIN, or no permission.
    #[error("{0}")]
    AccessDenied(String),
    /// The provider cannot be reached now; may be tried again.
    #[error("{0}")]
    Unavailable(String),
}

/// A home of master keys. `context` is bound to every wrap as additional data (`format::wrap::context`).
pub trait KeyProvider: Send + Sync {
    /// The name that stands in the volume file: "software", later "pkcs11", "aws-kms".
    fn kind(&self) -> &'static str;
    /// State and versions of a key.
    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError>;
    /// Makes a data key and wraps it under this version of the key. (The volume chooses, so that no header names a
    /// version before the volume file that allows it is durable; a provider that cannot choose uses its current one.)
    fn generate(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
    ) -> Result<(Secret<32>, Wrapped), KeyError>;
    /// Wraps a given key under this version.
    fn wrap(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, KeyError>;
    /// Unwraps; never tries another version than the one named.
    fn unwrap(
        &self,
        key: &KeyId,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, KeyError>;
    /// Makes a new version of the key and returns it; durable before this returns.
    fn rotate(&self, key: &KeyId) -> Result<KeyVersion, KeyError>;
}
