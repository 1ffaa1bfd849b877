//! The arguments of `keystore` and `key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeystoreCommand {
    /// Make a keystore: by default with a key file beside it and a recovery key, printed once
    Init {
        /// Add a passphrase slot (asked for twice, or from --passphrase-file and the like)
        #[arg(long)]
        passphrase: bool,
        /// Make no recovery key
        #[arg(long)]
        no_recovery_key: bool,
        #[command(flatten)]
        cost: Cost,
    },
    /// List the slots that unlock the keystore
    Slots {
        #[command(flatten)]
        output: Output,
    },
    /// Add a slot
    AddSlot(NewSlotArgs),
    /// Remove a slot and make a new root key, so that its secret and old copies of the file open nothing later
    RemoveSlot {
        /// Slot id, as `keystore slots` shows it
        slot: String,
    },
    /// Give a slot another secret (change a passphrase) and make a new root key
    ChangeSlot {
        /// Slot id, as `keystore slots` shows it
        slot: String,
        #[command(flatten)]
        new: NewSlotArgs,
    },
}

/// The secret of a new slot; exactly one.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewSlotArgs {
    #[command(flatten)]
    pub(in crate::cli) kind: NewSlotKind,
    /// A name for people
    #[arg(long, default_value = "")]
    pub(in crate::cli) label: String,
    #[command(flatten)]
    pub(in crate::cli) cost: Cost,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct NewSlotKind {
    /// A passphrase, asked for twice
    #[arg(long)]
    pub(in crate::cli) new_passphrase: bool,
    /// A passphrase from a file
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) new_passphrase_file: Option<PathBuf>,
    /// A key file; made if missing
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) new_key_file: Option<PathBuf>,
    /// A recovery key, printed once
    #[arg(long)]
    pub(in crate::cli) new_recovery_key: bool,
}

/// What Argon2id shall cost; both or none.
#[derive(Debug, Args)]
pub(in crate::cli) struct Cost {
    /// Memory for Argon2id in MiB [default: 256, measured to about half a second]
    #[arg(long, value_name = "MIB", requires = "argon2_passes")]
    pub(in crate::cli) argon2_memory: Option<u32>,
    /// Passes of Argon2id [default: measured]
    #[arg(long, value_name = "N", requires = "argon2_memory")]
    pub(in crate::cli) argon2_passes: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Make a key
    Create {
        /// Its name: alias/ and then letters, digits, and : / _ -
        alias: String,
        #[command(flatten)]
        output: Output,
    },
    /// List all keys
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one key and its versions
    Describe {
        /// Alias or id, or the PKCS#11 URI of a key in a token
        key: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let a key be used again
    Enable {
        /// Alias or id
        key: String,
    },
    /// Let a key wrap and unwrap nothing until it is enabled
    Disable {
        /// Alias or id
        key: String,
    },
}
