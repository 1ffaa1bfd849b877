//! A plain directory and a mounted volume with a keystore of its own, below one new directory on the disk to measure. The volume is made,
//! mounted and unmounted by this program run again, as a user would: the daemon is the real one.
//!
//! Invariant: what runs here is out of the terminal's reach (a process group of its own), so that Ctrl-C never leaves a daemon
//! half started; we end it in order.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Advice, fadvise};

use crate::cli::args::Cipher;
use crate::cli::exit::{Code, at, failure};
use crate::crypto::random_bytes;
use crate::fuse;

/// Removed when dropped; `remove` also says whether that went well.
pub(super) struct Temporary {
    top: PathBuf,
    /// For the control socket, whose path may have 107 bytes, 38 of them its own name.
    sockets: PathBuf,
    options: Vec<String>,
    gone: bool,
}

impl Temporary {
    /// Makes the directories.
    pub(super) fn new(directory: &Path) -> anyhow::Result<Self> {
        let mut number = [0; 4];
        random_bytes(&mut number);
        let number = u32::from_le_bytes(number);
        let made = Self {
            top: directory.join(format!("strongroom-bench-{number:08x}")),
            sockets: std::env::temp_dir().join(format!("sr-{number:08x}")),
            options: Vec::new(),
            gone: false,
        };
        let dirs = [made.top.clone(), made.sockets.clone()];
        for dir in dirs
            .into_iter()
            .chain(["plain", "mnt"].map(|name| made.top.join(name)))
        {
            DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .map_err(at(&dir))?;
        }
        Ok(made)
    }

    /// Makes and mounts the volume.
    pub(super) fn make(&mut self, cipher: Cipher, options: &[String]) -> anyhow::Result<()> {
        self.options = options.to_vec();
        self.run(&["keystore", "init", "--no-recovery-key"])?;
        self.run(&["init", "--cipher", cipher.name(), "vault"])?;
        self.mount()
    }

    /// Where programs work.
    pub(super) fn place(&self, in_volume: bool) -> PathBuf {
        self.top.join(if in_volume { "mnt" } else { "plain" })
    }

    /// Drops what the kernel and the daemon have in memory of contents; of a volume also its names, which no ordinary user
    /// can have dropped of a plain directory.
    pub(super) fn forget(&mut self, in_volume: bool) -> anyhow::Result<()> {
        if !in_volume {
            return drop_pages(&self.place(false)).map_err(at(&self.top));
        }
        self.run(&["umount", "mnt"])?;
        drop_pages(&self.top.join("vault")).map_err(at(&self.top))?;
        self.mount()
    }

    fn mount(&self) -> anyhow::Result<()> {
        let options = self.options.iter().flat_map(|list| ["-o", list]);
        let args: Vec<_> = ["mount"]
            .into_iter()
            .chain(options)
            .chain(["vault", "mnt"])
            .collect();
        self.run(&args)
    }

    /// Runs this program with a keystore and state of the measurement's own; its sentence is ours where it fails.
    fn run(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("strongroom")
            .args(args)
            .current_dir(&self.top)
            .stdin(Stdio::null())
            .process_group(0)
            .env("STRONGROOM_KEYSTORE", self.top.join("keystore"))
            .env("STRONGROOM_STATE_DIR", self.top.join("state"))
            .env("STRONGROOM_RUNTIME_DIR", &self.sockets)
            .env_remove("STRONGROOM_PASSPHRASE_FILE")
            .env_remove("STRONGROOM_KEY_FILE")
            .env_remove("STRONGROOM_PIN_FILE");
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let sentence = said
            .lines()
            .find_map(|line| line.strip_prefix("strongroom: "))
            .map_or_else(
                || format!("strongroom {} failed: {said}", args.join(" ")),
                str::to_owned,
            );
        let code = output
            .status
            .code()
            .and_then(|code| u8::try_from(code).ok());
        Err(failure(
            code.and_then(Code::from_number).unwrap_or(Code::Failure),
            sentence,
        ))
    }

    /// Unmounts and removes everything.
    pub(super) fn remove(mut self) -> anyhow::Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        let unmounted = self.unmount();
        let mut left = Vec::new();
        if unmounted.is_ok() {
            for dir in [&self.top, &self.sockets] {
                match std::fs::remove_dir_all(dir) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        left.push(at(dir)(error).to_string());
                    }
                    _ => {}
                }
            }
        }
        if left.is_empty() {
            return unmounted;
        }
        let sentence = format!("not everything could be removed: {}", left.join("; "));
        Err(failure(Code::Failure, sentence))
    }

    /// Nothing is removed where anything may still be mounted: that would go on in it.
    fn unmount(&self) -> anyhow::Result<()> {
        let mnt = self.place(true);
        let is_mounted = || match fuse::is_mountpoint(&mnt) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false), // not even made
            found => found,
        };
        let why = match is_mounted() {
            Ok(false) => return Ok(()),
            Ok(true) => self.run(&["umount", "mnt"]).err(),
            Err(error) => Some(error.into()),
        };
        if matches!(is_mounted(), Ok(false)) {
            return Ok(());
        }
        let why = why.map_or_else(String::new, |error| format!(" ({error})"));
        let [mnt, top, sockets] = [&mnt, &self.top, &self.sockets].map(|path| path.display());
        let sentence = format!(
            "{mnt} could not be unmounted{why}: unmount it, then remove {top} and {sockets}"
        );
        Err(failure(Code::Mount, sentence))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::error!("{error}");
        }
    }
}

/// Of every file below, what is written back.
fn drop_pages(place: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            drop_pages(&entry.path())?;
        } else if kind.is_file() {
            fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
