//! The daemon is killed with -9 at random, again and again, while programs write: whatever it had acknowledged is there at
//! the next mount. What was acknowledged is kept in this process, which lives on.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

#[path = "killed/keys.rs"]
mod keys;
#[path = "killed/model.rs"]
mod model;
#[path = "killed/stream.rs"]
mod stream;
#[path = "killed/writer.rs"]
mod writer;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keys::{Rotation, Slots};
use model::Model;
use stream::Stream;
use support::daemon::Daemon;
use support::random::Random;
use support::{SUITES, Sandbox};
use writer::Writer;

const WRITERS: u64 = 3;
/// The longest that a round goes on before the kill.
const PATIENCE: Duration = Duration::from_secs(8);

/// How often each test kills: `STRONGROOM_KILLS`, else five times (forty in all eight).
fn kills() -> u64 {
    let told = std::env::var("STRONGROOM_KILLS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// Kills under load, each followed by a mount and a look at everything. `keys`: master keys are rotated, and slots of the
/// keystore changed, all the while.
fn kill_again_and_again(suite: &str, options: &str, keys: bool) {
    let sandbox = Sandbox::with_volume(suite);
    let writeback = options == "writeback";
    let mut random = Random::new(kills());
    let mut writers: Vec<_> = (0..WRITERS)
        .map(|n| Writer::new(Random::new(n + 17), Model::new(writeback), format!("w{n}")))
        .collect();
    let mnt = sandbox.mnt();
    let mut slots = Slots::new(&sandbox);
    let mut rotation = Rotation::new(&sandbox);
    let mut daemon = Daemon::with(&sandbox, options);
    writers
        .iter_mut()
        .for_each(|writer| writer.begin(&sandbox.mnt()));
    for round in 0..kills() {
        let killed = AtomicBool::new(false);
        let (target, acknowledged) = (random.place(1_000), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let work = |writer| scope.spawn(|| Writer::work(writer, &mnt, &killed, &acknowledged));
            let at_work: Vec<_> = writers.iter_mut().map(work).collect();
            if keys {
                scope.spawn(|| rotation.work(&killed));
                scope.spawn(|| slots.work(&killed));
            }
            // After so many operations, however fast this machine is at the moment.
            let start = Instant::now();
            while acknowledged.load(Ordering::SeqCst) < target && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_micros(200));
            }
            killed.store(true, Ordering::SeqCst);
            let said = daemon.said();
            daemon.kill();
            let refused = at_work.into_iter().any(|writer| writer.join().is_err());
            assert!(!refused, "a writer was refused; the daemon said: {said}");
        });
        drop(daemon);
        daemon = Daemon::with(&sandbox, options);
        for writer in &mut writers {
            writer.verify(&sandbox.mnt(), &format!("{suite} {options}, kill {round}"));
        }
        slots.verify();
    }
    let done: u64 = writers.iter().map(Writer::acknowledged).sum();
    let sure: u64 = writers.iter().map(Writer::synced).sum();
    println!(
        "{suite} {options}: {} kills, {done} operations acknowledged, {sure} of them syncs, {} rotations, {} slot changes",
        kills(),
        rotation.done,
        slots.done
    );
    if keys {
        rotation.finish();
    }
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait_for_success();
    sandbox.mount();
    for writer in &mut writers {
        writer.verify(
            &sandbox.mnt(),
            &format!("{suite} {options}, after a clean end"),
        );
    }
}

/// Kills amid a stream, whose writes the device may be at work on when the daemon dies.
fn kill_amid_a_stream(suite: &str) {
    let sandbox = Sandbox::with_volume(suite);
    let path = sandbox.mnt().join("stream");
    let mut random = Random::new(kills() + 3);
    let mut stream = Stream::new(5);
    let mut daemon = Daemon::of(&sandbox);
    for round in 0..kills() {
        let (target, acknowledged) = (1 + random.place(100), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let at_work = scope.spawn(|| stream.work(&path, &acknowledged));
            let start = Instant::now();
            while acknowledged.load(Ordering::SeqCst) < target && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_micros(50));
            }
            let said = daemon.said();
            daemon.kill();
            assert!(
                at_work.join().is_ok(),
                "the writer was refused; the daemon said: {said}"
            );
        });
        drop(daemon);
        daemon = Daemon::of(&sandbox);
        stream.verify(&path, &format!("{suite}, kill {round}"));
    }
}

#[test]
fn what_was_acknowledged_of_a_stream_outlives_the_daemon() {
    SUITES.into_iter().for_each(kill_amid_a_stream);
}

#[test]
fn what_was_acknowledged_outlives_the_daemon_gcm_siv() {
    kill_again_and_again(SUITES[0], "rw", false);
}

#[test]
fn what_was_acknowledged_outlives_the_daemon_xts() {
    kill_again_and_again(SUITES[1], "rw", false);
}

#[test]
fn what_fsync_acknowledged_outlives_the_daemon_under_writeback_gcm_siv() {
    kill_again_and_again(SUITES[0], "writeback", false);
}

#[test]
fn what_fsync_acknowledged_outlives_the_daemon_under_writeback_xts() {
    kill_again_and_again(SUITES[1], "writeback", false);
}

#[test]
fn rotations_and_slot_changes_are_cut_off_and_go_on_gcm_siv() {
    kill_again_and_again(SUITES[0], "rw", true);
}

#[test]
fn rotations_and_slot_changes_are_cut_off_and_go_on_xts() {
    kill_again_and_again(SUITES[1], "rw", true);
}
