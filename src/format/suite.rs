//! The numbers and words for the cipher suite of a volume and for how its data keys are wrapped.

use serde::{Deserialize, Serialize};

use super::error::{FormatError, Result};

/// How the blocks of every file of a volume are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Suite {
    /// AES-256-GCM-SIV: every block authenticated.
    #[serde(rename = "aes-256-gcm-siv")]
    Gcm,
    /// AES-256-XTS: length-preserving, no integrity.
    #[serde(rename = "aes-256-xts")]
    Xts,
}

impl Suite {
    /// The number in a header.
    pub fn number(self) -> u8 {
        match self {
            Self::Gcm => 1,
            Self::Xts => 2,
        }
    }

    /// The suite with this number.
    pub fn from_number(number: u8) -> Result<Self> {
        match number {
            1 => Ok(Self::Gcm),
            2 => Ok(Self::Xts),
            other => Err(FormatError::Unknown {
                what: "cipher suite",
                value: other.into(),
            }),
        }
    }

    /// The word in the volume file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcm => "aes-256-gcm-siv",
            Self::Xts => "aes-256-xts",
        }
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What wraps a data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Envelope {
    /// The master key itself.
    #[serde(rename = "direct")]
    Direct,
    /// A volume key, which the master key wraps in the volume file.
    #[serde(rename = "volume")]
    Volume,
}

impl Envelope {
    /// The number in a header.
    pub fn number(self) -> u8 {
        match self {
            Self::Direct => 1,
            Self::Volume => 2,
        }
    }

    /// The envelope with this number.
    pub fn from_number(number: u8) -> Result<Self> {
        match number {
            1 => Ok(Self::Direct),
            2 => Ok(Self::Volume),
            other => Err(FormatError::Unknown {
                what: "envelope",
                value: other.into(),
            }),
        }
    }
}
