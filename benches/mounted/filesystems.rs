//! The filesystems: how each is made, mounted and taken away, and what is missing where it cannot be had.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::chart::Role;
use crate::null;
use crate::process::{Result, finish, run, within_patience};

/// A filesystem that is measured.
#[derive(Debug)]
pub struct Kind {
    /// As `--only` takes it.
    pub name: &'static str,
    /// As the tables show it.
    pub title: &'static str,
    pub role: Role,
    driver: Driver,
}

#[derive(Debug)]
enum Driver {
    Plain,
    Null {
        writeback: bool,
    },
    Gocryptfs,
    Securefs {
        format: &'static str,
    },
    Encfs,
    Cryfs,
    Strongroom {
        cipher: &'static str,
        options: &'static str,
    },
}

const fn kind(name: &'static str, title: &'static str, role: Role, driver: Driver) -> Kind {
    Kind {
        name,
        title,
        role,
        driver,
    }
}

const fn own(
    name: &'static str,
    title: &'static str,
    cipher: &'static str,
    options: &'static str,
) -> Kind {
    kind(
        name,
        title,
        Role::Own,
        Driver::Strongroom { cipher, options },
    )
}

/// The mode that the goal is about.
pub const DEFAULT: &str = "strongroom";
pub const PLAIN: &str = "plain";
pub const NULL: &str = "null";

/// In the order of the tables.
pub const ALL: [Kind; 12] = [
    kind(PLAIN, "plain directory", Role::Reference, Driver::Plain),
    kind(
        NULL,
        "null FUSE",
        Role::Reference,
        Driver::Null { writeback: true },
    ),
    kind(
        "null-wt",
        "null, write-through",
        Role::Reference,
        Driver::Null { writeback: false },
    ),
    own(DEFAULT, "Strongroom", "aes-256-gcm-siv", "rw"),
    own("strongroom-xts", "Strongroom XTS", "aes-256-xts", "rw"),
    own(
        "strongroom-wb",
        "Strongroom writeback",
        "aes-256-gcm-siv",
        "writeback",
    ),
    own(
        "strongroom-xts-wb",
        "XTS writeback",
        "aes-256-xts",
        "writeback",
    ),
    kind("gocryptfs", "gocryptfs", Role::Peer, Driver::Gocryptfs),
    kind(
        "securefs-lite",
        "securefs lite",
        Role::Peer,
        Driver::Securefs { format: "4" },
    ),
    kind(
        "securefs-full",
        "securefs full",
        Role::Peer,
        Driver::Securefs { format: "2" },
    ),
    kind("encfs", "encfs", Role::Peer, Driver::Encfs),
    kind("cryfs", "cryfs", Role::Peer, Driver::Cryfs),
];

const PASSWORD: &str = "not a secret";

impl Kind {
    /// What it is, with its version; what to install where it is missing.
    pub fn version(&self) -> Result<String> {
        let of = |program: &str, args: &[&str], package: &str| {
            finish(Command::new(program).args(args))
                .map(|said| said.lines().next().unwrap_or_default().to_owned())
                .map_err(|_| format!("apt-get install {package}"))
        };
        match self.driver {
            Driver::Plain => Ok("no FUSE".to_owned()),
            Driver::Null { .. } => {
                null::program(true).map(|_| format!("libfuse {} passthrough_hp", null::VERSION))
            }
            Driver::Gocryptfs => of("gocryptfs", &["--version"], "gocryptfs"),
            Driver::Securefs { format } => {
                let package = debian_version("securefs").ok_or("apt-get install securefs")?;
                of("securefs", &["version"], "securefs")?;
                Ok(format!("securefs {package}, format {format}"))
            }
            Driver::Encfs => {
                // Writes its version to standard error and ends with 1 where there is nothing else to do.
                let output = Command::new("encfs").arg("--version").output();
                let output = output.map_err(|_| "apt-get install encfs")?;
                Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
            Driver::Cryfs => of("cryfs", &["--version"], "cryfs"),
            Driver::Strongroom { cipher, options } => {
                let version = of(env!("CARGO_BIN_EXE_strongroom"), &["--version"], "nothing")?;
                Ok(format!("{version}, {cipher}, -o {options}"))
            }
        }
    }
}

fn debian_version(package: &str) -> Option<String> {
    finish(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]))
        .ok()
        .filter(|version| !version.is_empty())
}

/// One that is mounted. Dropped, it leaves no mount, no process and no file, also when a measurement failed.
pub struct Mounted {
    pub kind: &'static Kind,
    /// Holds everything of it: vault, mount point, keystore, password.
    top: PathBuf,
    /// For control sockets, whose paths must be short.
    sockets: tempfile::TempDir,
}

impl Mounted {
    /// Makes an empty one below `place` and mounts it.
    pub fn new(kind: &'static Kind, place: &Path) -> Result<Self> {
        let top = place.join(kind.name);
        let sockets = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted = Self { kind, top, sockets };
        for dir in ["vault", "mnt", "home"] {
            std::fs::create_dir_all(mounted.top.join(dir)).map_err(|error| error.to_string())?;
        }
        mounted.mount()?;
        if matches!(kind.driver, Driver::Plain)
            || within_patience(|| is_mounted(&mounted.top.join("mnt")))
        {
            Ok(mounted)
        } else {
            Err(format!("{} did not mount", kind.name))
        }
    }

    /// Where programs work in it.
    pub fn path(&self) -> PathBuf {
        self.top.join("mnt")
    }

    fn mount(&self) -> Result<()> {
        let pass = self.top.join("password");
        std::fs::write(&pass, format!("{PASSWORD}\n")).map_err(|error| error.to_string())?;
        match self.kind.driver {
            Driver::Plain => Ok(()),
            Driver::Null { writeback } => {
                let program = null::program(writeback)?;
                // Leaves its directory before it mounts.
                let places = [self.top.join("vault"), self.path()];
                run(self.command(program).args(places)).map(drop)
            }
            Driver::Gocryptfs => {
                let passfile: [&std::ffi::OsStr; 2] = ["-passfile".as_ref(), pass.as_ref()];
                let init = ["-init", "-q", "-scryptn", "10"];
                run(self
                    .command("gocryptfs")
                    .args(init)
                    .args(passfile)
                    .arg("vault"))?;
                run(self
                    .command("gocryptfs")
                    .arg("-q")
                    .args(passfile)
                    .args(["vault", "mnt"]))
                .map(drop)
            }
            Driver::Securefs { format } => {
                let with = |command: &str| {
                    let mut securefs = self.command("securefs");
                    securefs.args([command, "--pass", PASSWORD]);
                    securefs
                };
                run(with("create").args(["--format", format, "--rounds", "1", "vault"]))?;
                run(with("mount").args(["-b", "vault", "mnt"])).map(drop)
            }
            Driver::Encfs => {
                let mut encfs = self.command("encfs");
                encfs
                    .args(["--standard", "--stdinpass"])
                    .args([self.top.join("vault"), self.path()]);
                run(encfs.stdin(self.typed()?)).map(drop)
            }
            Driver::Cryfs => {
                let mut cryfs = self.command("cryfs");
                cryfs
                    .env("CRYFS_FRONTEND", "noninteractive")
                    .env("CRYFS_NO_UPDATE_CHECK", "true");
                run(cryfs.args(["vault", "mnt"]).stdin(self.typed()?)).map(drop)
            }
            Driver::Strongroom { cipher, options } => {
                let program = || self.command(env!("CARGO_BIN_EXE_strongroom"));
                run(program().args(["init", "--cipher", cipher, "vault"]))?;
                run(program().args(["mount", "-o", options, "vault", "mnt"])).map(drop)
            }
        }
    }

    /// A program in this filesystem's own directory, with nothing of the user's.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.top)
            .stdin(Stdio::null())
            .env("HOME", self.top.join("home"));
        for (name, at) in [("KEYSTORE", "keystore"), ("STATE_DIR", "state")] {
            command.env(format!("STRONGROOM_{name}"), self.top.join(at));
        }
        command.env("STRONGROOM_RUNTIME_DIR", self.sockets.path());
        for name in ["PASSPHRASE_FILE", "KEY_FILE", "PIN_FILE"] {
            command.env_remove(format!("STRONGROOM_{name}"));
        }
        command
    }

    fn typed(&self) -> Result<std::fs::File> {
        let mut file = tempfile::tempfile().map_err(|error| error.to_string())?;
        let typed = file.write_all(format!("{PASSWORD}\n").as_bytes());
        typed
            .and_then(|()| std::io::Seek::rewind(&mut file))
            .map_err(|error| error.to_string())?;
        Ok(file)
    }

    /// Daemons whose command line or environment names something below this directory; one of another filesystem, whose name
    /// only begins like this one's, is none.
    fn daemons(&self) -> Vec<rustix::process::Pid> {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let uses_us = |process: &Path| {
            let cmdline = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let below = self.top.join("");
            let below = below.as_os_str().as_encoded_bytes();
            let environ = std::fs::read(process.join("environ")).unwrap_or_default();
            [cmdline, environ]
                .iter()
                .any(|text| text.windows(below.len()).any(|part| part == below))
        };
        processes
            .filter_map(|process| process.ok())
            .filter(|process| uses_us(&process.path()))
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .filter_map(rustix::process::Pid::from_raw)
            .collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mnt = self.path();
        let unmounted = within_patience(|| {
            !is_mounted(&mnt) || finish(Command::new("umount").arg(&mnt)).is_ok()
        });
        if !unmounted {
            let _ = finish(Command::new("umount").arg("--lazy").arg(&mnt));
        }
        if !within_patience(|| self.daemons().is_empty()) {
            for daemon in self.daemons() {
                let _ = rustix::process::kill_process(daemon, rustix::process::Signal::KILL);
            }
            within_patience(|| self.daemons().is_empty());
        }
        if let Err(error) = std::fs::remove_dir_all(&self.top) {
            eprintln!("mounted: {} is left behind: {error}", self.top.display());
        }
    }
}

/// Whether something is mounted there; where that cannot be told, it may be.
fn is_mounted(path: &Path) -> bool {
    strongroom::fuse::is_mountpoint(path)
        .unwrap_or_else(|error| error.kind() != std::io::ErrorKind::NotFound)
}
