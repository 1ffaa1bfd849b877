//! Master keys: the provider trait, the software keystore, where secrets come from. Knows no path inside a volume.

mod descriptor;
pub mod pkcs11;
mod providers;
mod secret_bytes;
pub mod software;
pub mod source;

pub use providers::Providers;
pub use secret_bytes::{MAX_SECRET, SecretBytes};
pub use software::{Keystore, KeystoreError, Unlock};

use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::volume_file::TokenObject;
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
    /// How it wraps.
    pub algorithm: WrapAlgorithm,
    /// Where a token keeps it.
    pub home: Option<TokenObject>,
}

/// Why a provider refused, by cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No such key or version in this provider, or its token is gone: for sure, not for the moment.
    #[error("key {0} is not there")]
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

impl KeyError {
    /// The cause in one word, as it goes over control sockets.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not-found",
            Self::Disabled(_) => "disabled",
            Self::InvalidState(_) => "invalid-state",
            Self::IncorrectKey => "incorrect-key",
            Self::InvalidCiphertext => "invalid-ciphertext",
            Self::AccessDenied(_) => "access-denied",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// A home of master keys. `context` is bound to every wrap as additional data (`format::wrap::context`).
///
/// Every call may come from any thread. A call that a token or a network does not answer ends as `Unavailable` after a
/// bounded time.
pub trait KeyProvider: Send + Sync {
    /// The name that stands in the volume file: "software", "pkcs11", later "aws-kms".
    fn kind(&self) -> &'static str;

    /// Whether it unwraps whatever becomes of the key's home: its keys are in this process's memory.
    fn is_at_hand(&self) -> bool {
        false
    }

    /// State and versions of a key. Asks the home itself, not a memory of it.
    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError>;

    /// Makes a data key and wraps it under this version of the key. (The volume chooses, so that no header names a
    /// version before the volume file that allows it is durable; a provider that cannot choose uses its current one.)
    fn generate(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
    ) -> Result<(Secret<32>, Wrapped), KeyError> {
        let secret = Secret::random();
        let wrapped = self.wrap(key, version, context, &secret)?;
        Ok((secret, wrapped))
    }

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

    /// As `generate`, one data key for each context, in their order; all or an error.
    fn generate_batch(
        &self,
        key: &KeyId,
        version: KeyVersion,
        contexts: &[&[u8]],
    ) -> Result<Vec<(Secret<32>, Wrapped)>, KeyError> {
        contexts
            .iter()
            .map(|context| self.generate(key, version, context))
            .collect()
    }

    /// As `unwrap`, for each (context, wrapped key), in their order.
    fn unwrap_batch(
        &self,
        key: &KeyId,
        items: &[(&[u8], &Wrapped)],
    ) -> Vec<Result<Secret<32>, KeyError>> {
        items
            .iter()
            .map(|(context, wrapped)| self.unwrap(key, context, wrapped))
            .collect()
    }

    /// Makes a new version of the key and returns it; durable before this returns.
    fn rotate(&self, key: &KeyId) -> Result<KeyVersion, KeyError>;

    /// Destroys a version for good; InvalidState for the newest.
    fn destroy(&self, key: &KeyId, version: KeyVersion) -> Result<(), KeyError>;

    /// How many data keys to hold ready because making one keeps its caller waiting; 0: none.
    fn ready_ahead(&self) -> usize {
        0
    }

    /// How many calls it serves at a time; `None`: it computes them where it is asked, as many as there are cores.
    fn parallel(&self) -> Option<usize> {
        None
    }
}
