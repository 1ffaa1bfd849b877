//! The arguments, as clap reads them. Nothing here holds a secret: only where secrets lie.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    about = "An encrypted filesystem over any directory: per-file data keys, a rotating master key",
    after_help = "Exit codes: 0 ok, 1 other failure, 2 usage, 3 wrong or missing secret, 4 keystore damaged, 5 no such key, \
                  6 key disabled, 7 in use, 8 not a volume, 9 damaged, 10 volume differs from what this host saw, \
                  11 mount failed, 12 no keystore, 13 rotation incomplete, 14 keystore busy"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Where the keystore is and what opens it; before or after the command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Keystore file [env: STRONGROOM_KEYSTORE] [default: ~/.config/strongroom/keystore]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(super) keystore: Option<PathBuf>,
    /// Read the passphrase from a file; one newline at its end is cut [env: STRONGROOM_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Key file of 32 bytes [env: STRONGROOM_KEY_FILE] [default: the keystore's name with .key added, if it is there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(super) key_file: Option<PathBuf>,
    /// Read the passphrase from an inherited file descriptor
    #[arg(long, global = true, value_name = "N", help_heading = "Keystore")]
    pub(super) passphrase_fd: Option<i32>,
    /// Read the passphrase or key file from a systemd credential
    #[arg(long, global = true, value_name = "NAME", help_heading = "Keystore")]
    pub(super) credential: Option<String>,
    /// Read the recovery key from a file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(super) recovery_key_file: Option<PathBuf>,
    /// Read a key file's bytes from a descriptor (from our own parent)
    #[arg(long, global = true, hide = true, value_name = "N")]
    pub(super) key_fd: Option<i32>,
    /// Read a recovery key's bytes from a descriptor (from our own parent)
    #[arg(long, global = true, hide = true, value_name = "N")]
    pub(super) recovery_key_fd: Option<i32>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an encrypted volume in an empty directory
    Init(InitArgs),
    /// The keystore: what unlocks it
    Keystore {
        #[command(subcommand)]
        command: KeystoreCommand,
    },
    /// Master keys in the keystore
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

/// The cipher suites by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Cipher {
    /// Notices every change of the ciphertext
    #[value(name = "aes-256-gcm-siv")]
    GcmSiv,
    /// Keeps the length, notices no change, as disk encryption
    #[value(name = "aes-256-xts")]
    Xts,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[command(flatten)]
    pub(super) new: NewVolume,
    /// Directory that will hold the ciphertext; made if missing, else it must be empty
    #[arg(value_name = "DIR")]
    pub(super) directory: PathBuf,
}

/// What cannot be changed after a volume was made.
#[derive(Debug, Args)]
pub(super) struct NewVolume {
    /// Cipher of every file
    #[arg(long, value_enum, default_value = "aes-256-gcm-siv")]
    pub(super) cipher: Cipher,
    /// Master key, by alias or id
    #[arg(long, value_name = "ALIAS", default_value = "alias/default")]
    pub(super) key: String,
    /// Do not bind files to their names (a swap of two whole files is then not noticed)
    #[arg(long)]
    pub(super) no_bind_names: bool,
    /// Fill skipped parts of sparse files, so that nobody can turn data into zeros there
    #[arg(long)]
    pub(super) no_sparse: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeystoreCommand {
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
pub(super) struct NewSlotArgs {
    #[command(flatten)]
    pub(super) kind: NewSlotKind,
    /// A name for people
    #[arg(long, default_value = "")]
    pub(super) label: String,
    #[command(flatten)]
    pub(super) cost: Cost,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct NewSlotKind {
    /// A passphrase, asked for twice
    #[arg(long)]
    pub(super) new_passphrase: bool,
    /// A passphrase from a file
    #[arg(long, value_name = "FILE")]
    pub(super) new_passphrase_file: Option<PathBuf>,
    /// A key file; made if missing
    #[arg(long, value_name = "FILE")]
    pub(super) new_key_file: Option<PathBuf>,
    /// A recovery key, printed once
    #[arg(long)]
    pub(super) new_recovery_key: bool,
}

/// What Argon2id shall cost; both or none.
#[derive(Debug, Args)]
pub(super) struct Cost {
    /// Memory for Argon2id in MiB [default: 256, measured to about half a second]
    #[arg(long, value_name = "MIB", requires = "argon2_passes")]
    pub(super) argon2_memory: Option<u32>,
    /// Passes of Argon2id [default: measured]
    #[arg(long, value_name = "N", requires = "argon2_memory")]
    pub(super) argon2_passes: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Output {
    /// One line of JSON
    #[arg(long, action = ArgAction::SetTrue)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
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
        /// Alias or id
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
