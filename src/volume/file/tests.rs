//! Contents of a file through the shell, over a store in memory: against a plain vector, over kills, failed calls, damage
//! and re-wraps. What holds for both suites runs for both.

use std::sync::Arc;
use std::time::Duration;

use super::FileState;
use crate::format::ids::KeyVersion;
use crate::format::suite::Suite;
use crate::store::{Call, FailingStore, MemoryStore, SetTimes, Store, Time, TimeSpec};
use crate::volume::Error;
use crate::volume::fixture::{Fixture, Mounted, place};
use crate::volume::keyring::Allowed;

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    /// Often near the edge of a block.
    fn offset(&mut self, bound: u64) -> u64 {
        let at = self.below(bound);
        if self.below(2) == 0 {
            at
        } else {
            (at / 4096 * 4096 + self.below(3))
                .saturating_sub(1)
                .min(bound)
        }
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn all(file: &FileState) -> Vec<u8> {
    let size = file.size().unwrap();
    let mut out = vec![0xEE; size as usize + 5000];
    let read = file.read(0, &mut out).unwrap();
    assert_eq!(read as u64, size);
    out.truncate(read);
    out
}

/// Does one random thing to both.
fn step(rng: &mut Rng, file: &FileState, plain: &mut Vec<u8>, bound: u64) {
    let (offset, len) = (rng.offset(bound), 1 + rng.offset(bound / 4));
    match rng.below(8) {
        0..=2 => {
            let data = rng.bytes(len);
            file.write(offset, &data).unwrap();
            let end = (offset + len) as usize;
            plain.resize(plain.len().max(end), 0);
            plain[offset as usize..end].copy_from_slice(&data);
        }
        3 => {
            let data = rng.bytes(len.min(6000));
            assert_eq!(file.append(&data).unwrap(), plain.len() as u64);
            plain.extend(data);
        }
        4 => {
            let size = if rng.below(6) == 0 { 0 } else { offset };
            file.set_size(size).unwrap();
            plain.resize(size as usize, 0);
        }
        5 => {
            file.zero(offset, len, rng.below(2) == 0).unwrap();
            let end = plain.len().min((offset + len) as usize);
            plain[end.min(offset as usize)..end].fill(0);
        }
        6 => file.sync(rng.below(2) == 0).unwrap(),
        _ => {
            let mut out = vec![0xEE; len as usize];
            let read = file.read(offset, &mut out).unwrap();
            let start = plain.len().min(offset as usize);
            assert_eq!(
                out[..read],
                plain[start..plain.len().min(start + len as usize)]
            );
        }
    }
}

fn random_operations(suite: Suite, seeds: std::ops::Range<u64>, steps: usize, bound: u64) {
    let fixture = Fixture::new(suite);
    for seed in seeds {
        let mut rng = Rng(seed);
        let store = Arc::new(MemoryStore::new());
        let mut plain = Vec::new();
        let mounted = fixture.mount(store.clone(), 1, &[]);
        let file = mounted.file("f");
        for n in 0..steps {
            step(&mut rng, &file, &mut plain, bound);
            assert_eq!(all(&file), plain, "seed {seed} step {n}");
            if rng.below(10) == 0 {
                assert!(mounted.settler.pass(Duration::ZERO).error.is_none());
            }
            // A killed process: what is stored now is all of it, in an epoch that ended uncleanly.
            let killed = fixture.mount(Arc::new(store.snapshot()), 2, &[1]);
            assert_eq!(
                all(&killed.file("f")),
                plain,
                "killed, seed {seed} step {n}"
            );
        }
        mounted.settler.settle_all().unwrap();
        assert!(mounted.env.may_end_clean());
        let clean = fixture.mount(store, 2, &[]);
        assert_eq!(all(&clean.file("f")), plain, "clean, seed {seed}");
    }
}

#[test]
fn agrees_with_a_plain_vector_under_xts() {
    random_operations(Suite::Xts, 0..12, 150, 40_000);
}

#[test]
fn agrees_with_a_plain_vector_in_large_pieces_under_xts() {
    random_operations(Suite::Xts, 100..102, 25, 3_000_000);
}

/// Keeps going on what a killed mount left, again and again.
#[test]
fn goes_on_after_kills_under_xts() {
    let fixture = Fixture::new(Suite::Xts);
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let mut store = Arc::new(MemoryStore::new());
        let mut plain = Vec::new();
        for epoch in 1..12 {
            let listed: Vec<_> = (1..epoch).collect();
            let file = fixture.mount(store.clone(), epoch, &listed).file("f");
            for _ in 0..5 {
                step(&mut rng, &file, &mut plain, 30_000);
            }
            assert_eq!(all(&file), plain, "seed {seed} epoch {epoch}");
            store = Arc::new(store.snapshot());
        }
    }
}

struct Broken {
    fixture: Fixture,
    memory: Arc<MemoryStore>,
    store: Arc<FailingStore>,
    mounted: Mounted,
}

fn breakable(suite: Suite) -> Broken {
    let fixture = Fixture::new(suite);
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FailingStore::new(memory.clone()));
    let mounted = fixture.mount(store.clone(), 1, &[]);
    Broken {
        fixture,
        memory,
        store,
        mounted,
    }
}

impl Broken {
    /// A file of a later mount of the same store.
    fn reopened(&self) -> Arc<FileState> {
        self.fixture.mount(self.memory.clone(), 2, &[1]).file("f")
    }
}

#[test]
fn a_write_that_fails_leaves_size_and_older_bytes() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    file.write(0, &[1; 5000]).unwrap();
    broken.store.fail_once(&[Call::Write], 0, libc::ENOSPC);
    let error = file.write(5000, &[2; 9000]).unwrap_err();
    assert_eq!(error.code(), libc::ENOSPC);
    assert_eq!(all(&file), vec![1; 5000]);
    assert_eq!(all(&broken.reopened()), vec![1; 5000]);
    file.set_size(20_000).unwrap();
    let mut grown = vec![1; 5000];
    grown.resize(20_000, 0);
    assert_eq!(all(&file), grown);
}

#[test]
fn a_first_write_that_fails_leaves_an_empty_file() {
    for calls in [Call::Write, Call::SetLen] {
        let broken = breakable(Suite::Xts);
        let file = broken.mounted.file("f");
        broken.store.fail_once(&[calls], 0, libc::EIO);
        assert_eq!(file.write(0, b"x").unwrap_err().code(), libc::EIO);
        assert_eq!(file.size().unwrap(), 0);
        file.write(0, b"y").unwrap();
        assert_eq!(all(&file), b"y");
        assert_eq!(all(&broken.reopened()), b"y");
    }
}

#[test]
fn a_failed_sync_stays_failed_until_its_pages_are_written_again() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    file.write(0, &[1; 10_000]).unwrap();
    broken.store.fail_once(&[Call::SyncFile], 0, libc::EIO);
    assert_eq!(file.sync(false).unwrap_err().code(), libc::EIO);
    broken.store.fail_from(&[Call::Write], 0, libc::EIO);
    assert_eq!(
        file.sync(false).unwrap_err().code(),
        libc::EIO,
        "what cannot be written again is not durable"
    );
    assert!(broken.mounted.settler.settle_all().is_err());
    assert!(!broken.mounted.env.may_end_clean());
    broken.store.heal();
    let before = broken.memory.writes();
    file.sync(false).unwrap();
    assert!(broken.memory.writes().since(&before).of(Call::Write) > 0);
    let before = broken.memory.writes();
    file.sync(false).unwrap();
    assert_eq!(
        broken.memory.writes().since(&before).total(),
        0,
        "once is enough"
    );
    assert_eq!(all(&broken.reopened()), vec![1; 10_000]);
}

#[test]
fn a_failed_sync_of_the_store_reaches_every_file() {
    let broken = breakable(Suite::Xts);
    let files = [broken.mounted.file("f"), broken.mounted.file("g")];
    files
        .iter()
        .for_each(|file| file.write(0, b"data").unwrap());
    broken
        .store
        .fail_from(&[Call::SyncStore, Call::SyncFile], 0, libc::EIO);
    assert!(broken.mounted.settler.sync_store().is_err());
    assert_eq!(broken.mounted.settler.len(), 2);
    broken.store.fail_from(&[Call::SyncFile], 0, libc::EIO);
    assert!(
        broken.mounted.settler.pass(Duration::ZERO).error.is_some(),
        "the store's word does not count now"
    );
    assert_eq!(broken.mounted.settler.len(), 2);
    broken.store.heal();
    broken.mounted.settler.settle_all().unwrap();
    assert_eq!(broken.mounted.settler.len(), 0);
}

#[test]
fn growing_after_a_cut_waits_for_a_sync() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    file.write(0, &[1; 20_000]).unwrap();
    file.set_size(5_000).unwrap();
    let syncs = broken.memory.syncs();
    file.set_size(30_000).unwrap();
    assert_eq!(broken.memory.syncs(), syncs + 1);
    file.set_size(40_000).unwrap();
    assert_eq!(broken.memory.syncs(), syncs + 1);
}

#[test]
fn a_large_write_and_read_are_one_call_each() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    let data = Rng(1).bytes(1 << 20);
    file.write(0, &data).unwrap();
    let before = broken.memory.calls();
    file.write(1 << 20, &data).unwrap();
    let calls = broken.memory.calls().since(&before);
    assert_eq!(
        (
            calls.of(Call::Write),
            calls.of(Call::Read),
            calls.of(Call::SetLen)
        ),
        (1, 0, 1)
    );
    let before = broken.memory.calls();
    assert_eq!(file.read(1 << 20, &mut vec![0; 1 << 20]).unwrap(), 1 << 20);
    assert_eq!(broken.memory.calls().since(&before).total(), 1);
}

#[test]
fn refuses_sizes_beyond_the_largest() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    assert_eq!(file.write(1 << 50, b"x").unwrap_err().code(), libc::EFBIG);
    assert_eq!(file.set_size(u64::MAX).unwrap_err().code(), libc::EFBIG);
    assert_eq!(file.write(u64::MAX, b"xy").unwrap_err().code(), libc::EFBIG);
    assert_eq!(file.size().unwrap(), 0);
}

#[test]
fn finds_data_and_holes() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    assert_eq!(file.next_data(0).unwrap(), None);
    file.write(40_960, &[1; 100]).unwrap();
    file.set_size(100_001).unwrap();
    assert_eq!(file.next_data(5).unwrap(), Some(40_960));
    assert_eq!(file.next_data(41_000).unwrap(), Some(41_000));
    assert_eq!(file.next_data(50_000).unwrap(), None);
    assert_eq!(file.next_hole(5).unwrap(), 5);
    assert_eq!(file.next_hole(40_960).unwrap(), 45_056);
    assert_eq!(file.next_hole(100_000).unwrap(), 100_000);
    file.write(0, &[2; 100_001]).unwrap();
    assert_eq!(file.next_hole(7).unwrap(), 100_001);
}

/// Damages page 0 in each of its parts.
#[test]
fn a_damaged_header_is_an_error_and_a_missing_one_only_after_an_unclean_end() {
    let fixture = Fixture::new(Suite::Xts);
    let store = Arc::new(MemoryStore::new());
    fixture
        .mount(store.clone(), 1, &[])
        .file("f")
        .write(0, b"data")
        .unwrap();
    for (offset, len) in [(0, 512), (512, 1024), (1536, 512)] {
        let missing = Arc::new(store.snapshot());
        missing
            .edit(&[b"f"], |bytes| bytes[offset..offset + len].fill(0))
            .unwrap();
        let strict = fixture.mount(missing.clone(), 2, &[]).file("f");
        assert!(
            matches!(strict.size(), Err(Error::Damaged(_))),
            "zero at {offset}"
        );
        let lenient = fixture.mount(missing.clone(), 2, &[1]).file("f");
        assert_eq!(lenient.size().unwrap(), 0);
        for at in [offset, offset + 40, offset + 200] {
            let damaged = Arc::new(store.snapshot());
            damaged.edit(&[b"f"], |bytes| bytes[at] ^= 1).unwrap();
            let file = fixture.mount(damaged, 2, &[1]).file("f");
            assert!(
                matches!(file.size(), Err(Error::Damaged(_) | Error::Key(_))),
                "changed at {at}"
            );
        }
    }
}

#[test]
fn remains_are_moved_aside_before_the_first_write() {
    let fixture = Fixture::new(Suite::Xts);
    let store = Arc::new(MemoryStore::new());
    fixture
        .mount(store.clone(), 1, &[])
        .file("f")
        .write(0, &[3; 9000])
        .unwrap();
    store.edit(&[b"f"], |bytes| bytes[..4096].fill(0)).unwrap();
    let len = store.root().stat_at(b"f").unwrap().size;
    let mounted = fixture.mount(store.clone(), 2, &[1]);
    let file = mounted.file("f");
    file.set_size(0).unwrap();
    assert_eq!(
        store.root().stat_at(b"f").unwrap().size,
        len,
        "opening and truncating destroy nothing"
    );
    file.write(0, b"new").unwrap();
    assert_eq!(all(&file), b"new");
    let names: Vec<_> = store
        .root()
        .entries(0)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let lost: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with(b"strongroom.lost."))
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(store.root().stat_at(lost[0]).unwrap().size, len);
}

#[test]
fn a_header_of_another_file_does_not_open_under_changed_bytes() {
    let fixture = Fixture::new(Suite::Xts);
    let store = Arc::new(MemoryStore::new());
    let mounted = fixture.mount(store.clone(), 1, &[]);
    ["f", "g"]
        .iter()
        .for_each(|name| mounted.file(name).write(0, b"data").unwrap());
    let mut other = Vec::new();
    store.edit(&[b"g"], |bytes| other = bytes.clone()).unwrap();
    store
        .edit(&[b"f"], |bytes| {
            bytes[512..1536].copy_from_slice(&other[512..1536])
        })
        .unwrap();
    assert!(fixture.mount(store, 2, &[]).file("f").size().is_err());
}

fn rotate(fixture: &Fixture, mounted: &Mounted) {
    let current = fixture.keys.add_version();
    let versions = (1..=current.0).map(KeyVersion).collect();
    mounted.env.ring.allow(Allowed { current, versions });
}

#[test]
fn re_wraps_in_two_steps_and_touches_no_data() {
    let fixture = Fixture::new(Suite::Xts);
    let store = Arc::new(MemoryStore::new());
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    assert!(!file.rewrap().unwrap(), "an empty file needs nothing");
    file.write(0, &[5; 9000]).unwrap();
    let old = Time { sec: 1000, nsec: 5 };
    file.backing()
        .set_times(SetTimes {
            atime: None,
            mtime: Some(TimeSpec::At(old)),
        })
        .unwrap();
    mounted.settler.settle_all().unwrap();
    assert!(!file.rewrap().unwrap(), "it is current");
    rotate(&fixture, &mounted);
    let bytes = |from: usize, to: usize| {
        let mut out = Vec::new();
        store
            .edit(&[b"f"], |bytes| out = bytes[from..to].to_vec())
            .unwrap();
        out
    };
    let (area_a, data) = (bytes(512, 1024), bytes(4096, 12_288));
    // As a rotation does it: a state that no user opened.
    drop(file);
    let file = mounted.file("f");
    assert_eq!(file.header_version().unwrap(), Some(false));
    assert!(file.rewrap().unwrap());
    assert_eq!(file.header_version().unwrap(), Some(true));
    assert_eq!(
        bytes(512, 1024),
        area_a,
        "the old area is whole until the new one is durable"
    );
    assert!(file.rewrap_finish().is_err(), "not durable yet");
    let between = fixture.mount(Arc::new(store.snapshot()), 2, &[1]).file("f");
    assert_eq!(all(&between), vec![5; 9000]);
    assert!(
        between.rewrap().unwrap(),
        "an interrupted re-wrap is finished"
    );
    mounted.settler.sync_store().unwrap();
    file.rewrap_finish().unwrap();
    assert_eq!(bytes(512, 1024), vec![0; 512]);
    assert_eq!(bytes(4096, 12_288), data);
    assert_eq!(store.root().stat_at(b"f").unwrap().mtime, old);
    assert_eq!(all(&mounted.file("f")), vec![5; 9000]);
    mounted.settler.settle_all().unwrap();
    assert!(!file.rewrap().unwrap());
}

#[test]
fn a_torn_newer_key_area_falls_back_to_the_older_one() {
    let fixture = Fixture::new(Suite::Xts);
    let store = Arc::new(MemoryStore::new());
    let mounted = fixture.mount(store.clone(), 1, &[]);
    mounted.file("f").write(0, b"data").unwrap();
    rotate(&fixture, &mounted);
    assert!(mounted.file("f").rewrap().unwrap());
    store.edit(&[b"f"], |bytes| bytes[1100] ^= 1).unwrap();
    assert_eq!(
        all(&fixture.mount(store.clone(), 2, &[]).file("f")),
        b"data"
    );
    store.edit(&[b"f"], |bytes| bytes[600] ^= 1).unwrap();
    assert!(fixture.mount(store, 2, &[]).file("f").size().is_err());
}

#[test]
fn a_version_that_the_volume_does_not_allow_is_not_asked_for() {
    let fixture = Fixture::new(Suite::Xts);
    let store = Arc::new(MemoryStore::new());
    let mounted = fixture.mount(store, 1, &[]);
    mounted.file("f").write(0, b"data").unwrap();
    mounted.env.ring.allow(Allowed {
        current: KeyVersion(2),
        versions: vec![KeyVersion(2)],
    });
    assert!(matches!(mounted.file("f").size(), Err(Error::Damaged(_))));
}

#[test]
fn settling_keeps_a_file_open_until_it_is_durable_and_then_lets_go() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    file.write(0, b"data").unwrap();
    let weak = Arc::downgrade(&file);
    drop(file);
    assert!(weak.upgrade().is_some());
    assert_eq!(
        broken.mounted.settler.pass(Duration::from_secs(3600)).left,
        1,
        "not idle for that long"
    );
    let syncs = broken.memory.syncs();
    broken.mounted.settler.settle_all().unwrap();
    assert_eq!(broken.memory.syncs(), syncs + 1);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_deleted_file_owes_nothing() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    file.write(0, b"data").unwrap();
    broken.store.root().remove(b"f").unwrap();
    file.name_gone(&place("f"));
    broken
        .store
        .fail_from(&[Call::SyncFile, Call::SyncStore], 0, libc::EIO);
    broken.mounted.settler.settle_all().unwrap();
}

#[test]
fn appends_of_many_threads_lose_nothing() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    std::thread::scope(|scope| {
        for byte in 1..5u8 {
            let file = &file;
            scope.spawn(move || (0..200).for_each(|_| assert!(file.append(&[byte; 37]).is_ok())));
        }
    });
    let content = all(&file);
    assert_eq!(content.len(), 4 * 200 * 37);
    assert!(
        content
            .chunks(37)
            .all(|piece| piece.iter().all(|byte| *byte == piece[0] && *byte != 0))
    );
}

/// Two threads write each its own region, one cuts and grows behind them, one syncs, one settles: nobody waits forever and
/// every region holds what its thread wrote last.
fn many_threads(suite: Suite) {
    const REGION: u64 = 100_000;
    let broken = breakable(suite);
    let file = broken.mounted.file("f");
    file.set_size(2 * REGION).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let going_on = || !done.load(std::sync::atomic::Ordering::Relaxed);
    let regions: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let (file, settler) = (&file, &broken.mounted.settler);
        scope.spawn(move || {
            while going_on() {
                assert!(settler.pass(Duration::ZERO).error.is_none());
                settler.sync_store().unwrap();
            }
        });
        scope.spawn(move || {
            while going_on() {
                file.sync(false).unwrap();
            }
        });
        scope.spawn(move || {
            for size in (0..).map(|n| 2 * REGION + n * 777 % 50_000) {
                if !going_on() {
                    break;
                }
                file.set_size(size).unwrap();
            }
        });
        let writers: Vec<_> = (0..2)
            .map(|n| scope.spawn(move || write_and_read_back(file, n * REGION, REGION, n)))
            .collect();
        let regions = writers.into_iter().map(|writer| writer.join());
        let regions: Vec<_> = regions.collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        regions.into_iter().map(|region| region.unwrap()).collect()
    });
    let content = all(&file);
    for (n, region) in regions.iter().enumerate() {
        let start = n * REGION as usize;
        assert!(
            content[start..start + region.len()] == region[..],
            "region {n}"
        );
    }
    broken.mounted.settler.settle_all().unwrap();
    assert!(
        all(&broken
            .fixture
            .mount(broken.memory.clone(), 2, &[])
            .file("f"))
            == content
    );
}

fn write_and_read_back(file: &FileState, start: u64, len: u64, seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut plain = vec![0; len as usize];
    for _ in 0..300 {
        let at = rng.offset(len - 1);
        let data_len = 1 + rng.below((len - at).min(20_000));
        let data = rng.bytes(data_len);
        file.write(start + at, &data).unwrap();
        plain[at as usize..][..data.len()].copy_from_slice(&data);
        let mut out = vec![0; len as usize];
        assert_eq!(file.read(start, &mut out).unwrap() as u64, len);
        assert!(out == plain);
    }
    plain
}

#[test]
fn many_threads_agree_under_xts() {
    many_threads(Suite::Xts);
}
