//! The arguments that name keys in tokens, and keys to move to. Whatever names a key is taken as text, so that a refusal
//! does not repeat it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::format::suite::Envelope;

/// How to reach the token that holds a volume's key.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Token")]
pub(in crate::cli) struct TokenArgs {
    /// PKCS#11 library, absolute [default: the one with which this host opened the volume last]
    #[arg(long, global = true, value_name = "[TOKEN=]FILE")]
    pub(in crate::cli) module: Vec<OsString>,
    /// What the library wants to be told first (NSS: its configuration)
    #[arg(long, global = true, value_name = "[TOKEN=]TEXT")]
    pub(in crate::cli) module_init: Vec<OsString>,
    /// Read the token's PIN from a file; one newline at its end is cut [env: STRONGROOM_PIN_FILE]
    #[arg(long, global = true, value_name = "[TOKEN=]FILE")]
    pub(in crate::cli) pin_file: Vec<OsString>,
    /// Read the token's PIN from an inherited file descriptor
    #[arg(long, global = true, value_name = "[TOKEN=]N")]
    pub(in crate::cli) pin_fd: Vec<OsString>,
}

/// What wraps data keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum EnvelopeName {
    /// The master key itself: each file's key can be opened only by the key's home
    Direct,
    /// A volume key in locked memory, which the master key wraps: one call of the key's home a mount
    Volume,
}

impl From<EnvelopeName> for Envelope {
    fn from(name: EnvelopeName) -> Self {
        match name {
            EnvelopeName::Direct => Self::Direct,
            EnvelopeName::Volume => Self::Volume,
        }
    }
}

/// How a key is to be used.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct Use {
    /// What wraps data keys [default: as before; for a new volume direct, if the key can]
    #[arg(long, value_enum)]
    pub(in crate::cli) envelope: Option<EnvelopeName>,
    /// How a key in a token wraps: aes-gcm, rsa-oaep or aes-cbc-hmac [default: what the token really does, in this order]
    #[arg(long, value_name = "MECHANISM")]
    pub(in crate::cli) mechanism: Option<String>,
}

/// The key that a volume moves to, or that a copy gets.
#[derive(Debug, Args)]
pub(in crate::cli) struct Destination {
    /// Alias or id of a key in the keystore, or a PKCS#11 URI: pkcs11:token=..;object=..
    #[arg(long, value_name = "KEY|URI")]
    pub(in crate::cli) to: String,
    #[command(flatten)]
    pub(in crate::cli) using: Use,
    /// PKCS#11 library of the token moved to, absolute [default: module-path of the URI, else as for --module]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) to_module: Option<PathBuf>,
    /// What that library wants to be told first
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) to_module_init: Option<String>,
    /// Read the PIN of the token moved to from a file
    #[arg(long, value_name = "FILE", conflicts_with = "to_pin_fd")]
    pub(in crate::cli) to_pin_file: Option<PathBuf>,
    /// Read the PIN of the token moved to from an inherited file descriptor
    #[arg(long, value_name = "N")]
    pub(in crate::cli) to_pin_fd: Option<i32>,
}
