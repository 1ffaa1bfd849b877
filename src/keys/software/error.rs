//! Why the software keystore refused, by cause. The sentences say what is wrong; what to do about it is said by `cli`.

use std::io;

use crate::keys::KeyError;

/// Why a call on the software keystore failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// There is no keystore file at this place.
    #[error("there is no keystore at {0}")]
    Missing(String),
    /// A file is there already.
    #[error("there is a keystore at {0} already")]
    Exists(String),
    /// The file is something else.
    #[error("{0} is not a Strongroom keystore")]
    NotAKeystore(String),
    /// A later version of Strongroom wrote it.
    #[error("the keystore has format {0}, and this program knows only format 1")]
    NewerFormat(u32),
    /// Its bytes are not what Strongroom wrote.
    #[error("the keystore is damaged: {0}")]
    Damaged(String),
    /// No slot opens with the secrets given. The text names what was tried: "passphrase", "key file", "recovery key".
    #[error("the {0} does not open this keystore")]
    WrongSecret(String),
    /// The keystore has no slot of this kind.
    #[error("the keystore has no {0} slot")]
    NoSuchSlotKind(&'static str),
    /// The slot by which it was opened has been removed or changed meanwhile.
    #[error("the slot that opened this keystore was removed or changed meanwhile")]
    SlotRevoked,
    /// No slot with this id.
    #[error("the keystore has no slot {0}")]
    NoSuchSlot(String),
    /// The last slot, or the last that is not a recovery key, cannot go.
    #[error("slot {0} is the last one that opens the keystore in daily use, and cannot be removed")]
    LastSlot(String),
    /// No such key, version or alias.
    #[error("{0} is not in this keystore")]
    NoSuchKey(String),
    /// The key is disabled.
    #[error("key {0} is disabled")]
    Disabled(String),
    /// The key's state does not allow this.
    #[error("{0}")]
    InvalidState(String),
    /// An alias is `alias/` and 1 to 250 of `A-Z a-z 0-9 : / _ -`, and not `alias/aws/`.
    #[error("{0:?} is not an alias: it is \"alias/\" and then letters, digits, and : / _ -")]
    InvalidAlias(String),
    /// The alias stands for another key.
    #[error("{0} exists already")]
    AliasTaken(String),
    /// More slots, keys or bytes than a keystore holds.
    #[error("the keystore is full: {0}")]
    Full(&'static str),
    /// A passphrase or parameter that cannot be used.
    #[error("{0}")]
    InvalidSecret(String),
    /// The system has not the memory that the passphrase slot asks for.
    #[error("the passphrase slot needs {0} MiB of memory, which the system does not give")]
    NoMemory(u32),
    /// Another process keeps the keystore's lock.
    #[error("another process is changing the keystore")]
    Busy,
    /// The file on disk is older than what this process has seen.
    #[error("the keystore file was replaced by an older copy")]
    RolledBack,
    /// The file system refused.
    #[error("keystore file: {0}")]
    Io(#[from] io::Error),
}

impl From<KeystoreError> for KeyError {
    fn from(error: KeystoreError) -> Self {
        match error {
            KeystoreError::NoSuchKey(key) => Self::NotFound(key),
            KeystoreError::Disabled(key) => Self::Disabled(key),
            KeystoreError::WrongSecret(_)
            | KeystoreError::SlotRevoked
            | KeystoreError::NoSuchSlotKind(_) => Self::AccessDenied(error.to_string()),
            KeystoreError::Busy
            | KeystoreError::Io(_)
            | KeystoreError::NoMemory(_)
            | KeystoreError::Missing(_) => Self::Unavailable(error.to_string()),
            other => Self::InvalidState(other.to_string()),
        }
    }
}
