//! Syncs that fail, and what a later good one promises: also in another process, which finds the pages clean.

use super::session::{Session, both};
use super::step::Step;
use super::{Setup, scripts};

/// Writes, a sync that fails, a kill if asked for, a sync that goes well; then cuts.
pub(super) fn fail(setup: Setup, seed: u64, killed: bool) -> Result<u64, String> {
    let mut session = Session::new(setup, seed);
    for step in scripts::settled("f", 6 * 4096) {
        session.step(&step)?;
    }
    let file = || scripts::at("f");
    for _ in 0..1 + session.rng.below(3) {
        let at = session.rng.below(7 * 4096);
        let len = 1 + session.rng.below(9000) as usize;
        let data = session.rng.bytes(len);
        session.step(&Step::Write(file(), at, data))?;
    }
    session.disk().fail_sync(Some(0));
    session.step(&Step::Fsync(file()))?;
    if killed {
        session.kill()?;
    }
    // The first may be told of the failure once more.
    session.step(&Step::Fsync(file()))?;
    session.step(&Step::Fsync(file()))?;
    for _ in 0..20 {
        session.cut_once()?;
    }
    session.finish()?;
    Ok(session.counts.cuts)
}

/// Writes, an unmount in which syncs fail; then cuts.
pub(super) fn fail_unmount(setup: Setup, seed: u64) -> Result<u64, String> {
    let mut session = Session::new(setup, seed);
    for step in scripts::settled("f", 6 * 4096) {
        session.step(&step)?;
    }
    let data = session.rng.bytes(3 * 4096);
    session.step(&Step::Write(scripts::at("f"), 4096, data))?;
    session.disk().fail_syncs(1 + seed % 5);
    session.watch(1000, 8); // once it is mounted again, that mount is one that did not end clean
    session.step(&Step::Remount)?;
    for _ in 0..20 {
        session.cut_once()?;
    }
    session.finish()?;
    Ok(session.counts.cuts)
}

#[test]
fn an_unmount_in_which_syncs_failed_did_not_end_clean() {
    for setup in both(Setup::GCM) {
        for seed in 0..20 {
            let cuts = fail_unmount(setup, seed);
            cuts.unwrap_or_else(|error| panic!("seed {seed}, {setup:?}: {error}"));
        }
    }
}

#[test]
fn a_sync_after_a_failed_one_covers_what_that_one_lost() {
    let mut cuts = 0;
    for setup in both(Setup::GCM) {
        for seed in 0..60 {
            cuts += fail(setup, seed, seed % 2 == 1)
                .unwrap_or_else(|error| panic!("seed {seed}, {setup:?}: {error}"));
        }
    }
    assert!(cuts > 2000);
}
