//! `-o ro,supervise`: a volume that is only read, while the process that reads it dies.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::replaced::{is_gone, reexec};
use crate::support::{SUITES, Sandbox};
use crate::{kill, next, parent};

const FILES: u64 = 60;

fn text(number: u64) -> Vec<u8> {
    format!("file {number} ")
        .repeat(1 + 397 * (number as usize % 40))
        .into_bytes()
}

fn fill(mnt: &Path) {
    for number in 0..FILES {
        let dir = mnt.join(format!("dir-{}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), text(number)).unwrap();
        symlink(number.to_string(), dir.join(format!("to-{number}"))).unwrap();
    }
}

/// Looks at everything, past the kernel's pages.
fn look(mnt: &Path, round: u64) {
    let number = round % FILES;
    let dir = mnt.join(format!("dir-{}", number % 7));
    let file = File::open(dir.join(format!("to-{number}"))).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let wanted = text(number);
    let mut bytes = vec![0; wanted.len()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == wanted, "file {number}");
    assert_eq!(file.metadata().unwrap().len(), wanted.len() as u64);
    let listed = fs::read_dir(&dir).unwrap().count() as u64;
    assert_eq!(listed, 2 * (FILES - number % 7).div_ceil(7));
    let absent = fs::symlink_metadata(dir.join(format!("absent-{round}")));
    assert_eq!(absent.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    let refused = fs::write(dir.join("new"), b"").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

fn volume(suite: &str) -> Sandbox {
    let sandbox = Sandbox::mounted(suite);
    fill(&sandbox.mnt());
    sandbox.umount();
    sandbox
}

/// Every file of the backing directory, and when it changed last.
fn stood(vault: &Path) -> Vec<(std::ffi::OsString, i64, i64, u64)> {
    let mut all: Vec<_> = fs::read_dir(vault)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            let (seconds, parts) = (about.ctime(), about.ctime_nsec());
            (entry.file_name(), seconds, parts, about.len())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn readers_go_through_deaths_and_reexecs() {
    for suite in SUITES {
        let sandbox = volume(suite);
        let before = stood(&sandbox.vault());
        sandbox.mount_with("ro,supervise");
        let mnt = sandbox.mnt();
        let held: Vec<_> = (0..FILES)
            .map(|number| File::open(mnt.join(format!("dir-{}/{number}", number % 7))).unwrap())
            .collect();
        let numbers = || held.iter().map(|file| file.metadata().unwrap().ino());
        let first: Vec<_> = numbers().collect();
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        look(&mnt, rounds.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
            for round in 0..12 {
                let seen = rounds.load(Ordering::Relaxed);
                let worker = sandbox.server();
                if round % 4 == 3 {
                    reexec(&sandbox);
                } else {
                    kill(worker);
                    next(&sandbox, worker);
                }
                while rounds.load(Ordering::Relaxed) < seen + 6 {
                    thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(numbers().collect::<Vec<_>>(), first);
        for (number, file) in (0..).zip(&held) {
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let mut bytes = text(number);
            bytes.fill(0);
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == text(number));
        }
        drop(held);
        sandbox.umount();
        assert_eq!(stood(&sandbox.vault()), before, "nothing was written");
        sandbox.ok(&["check", "vault"]);
    }
}

/// The lock stays with the supervisor: nobody writes between two processes that read.
#[test]
fn no_writer_comes_in_between() {
    let sandbox = volume(SUITES[0]);
    sandbox.mount_with("ro,supervise");
    fs::create_dir(sandbox.path("second")).unwrap();
    let worker = sandbox.server();
    let supervisor = parent(worker);
    // Stopped, it starts no other worker.
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    kill(worker);
    let begun = Instant::now();
    let path = format!("/proc/{worker}/status");
    while fs::read_to_string(&path).is_ok_and(|status| !status.contains("Z (zombie)")) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::yield_now();
    }
    let refused = sandbox.run(&["mount", "vault", "second"]);
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    next(&sandbox, worker);
    look(&sandbox.mnt(), 1);
    // Another one that reads may.
    sandbox.ok(&["mount", "-o", "ro,supervise", "vault", "second"]);
    look(&sandbox.path("second"), 2);
    sandbox.ok(&["umount", "second"]);
    sandbox.umount();
    is_gone(supervisor);
    sandbox.mount();
    sandbox.umount();
}

/// A copy on a medium that cannot be written may have no lock file.
#[test]
fn a_volume_without_a_lock_file_is_read_through_deaths_too() {
    let sandbox = volume(SUITES[1]);
    fs::remove_file(sandbox.vault().join("strongroom.lock")).unwrap();
    sandbox.mount_with("ro,supervise");
    for round in 0..3 {
        look(&sandbox.mnt(), round);
        let worker = sandbox.server();
        kill(worker);
        next(&sandbox, worker);
        look(&sandbox.mnt(), round);
        reexec(&sandbox);
    }
    look(&sandbox.mnt(), 9);
    sandbox.umount();
}
