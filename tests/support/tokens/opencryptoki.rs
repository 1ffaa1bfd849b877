//! opencryptoki, whose daemon, sockets and token directory are the machine's: one test at a time has it, with an empty
//! token directory mounted over the machine's own, so that no one's token is touched.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::super::tool;
use super::process::{Running, until};

pub const MODULE: &str = "/usr/lib/x86_64-linux-gnu/libopencryptoki.so.0";
/// Of the soft token, in Debian's configuration.
pub const SLOT: &str = "3";

const STATE: &str = "/var/lib/opencryptoki";
const MOUNTED_AS: &str = "strongroom-test";
const LOCK: &str = "/run/lock/strongroom-test-opencryptoki";
const SOCKET: &str = "/run/pkcsslotd.socket";

/// The machine's opencryptoki, held by one test.
pub struct Machine {
    daemon: Option<Running>,
    _lock: File,
}

impl Machine {
    /// Waits for its turn, then starts the daemon over an empty token directory.
    pub fn start() -> Self {
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(LOCK)
            .expect(LOCK);
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("flock");
        end_what_a_killed_test_left(&mut lock);
        assert!(
            running().is_empty(),
            "pkcsslotd runs already: stop it, this test starts its own over an empty token directory"
        );
        let mut machine = Self {
            daemon: None,
            _lock: lock,
        };
        mount_empty_state();
        let mut daemon = Running::start(Command::new("pkcsslotd").arg("-f"), "opencryptoki");
        machine.remember(daemon.id());
        until("pkcsslotd's socket", || {
            daemon.assert_runs("pkcsslotd");
            Path::new(SOCKET).exists()
        });
        machine.daemon = Some(daemon);
        machine
    }

    fn remember(&mut self, daemon: u32) {
        self._lock.set_len(0).expect(LOCK);
        self._lock.rewind().expect(LOCK);
        write!(self._lock, "{daemon}").expect(LOCK);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.daemon.take());
        forget_state();
        let _ = self._lock.set_len(0);
    }
}

fn mount_empty_state() {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "mode=0770", MOUNTED_AS, STATE]);
    tool(&mut mount, "opencryptoki");
    let objects = Path::new(STATE).join("swtok/TOK_OBJ");
    std::fs::create_dir_all(objects).expect("a token directory");
    let mut group = Command::new("chgrp");
    tool(group.args(["-R", "pkcs11", STATE]), "opencryptoki");
    let mut mode = Command::new("chmod");
    tool(mode.args(["-R", "0770", STATE]), "coreutils");
}

/// Unmounts the test's token directory and removes the shared memory that goes with it.
fn forget_state() {
    while mounted() {
        let unmounted = Command::new("umount").args(["--lazy", STATE]).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            break;
        }
    }
    for entry in std::fs::read_dir("/dev/shm")
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("var.lib.opencryptoki.")
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn mounted() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.starts_with(&format!("{MOUNTED_AS} {STATE} ")))
}

/// The lock file names the daemon of the test that had it last: one that was killed could not end it.
fn end_what_a_killed_test_left(lock: &mut File) {
    let mut text = String::new();
    lock.read_to_string(&mut text).expect(LOCK);
    if let Some(left) = text
        .trim()
        .parse::<i32>()
        .ok()
        .filter(|pid| running().contains(pid))
    {
        let _ = kill_process(Pid::from_raw(left).expect("a process id"), Signal::TERM);
        until("the last test's pkcsslotd to end", || {
            !running().contains(&left)
        });
    }
    forget_state();
}

/// Every process that is called pkcsslotd.
fn running() -> Vec<i32> {
    let ids = std::fs::read_dir("/proc").expect("/proc").flatten();
    ids.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "pkcsslotd")
        })
        .collect()
}
