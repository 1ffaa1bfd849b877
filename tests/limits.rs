//! Few descriptors, many files: what a daemon needs does not grow with what it has served.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use support::daemon::Daemon;
use support::{SUITES, Sandbox};

/// Descriptors that the daemon may have, softly and hard.
const DESCRIPTORS: &str = "256:256";
/// Files that a program has open at once.
const OPEN: usize = 900;

/// Bytes for each inode that the kernel knows, at most, with a name of 12 bytes and what the allocator keeps.
const EACH: u64 = 180;
/// KiB that may come beside them: what a daemon that is warm takes for more buffers.
const BESIDE: u64 = 1_200;
/// Files with which a daemon comes to its size before it is measured.
const WARMING: usize = 500;
/// Seconds in which memory that became free is given back.
const SOON: u64 = 20;

/// How many files: `STRONGROOM_FILES` (by hand up to 1,000,000), else enough to exceed every limit many times.
fn files() -> usize {
    files_or(6_000)
}

fn files_or(usual: usize) -> usize {
    let told = std::env::var("STRONGROOM_FILES").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A daemon with few descriptors.
fn poor_daemon(sandbox: &Sandbox) -> Daemon {
    let mount = sandbox.command();
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={DESCRIPTORS}"));
    command
        .arg(mount.get_program())
        .current_dir(sandbox.path(""));
    command.args(["mount", "--foreground", "vault", "mnt"]);
    for (name, value) in mount.get_envs() {
        value.map(|value| command.env(name, value));
    }
    Daemon::start(command, sandbox.mnt())
}

/// KiB of memory that a process has in RAM.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_files_are_served_with_few_descriptors() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        let daemon = poor_daemon(&sandbox);
        let path = |n: usize| {
            sandbox
                .mnt()
                .join(format!("d{}", n / 1000))
                .join(format!("f{n}"))
        };
        for n in 0..files() {
            if n % 1000 == 0 {
                fs::create_dir(path(n).parent().unwrap()).unwrap();
            }
            let mut file = File::create_new(path(n)).unwrap();
            file.write_all(format!("file {n}").as_bytes()).unwrap();
        }
        let kept = resident(daemon.pid());
        for n in 0..files() {
            assert_eq!(
                fs::metadata(path(n)).unwrap().len() as usize,
                format!("file {n}").len()
            );
        }
        // More open at once than there are descriptors. A file that is open takes one once its last name went: as long as
        // there are, and then the name stays.
        let mut open: Vec<_> = (0..OPEN).map(|n| File::open(path(n)).unwrap()).collect();
        let refused = |n: &usize| fs::remove_file(path(*n)).err();
        let (removed, refused) = (0..OPEN).find_map(|n| Some((n, refused(&n)?))).unwrap();
        assert_eq!(
            refused.raw_os_error(),
            Some(libc::EMFILE),
            "{suite}: after {removed} files were removed"
        );
        assert!(removed > 50, "{suite}: only {removed} could be removed");
        for (n, file) in open.iter_mut().enumerate() {
            let mut said = String::new();
            file.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("file {n}"));
            assert_eq!(path(n).exists(), n >= removed);
        }
        drop(open);
        for n in 0..OPEN.min(files()) {
            if n < removed {
                fs::write(path(n), format!("file {n}")).unwrap();
            } else if n % 2 == 0 {
                fs::remove_file(path(n)).unwrap();
                fs::write(path(n), format!("file {n}")).unwrap();
            }
        }
        for n in (0..files()).step_by(7) {
            assert_eq!(
                fs::read_to_string(path(n)).unwrap(),
                format!("file {n}"),
                "{suite}"
            );
        }
        println!(
            "{suite}: {} files, {OPEN} open at once and {removed} of them removed with {DESCRIPTORS} descriptors, {kept} KiB resident",
            files()
        );
        drop(daemon);
        sandbox.mount();
        for n in (0..files()).step_by(11) {
            assert_eq!(
                fs::read_to_string(path(n)).unwrap(),
                format!("file {n}"),
                "{suite}, killed"
            );
        }
    }
}

#[test]
fn a_long_listing_is_whole() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        let _daemon = Daemon::of(&sandbox);
        let dir = sandbox.mnt().join("dir");
        fs::create_dir(&dir).unwrap();
        let names: BTreeSet<String> = (0..files()).map(|n| format!("entry-{n}")).collect();
        names
            .iter()
            .for_each(|name| drop(File::create_new(dir.join(name)).unwrap()));
        let listed = || {
            let names = fs::read_dir(&dir).unwrap();
            names
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect::<Vec<_>>()
        };
        let found = listed();
        assert_eq!(found.len(), names.len(), "{suite}: each once");
        assert!(
            found.into_iter().collect::<BTreeSet<_>>() == names,
            "{suite}"
        );
        for name in names.iter().step_by(2) {
            fs::remove_file(dir.join(name)).unwrap();
        }
        assert_eq!(listed().len(), names.len() / 2, "{suite}");
    }
}

#[test]
fn an_inode_costs_little_memory_and_gives_it_back() {
    let files = files_or(30_000).max(20_000); // memory goes back when 10,000 were forgotten
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let daemon = Daemon::of(&sandbox);
    let path = |n: usize| {
        let dir = sandbox.mnt().join(format!("d{}", n / 1000));
        dir.join(format!("file-{n:07}"))
    };
    for n in 0..files {
        if n % 1000 == 0 {
            fs::create_dir(path(n).parent().unwrap()).unwrap();
        }
        File::create_new(path(n)).unwrap();
    }
    let warm = sandbox.mnt().join("warm");
    fs::create_dir(&warm).unwrap();
    for n in 0..WARMING {
        File::create_new(warm.join(format!("{n}"))).unwrap();
    }
    drop(daemon);
    let daemon = Daemon::of(&sandbox);
    // What a daemon takes once, it has before the first look: threads, their buffers and heaps, what a removal needs.
    for n in 0..WARMING {
        rustix::fs::stat(warm.join(format!("{n}"))).unwrap();
    }
    fs::remove_dir_all(&warm).unwrap();
    let before = resident(daemon.pid());
    let known: Vec<_> = (0..files)
        .map(|n| rustix::fs::stat(path(n)).unwrap().st_ino)
        .collect();
    let most = resident(daemon.pid());
    let each = most.saturating_sub(before) * 1024 / files as u64;
    println!("{before} KiB resident, {most} KiB with {files} inodes known ({each} bytes each)");
    assert!(
        most < before + BESIDE + files as u64 * EACH / 1024,
        "{before} KiB, then {most} KiB with {files} inodes"
    );
    assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), files);
    for n in 0..files {
        fs::remove_file(path(n)).unwrap();
    }
    let started = Instant::now();
    let bound = before + (most - before) * 3 / 4;
    let left = loop {
        let left = resident(daemon.pid());
        if left < bound || started.elapsed().as_secs() > SOON {
            break left;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    println!("{left} KiB after all were removed");
    assert!(left < bound, "{before} KiB, then {most}, {left} KiB left");
}
