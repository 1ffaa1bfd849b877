//! Random operations against a plain vector: over kills, reopening, and by many threads.

use std::sync::Arc;
use std::time::Duration;

use super::{Rng, all, breakable};
use crate::format::suite::Suite;
use crate::store::MemoryStore;
use crate::volume::file::FileState;
use crate::volume::fixture::Fixture;

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
fn agrees_with_a_plain_vector_under_gcm() {
    random_operations(Suite::Gcm, 0..12, 150, 40_000);
}

#[test]
fn agrees_with_a_plain_vector_across_groups_under_gcm() {
    random_operations(Suite::Gcm, 50..54, 60, 600_000);
}

#[test]
fn agrees_with_a_plain_vector_in_large_pieces_under_gcm() {
    random_operations(Suite::Gcm, 100..102, 25, 3_000_000);
}

#[test]
fn goes_on_after_kills_under_xts() {
    goes_on_after_kills(Suite::Xts);
}

#[test]
fn goes_on_after_kills_under_gcm() {
    goes_on_after_kills(Suite::Gcm);
}

fn goes_on_after_kills(suite: Suite) {
    let fixture = Fixture::new(suite);
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

#[test]
fn many_threads_agree_under_gcm() {
    many_threads(Suite::Gcm);
}
