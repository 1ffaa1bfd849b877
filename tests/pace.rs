//! What a daemon does while small requests follow each other: idle processors stay awake, one thread serves, and whoever is
//! held up by its request holds up nobody else.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

use support::daemon::Daemon;
use support::image::Backed;
use support::{SUITES, Sandbox, tool};

const LATENCY: &str = "/dev/cpu_dma_latency";
const PATIENCE: Duration = Duration::from_secs(60);

/// Wishes are for the whole machine: who looks at them is alone.
static ALONE: RwLock<()> = RwLock::new(());

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether idle processors of this machine halt, are few, and can be kept from it: what the daemon looks for.
fn halts() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let online = read("/sys/devices/system/cpu/online");
    let last = online.trim().rsplit([',', '-']).next();
    read("/sys/devices/system/cpu/cpuidle/current_governor_ro").trim() == "haltpoll"
        && last.is_some_and(|last| last.parse().is_ok_and(|last: u32| last < 8))
        && File::options().write(true).open(LATENCY).is_ok()
}

/// How long processors may take to wake, µs, by all wishes together.
fn latency() -> i32 {
    let mut bytes = [0; 4];
    File::open(LATENCY).unwrap().read_exact(&mut bytes).unwrap();
    i32::from_ne_bytes(bytes)
}

fn has_open(daemon: &Daemon, path: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok())
        .any(|open| open == Path::new(path))
}

/// A program that asks for one file's attributes again and again, one request at a time, until it is dropped.
struct Program {
    requests: &'static AtomicU64,
    ended: &'static AtomicBool,
    thread: Option<thread::JoinHandle<()>>,
}

impl Program {
    fn asks(file: PathBuf) -> Self {
        let requests: &AtomicU64 = Box::leak(Box::default());
        let ended: &AtomicBool = Box::leak(Box::default());
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let flags = AtFlags::from_bits_retain(libc::AT_STATX_FORCE_SYNC as u32);
                match statx(CWD, &file, flags, StatxFlags::BASIC_STATS) {
                    Ok(_) => requests.fetch_add(1, Ordering::Relaxed),
                    Err(Errno::NOTCONN | Errno::CONNABORTED) => return, // its daemon was killed
                    Err(error) => panic!("{error}"),
                };
            }
        });
        Self {
            requests,
            ended,
            thread: Some(thread),
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits for so many more.
    fn goes_on(&self, more: u64) {
        let goal = self.requests() + more;
        until("the program goes on", || self.requests() >= goal);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

/// How often each serving thread of a daemon went to sleep.
fn sleeps(daemon: &Daemon) -> BTreeMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let status = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    let value = |status: &str, field: &str| {
        let line = status.lines().find(|line| line.starts_with(field));
        line.unwrap()[field.len()..].trim().to_owned()
    };
    status
        .filter_map(Result::ok) // one that ended meanwhile does not serve
        .map(|status| {
            let sleeps = value(&status, "voluntary_ctxt_switches:");
            (value(&status, "Name:"), sleeps.parse().unwrap())
        })
        .filter(|(name, _)| name.starts_with("fuser-"))
        .collect()
}

fn with_file(options: &str) -> (Sandbox, Daemon, PathBuf) {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let daemon = Daemon::with(&sandbox, options);
    let file = sandbox.mnt().join("file");
    fs::write(&file, b"some text").unwrap();
    (sandbox, daemon, file)
}

#[test]
fn processors_stay_awake_while_requests_follow_each_other() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let (_sandbox, daemon, file) = with_file("rw");
    assert_eq!(has_open(&daemon, LATENCY), halts());
    if halts() {
        until("nobody else wishes anything", || latency() > 0);
        let program = Program::asks(file.clone());
        until("they stay awake", || latency() == 0);
        drop(program);
        until("they sleep again", || latency() > 0);
        let program = Program::asks(file);
        until("they stay awake again", || latency() == 0);
        drop(daemon); // with it, killed, goes the wish
        until("they sleep once it is dead", || latency() > 0);
        drop(program);
    }
}

#[test]
fn who_does_not_want_that_says_no_tune() {
    let _others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    let (_sandbox, daemon, file) = with_file("no-tune");
    assert!(!has_open(&daemon, LATENCY));
    Program::asks(file).goes_on(1000);
}

#[test]
fn one_thread_serves_one_program_and_all_are_there_again_afterwards() {
    let _others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    let (_sandbox, mut daemon, file) = with_file("rw,max-threads=4");
    let program = Program::asks(file.clone());
    until("one thread serves", || {
        let before = sleeps(&daemon);
        program.goes_on(200);
        let after = sleeps(&daemon);
        assert_eq!(before.len(), 4);
        let woken = before
            .iter()
            .filter(|(name, count)| after[*name] != **count);
        woken.count() <= 1 || !halts()
    });
    drop(program);
    let before = sleeps(&daemon);
    daemon.wait_until("all of them served", |daemon| {
        let programs: Vec<_> = (0..8).map(|_| Program::asks(file.clone())).collect();
        programs.iter().for_each(|program| program.goes_on(100));
        sleeps(daemon)
            .iter()
            .all(|(name, count)| before[name] != *count)
    });
    let unmounted = Command::new("umount").arg(file.parent().unwrap()).status();
    assert!(unmounted.unwrap().success());
    daemon.wait_for_success();
}

#[test]
fn a_mount_ends_at_once_while_threads_rest() {
    let _others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..5 {
        let (sandbox, mut daemon, file) = with_file("rw,max-threads=4");
        Program::asks(file).goes_on(2000);
        let unmounted = Command::new("umount").arg(sandbox.mnt()).status().unwrap();
        assert!(unmounted.success());
        daemon.wait_for_success();
    }
}

/// A file system on which nothing is written, until it is dropped.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        tool(
            Command::new("fsfreeze").arg("--freeze").arg(at),
            "util-linux",
        );
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        tool(
            Command::new("fsfreeze").arg("--unfreeze").arg(self.0),
            "util-linux",
        );
    }
}

/// Were the thread that has the write the only one at the device, the program would wait until the end of the freeze.
#[test]
fn who_is_held_up_by_the_store_holds_up_nobody_else() {
    let _others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    let backed = Backed::new(SUITES[0], 64, 512);
    let daemon = Daemon::with(&backed.sandbox, "rw,max-threads=4");
    let (asked, written) = (file_in(&backed, "asked"), file_in(&backed, "written"));
    let file = File::options().write(true).open(&written).unwrap();
    let program = Program::asks(asked);
    for round in 0..5 {
        program.goes_on(2000); // by one thread
        let is_written = AtomicBool::new(false);
        thread::scope(|scope| {
            let frozen = Frozen::new(backed.image().top());
            scope.spawn(|| {
                file.write_all_at(&[round; 5000], 0).unwrap();
                is_written.store(true, Ordering::SeqCst);
            });
            program.goes_on(2000);
            assert!(!is_written.load(Ordering::SeqCst), "it is frozen");
            drop(frozen);
        });
        assert_eq!(fs::read(&written).unwrap()[..5000], [round; 5000]);
    }
    drop(program);
    drop(file);
    drop(daemon);
}

fn file_in(backed: &Backed, name: &str) -> PathBuf {
    let path = backed.sandbox.mnt().join(name);
    fs::write(&path, vec![0; 10_000]).unwrap();
    path
}
