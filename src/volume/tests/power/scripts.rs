//! Short scripts, cut after every single change and sync.

use crate::format::suite::Envelope;
use crate::store::RenameMode::{Exchange, NoReplace, Replace};

use super::Setup;
use super::session::{Counts, both, exhaust};
use super::step::{Path, Step};

use Step::*;

pub(super) const PAGE: usize = 4096;

pub(super) fn at(path: &str) -> Path {
    let long = |name: &str| match name.strip_suffix('*') {
        Some(letter) => letter.as_bytes().repeat(200),
        None => name.as_bytes().to_vec(),
    };
    path.split('/')
        .filter(|name| !name.is_empty())
        .map(long)
        .collect()
}

pub(super) fn create(path: &str) -> Step {
    Create(at(path))
}

pub(super) fn write(path: &str, offset: usize, len: usize) -> Step {
    // Bytes that no other write has at the same place.
    static WRITES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let seed = WRITES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let bytes = crate::store::power::Rng(seed).bytes(len);
    Write(at(path), offset as u64, bytes)
}

pub(super) fn fsync(path: &str) -> Step {
    Fsync(at(path))
}

pub(super) fn rename(from: &str, to: &str) -> Step {
    Rename(at(from), at(to), Replace)
}

/// A file with this many bytes, settled.
pub(super) fn settled(path: &str, len: usize) -> Vec<Step> {
    vec![create(path), write(path, 0, len), Settle, FsyncDir(at(""))]
}

pub(super) fn contents() -> Vec<(&'static str, Vec<Step>, Vec<Step>)> {
    let f = || at("f");
    vec![
        (
            "the first write",
            vec![],
            vec![create("f"), write("f", 0, 3 * PAGE + 5), fsync("f"), Settle],
        ),
        (
            "overwrites and syncs",
            settled("f", 4 * PAGE),
            vec![
                write("f", 0, PAGE),
                write("f", 100, 5000),
                write("f", 0, PAGE),
                DataSync(f()),
                write("f", PAGE, PAGE),
                write("f", 0, 2 * PAGE),
                fsync("f"),
                write("f", 0, PAGE),
                Settle,
            ],
        ),
        (
            "more overwrites than spare slots",
            settled("f", 2 * PAGE),
            (0..8)
                .map(|n| write("f", (n % 2) * PAGE, PAGE))
                .chain([Settle])
                .collect(),
        ),
        (
            "whole groups overwritten",
            settled("f", 34 * PAGE),
            vec![
                write("f", 0, 34 * PAGE),
                write("f", 3 * PAGE, PAGE),
                write("f", 20 * PAGE, PAGE),
                write("f", 22 * PAGE, PAGE),
                write("f", 24 * PAGE, PAGE),
                fsync("f"),
                write("f", 0, 34 * PAGE),
            ],
        ),
        (
            "blocks overwritten again while a sync runs beside",
            settled("f", 96 * PAGE),
            (32..39)
                .chain(32..36)
                .chain(50..58)
                .map(|n| write("f", n * PAGE, PAGE))
                .collect(),
        ),
        (
            "growth",
            settled("f", 100),
            vec![
                write("f", PAGE, PAGE),
                write("f", 5 * PAGE, 10),
                Resize(f(), 7 * PAGE as u64 + 1),
                fsync("f"),
                write("f", 40 * PAGE, 10),
                Settle,
            ],
        ),
        (
            "shrinking and growing again",
            settled("f", 6 * PAGE),
            vec![
                write("f", 0, 100),
                Resize(f(), PAGE as u64 + 10),
                Resize(f(), 5 * PAGE as u64),
                write("f", 2 * PAGE, PAGE),
                fsync("f"),
                Resize(f(), PAGE as u64 + 10),
                fsync("f"),
                Resize(f(), 5 * PAGE as u64),
                fsync("f"),
                Resize(f(), 0),
                write("f", 0, PAGE),
                Settle,
            ],
        ),
        (
            "shrinking away slots in use",
            [
                settled("f", 8 * PAGE),
                (0..8).map(|n| write("f", n * PAGE, PAGE)).collect(),
            ]
            .concat(),
            vec![
                Resize(f(), 6 * PAGE as u64),
                write("f", 5 * PAGE, PAGE),
                Resize(f(), 3 * PAGE as u64),
                fsync("f"),
                Settle,
            ],
        ),
        (
            "shrinking within a later group",
            [
                settled("f", 51 * PAGE),
                vec![Zero(f(), 35 * PAGE as u64, 7 * PAGE as u64 + 10)],
                (43..50)
                    .map(|n| write("f", n * PAGE + 7, 2 * PAGE))
                    .collect(),
                vec![Settle],
            ]
            .concat(),
            vec![
                Resize(f(), 45 * PAGE as u64 - 10),
                write("f", 44 * PAGE, 100),
                Resize(f(), 33 * PAGE as u64),
                fsync("f"),
                Settle,
            ],
        ),
        (
            "holes",
            settled("f", 8 * PAGE),
            vec![
                Zero(f(), PAGE as u64, 3 * PAGE as u64),
                write("f", 2 * PAGE, 10),
                fsync("f"),
                Zero(f(), 10, 8 * PAGE as u64),
                Settle,
            ],
        ),
        (
            "sparse groups",
            settled("f", 100),
            vec![
                Resize(f(), 1100 * PAGE as u64),
                write("f", 500 * PAGE, PAGE),
                write("f", 503 * PAGE, PAGE),
                fsync("f"),
                write("f", 600 * PAGE, PAGE),
            ],
        ),
        (
            "cut to nothing after a sync",
            settled("f", 3 * PAGE),
            vec![
                Resize(f(), 0),
                write("f", 0, 2 * PAGE),
                fsync("f"),
                Resize(f(), 0),
                fsync("f"),
            ],
        ),
    ]
}

pub(super) fn names() -> Vec<(&'static str, Vec<Step>, Vec<Step>)> {
    vec![
        (
            "saving as editors do",
            settled("f", 3000),
            vec![
                create("t"),
                write("t", 0, 3000),
                fsync("t"),
                rename("t", "f"),
                FsyncDir(at("")),
                create("t"),
                write("t", 0, 3000),
                fsync("t"),
                rename("t", "f"),
                Settle,
            ],
        ),
        (
            "renaming a settled file",
            [settled("f", 3000), vec![MakeDir(at("d")), FsyncDir(at(""))]].concat(),
            vec![
                rename("f", "d/g"),
                fsync("d/g"),
                rename("d/g", "h*"),
                FsyncDir(at("")),
                Settle,
                Rename(at("h*"), at("d/f"), NoReplace),
                Settle,
            ],
        ),
        (
            "long names",
            vec![],
            vec![
                create("a*"),
                write("a*", 0, 10),
                fsync("a*"),
                MakeDir(at("b*")),
                create("b*/a*"),
                Rename(at("a*"), at("b*/a*"), Replace),
                FsyncDir(at("b*")),
                Unlink(at("b*/a*")),
                RemoveDir(at("b*")),
                Symlink(at("b*"), b"target".to_vec()),
                rename("b*", "c*"),
            ],
        ),
        (
            "directories",
            vec![
                MakeDir(at("d")),
                create("d/f"),
                write("d/f", 0, 100),
                Settle,
                FsyncDir(at("d")),
                FsyncDir(at("")),
            ],
            vec![
                MakeDir(at("e")),
                rename("d", "e/d"),
                MakeDir(at("d")),
                create("d/g"),
                write("d/g", 0, 10),
                fsync("d/g"),
                rename("e/d", "e/c"),
                Settle,
                rename("e/c", "b"),
                rename("b", "e/b*"),
                FsyncDir(at("e")),
                FsyncDir(at("")),
                MakeDir(at("b")),
                RemoveDir(at("b")),
                Unlink(at("e/b*/f")),
                RemoveDir(at("e/b*")),
                RemoveDir(at("e")),
                MakeDir(at("e")),
            ],
        ),
        (
            "directories alone",
            vec![
                MakeDir(at("d")),
                create("d/f"),
                FsyncDir(at("d")),
                FsyncDir(at("")),
                Settle,
            ],
            vec![
                rename("d", "e"),
                Settle,
                rename("e", "c*"),
                Settle,
                FsyncDir(at("")),
            ],
        ),
        (
            "exchanges",
            vec![
                MakeDir(at("d")),
                create("d/f"),
                write("d/f", 0, 100),
                create("g"),
                write("g", 0, 200),
                Settle,
                FsyncDir(at("d")),
                FsyncDir(at("")),
            ],
            vec![
                Rename(at("d/f"), at("g"), Exchange),
                FsyncDir(at("")),
                MakeDir(at("e")),
                Rename(at("d"), at("e"), Exchange),
                Settle,
                Rename(at("e/f"), at("d"), Exchange),
                fsync("d"),
                Settle,
            ],
        ),
        (
            "a directory over an empty one",
            vec![
                MakeDir(at("d")),
                create("d/f"),
                write("d/f", 0, 9),
                MakeDir(at("e")),
                MakeDir(at("e/x")),
                FsyncDir(at("")),
            ],
            vec![
                rename("e/x", "x"),
                rename("d", "e"),
                FsyncDir(at("")),
                MakeDir(at("d")),
                MakeDir(at("e/x")),
                create("e/x/f"),
                write("e/x/f", 0, 9),
                fsync("e/x/f"),
            ],
        ),
        (
            "hard links",
            settled("f", 3000),
            vec![
                Link(at("f"), at("g")),
                write("g", 0, 10),
                fsync("g"),
                Link(at("f"), at("h*")),
                Unlink(at("f")),
                Settle,
                rename("g", "f"),
                Unlink(at("h*")),
                FsyncDir(at("")),
                Settle,
                Settle,
            ],
        ),
        (
            "a name that went while the file was not in use",
            [
                settled("f", 3000),
                vec![Link(at("f"), at("g")), Settle, FsyncDir(at(""))],
            ]
            .concat(),
            vec![Unlink(at("f")), write("g", 0, 10), Settle],
        ),
        (
            "removed directories that held files of ours",
            vec![
                MakeDir(at("d")),
                rename("d", "e"),
                MakeDir(at("d")),
                MakeDir(at("d/x")),
                rename("d/x", "x"),
                MakeDir(at("g")),
                rename("g", "h"),
                MakeDir(at("g")),
                Settle,
                FsyncDir(at("")),
            ],
            vec![
                RemoveDir(at("d")),
                MakeDir(at("d")),
                MakeDir(at("d/x")),
                rename("e", "g"),
            ],
        ),
        (
            "attributes and symlinks",
            settled("f", 10),
            vec![
                SetXattr(at("f"), b"user.a".to_vec(), vec![1; 50]),
                SetXattr(at("f"), b"user.b".to_vec(), vec![2; 5]),
                fsync("f"),
                SetXattr(at("f"), b"user.a".to_vec(), vec![3; 60]),
                RemoveXattr(at("f"), b"user.b".to_vec()),
                SetMode(at("f"), 0o640),
                Symlink(at("s"), b"../x".to_vec()),
                FsyncDir(at("")),
                Unlink(at("s")),
            ],
        ),
    ]
}

pub(super) fn keys() -> Vec<(&'static str, Vec<Step>, Vec<Step>)> {
    vec![
        (
            "rotation",
            [
                settled("f", 3000),
                settled("g", 10),
                vec![create("h"), write("h", 0, 5), fsync("h")],
            ]
            .concat(),
            vec![
                write("f", 0, 10),
                Rotate,
                write("f", 0, 10),
                create("i"),
                write("i", 0, 10),
                Rotate,
                fsync("f"),
                Settle,
            ],
        ),
        (
            "moves between keys and envelopes",
            [settled("f", 3000), settled("g", 10)].concat(),
            vec![
                write("f", 0, 10),
                Rekey("alias/default", Envelope::Volume),
                write("g", 0, 10),
                Rekey("alias/other", Envelope::Volume),
                create("h"),
                write("h", 0, 10),
                fsync("h"),
                Rotate,
                Rekey("alias/default", Envelope::Direct),
                fsync("f"),
            ],
        ),
        (
            "rotations past files that go",
            [settled("f", 3000), settled("g", 10), settled("h", 20)].concat(),
            vec![
                Resize(at("f"), 0),
                Unlink(at("g")),
                Rotate,
                rename("h", "f"),
                Rotate,
            ],
        ),
        (
            "files that go before a clean end",
            [
                settled("f", 3000),
                settled("g", 10),
                vec![MakeDir(at("d")), FsyncDir(at(""))],
            ]
            .concat(),
            vec![
                write("f", 0, 40 * PAGE),
                Unlink(at("f")),
                Remount,
                write("g", 0, 40 * PAGE),
                Resize(at("g"), 0),
                Remount,
                create("d/h"),
                write("d/h", 0, 40 * PAGE),
                FsyncDir(at("d")),
                Unlink(at("d/h")),
                Remount,
            ],
        ),
        (
            "mounting again",
            settled("f", 3000),
            vec![
                write("f", 0, 10),
                Remount,
                write("f", 0, 10),
                fsync("f"),
                Remount,
            ],
        ),
    ]
}

pub(super) fn run(setup: Setup, samples: u64, scripts: Vec<(&str, Vec<Step>, Vec<Step>)>) {
    let mut counts = Counts::default();
    for setup in both(setup) {
        for (name, before, script) in &scripts {
            let ran = exhaust(setup, 1, samples, before, script);
            counts.add(ran.unwrap_or_else(|error| panic!("{name}, {setup:?}: {error}")));
        }
    }
    println!("{setup:?}: {counts:?}");
    assert!(counts.cuts > 500);
}

pub(super) const SAMPLES: u64 = 6;

#[test]
fn contents_in_gcm_siv() {
    run(Setup::GCM, SAMPLES, contents());
}

#[test]
fn contents_in_gcm_siv_where_pages_tear() {
    let torn = Setup {
        whole_pages: false,
        ..Setup::GCM
    };
    run(torn, SAMPLES, contents());
}

#[test]
fn all_in_gcm_siv_with_other_options() {
    let plain = Setup {
        sparse: false,
        bind_names: false,
        syncfs: false,
        envelope: Envelope::Volume,
        ..Setup::GCM
    };
    run(plain, SAMPLES / 2, [contents(), names(), keys()].concat());
}

#[test]
fn contents_in_xts() {
    run(Setup::XTS, SAMPLES, contents());
}

#[test]
fn names_in_gcm_siv() {
    run(Setup::GCM, SAMPLES, names());
}

#[test]
fn names_in_gcm_siv_where_only_a_file_s_own_sync_counts() {
    run(Setup::FILE_SYNCS, SAMPLES, names());
}

#[test]
fn names_in_xts() {
    run(Setup::XTS, SAMPLES, names());
}

#[test]
fn rotations_and_mounts() {
    run(Setup::GCM, SAMPLES, keys());
    run(Setup::XTS, SAMPLES, keys());
}
