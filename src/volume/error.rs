//! What can go wrong with a volume, by who is at fault. `fuse` turns each variant into an errno, `cli` into a sentence
//! and an exit code.

use std::io;

use crate::format::error::FormatError;
use crate::keys::KeyError;

/// The result of every call on a volume.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call on a volume failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backing store refused; the errno reaches the caller as it is.
    #[error("backing store: {0}")]
    Store(#[from] io::Error),
    /// Bytes in the store are not what Strongroom wrote: EIO and a log line. The text says what and where, no secrets.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The caller asked for something that does not exist or is not allowed; an errno as POSIX names it.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// The key provider refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Something went wrong with the object at a path from the top of the volume.
    #[error("{path}: {error}")]
    At {
        /// The path, as far as it is UTF-8.
        path: String,
        /// What went wrong.
        error: Box<Self>,
    },
    /// Another process has the volume; a whole sentence with its pid and host.
    #[error("{0}")]
    InUse(String),
    /// The directory is not a volume, or not one that this program can open; a whole sentence.
    #[error("{0}")]
    NotAVolume(String),
    /// The volume is not what this host saw last (another secret or key, or an older state); a whole sentence.
    #[error("{0}")]
    Pinned(String),
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Error {
    /// A refusal with this errno (`libc::ENOENT` and the like).
    pub fn errno(code: i32) -> Self {
        Self::Refused(code)
    }

    /// The errno that a program sees.
    pub fn code(&self) -> i32 {
        match self {
            Self::Store(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Self::Refused(code) => *code,
            Self::At { error, .. } => error.code(),
            Self::Damaged(_)
            | Self::Key(_)
            | Self::InUse(_)
            | Self::NotAVolume(_)
            | Self::Pinned(_) => libc::EIO,
        }
    }
}
