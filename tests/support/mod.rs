//! A place of its own for each test that runs the program: vault, mount point, keystore, state and runtime directory below
//! one temporary directory. Dropped, it leaves no mount and no process, also when the test failed.
#![allow(dead_code)] // each test binary uses a part

pub mod daemon;
pub mod image;
pub mod random;
pub mod tokens;
pub mod user;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A sandbox with at most one volume.
pub struct Sandbox {
    dir: TempDir,
    env: Vec<(String, OsString)>,
}

/// The two suites, as `init --cipher` names them.
pub const SUITES: [&str; 2] = ["aes-256-gcm-siv", "aes-256-xts"];

impl Sandbox {
    /// An empty sandbox with an empty mount point.
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// The control socket of the one mount.
    pub fn socket(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.path("run")).unwrap();
        let mut sockets = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|last| last == "sock"));
        let socket = sockets.next().expect("a control socket");
        assert_eq!(sockets.next(), None, "one control socket");
        socket
    }

    /// The process that serves it.
    pub fn server(&self) -> i32 {
        let asked = strongroom::fuse::control::Client::connect(&self.socket()).unwrap();
        let about = asked.info().unwrap();
        i32::try_from(about["pid"].as_i64().expect("a pid")).unwrap()
    }

    /// An empty sandbox below this directory.
    pub fn new_in(place: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("strongroom-test-")
            .tempdir_in(place)
            .expect("a temporary directory");
        std::fs::create_dir(dir.path().join("mnt")).expect("the mount point");
        Self {
            dir,
            env: Vec::new(),
        }
    }

    /// Gives the program this token's environment from now on.
    pub fn with_token(&mut self, token: &tokens::Access) {
        self.env.extend(token.env.iter().cloned());
    }

    /// A sandbox with a fresh volume of this cipher.
    pub fn with_volume(cipher: &str) -> Self {
        Self::new().init(cipher)
    }

    /// Makes the volume.
    pub fn init(self, cipher: &str) -> Self {
        self.ok(&["init", "--cipher", cipher, self.vault_arg()]);
        self
    }

    /// A sandbox with a fresh volume of this cipher, mounted.
    pub fn mounted(cipher: &str) -> Self {
        let sandbox = Self::with_volume(cipher);
        sandbox.mount();
        sandbox
    }

    /// A path in the sandbox, outside vault and mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The backing directory.
    pub fn vault(&self) -> PathBuf {
        self.path("vault")
    }

    /// The mount point.
    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    fn vault_arg(&self) -> &'static str {
        "vault"
    }

    /// The program, ready to run in the sandbox with its own directories.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command
            .current_dir(self.dir.path())
            .env("STRONGROOM_KEYSTORE", self.path("keystore"))
            .env("STRONGROOM_STATE_DIR", self.path("state"))
            .env("STRONGROOM_RUNTIME_DIR", self.path("run"))
            .env_remove("STRONGROOM_PASSPHRASE_FILE")
            .env_remove("STRONGROOM_KEY_FILE")
            .env_remove("STRONGROOM_PIN_FILE")
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command()
            .args(args)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("the program starts")
    }

    /// Runs it and expects success; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "strongroom {args:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Mounts the volume.
    pub fn mount(&self) {
        self.ok(&["mount", "vault", "mnt"]);
    }

    /// Mounts it with these options (`-o`).
    pub fn mount_with(&self, options: &str) {
        self.ok(&["mount", "-o", options, "vault", "mnt"]);
    }

    /// Unmounts it; returns when the daemon has settled everything and let the volume go.
    pub fn umount(&self) {
        self.ok(&["umount", "mnt"]);
    }

    /// Leaves nothing mounted, whatever happened.
    pub fn end(&self) {
        if is_mounted(&self.mnt()) {
            let _ = self.run(&["umount", "mnt"]);
        }
        if is_mounted(&self.mnt()) {
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(self.mnt())
                .output();
        }
    }

    /// Unmounts and mounts again, so that nothing is served from a cache.
    pub fn remount(&self) {
        self.umount();
        self.mount();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
        // A daemon whose mount was let go of may still be at its last files, which makes the removal of their directories fail.
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = std::fs::remove_dir_all(self.dir.path())
            && error.kind() != std::io::ErrorKind::NotFound
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether something is mounted at exactly this path; asks the kernel's list, never the mount.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc");
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == path.to_str())
}

/// Runs a tool and expects success; its standard output. A missing tool fails with what to install.
pub fn tool(command: &mut Command, package: &str) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install {package} (tests/all does)"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one file of a backing directory that is this large.
pub fn backing_of(vault: &Path, size: usize) -> PathBuf {
    let files = std::fs::read_dir(vault).expect("a vault").flatten();
    let mut large =
        files.filter(|file| file.metadata().is_ok_and(|meta| meta.len() >= size as u64));
    large.next().expect("a file so large").path()
}

/// Pages of a file that the kernel has cached.
pub fn cached(path: &Path) -> u64 {
    let mut fincore = Command::new("fincore");
    let said = fincore.args(["-n", "-o", "PAGES"]).arg(path).output();
    let said = said.expect("fincore, of util-linux").stdout;
    let said = String::from_utf8_lossy(&said);
    said.trim()
        .parse()
        .unwrap_or_else(|_| panic!("fincore said {said:?}"))
}
