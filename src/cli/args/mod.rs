//! The arguments, as clap reads them. Nothing here holds a secret: only where secrets lie.

mod bench;
mod check;
mod keystore;
mod token;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(in crate::cli) use bench::BenchArgs;
pub(in crate::cli) use check::CheckArgs;
pub(in crate::cli) use keystore::{Cost, KeyCommand, KeystoreCommand, NewSlotArgs};
pub(in crate::cli) use token::{Destination, TokenArgs, Use};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    about = "An encrypted filesystem over any directory: per-file data keys, a rotating master key",
    after_help = "Exit codes: 0 ok, 1 other failure, 2 usage, 3 wrong or missing secret, 4 keystore damaged, 5 no such key, \
                  6 key disabled, 7 in use, 8 not a volume, 9 damaged, 10 volume differs from what this host saw, \
                  11 mount failed, 12 no keystore, 13 rotation incomplete, 14 keystore busy, 15 damage found and repaired"
)]
pub(in crate::cli) struct Cli {
    #[command(flatten)]
    pub(in crate::cli) global: Global,
    #[command(subcommand)]
    pub(in crate::cli) command: Command,
}

/// Where the keystore is and what opens it; before or after the command.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Global {
    /// Keystore file [env: STRONGROOM_KEYSTORE] [default: ~/.config/strongroom/keystore]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(in crate::cli) keystore: Option<PathBuf>,
    /// Read the passphrase from a file; one newline at its end is cut [env: STRONGROOM_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(in crate::cli) passphrase_file: Option<PathBuf>,
    /// Key file of 32 bytes [env: STRONGROOM_KEY_FILE] [default: the keystore's name with .key added, if it is there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(in crate::cli) key_file: Option<PathBuf>,
    /// Read the passphrase from an inherited file descriptor
    #[arg(long, global = true, value_name = "N", help_heading = "Keystore")]
    pub(in crate::cli) passphrase_fd: Option<i32>,
    /// Read the passphrase or key file from a systemd credential
    #[arg(long, global = true, value_name = "NAME", help_heading = "Keystore")]
    pub(in crate::cli) credential: Option<String>,
    /// Read the recovery key from a file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Keystore")]
    pub(in crate::cli) recovery_key_file: Option<PathBuf>,
    /// Read a key file's bytes from a descriptor (from our own parent)
    #[arg(long, global = true, hide = true, value_name = "N")]
    pub(in crate::cli) key_fd: Option<i32>,
    /// Read a recovery key's bytes from a descriptor (from our own parent)
    #[arg(long, global = true, hide = true, value_name = "N")]
    pub(in crate::cli) recovery_key_fd: Option<i32>,
    #[command(flatten)]
    pub(in crate::cli) token: TokenArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Make what is missing (keystore, volume, mount point), mount it, and say what to do next
    Up(UpArgs),
    /// Make an encrypted volume in an empty directory
    Init(InitArgs),
    /// Mount a volume; returns when the mount answers
    Mount(MountArgs),
    /// Put this program in the place of the one that serves a mount, which stays: programs in it wait for an instant
    Reexec {
        /// Mount point
        #[arg(value_name = "MNT")]
        mountpoint: PathBuf,
    },
    /// Unmount; returns when everything is settled and the volume is free
    Umount {
        /// Mount point
        #[arg(value_name = "MNT")]
        mountpoint: PathBuf,
    },
    /// Show cipher, key and versions, and whether it is mounted
    Info {
        #[command(flatten)]
        output: Output,
        /// Backing directory or mount point
        #[arg(value_name = "DIR|MNT")]
        path: PathBuf,
    },
    /// Make a new version of the master key and re-wrap every header; data is not touched
    Rotate(RotateArgs),
    /// Verify every header, record, block and name of an unmounted volume; --repair brings back what can be
    Check(CheckArgs),
    /// Measure ciphers and a temporary volume on this machine; leaves nothing behind
    Bench(BenchArgs),
    /// Move a volume to another master key, or another envelope; data is not touched
    Rekey(RekeyArgs),
    /// Encrypt files again, under new data keys
    RekeyData(RekeyDataArgs),
    /// Copy an unmounted volume into a new one under another master key
    Copy(CopyArgs),
    /// List a directory of a volume without mounting it
    Ls {
        #[command(flatten)]
        trust: Trust,
        #[command(flatten)]
        output: Output,
        /// Backing directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Path inside the volume
        #[arg(value_name = "PATH", default_value = "/")]
        path: PathBuf,
    },
    /// Write a file of a volume to standard output without mounting it
    Cat(Inside),
    /// Copy a file or tree out of a volume without mounting it
    Export {
        #[command(flatten)]
        inside: Inside,
        /// Where to; must not exist
        #[arg(value_name = "TARGET")]
        target: PathBuf,
    },
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
pub(in crate::cli) enum Cipher {
    /// Notices every change of the ciphertext
    #[value(name = "aes-256-gcm-siv")]
    GcmSiv,
    /// Keeps the length, notices no change, as disk encryption
    #[value(name = "aes-256-xts")]
    Xts,
}

impl Cipher {
    /// As `--cipher` takes it.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::GcmSiv => "aes-256-gcm-siv",
            Self::Xts => "aes-256-xts",
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UpArgs {
    #[command(flatten)]
    pub(in crate::cli) new: NewVolume,
    /// Directory of the ciphertext; made if missing
    #[arg(value_name = "VAULT")]
    pub(in crate::cli) vault: PathBuf,
    /// Mount point; made if missing
    #[arg(value_name = "MNT")]
    pub(in crate::cli) mountpoint: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct MountArgs {
    /// Stay in the foreground, with log lines on stderr
    #[arg(long, short)]
    pub(in crate::cli) foreground: bool,
    /// Write nothing, not one byte of the backing directory either
    #[arg(long)]
    pub(in crate::cli) read_only: bool,
    /// Let other users look in, as permissions allow
    #[arg(long)]
    pub(in crate::cli) allow_other: bool,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTIONS")]
    pub(in crate::cli) options: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    /// Where to say that the mount answers (to our own parent)
    #[arg(long, hide = true, value_name = "N")]
    pub(in crate::cli) ready_fd: Option<i32>,
    /// Where the supervisor of this process is
    #[arg(long, hide = true, value_name = "N")]
    pub(in crate::cli) worker_fd: Option<i32>,
    /// Go on with the mount that another process serves (for `reexec`)
    #[arg(long, hide = true)]
    pub(in crate::cli) succeed: bool,
    /// Backing directory
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
    /// Mount point
    #[arg(value_name = "MNT")]
    pub(in crate::cli) mountpoint: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    /// Afterwards destroy the older versions of the key: copies and backups made before cannot be read any more
    #[arg(long)]
    pub(in crate::cli) destroy_old: bool,
    /// Also where this host knows another volume under the same key
    #[arg(long, requires = "destroy_old")]
    pub(in crate::cli) even_if_shared: bool,
    /// Backing directory or mount point
    #[arg(value_name = "DIR|MNT")]
    pub(in crate::cli) path: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RekeyArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    #[command(flatten)]
    pub(in crate::cli) destination: Destination,
    /// Backing directory or mount point
    #[arg(value_name = "DIR|MNT")]
    pub(in crate::cli) path: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RekeyDataArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    /// Backing directory or mount point
    #[arg(value_name = "DIR|MNT")]
    pub(in crate::cli) directory: PathBuf,
    /// Paths inside the volume; of a directory, all files below
    #[arg(value_name = "PATH", required = true)]
    pub(in crate::cli) paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CopyArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    #[command(flatten)]
    pub(in crate::cli) destination: Destination,
    /// Copy ciphertext as it is, with its data keys: fast, and who has the data keys of one volume reads both
    #[arg(long)]
    pub(in crate::cli) share_data_keys: bool,
    /// Backing directory
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
    /// Directory that will hold the copy; made if missing, else it must be empty
    #[arg(value_name = "DEST")]
    pub(in crate::cli) destination_dir: PathBuf,
}

/// What the user vouches for when a volume is opened.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct Trust {
    /// Accept a volume that differs from what this host saw last, if it shows this pin
    #[arg(long, value_name = "PIN")]
    pub(in crate::cli) expect_volume: Option<String>,
    /// The host that mounted the volume last and never unmounted it is gone for good
    #[arg(long)]
    pub(in crate::cli) take_over: bool,
}

/// A path inside a volume.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inside {
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    /// Backing directory
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
    /// Path inside the volume
    #[arg(value_name = "PATH")]
    pub(in crate::cli) path: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InitArgs {
    #[command(flatten)]
    pub(in crate::cli) new: NewVolume,
    /// Directory that will hold the ciphertext; made if missing, else it must be empty
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
}

/// What cannot be changed after a volume was made.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewVolume {
    /// Cipher of every file
    #[arg(long, value_enum, default_value = "aes-256-gcm-siv")]
    pub(in crate::cli) cipher: Cipher,
    /// Master key in the keystore, by alias or id
    #[arg(long, value_name = "ALIAS", default_value = "alias/default")]
    pub(in crate::cli) key: String,
    /// Master key in a token: pkcs11:token=..;object=..?module-path=/..; made there if it is not
    #[arg(long, value_name = "URI", conflicts_with = "key")]
    pub(in crate::cli) key_uri: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) using: Use,
    /// Do not bind files to their names (a swap of two whole files is then not noticed)
    #[arg(long)]
    pub(in crate::cli) no_bind_names: bool,
    /// Fill skipped parts of sparse files, so that nobody can turn data into zeros there
    #[arg(long)]
    pub(in crate::cli) no_sparse: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Output {
    /// One line of JSON
    #[arg(long, action = ArgAction::SetTrue)]
    pub(in crate::cli) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
