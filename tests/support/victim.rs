//! A settled volume whose ciphertext is damaged on purpose, and the tables of damages that tests go through.
#![allow(dead_code)] // each test binary uses a part

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::support::Sandbox;

pub const PAGE: u64 = 4096;
/// Three groups (32, 64 and 51 blocks) and a last block that is not full.
pub const SIZE: usize = 146 * 4096 + 1234;

pub fn content(seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..SIZE)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// A settled volume with a few files, and where their ciphertext lies.
pub struct Victim {
    pub sandbox: Sandbox,
    pub target: PathBuf,
    pub other: PathBuf,
}

impl Victim {
    pub fn new(cipher: &str) -> Self {
        let sandbox = Sandbox::mounted(cipher);
        let mut stored = Vec::new();
        for (name, seed) in [("target", 1), ("other", 2)] {
            std::fs::write(sandbox.mnt().join(name), content(seed)).unwrap();
            let now = stored_files(&sandbox.vault());
            stored.push(
                now.into_iter()
                    .find(|path| !stored.contains(path))
                    .expect("a new file in the vault"),
            );
        }
        sandbox.umount();
        let other = stored.pop().unwrap();
        let target = stored.pop().unwrap();
        Self {
            sandbox,
            target,
            other,
        }
    }

    /// What a reader without FUSE gets of a name: the bytes, or nothing where it was refused.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let output = self.sandbox.run(&["cat", "vault", name]);
        output.status.success().then_some(output.stdout)
    }

    /// Damages the target, says what a reader gets, and mends it again.
    pub fn under(&self, damage: impl FnOnce(&Path)) -> Option<Vec<u8>> {
        let saved = std::fs::read(&self.target).unwrap();
        damage(&self.target);
        let read = self.read("target");
        std::fs::write(&self.target, saved).unwrap();
        read
    }
}

pub fn stored_files(vault: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(vault)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.is_file()
                && !path
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("strongroom.")
        })
        .collect()
}

pub fn edit(path: &Path) -> std::fs::File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

pub fn flip(path: &Path, offset: u64) {
    let file = edit(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

pub fn copy(from: &Path, from_offset: u64, to: &Path, to_offset: u64, length: usize) {
    let mut bytes = vec![0; length];
    edit(from).read_exact_at(&mut bytes, from_offset).unwrap();
    edit(to).write_all_at(&bytes, to_offset).unwrap();
}

pub fn zero(path: &Path, offset: u64, length: usize) {
    edit(path).write_all_at(&vec![0; length], offset).unwrap();
}

/// Page of the tag page of a group, from FORMAT.md: group 0 has 38 pages, the others 74.
pub fn group_page(group: u64) -> u64 {
    if group == 0 { 0 } else { 38 + 74 * (group - 1) }
}

/// Page of a slot.
pub fn slot_page(group: u64, slot: u64) -> u64 {
    group_page(group) + 1 + slot
}

/// Offset of the state half in use: the other one of a settled file is zero.
pub fn active_state(path: &Path) -> u64 {
    let mut sector = [0; 512];
    edit(path).read_exact_at(&mut sector, 1536).unwrap();
    let used: Vec<usize> = [0, 256]
        .into_iter()
        .filter(|half| sector[*half..half + 256].iter().any(|b| *b != 0))
        .collect();
    assert_eq!(used.len(), 1, "a settled file has one state");
    1536 + used[0] as u64
}

pub fn active_half(path: &Path, record: u64) -> u64 {
    let mut bytes = [0; 64];
    edit(path).read_exact_at(&mut bytes, record).unwrap();
    let used: Vec<usize> = [0, 32]
        .into_iter()
        .filter(|half| bytes[*half..half + 32].iter().any(|b| *b != 0))
        .collect();
    assert_eq!(used.len(), 1, "a settled record has one half");
    record + used[0] as u64
}

/// Fields of core and key area, by name and offset.
pub const HEADER: &[(&str, u64)] = &[
    ("magic", 0),
    ("format", 8),
    ("suite", 10),
    ("block size", 11),
    ("core flags", 12),
    ("volume id", 16),
    ("file id", 32),
    ("commitment", 48),
    ("end of the commitment", 79),
    ("rest of the core", 300),
    ("key area sequence", 512),
    ("envelope", 520),
    ("wrap algorithm", 521),
    ("wrapped length", 522),
    ("key version", 524),
    ("key id", 528),
    ("wrapped data key", 544),
    ("padding of the wrap", 700),
    ("key area CRC", 944),
    ("key area MAC", 948),
];

/// Fields of a state, by name and offset within it.
pub const STATE: &[(&str, u64)] = &[
    ("size", 0),
    ("flags", 8),
    ("tag count", 12),
    ("epoch", 16),
    ("sequence", 24),
    ("groups", 32),
    ("settled", 40),
    ("MAC", 48),
    ("name tag", 64),
    ("unused name tags", 200),
];

/// A damage, by what it is.
pub type Damage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);

/// Blocks, records and parts of the header moved, zeroed and cut.
pub fn moved(victim: &Victim) -> Vec<Damage<'_>> {
    let block = |group, slot| slot_page(group, slot) * PAGE;
    let length = victim.target.metadata().unwrap().len();
    vec![
        (
            "two blocks swapped",
            Box::new(move |path| {
                let saved = std::fs::read(path).unwrap();
                let (a, b) = (block(1, 3) as usize, block(1, 9) as usize);
                edit(path)
                    .write_all_at(&saved[a..a + 4096], b as u64)
                    .unwrap();
                edit(path)
                    .write_all_at(&saved[b..b + 4096], a as u64)
                    .unwrap();
            }),
        ),
        (
            "two blocks swapped with their records",
            Box::new(move |path| {
                let saved = std::fs::read(path).unwrap();
                for (a, b, n) in [
                    (block(1, 3), block(1, 9), 4096),
                    (group_page(1) * PAGE + 192, group_page(1) * PAGE + 576, 64),
                ] {
                    edit(path)
                        .write_all_at(&saved[a as usize..a as usize + n], b)
                        .unwrap();
                    edit(path)
                        .write_all_at(&saved[b as usize..b as usize + n], a)
                        .unwrap();
                }
            }),
        ),
        (
            "a block of another file",
            Box::new(move |path| copy(&victim.other, block(0, 2), path, block(0, 2), 4096)),
        ),
        (
            "a block of another file with its record",
            Box::new(move |path| {
                copy(&victim.other, block(0, 2), path, block(0, 2), 4096);
                copy(&victim.other, 2048 + 128, path, 2048 + 128, 64);
            }),
        ),
        (
            "the state of another file",
            Box::new(move |path| copy(&victim.other, 1536, path, 1536, 512)),
        ),
        (
            "the key area of another file",
            Box::new(move |path| copy(&victim.other, 512, path, 512, 1024)),
        ),
        (
            "a zeroed block",
            Box::new(move |path| zero(path, block(1, 5), 4096)),
        ),
        (
            "a zeroed block and its record",
            Box::new(move |path| {
                zero(path, block(1, 5), 4096);
                zero(path, group_page(1) * PAGE + 5 * 64, 64);
            }),
        ),
        (
            "a zeroed tag page",
            Box::new(move |path| zero(path, group_page(1) * PAGE, 4096)),
        ),
        (
            "a zeroed header page",
            Box::new(move |path| zero(path, 0, 4096)),
        ),
        ("a zeroed core", Box::new(move |path| zero(path, 0, 512))),
        (
            "zeroed key areas",
            Box::new(move |path| zero(path, 512, 1024)),
        ),
        ("zeroed states", Box::new(move |path| zero(path, 1536, 512))),
        (
            "zeroed records of group 0",
            Box::new(move |path| zero(path, 2048, 2048)),
        ),
        (
            "cut by a byte",
            Box::new(move |path| edit(path).set_len(length - 1).unwrap()),
        ),
        (
            "cut at a page's end",
            Box::new(move |path| edit(path).set_len(length / PAGE * PAGE).unwrap()),
        ),
        (
            "cut by a block",
            Box::new(move |path| edit(path).set_len(length - PAGE).unwrap()),
        ),
        (
            "cut to its first group",
            Box::new(move |path| edit(path).set_len(38 * PAGE).unwrap()),
        ),
        (
            "cut within the header",
            Box::new(move |path| edit(path).set_len(1000).unwrap()),
        ),
        (
            "a byte longer",
            Box::new(move |path| edit(path).set_len(length + 1).unwrap()),
        ),
        (
            "a page longer",
            Box::new(move |path| edit(path).set_len(length + PAGE).unwrap()),
        ),
        (
            "another file's whole ciphertext",
            Box::new(move |path| {
                std::fs::copy(&victim.other, path).unwrap();
            }),
        ),
    ]
}
