//! Volumes killed after any number of calls of the store, repaired, the repair killed too: afterwards everything is strict,
//! nothing is in doubt, and every operation that had returned is there.

mod attributes;
mod rotations;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::dir_file::place_tag;
use crate::format::layout;
use crate::format::names::root_dir_id;
use crate::format::record::Record;
use crate::format::suite::Suite;
use crate::keys::{KeyProvider, Providers};
use crate::store::{Call, FailingStore, MemoryStore, RenameMode, Store};
use crate::volume::dir_id::{random_id, write_dir_file};
use crate::volume::fixture::{self, READ_WRITE, TestKeys, USER};
use crate::volume::test_keys::KEY;
use crate::volume::{
    CheckOptions, CreateOptions, OpenOptions, Repair, Result, Volume, check, create, open, restore,
};

const CHANGES: [Call; 19] = [
    Call::Write,
    Call::SetLen,
    Call::Allocate,
    Call::Create,
    Call::MakeDir,
    Call::MakeNode,
    Call::MakeSymlink,
    Call::Link,
    Call::Rename,
    Call::Remove,
    Call::RemoveDir,
    Call::SetMode,
    Call::SetOwner,
    Call::SetTimes,
    Call::SetXattr,
    Call::RemoveXattr,
    Call::SyncFile,
    Call::SyncDir,
    Call::SyncStore,
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn options() -> OpenOptions {
    OpenOptions {
        take_over: true,
        ..fixture::options(None)
    }
}

/// A fresh volume.
fn make(store: &Arc<dyn Store>, keys: &TestKeys, suite: Suite, sparse: bool) {
    let made = CreateOptions {
        suite,
        bind_names: true,
        sparse,
        envelope: None,
    };
    create(store, keys, &KEY, &made, &options().host).unwrap();
}

fn providers(keys: &Arc<TestKeys>) -> Providers {
    let provider: Arc<dyn KeyProvider> = keys.clone();
    provider.into()
}

/// What the volume must hold: of each file the content that was last written whole, or, of the one operation that failed,
/// what may stand in its place.
#[derive(Default)]
struct Expected {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The names that the operation concerned which was cut off.
    cut: Vec<Vec<u8>>,
}

/// Random operations on a few names until one fails; everything before it returned.
fn script(volume: &Volume, keys: &TestKeys, random: &mut Random, expected: &mut Expected) {
    let root = volume.root();
    for _ in 0..40 {
        let name = format!("file {}", random.below(5)).into_bytes();
        let other = format!("file {}", random.below(5)).into_bytes();
        let done = match random.below(8) {
            0 | 1 => write(volume, &name, random, expected),
            2 => volume.unlink(&root, &name).map(|()| {
                expected.files.remove(&name);
            }),
            3 => volume
                .rename(&root, &name, &root, &other, RenameMode::Replace)
                .map(|()| {
                    if let Some(content) = expected.files.remove(&name) {
                        expected.files.insert(other.clone(), content);
                    }
                }),
            4 | 5 => overwrite(volume, &name, random, expected),
            6 => rotate(volume, keys),
            _ => fsync(volume, &name),
        };
        match done {
            Err(error) if error.code() == libc::EIO => {
                expected.cut = vec![name, other];
                return;
            }
            _ => {}
        }
    }
}

fn bytes(random: &mut Random, length: u64) -> Vec<u8> {
    let seed = random.below(251);
    (0..length).map(|at| (seed + at / 5) as u8).collect()
}

fn write(volume: &Volume, name: &[u8], random: &mut Random, expected: &mut Expected) -> Result<()> {
    let length = 1 + random.below(180_000);
    let content = bytes(random, length);
    let root = volume.root();
    if expected.files.contains_key(name) {
        volume.unlink(&root, name)?;
        expected.files.remove(name);
    }
    let (_, _, file) = volume.create(&root, name, 0o600, &USER, READ_WRITE)?;
    expected.files.insert(name.to_vec(), Vec::new());
    volume.write(&file, 0, &content)?;
    expected.files.insert(name.to_vec(), content);
    Ok(())
}

fn overwrite(
    volume: &Volume,
    name: &[u8],
    random: &mut Random,
    expected: &mut Expected,
) -> Result<()> {
    let (node, attr) = volume.lookup(&volume.root(), name)?;
    let file = volume.open(&node, READ_WRITE)?;
    let at = random.below(attr.size + 5000);
    let length = 1 + random.below(40_000);
    let new = bytes(random, length);
    volume.write(&file, at, &new)?;
    if let Some(content) = expected.files.get_mut(name) {
        let end = at as usize + new.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at as usize..end].copy_from_slice(&new);
    }
    Ok(())
}

fn rotate(volume: &Volume, keys: &TestKeys) -> Result<()> {
    keys.add_version();
    volume.rotate(&mut |_| {}).map(|_| ())
}

fn fsync(volume: &Volume, name: &[u8]) -> Result<()> {
    let (node, _) = volume.lookup(&volume.root(), name)?;
    let file = volume.open(&node, READ_WRITE)?;
    volume.fsync(&file, false)
}

fn read(volume: &Volume, name: &[u8]) -> Result<Vec<u8>> {
    fixture::read(volume, &volume.root(), name)
}

fn repair(store: Arc<dyn Store>, keys: &Arc<TestKeys>) -> Result<Repair> {
    restore(&store, &providers(keys), &options(), &mut |_| {})?;
    let volume = open(store, providers(keys), &options())?;
    let repaired = volume.repair(&mut |_| {});
    let closed = volume.close();
    let repaired = repaired?;
    closed?;
    Ok(repaired)
}

fn killed_and_repaired(suite: Suite, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let memory = Arc::new(MemoryStore::new());
    let shared: Arc<dyn Store> = memory.clone();
    let keys = Arc::new(TestKeys::with_one_version());
    make(&shared, &keys, suite, true);
    let failing = Arc::new(FailingStore::new(shared));
    let volume = open(failing.clone(), providers(&keys), &options()).unwrap();
    let mut expected = Expected::default();
    failing.fail_from(&CHANGES, random.below(250), libc::EIO);
    script(&volume, &keys, &mut random, &mut expected);
    let mut left = Arc::new(memory.snapshot());
    drop(volume);
    // The repair itself is killed a few times, each time later.
    for attempt in 0..3 {
        let failing = Arc::new(FailingStore::new(left.clone()));
        failing.fail_from(&CHANGES, attempt * 17 + random.below(30), libc::EIO);
        let _ = repair(failing, &keys);
        left = Arc::new(left.snapshot());
    }
    let repaired = repair(left.clone(), &keys).unwrap();
    assert!(repaired.is_sound(), "seed {seed}: {repaired:#?}");
    let report = check(
        left.clone(),
        providers(&keys),
        &options(),
        &CheckOptions::default(),
        &mut |_| {},
    );
    let report = report.unwrap();
    let in_trouble = report
        .findings
        .iter()
        .filter(|finding| finding.part != crate::volume::Part::Hidden)
        .count();
    assert_eq!(
        (report.damaged, report.in_doubt, in_trouble),
        (0, 0, 0),
        "seed {seed}: {report:#?}"
    );
    let volume = open(left, providers(&keys), &options()).unwrap();
    for (name, content) in &expected.files {
        if expected.cut.contains(name) {
            continue;
        }
        let read = read(&volume, name).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(read == *content, "seed {seed}: {}", name.escape_ascii());
    }
    volume.close().unwrap();
}

#[test]
fn volumes_killed_anywhere_are_strict_and_whole_after_a_repair_that_was_killed_too() {
    for seed in 0..150 {
        killed_and_repaired(Suite::Gcm, seed);
    }
    for seed in 0..50 {
        killed_and_repaired(Suite::Xts, seed);
    }
}

/// A file that grew from one block to three when the power went: its last block never arrived, nor did a re-wrap's key area.
/// What lies between its two sizes reads as zeros, for which the older state is needed.
#[test]
fn the_older_state_of_a_file_in_doubt_outlives_a_torn_key_area() {
    let memory = Arc::new(MemoryStore::new());
    let shared: Arc<dyn Store> = memory.clone();
    let keys = Arc::new(TestKeys::with_one_version());
    make(&shared, &keys, Suite::Gcm, false);
    let volume = open(shared, providers(&keys), &options()).unwrap();
    let root = volume.root();
    let (_, _, file) = volume
        .create(&root, b"file", 0o600, &USER, READ_WRITE)
        .unwrap();
    volume.write(&file, 0, &[1; 4096]).unwrap();
    volume.fsync(&file, false).unwrap();
    volume.write(&file, 4096, &[2; 8192]).unwrap();
    let left = Arc::new(memory.snapshot());
    drop((file, volume));
    let entries = left.root().entries(0).unwrap();
    let stored = entries
        .iter()
        .find(|entry| !entry.name.starts_with(b"strongroom."))
        .unwrap();
    left.edit(&[&stored.name], |bytes| {
        let record = layout::record_offset(2) as usize;
        let record = Record::parse(bytes[record..].first_chunk().unwrap()).unwrap();
        let half = record.halves[record.newest().unwrap()].unwrap();
        let slot = layout::slot_offset(0, half.slot) as usize;
        bytes[slot..slot + 4096].fill(0xA5);
        let free = if bytes[512..1024].iter().all(|byte| *byte == 0) {
            512
        } else {
            1024
        };
        bytes[free..free + 512].fill(0xA5);
    })
    .unwrap();
    let repaired = repair(left.clone(), &keys).unwrap();
    assert!(repaired.is_sound(), "{repaired:#?}");
    let volume = open(left, providers(&keys), &options()).unwrap();
    let content = read(&volume, b"file").unwrap();
    assert!(content == [vec![1; 4096], vec![2; 4096], vec![0; 4096]].concat());
    volume.close().unwrap();
}

/// Renamed while it stood in another's place, a directory got an id under which none of its names deciphers.
#[test]
fn an_id_that_a_directory_got_in_anothers_place_gives_way_to_its_own() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let keys = Arc::new(TestKeys::with_one_version());
    make(&store, &keys, Suite::Gcm, false);
    let volume = open(store.clone(), providers(&keys), &options()).unwrap();
    let root = volume.root();
    let (dir, _) = volume.make_dir(&root, b"dir", 0o700, &USER).unwrap();
    let (_, _, file) = volume
        .create(&dir, b"file", 0o600, &USER, READ_WRITE)
        .unwrap();
    volume.write(&file, 0, &[1; 4096]).unwrap();
    let top = root_dir_id(&volume.env.keys().unwrap().dir, &volume.env.volume);
    let entries = store.root().entries(0).unwrap();
    let stored = entries
        .iter()
        .find(|entry| !entry.name.starts_with(b"strongroom."))
        .unwrap();
    let wrong = random_id();
    let tag = place_tag(&volume.env.keys().unwrap().dir, &wrong, &top, &stored.name);
    drop((file, dir));
    volume.close().unwrap();
    let child = store.root().open_dir(&stored.name).unwrap();
    write_dir_file(&child, wrong, vec![tag]).unwrap();
    let repaired = repair(store.clone(), &keys).unwrap();
    assert!(repaired.is_sound(), "{repaired:#?}");
    let volume = open(store, providers(&keys), &options()).unwrap();
    let (dir, _) = volume.lookup(&volume.root(), b"dir").unwrap();
    let (_, attr) = volume.lookup(&dir, b"file").unwrap();
    assert_eq!(attr.size, 4096);
    volume.close().unwrap();
}
