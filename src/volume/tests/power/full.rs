//! A full store that tears pages: what was written once can be written again, whatever happens meanwhile (FORMAT.md section 4,
//! rule 10).

use std::sync::Arc;

use crate::format::names::REDO;
use crate::format::redo::Entry;
use crate::store::power::Journal;
use crate::store::{Access, MemoryStore, Store};
use crate::volume::fixture::read;
use crate::volume::{CheckOptions, Volume};

use super::machine::{VOLUME, backing, mount, mount_to_read};
use super::oracle::Kind;
use super::scripts::{at, fsync, settled, write};
use super::session::{Counts, Session};
use super::{Setup, Step, random};

const BLOCK: u64 = 4096;

pub(super) const TORN: Setup = Setup {
    whole_pages: false,
    ..Setup::GCM
};

/// One script: every write in it must succeed, but where a sync fails.
pub(super) fn run(setup: Setup, seed: u64, watched: u64) -> Result<Counts, String> {
    let mut session = Session::new(setup, seed);
    for (name, blocks) in [("f", 100), ("g", 40), ("h", 3)] {
        for step in settled(name, blocks * BLOCK as usize) {
            session.step(&step)?;
        }
    }
    session.deep = 60;
    for _ in 0..15 + session.rng.below(20) {
        session.watch(watched, 1);
        session.let_copies_go()?;
        let fuse = (session.rng.below(7) == 0).then(|| session.rng.below(24));
        let failing = (session.rng.below(12) == 0).then(|| session.rng.below(6));
        if let Some(fuse) = fuse {
            session.disk().kill_after(fuse);
        } else {
            session.disk().fail_sync(failing);
        }
        let step = session.overwrite();
        let meanwhile = session.overwrite_meanwhile(&step);
        session.step_full(&step, meanwhile.as_ref())?;
        session.disk().spare();
        if session.rng.below(8) == 0 {
            session.cut_power()?;
        }
    }
    session.watch(0, 1);
    session.finish()?;
    Ok(session.counts)
}

impl Session {
    /// A step on a full store. To mount again takes room: for the pin, which in truth is on another one.
    fn step_full(&mut self, step: &Step, meanwhile: Option<&Step>) -> Result<(), String> {
        self.disk().fill(!matches!(step, Step::Remount));
        let done = self.step_while(step, meanwhile);
        self.disk().fill(false);
        done
    }

    /// Where crashes left many copies: their files are written to and settled.
    fn let_copies_go(&mut self) -> Result<(), String> {
        let room = self.volume.env.redo.turn().map(|turn| turn.room());
        let room = room.ok_or("no copies can be made")?;
        if room >= 16 {
            return Ok(());
        }
        for path in self.oracle.tree().paths(&|kind| *kind == Kind::File) {
            self.step_full(&Step::Write(path, 0, vec![1]), None)?;
        }
        for _ in 0..3 {
            self.step_full(&Step::Settle, None)?;
        }
        Ok(())
    }

    fn overwrite(&mut self) -> Step {
        let names = ["f", "f", "g", "g", "h"];
        let path = at(names[self.rng.below(5) as usize]);
        let ino = self.oracle.tree().find(&path).expect("a file");
        let size = self.oracle.plain(ino).len() as u64;
        match self.rng.below(16) {
            0..=1 => Step::Fsync(path),
            2 => Step::DataSync(path),
            3 => Step::Settle,
            4 => Step::Remount,
            5 if size > BLOCK => Step::Resize(path, size - 1 - self.rng.below(BLOCK)),
            _ => {
                let from = self.rng.below(size);
                let most = match self.rng.below(3) {
                    0 => 1,
                    1 => 2 * BLOCK,
                    _ => 24 * BLOCK,
                };
                let len = (1 + self.rng.below(most)).min(size - from);
                Step::Write(path, from, self.rng.bytes(len as usize))
            }
        }
    }

    /// A write by another thread while this step syncs, as in other random scripts.
    fn overwrite_meanwhile(&mut self, step: &Step) -> Option<Step> {
        let synced = match step {
            Step::Settle if self.syncs_whole_store() => None,
            Step::Fsync(path) => Some(path.clone()),
            _ => return None,
        };
        if self.rng.below(2) == 0 {
            return None;
        }
        (0..30).find_map(|_| {
            let step = self.overwrite();
            let path = step.written()?;
            (synced.as_ref() != Some(path)).then_some(step)
        })
    }
}

#[test]
fn random_cuts_in_overwrites_on_a_full_store() {
    random::cut_runs_often(8, TORN, run);
}

#[test]
fn overwrites_on_a_full_store_where_each_file_and_directory_syncs_by_itself() {
    let each = Setup {
        journal: Journal::PerDir,
        syncfs: false,
        ..TORN
    };
    for seed in 0..6 {
        run(each, seed, 100).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A file is cut whose one block stands behind its new end, where no slot before that has room.
pub(super) fn cut_full(setup: Setup) -> Result<(), String> {
    let mut session = Session::new(setup, 1);
    let (page, f) = (BLOCK as usize, || at("f"));
    let steps = [
        settled("f", 5 * page),
        // The first spare slot gets its room, and is left.
        vec![write("f", page, page), fsync("f"), write("f", page, page)],
        vec![fsync("f"), Step::Zero(f(), 0, 5 * BLOCK)],
    ];
    for step in steps.iter().flatten() {
        session.step(step)?;
    }
    session.disk().fill(true);
    session.step(&write("f", 0, page))?;
    session.step(&fsync("f"))?;
    let cut = Step::Resize(f(), BLOCK).run(&session.volume);
    match cut {
        Err(error) if error.code() != libc::ENOSPC => return Err(error.to_string()),
        _ => session.disk().fill(false),
    }
    session.step(&Step::Resize(f(), BLOCK))?;
    session.step(&fsync("f"))?;
    session.cut_power()?;
    session.finish()
}

#[test]
fn a_cut_on_a_full_store_loses_no_block_that_finds_no_other_place() {
    for setup in [Setup::GCM, TORN] {
        cut_full(setup).unwrap();
    }
}

/// Whether a check finds nothing damaged in what a cut left.
fn is_sound(image: &MemoryStore, with_copies: bool) -> bool {
    let disk: Arc<dyn Store> = Arc::new(image.snapshot());
    if !with_copies {
        let root = backing(&disk, VOLUME).unwrap().root();
        root.remove(REDO).unwrap();
    }
    let volume = mount_to_read(&disk, &TORN).unwrap();
    let report = volume.check(&CheckOptions::default(), &mut |_| {}).unwrap();
    let read = read(&volume, &volume.root(), "f");
    assert_eq!(read.is_ok(), report.is_sound(), "{report:?}");
    volume.close().unwrap();
    report.is_sound()
}

fn content(volume: &Volume) -> Vec<u8> {
    read(volume, &volume.root(), "f").unwrap()
}

#[test]
fn what_a_cut_tore_is_read_checked_and_repaired_from_its_copies() {
    let mut session = Session::new(TORN, 3);
    for step in settled("f", 40 * BLOCK as usize) {
        session.step(&step).unwrap();
    }
    let before = content(&session.volume);
    session.disk().fill(true);
    session.watch(1000, 4);
    write("f", 100, 20 * BLOCK as usize)
        .run(&session.volume)
        .unwrap();
    let after = content(&session.volume);
    let images = session.disk().taken();
    let mut torn = 0;
    for (number, image) in images.iter().enumerate() {
        assert!(is_sound(image, true), "cut {number}");
        torn += u32::from(!is_sound(image, false));
        let disk: Arc<dyn Store> = Arc::new(image.snapshot());
        let (volume, _) = mount(&disk, &TORN).unwrap();
        let repair = volume.repair(&mut |_| {}).unwrap();
        assert!(repair.is_sound(), "cut {number}: {repair:?}");
        volume.close().unwrap();
        // Now nothing needs a copy.
        let root = backing(&disk, VOLUME).unwrap().root();
        let mut entries = [7; BLOCK as usize];
        let redo = root.open(REDO, Access::Read).unwrap();
        redo.read_at(&mut entries, 0).unwrap();
        let (entries, _) = entries.as_chunks();
        let held = |entry| matches!(Entry::parse(entry), Ok(Some(_)));
        assert!(!entries.iter().any(held), "cut {number}");
        root.remove(REDO).unwrap();
        let volume = mount_to_read(&disk, &TORN).unwrap();
        let shown = content(&volume);
        volume.close().unwrap();
        for (block, page) in shown.chunks(BLOCK as usize).enumerate() {
            let range = block * BLOCK as usize..block * BLOCK as usize + page.len();
            let known = *page == before[range.clone()] || *page == after[range];
            assert!(known, "cut {number}, block {block}");
        }
    }
    println!("{torn} of {} cuts tore a block", images.len());
    assert!(torn > 3, "{torn} of {}", images.len());
}
