//! Long random scripts, cut and killed at random, with syncs that fail and syncs that others write into.

use crate::format::suite::Envelope;
use crate::store::power::Journal;

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

/// Cuts to make: `STRONGROOM_CUTS`, or what CI has time for.
fn wanted(share: u64) -> u64 {
    let asked = std::env::var("STRONGROOM_CUTS").ok();
    asked.map_or(2000, |cuts| {
        cuts.parse().expect("STRONGROOM_CUTS is a number")
    }) / share
}

fn cut_often(setup: Setup, first: u64, wanted: u64) {
    let mut counts = Counts::default();
    let mut seed = first;
    while counts.cuts < wanted {
        seed += 1;
        counts.add(
            run(setup, seed, 150).unwrap_or_else(|error| panic!("seed {seed}, {setup:?}: {error}")),
        );
    }
    println!("{setup:?}: {counts:?}");
}

#[test]
fn random_cuts_in_gcm_siv() {
    cut_often(Setup::GCM, 0, wanted(4));
}

#[test]
fn random_cuts_in_gcm_siv_where_pages_tear() {
    let torn = Setup {
        whole_pages: false,
        ..Setup::GCM
    };
    cut_often(torn, 1 << 32, wanted(4));
}

#[test]
fn random_cuts_in_gcm_siv_with_other_options() {
    let plain = Setup {
        sparse: false,
        bind_names: false,
        envelope: Envelope::Volume,
        ..Setup::GCM
    };
    cut_often(plain, 2 << 32, wanted(4));
}

#[test]
fn random_cuts_in_gcm_siv_where_only_a_file_s_own_sync_counts() {
    let each = Setup {
        syncfs: false,
        ..Setup::GCM
    };
    cut_often(each, 4 << 32, wanted(4));
}

#[test]
fn random_cuts_in_xts() {
    cut_often(Setup::XTS, 3 << 32, wanted(4));
}

// What longer runs still find, to be mended: docs/SEMANTICS.md, "What power cuts still find".

#[test]
#[ignore = "open: in some 50,000 cuts a file of GCM-SIV is refused as not bound to its name"]
fn many_cuts_where_only_a_file_s_own_sync_counts() {
    let each = Setup {
        syncfs: false,
        ..Setup::GCM
    };
    cut_often(each, 4 << 32, 25_000);
}

#[test]
#[ignore = "open: after an exchange or a failed sync a file may go unbound, or two directories have one id"]
fn many_cuts_where_each_directory_reaches_the_disk_by_itself() {
    for (at, setup) in [Setup::GCM, Setup::XTS].into_iter().enumerate() {
        let each = Setup {
            journal: Journal::PerDir,
            ..setup
        };
        cut_often(each, (5 + at as u64) << 32, 25_000);
    }
}
