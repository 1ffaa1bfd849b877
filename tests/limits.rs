//! Few descriptors, many files: what a daemon needs does not grow with what it has served.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;

use support::daemon::Daemon;
use support::{SUITES, Sandbox};

/// Descriptors that the daemon may have, softly and hard.
const DESCRIPTORS: &str = "256:256";

/// How many files: `STRONGROOM_FILES` (by hand 200,000 and more), else enough to exceed every limit many times.
fn files() -> usize {
    let told = std::env::var("STRONGROOM_FILES").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(6_000)
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
        // More open at once than there are descriptors: said so, and nothing else suffers.
        let mut open = Vec::new();
        let refused = loop {
            match File::open(path(open.len())) {
                Ok(file) => open.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(
            refused.raw_os_error(),
            Some(libc::EMFILE),
            "{suite}: after {} open files",
            open.len()
        );
        assert!(
            open.len() > 50,
            "{suite}: only {} files could be open",
            open.len()
        );
        let opened = open.len();
        for (n, file) in open.iter_mut().enumerate() {
            let mut said = String::new();
            file.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("file {n}"));
        }
        drop(open);
        for n in (0..files()).step_by(7) {
            assert_eq!(
                fs::read_to_string(path(n)).unwrap(),
                format!("file {n}"),
                "{suite}"
            );
        }
        println!(
            "{suite}: {} files, {opened} open at once with {DESCRIPTORS} descriptors, {kept} KiB resident",
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
fn a_long_listing_is_whole_and_costs_memory_by_the_inode() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        let daemon = Daemon::of(&sandbox);
        let dir = sandbox.mnt().join("dir");
        fs::create_dir(&dir).unwrap();
        let before = resident(daemon.pid());
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
        for name in &names {
            fs::metadata(dir.join(name)).unwrap();
        }
        let most = resident(daemon.pid());
        // An inode that the kernel knows is one that the daemon must know: some hundred bytes each.
        let each = most.saturating_sub(before) * 1024 / files() as u64;
        println!(
            "{suite}: {before} KiB resident, {most} KiB with {} inodes known ({each} bytes each)",
            files()
        );
        assert!(
            most < before + 8_000 + files() as u64,
            "{suite}: {before} KiB, then {most} KiB"
        );
        for name in names.iter().step_by(2) {
            fs::remove_file(dir.join(name)).unwrap();
        }
        assert_eq!(listed().len(), names.len() / 2, "{suite}");
    }
}
