//! Why bytes are not what Strongroom wrote, or cannot be written as asked. Texts hold no secrets and no names.

/// The one error of this layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes do not begin as a header does.
    #[error("not a Strongroom file")]
    NotStrongroom,
    /// Written by a version of the format that this program does not know.
    #[error("format version {0} is not known to this program")]
    UnknownFormat(u64),
    /// A number that stands for nothing.
    #[error("unknown {what} {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What stands there.
        value: u64,
    },
    /// Bytes that must be zero are not.
    #[error("{0} is not zero")]
    NotZero(&'static str),
    /// Too few or too many bytes.
    #[error("{0} has a length that nothing of that kind has")]
    Length(&'static str),
    /// A number that no writer of this format puts there.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// A checksum differs: written half, or damaged.
    #[error("{0} is torn or damaged")]
    Checksum(&'static str),
    /// A MAC or tag differs: not written with this volume's keys, or damaged.
    #[error("{0} is not authentic")]
    NotAuthentic(&'static str),
    /// Not the one spelling of this text (base64url, hex, JSON).
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The text.
        what: &'static str,
        /// What the reader said.
        why: String,
    },
    /// What is to be written exceeds what the format or a name can hold.
    #[error("{0} is too long")]
    TooLong(&'static str),
}

/// The result of every function of this layer.
pub type Result<T> = std::result::Result<T, FormatError>;
