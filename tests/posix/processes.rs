//! Several processes at once, by scripts that say what they saw: the same on a mount as in a plain directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{SUITES, Sandbox, tool};

fn transcript(script: &str, dir: &Path, seed: u32) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/posix")
        .join(script);
    std::fs::create_dir(dir).unwrap();
    let mut python = Command::new("python3");
    python.arg(script).arg(dir).arg(seed.to_string());
    tool(&mut python, "python3")
}

fn says_the_same(script: &str, seeds: u32, least: usize) {
    for (suite, options) in [
        (SUITES[0], "rw"),
        (SUITES[1], "rw"),
        (SUITES[0], "writeback"),
    ] {
        let sandbox = Sandbox::with_volume(suite);
        sandbox.mount_with(options);
        for seed in 1..=seeds {
            let name = format!("seed-{seed}");
            let plain = transcript(script, &sandbox.path(&name), seed);
            let found = transcript(script, &sandbox.mnt().join(&name), seed);
            assert!(
                plain.lines().count() >= least,
                "{script} said too little:\n{plain}"
            );
            let differs = plain.lines().zip(found.lines()).position(|(a, b)| a != b);
            assert!(
                plain == found,
                "{script} {suite} {options}, seed {seed}: line {differs:?} differs;\nplain:\n{plain}\nmount:\n{found}"
            );
        }
    }
}

#[test]
fn locks_of_all_kinds_hold_as_on_a_plain_directory() {
    says_the_same("locks.py", 4, 400);
}

#[test]
fn four_processes_append_without_losing_or_tearing_a_record() {
    says_the_same("append.py", 2, 5);
}

#[test]
fn four_processes_rename_in_a_storm_and_every_file_stays_one_and_whole() {
    says_the_same("storm.py", 2, 3);
}

#[test]
fn files_without_a_name_live_on_as_on_a_plain_directory() {
    says_the_same("unlinked.py", 1, 40);
}

#[test]
fn an_open_that_is_refused_because_the_program_runs_does_not_cut_it() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        let path = sandbox.mnt().join("sleep");
        std::fs::copy("/bin/sleep", &path).unwrap();
        let mut child = Command::new(&path).arg("60").spawn().unwrap();
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_RDONLY,
            libc::O_WRONLY | libc::O_APPEND,
        ] {
            let flags = rustix::fs::OFlags::from_bits_retain((flags | libc::O_TRUNC) as u32);
            let opened = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
            assert_eq!(
                opened.err(),
                Some(rustix::io::Errno::TXTBSY),
                "{suite}: {flags:?}"
            );
        }
        let is_whole = std::fs::read(&path).unwrap() == std::fs::read("/bin/sleep").unwrap();
        let lives = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            is_whole && lives,
            "{suite}: whole {is_whole}, lives {lives}"
        );
    }
}
