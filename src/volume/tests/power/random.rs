//! Long random scripts, cut and killed at random, with syncs that fail and syncs that others write into.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::suite::Envelope;
use crate::store::power::{Journal, told};

use super::session::{Counts, Session};
use super::{Setup, Step};

/// One script; what it did.
pub(super) fn run(setup: Setup, seed: u64, watched: u64) -> Result<Counts, String> {
    let mut session = Session::new(setup, seed);
    session.deep = 60;
    for _ in 0..20 + session.rng.below(30) {
        session.watch(watched, 1);
        let fuse = (session.rng.below(8) == 0).then(|| session.rng.below(24));
        let failing = (session.rng.below(14) == 0).then(|| session.rng.below(4));
        if let Some(fuse) = fuse {
            session.disk().kill_after(fuse);
        } else {
            session.disk().fail_sync(failing);
        }
        let step = session.random();
        let meanwhile = session.meanwhile(&step);
        session.step_while(&step, meanwhile.as_ref())?;
        session.disk().spare();
        if session.rng.below(10) == 0 {
            session.cut_power()?;
        }
    }
    session.watch(0, 1);
    session.finish()?;
    Ok(session.counts)
}

impl Session {
    /// A write by another thread while this step syncs: into any file while a pass syncs the store, into another one than
    /// that whose sync somebody waits for.
    fn meanwhile(&mut self, step: &Step) -> Option<Step> {
        let other = match step {
            Step::Settle if self.syncs_whole_store() => None,
            Step::Fsync(path) => Some(path.clone()),
            _ => return None,
        };
        if self.rng.below(2) == 0 {
            return None;
        }
        for _ in 0..30 {
            let step = self.random();
            let Some(path) = step.written() else { continue };
            let tree = self.oracle.tree();
            if other
                .as_ref()
                .is_none_or(|other| tree.find(other) != tree.find(path))
            {
                return Some(step);
            }
        }
        None
    }
}

/// Random cuts in all: `STRONGROOM_CUTS`, or what a moment allows.
fn wanted() -> u64 {
    let asked = std::env::var("STRONGROOM_CUTS").ok();
    asked.map_or(4000, |cuts| {
        cuts.parse().expect("STRONGROOM_CUTS is a number")
    })
}

/// Tests that share the cuts.
const SHARES: u64 = 9;

/// A script of this kind of disk and volume, with this seed and so many cuts in a thousand changes.
type Run = fn(Setup, u64, u64) -> Result<Counts, String>;

fn cut_often(share: u64, setup: Setup) {
    cut_runs_often(share, setup, run);
}

/// Its share of the cuts, from seeds that no other test has. `STRONGROOM_SEED` takes others.
pub(super) fn cut_runs_often(share: u64, setup: Setup, run: Run) {
    static ALL: AtomicU64 = AtomicU64::new(0);
    let asked = std::env::var("STRONGROOM_SEED").ok();
    let from: u64 = asked.map_or(0, |seed| seed.parse().expect("STRONGROOM_SEED is a number"));
    let mut counts = Counts::default();
    let mut seed = (share << 32) + from;
    while counts.cuts < wanted().div_ceil(SHARES) {
        seed += 1;
        counts.add(run(setup, seed, 150).unwrap_or_else(|error| {
            // The same again: what a seed begins is repeated.
            let story = told(120, || drop(run(setup, seed, 150))).join("\n");
            panic!("seed {seed}, {setup:?}: {error}\n{story}")
        }));
    }
    let all = ALL.fetch_add(counts.cuts, Ordering::Relaxed) + counts.cuts;
    // Past the test runner, which keeps what a good test prints: the number that ran is part of the result.
    let line = format!("random power cuts: {all} so far; {setup:?}: {counts:?}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn random_cuts_in_gcm_siv() {
    cut_often(0, Setup::GCM);
}

#[test]
fn random_cuts_in_gcm_siv_where_pages_tear() {
    let torn = Setup {
        whole_pages: false,
        ..Setup::GCM
    };
    cut_often(1, torn);
}

#[test]
fn random_cuts_in_gcm_siv_with_other_options() {
    let plain = Setup {
        sparse: false,
        bind_names: false,
        envelope: Envelope::Volume,
        ..Setup::GCM
    };
    cut_often(2, plain);
}

#[test]
fn random_cuts_in_xts() {
    cut_often(3, Setup::XTS);
}

#[test]
fn random_cuts_in_gcm_siv_where_only_a_file_s_own_sync_counts() {
    cut_often(4, Setup::FILE_SYNCS);
}

#[test]
fn random_cuts_in_gcm_siv_where_each_directory_reaches_the_disk_by_itself() {
    cut_often(5, Setup::EACH_DIR);
}

#[test]
fn random_cuts_in_xts_where_each_directory_reaches_the_disk_by_itself() {
    let each = Setup {
        journal: Journal::PerDir,
        ..Setup::XTS
    };
    cut_often(6, each);
}

#[test]
fn random_cuts_in_gcm_siv_where_each_file_and_directory_syncs_by_itself() {
    let each = Setup {
        syncfs: false,
        ..Setup::EACH_DIR
    };
    cut_often(7, each);
}

#[test]
fn a_seed_repeats_all_of_a_run() {
    for setup in [Setup::GCM, Setup::EACH_DIR, Setup::FILE_SYNCS, Setup::XTS] {
        let once = || {
            told(usize::MAX, || {
                run(setup, SHARES << 32, 150).unwrap();
            })
        };
        let (one, other) = (once(), once());
        let first = one.iter().zip(&other).find(|(one, other)| one != other);
        assert_eq!(first, None, "{setup:?}");
        assert!(one.len() > 50);
        assert_eq!(one.len(), other.len());
    }
}
