//! Damage of every region of a file: EIO or a refusal to open, never wrong bytes, and no other file is hurt (GCM-SIV).
//! For XTS the documented limits are shown as such.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use support::{SUITES, Sandbox};

const PAGE: u64 = 4096;
/// Three groups (32, 64 and 51 blocks) and a last block that is not full.
const SIZE: usize = 146 * 4096 + 1234;

fn content(seed: u64) -> Vec<u8> {
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
struct Victim {
    sandbox: Sandbox,
    target: PathBuf,
    other: PathBuf,
}

impl Victim {
    fn new(cipher: &str) -> Self {
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
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let output = self.sandbox.run(&["cat", "vault", name]);
        output.status.success().then_some(output.stdout)
    }

    /// Damages the target, says what a reader gets, and mends it again.
    fn under(&self, damage: impl FnOnce(&Path)) -> Option<Vec<u8>> {
        let saved = std::fs::read(&self.target).unwrap();
        damage(&self.target);
        let read = self.read("target");
        std::fs::write(&self.target, saved).unwrap();
        read
    }
}

fn stored_files(vault: &Path) -> Vec<PathBuf> {
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

fn edit(path: &Path) -> std::fs::File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn flip(path: &Path, offset: u64) {
    let file = edit(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn copy(from: &Path, from_offset: u64, to: &Path, to_offset: u64, length: usize) {
    let mut bytes = vec![0; length];
    edit(from).read_exact_at(&mut bytes, from_offset).unwrap();
    edit(to).write_all_at(&bytes, to_offset).unwrap();
}

fn zero(path: &Path, offset: u64, length: usize) {
    edit(path).write_all_at(&vec![0; length], offset).unwrap();
}

/// Page of the tag page of a group, from FORMAT.md: group 0 has 38 pages, the others 74.
fn group_page(group: u64) -> u64 {
    if group == 0 { 0 } else { 38 + 74 * (group - 1) }
}

/// Page of a slot.
fn slot_page(group: u64, slot: u64) -> u64 {
    group_page(group) + 1 + slot
}

#[test]
fn every_header_field_and_every_region_is_guarded() {
    let victim = Victim::new(SUITES[0]);
    let fields: &[(&str, u64)] = &[
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
    for (field, offset) in fields {
        assert_eq!(
            victim.under(|path| flip(path, *offset)),
            None,
            "{field} at {offset}"
        );
    }
    let state = active_state(&victim.target);
    for (field, offset) in [
        ("size", 0),
        ("flags", 8),
        ("tag count", 12),
        ("epoch", 16),
        ("sequence", 24),
        ("groups", 32),
        ("settled", 40),
    ]
    .into_iter()
    .chain([("MAC", 48), ("name tag", 64), ("unused name tags", 200)])
    {
        assert_eq!(
            victim.under(|path| flip(path, state + offset)),
            None,
            "state {field}"
        );
    }
    for (record, what) in [
        (2048, "group 0"),
        (group_page(1) * PAGE, "group 1"),
        (group_page(2) * PAGE, "group 2"),
    ] {
        for field in [0, 12, 28, 29] {
            let half = active_half(&victim.target, record);
            assert_eq!(
                victim.under(|path| flip(path, half + field)),
                None,
                "record of {what}, byte {field}"
            );
        }
    }
    // A record's sequence only says which half is newer; alone, its half still opens to the right bytes.
    let sequence = active_half(&victim.target, 2048) + 30;
    assert_eq!(
        victim.under(|path| flip(path, sequence)).as_deref(),
        Some(&content(1)[..])
    );
    for group in 0..3 {
        for slot in [0, 7, 31] {
            for byte in [0, 2000, 4095] {
                let offset = slot_page(group, slot) * PAGE + byte;
                assert_eq!(
                    victim.under(|path| flip(path, offset)),
                    None,
                    "slot {slot} of group {group}, byte {byte}"
                );
            }
        }
    }
    assert_eq!(
        victim.read("target").as_deref(),
        Some(&content(1)[..]),
        "mended, it reads again"
    );
    assert_eq!(
        victim.read("other").as_deref(),
        Some(&content(2)[..]),
        "no other file is hurt"
    );
}

/// Offset of the state half in use: the other one of a settled file is zero.
fn active_state(path: &Path) -> u64 {
    let mut sector = [0; 512];
    edit(path).read_exact_at(&mut sector, 1536).unwrap();
    let used: Vec<usize> = [0, 256]
        .into_iter()
        .filter(|half| sector[*half..half + 256].iter().any(|b| *b != 0))
        .collect();
    assert_eq!(used.len(), 1, "a settled file has one state");
    1536 + used[0] as u64
}

fn active_half(path: &Path, record: u64) -> u64 {
    let mut bytes = [0; 64];
    edit(path).read_exact_at(&mut bytes, record).unwrap();
    let used: Vec<usize> = [0, 32]
        .into_iter()
        .filter(|half| bytes[*half..half + 32].iter().any(|b| *b != 0))
        .collect();
    assert_eq!(used.len(), 1, "a settled record has one half");
    record + used[0] as u64
}

#[test]
fn no_single_flipped_byte_gives_other_bytes() {
    let victim = Victim::new(SUITES[0]);
    let length = victim.target.metadata().unwrap().len();
    let expected = content(1);
    let offsets = (0..4096)
        .step_by(37)
        .chain((4096..length).step_by(9973))
        .chain(length - 1240..length);
    for offset in offsets.step_by(3) {
        if let Some(read) = victim.under(|path| flip(path, offset)) {
            assert!(read == expected, "byte {offset} flipped gave other bytes");
        }
    }
}

#[test]
fn moved_zeroed_and_cut_blocks_are_refused() {
    let victim = Victim::new(SUITES[0]);
    let block = |group, slot| slot_page(group, slot) * PAGE;
    let length = victim.target.metadata().unwrap().len();
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let table: Vec<Damage> = vec![
        (
            "two blocks swapped",
            Box::new(|path| {
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
            Box::new(|path| {
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
            Box::new(|path| copy(&victim.other, block(0, 2), path, block(0, 2), 4096)),
        ),
        (
            "a block of another file with its record",
            Box::new(|path| {
                copy(&victim.other, block(0, 2), path, block(0, 2), 4096);
                copy(&victim.other, 2048 + 128, path, 2048 + 128, 64);
            }),
        ),
        (
            "the state of another file",
            Box::new(|path| copy(&victim.other, 1536, path, 1536, 512)),
        ),
        (
            "the key area of another file",
            Box::new(|path| copy(&victim.other, 512, path, 512, 1024)),
        ),
        (
            "a zeroed block",
            Box::new(|path| zero(path, block(1, 5), 4096)),
        ),
        (
            "a zeroed block and its record",
            Box::new(|path| {
                zero(path, block(1, 5), 4096);
                zero(path, group_page(1) * PAGE + 5 * 64, 64);
            }),
        ),
        (
            "a zeroed tag page",
            Box::new(|path| zero(path, group_page(1) * PAGE, 4096)),
        ),
        ("a zeroed header page", Box::new(|path| zero(path, 0, 4096))),
        ("a zeroed core", Box::new(|path| zero(path, 0, 512))),
        ("zeroed key areas", Box::new(|path| zero(path, 512, 1024))),
        ("zeroed states", Box::new(|path| zero(path, 1536, 512))),
        (
            "zeroed records of group 0",
            Box::new(|path| zero(path, 2048, 2048)),
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
            Box::new(|path| edit(path).set_len(38 * PAGE).unwrap()),
        ),
        (
            "cut within the header",
            Box::new(|path| edit(path).set_len(1000).unwrap()),
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
            Box::new(|path| {
                std::fs::copy(&victim.other, path).unwrap();
            }),
        ),
    ];
    for (what, damage) in &table {
        assert_eq!(victim.under(|path| damage(path)), None, "{what}");
    }
    assert_eq!(victim.read("target").as_deref(), Some(&content(1)[..]));
    assert_eq!(victim.read("other").as_deref(), Some(&content(2)[..]));
}

#[test]
fn a_block_of_another_volume_is_refused() {
    let victim = Victim::new(SUITES[0]);
    let stranger = Victim::new(SUITES[0]);
    let at = slot_page(0, 1) * PAGE;
    assert_eq!(
        victim.under(|path| copy(&stranger.target, at, path, at, 4096)),
        None,
        "a block"
    );
    assert_eq!(
        victim.under(|path| {
            std::fs::copy(&stranger.target, path).unwrap();
        }),
        None,
        "a whole file"
    );
}

#[test]
fn on_a_mount_damage_is_eio_in_its_block_only() {
    let victim = Victim::new(SUITES[0]);
    flip(&victim.target, slot_page(1, 0) * PAGE + 5); // block 32
    victim.sandbox.mount();
    let file = std::fs::File::open(victim.sandbox.mnt().join("target")).unwrap();
    let mut buf = vec![0; 4096];
    let error = file
        .read_exact_at(&mut buf, 32 * PAGE)
        .expect_err("a damaged block");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    file.read_exact_at(&mut buf, 100 * PAGE).unwrap();
    assert!(buf == content(1)[100 * 4096..101 * 4096]);
    assert!(std::fs::read(victim.sandbox.mnt().join("other")).unwrap() == content(2));
}

#[test]
fn without_bound_names_another_file_is_not_found_out_but_its_blocks_are() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["init", "--no-bind-names", "vault"]);
    sandbox.mount();
    std::fs::write(sandbox.mnt().join("a"), content(1)).unwrap();
    let a = stored_files(&sandbox.vault()).pop().unwrap();
    std::fs::write(sandbox.mnt().join("b"), content(2)).unwrap();
    let b = stored_files(&sandbox.vault())
        .into_iter()
        .find(|path| *path != a)
        .unwrap();
    sandbox.umount();
    std::fs::copy(&b, &a).unwrap();
    assert!(sandbox.run(&["cat", "vault", "a"]).stdout == content(2));
    flip(&a, slot_page(0, 0) * PAGE);
    assert!(!sandbox.run(&["cat", "vault", "a"]).status.success());
}

#[test]
fn xts_shows_its_documented_limits() {
    let victim = Victim::new(SUITES[1]);
    let expected = content(1);
    // A flipped bit garbles one unit of 16 bytes, unnoticed.
    let read = victim
        .under(|path| flip(path, PAGE + 100))
        .expect("XTS does not notice");
    let differing: Vec<usize> = (0..SIZE).filter(|at| read[*at] != expected[*at]).collect();
    assert!(
        !differing.is_empty() && differing.iter().all(|at| at / 16 == 100 / 16),
        "{differing:?}"
    );
    // A zeroed block is a hole, a cut is a shorter file, another file's ciphertext is another file.
    let read = victim
        .under(|path| zero(path, PAGE * 3, 4096))
        .expect("XTS does not notice");
    assert!(read[2 * 4096..3 * 4096].iter().all(|byte| *byte == 0));
    let read = victim
        .under(|path| edit(path).set_len(PAGE * 11).unwrap())
        .expect("XTS does not notice");
    assert!(read == expected[..10 * 4096]);
    let read = victim
        .under(|path| {
            std::fs::copy(&victim.other, path).unwrap();
        })
        .expect("XTS does not notice");
    assert!(read == content(2));
    // The header is guarded in both suites.
    for offset in [0, 16, 32, 48, 544, 948] {
        assert_eq!(
            victim.under(|path| flip(path, offset)),
            None,
            "header byte {offset}"
        );
    }
}
