//! Load that goes through many changes of the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::exerciser::exercised;
use crate::lives::{Life, large_lives, lives, mapped_lives};
use crate::support::{SUITES, Sandbox};
use crate::{ends_without_a_word, reexec};

/// Changes of the process in each storm: `STRONGROOM_REEXECS`, or enough to find a mistake made today.
fn changes() -> u64 {
    let changes = std::env::var("STRONGROOM_REEXECS").ok();
    changes.map_or(12, |changes| changes.parse().unwrap())
}

/// Changes the process until that many were made and `done` says so; prints how long the command took, of which programs
/// wait for a part.
fn change(sandbox: &Sandbox, done: impl Fn() -> bool) {
    let mut took = Vec::new();
    while took.len() < changes() as usize || !done() {
        thread::sleep(Duration::from_millis(took.len() as u64 * 37 % 150));
        let begun = Instant::now();
        reexec(sandbox);
        took.push(begun.elapsed());
    }
    took.sort();
    let (middle, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "{} changes, {middle:?} in the middle, {longest:?} at most",
        took.len()
    );
}

fn storm(suite: &str, options: &str) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.mount_with(options);
    let (mnt, stop) = (sandbox.mnt(), AtomicBool::new(false));
    let of: [Life; 5] = [lives, lives, large_lives, mapped_lives, lives];
    let lived: Vec<u64> = thread::scope(|scope| {
        let begin = |(who, life): (usize, &Life)| {
            let (mnt, stop, life) = (&mnt, &stop, *life);
            scope.spawn(move || life(mnt, who, stop))
        };
        let threads: Vec<_> = of.iter().enumerate().map(begin).collect();
        change(&sandbox, || true);
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(lived.iter().all(|rounds| *rounds > 0), "{lived:?}");
    eprintln!("{suite}, {options}: {lived:?} lives");
    assert_eq!(std::fs::read_dir(&mnt).unwrap().count(), 0);
    ends_without_a_word(&sandbox);
}

#[test]
fn files_live_through_changes_under_gcm_siv() {
    storm(SUITES[0], "rw");
}

#[test]
fn files_live_through_changes_under_xts() {
    storm(SUITES[1], "rw");
}

#[test]
fn files_live_through_changes_with_a_writeback_cache_under_gcm_siv() {
    storm(SUITES[0], "writeback");
}

#[test]
fn files_live_through_changes_with_a_writeback_cache_under_xts() {
    storm(SUITES[1], "writeback");
}

fn exerciser(suite: &str, options: &str, seed: &str) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.mount_with(options);
    exercised(&sandbox, seed, |begun| {
        change(&sandbox, || begun.load(Ordering::Relaxed));
    });
    ends_without_a_word(&sandbox);
}

#[test]
fn fsx_finds_nothing_through_changes() {
    exerciser(SUITES[0], "rw", "20261127");
    exerciser(SUITES[1], "writeback", "42");
}
