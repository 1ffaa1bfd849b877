//! Errors of the backing file system, and who tells of them when another process serves by then.
#![allow(unsafe_code)] // sync_file_range

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use crate::support::image::Backed;
use crate::support::random::pattern;
use crate::support::{SUITES, is_mounted};
use crate::{kill, log, next};

const OLD: usize = 1_000_000;
const NEW: usize = 6_000_000;

fn opened(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

/// A file that takes all the room there is.
fn takes_all(path: &Path) {
    let file = opened(path);
    let mut at = 0;
    for piece in [1 << 22, 1 << 18, 1 << 14, 1 << 12] {
        while fallocate(&file, FallocateFlags::empty(), at, piece).is_ok() {
            at += piece;
        }
    }
    assert!(at > 1 << 24, "{at} bytes");
}

/// Has the kernel write what it keeps of a file, and waits for the outcome, which this descriptor alone is told.
fn written_back(file: &File) -> io::Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, all) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_over(mnt: &Path, what_is_said: impl Fn() -> String, why: &str) {
    let begun = Instant::now();
    while !what_is_said().contains("the mount is over") {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{}",
            what_is_said()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(what_is_said().contains(why), "{}", what_is_said());
    while fs::metadata(mnt.join("absent")).unwrap_err().raw_os_error() != Some(libc::ENOTCONN) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    let done = Command::new("umount").arg(mnt).status().unwrap();
    assert!(done.success() && !is_mounted(mnt));
}

/// Of a write-back cache the kernel itself remembers what could not be written, for every descriptor that was not told: also
/// over the death of the process that refused it.
#[test]
fn a_write_of_the_kernel_that_failed_is_told_though_another_process_serves() {
    for suite in SUITES {
        let backed = Backed::new(suite, 64, 4096);
        let sandbox = &backed.sandbox;
        sandbox.mount_with("supervise,writeback");
        let path = |name: &str| sandbox.mnt().join(name);
        let file = opened(&path("file"));
        file.write_all_at(&pattern(OLD, 1), 0).unwrap();
        file.sync_all().unwrap();
        let other = opened(&path("file"));
        takes_all(&path("all"));
        file.write_all_at(&pattern(NEW, 2), OLD as u64).unwrap();
        let failed = written_back(&other).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "{suite}");
        for _ in 0..2 {
            let worker = sandbox.server();
            kill(worker);
            next(sandbox, worker);
        }
        fs::remove_file(path("all")).unwrap();
        let told = file.sync_all().unwrap_err();
        assert_eq!(told.raw_os_error(), Some(libc::ENOSPC), "{suite}");
        file.write_all_at(&pattern(NEW, 3), OLD as u64).unwrap();
        file.sync_all().unwrap();
        let worker = sandbox.server();
        kill(worker);
        next(sandbox, worker);
        drop((file, other));
        sandbox.umount();
        sandbox.mount();
        let wanted = [pattern(OLD, 1), pattern(NEW, 3)].concat();
        assert!(fs::read(path("file")).unwrap() == wanted, "{suite}");
        sandbox.umount();
        sandbox.ok(&["check", "vault"]);
    }
}

/// Another process would say that it is durable.
#[test]
fn after_a_sync_that_failed_no_other_process_serves() {
    for (suite, options) in [(SUITES[0], "supervise"), (SUITES[1], "supervise,writeback")] {
        let backed = Backed::new(suite, 64, 512);
        let sandbox = &backed.sandbox;
        sandbox.mount_with(options);
        let path = |name: &str| sandbox.mnt().join(name);
        let file = opened(&path("file"));
        file.write_all_at(&pattern(OLD, 1), 0).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(&pattern(10, 2), 5_000).unwrap();
        backed.image().remount("abort");
        assert!(file.sync_all().is_err(), "{suite}");
        let worker = sandbox.server();
        let refused = sandbox.run(&["reexec", "mnt"]);
        assert!(!refused.status.success());
        assert_eq!(sandbox.server(), worker, "this one serves on");
        kill(worker);
        drop(file);
        is_over(&sandbox.mnt(), || log(sandbox), "none may go on, since");
        backed.image().detach();
        backed.image().attach();
        sandbox.mount();
        let mut found = fs::read(path("file")).unwrap();
        let (old, new) = (pattern(OLD, 1), pattern(10, 2));
        if found[5_000..5_010] == new {
            found[5_000..5_010].copy_from_slice(&old[5_000..5_010]);
        }
        assert!(found == old, "{suite}: what was synced is there");
    }
}
