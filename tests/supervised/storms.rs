//! Load that goes through many deaths of the serving process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::exerciser::exercised;
use crate::lives::{Life, large_lives, lives, mapped_lives};
use crate::named::named_lives;
use crate::support::{SUITES, Sandbox};
use crate::{child, ends_whole, kill, next, parent};

/// Deaths in each storm: `STRONGROOM_KILLS`, or enough to find a mistake made today.
fn deaths() -> u64 {
    let deaths = std::env::var("STRONGROOM_KILLS").ok();
    deaths.map_or(12, |deaths| deaths.parse().unwrap())
}

fn kill_often(sandbox: &Sandbox) {
    let mut took = Vec::new();
    let mut worker = sandbox.server();
    let supervisor = parent(worker);
    while took.len() < deaths() as usize {
        thread::sleep(Duration::from_millis(took.len() as u64 * 37 % 250));
        let begun = Instant::now();
        kill(worker);
        // Every third time the next one dies on its way, too, once or twice.
        for again in 0..took.len() % 3 {
            worker = child(supervisor, worker);
            thread::sleep(Duration::from_millis(
                (took.len() * 13 % 90 + again * 20) as u64,
            ));
            kill(worker);
        }
        worker = next(sandbox, worker);
        // Not in any cache: an answer, without which five deaths would end the mount.
        let absent = sandbox.mnt().join(format!("absent-{}", took.len()));
        let asked = std::fs::symlink_metadata(absent).unwrap_err();
        assert_eq!(asked.raw_os_error(), Some(libc::ENOENT));
        took.push(begun.elapsed());
    }
    took.sort();
    let (middle, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "{} deaths, {middle:?} in the middle, {longest:?} at most",
        took.len()
    );
}

fn storm(suite: &str, options: &str) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.mount_with(options);
    let (mnt, stop) = (sandbox.mnt(), AtomicBool::new(false));
    let of: [Life; 6] = [
        lives,
        named_lives,
        large_lives,
        mapped_lives,
        named_lives,
        lives,
    ];
    let lived: Vec<u64> = thread::scope(|scope| {
        let begin = |(who, life): (usize, &Life)| {
            let (mnt, stop, life) = (&mnt, &stop, *life);
            scope.spawn(move || life(mnt, who, stop))
        };
        let threads: Vec<_> = of.iter().enumerate().map(begin).collect();
        kill_often(&sandbox);
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(lived.iter().all(|rounds| *rounds > 0), "{lived:?}");
    eprintln!("{suite}, {options}: {lived:?} lives");
    assert_eq!(std::fs::read_dir(&mnt).unwrap().count(), 0);
    ends_whole(&sandbox);
}

#[test]
fn files_live_through_deaths_under_gcm_siv() {
    storm(SUITES[0], "supervise");
}

#[test]
fn files_live_through_deaths_under_xts() {
    storm(SUITES[1], "supervise");
}

#[test]
fn files_live_through_deaths_with_a_writeback_cache_under_gcm_siv() {
    storm(SUITES[0], "supervise,writeback");
}

#[test]
fn files_live_through_deaths_with_a_writeback_cache_under_xts() {
    storm(SUITES[1], "supervise,writeback");
}

#[test]
fn fsx_finds_nothing_through_deaths() {
    for (suite, options, seed) in [
        (SUITES[0], "supervise", "20261127"),
        (SUITES[1], "supervise,writeback", "42"),
    ] {
        let sandbox = Sandbox::with_volume(suite);
        sandbox.mount_with(options);
        exercised(&sandbox, seed, |begun| {
            while !begun.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            kill_often(&sandbox);
        });
        ends_whole(&sandbox);
    }
}
