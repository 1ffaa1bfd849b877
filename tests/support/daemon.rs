//! A daemon in the foreground, by its process. Dropped, it leaves no process and no mount, also when the test failed.
#![allow(dead_code)] // each test binary uses a part

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Sandbox, is_mounted};

const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon in the foreground; killed and unmounted when dropped.
pub struct Daemon {
    pub child: Child,
    mnt: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts this command and waits until something is mounted there.
    pub fn start(mut command: Command, mnt: PathBuf) -> Self {
        let log = mnt.with_file_name("daemon.log"); // a pipe that nobody reads would fill
        let child = command
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Self { child, mnt, log };
        let mnt = daemon.mnt.clone();
        daemon.wait_until("it is mounted", |daemon| {
            assert!(
                daemon.child.try_wait().unwrap().is_none(),
                "the daemon ended: {}",
                daemon.said()
            );
            is_mounted(&mnt)
        });
        daemon
    }

    /// One that serves the volume of a sandbox.
    pub fn of(sandbox: &Sandbox) -> Self {
        Self::with(sandbox, "rw")
    }

    /// The same, with these options (`-o`).
    pub fn with(sandbox: &Sandbox, options: &str) -> Self {
        let program = sandbox.command();
        // Whatever runs the tests (nohup) may have SIGHUP ignored, which the program then leaves so.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP")
            .arg(program.get_program());
        command.current_dir(program.get_current_dir().unwrap());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["mount", "--foreground", "-o", options, "vault", "mnt"]);
        Self::start(command, sandbox.mnt())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does. The dead mount stays until this is dropped: whoever is at work in it meets that, not
    /// the empty directory below.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }

    /// Waits for a condition; fails after a minute.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits until it ended, with success.
    pub fn wait_for_success(&mut self) {
        let mut status = None;
        self.wait_until("the daemon ends", |daemon| {
            status = daemon.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}: {}", self.said());
    }

    /// What it said so far on standard error.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.mnt) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.mnt).output();
        }
    }
}
