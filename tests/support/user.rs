//! An ordinary user of the host, who mounts through fusermount3.
#![allow(dead_code)] // each test binary uses a part

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Sandbox;

/// nobody: fusermount3 wants a user with a name.
const USER: u32 = 65_534;

/// May use the sandbox and its own copy of the program, and open /dev/fuse while this lives.
pub struct OrdinaryUser<'a> {
    sandbox: &'a Sandbox,
    program: PathBuf,
    _device: DeviceForAll,
}

impl<'a> OrdinaryUser<'a> {
    /// Gives it these directories of the sandbox, and the sandbox's own.
    pub fn of(sandbox: &'a Sandbox, dirs: &[&str]) -> Self {
        let program = sandbox.path("program");
        fs::copy(env!("CARGO_BIN_EXE_strongroom"), &program).unwrap();
        for dir in [""].iter().chain(dirs) {
            chown(sandbox.path(dir), Some(USER), Some(USER)).unwrap();
        }
        let _device = DeviceForAll::new();
        Self {
            sandbox,
            program,
            _device,
        }
    }

    /// The program, run by the user in the sandbox.
    pub fn strongroom(&self, args: &[&str]) -> Command {
        let mut command = self.command();
        command.arg(&self.program).args(args);
        for (name, value) in self.sandbox.command().get_envs() {
            value.map(|value| command.env(name, value));
        }
        command
    }

    /// A line for the shell, run by the user in the sandbox.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = self.command();
        command.args(["sh", "-c", script]);
        command
    }

    fn command(&self) -> Command {
        let id = USER.to_string();
        let mut command = Command::new("setpriv"); // of util-linux, which tests/all installs
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command
            .current_dir(self.sandbox.path(""))
            .stdin(Stdio::null());
        command
    }
}

/// Lets everybody open /dev/fuse, as udev's rule does, where no udev runs; as it was when dropped.
struct DeviceForAll(u32);

impl DeviceForAll {
    const PATH: &str = "/dev/fuse";

    fn new() -> Self {
        let before = fs::metadata(Self::PATH)
            .expect("/dev/fuse; modprobe fuse")
            .permissions();
        Self::set(0o666);
        Self(before.mode())
    }

    fn set(mode: u32) {
        fs::set_permissions(Self::PATH, Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for DeviceForAll {
    fn drop(&mut self) {
        Self::set(self.0 & 0o7777);
    }
}
