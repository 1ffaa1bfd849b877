//! A store that refuses: the error reaches the caller, what was there stays, and the file goes on.

use std::sync::Arc;

use super::{Rng, all, gcm};
use crate::store::{Call, FailingStore, MemoryStore};

/// Whether every block of `shown` is that of one of the two.
fn is_either(shown: &[u8], before: &[u8], after: &[u8]) -> bool {
    let same = |other: &[u8], at: usize, piece: &[u8]| {
        piece
            .iter()
            .enumerate()
            .all(|(n, byte)| other.get(at + n).copied().unwrap_or(0) == *byte)
    };
    (shown.len() == before.len() || shown.len() == after.len())
        && shown
            .chunks(4096)
            .enumerate()
            .all(|(n, piece)| same(before, n * 4096, piece) || same(after, n * 4096, piece))
}

#[test]
fn a_full_store_takes_nothing_away() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO] {
        for after in 0..14 {
            for (offset, len) in [
                (5000, 3000),
                (0, 200_000),
                (130_000, 300_000),
                (400_000, 5),
                (100_000, 60_000),
            ] {
                check(errno, after, offset, len, true);
                check(errno, after, offset, len, false);
            }
        }
    }
}

/// `again`: what failed is written once more, else the file goes on as it was left.
fn check(errno: i32, calls: u64, offset: u64, len: u64, again: bool) {
    let fixture = gcm();
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FailingStore::new(memory.clone()));
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    let mut rng = Rng(calls);
    let mut plain = rng.bytes(250_000);
    file.write(0, &plain).unwrap();
    file.sync(false).unwrap();
    let first = rng.bytes(9000);
    file.write(2000, &first).unwrap();
    plain[2000..11_000].copy_from_slice(&first);
    let data = rng.bytes(len);
    let mut wanted = plain.clone();
    wanted.resize(plain.len().max((offset + len) as usize), 0);
    wanted[offset as usize..(offset + len) as usize].copy_from_slice(&data);
    store.fail_from(&[Call::Write, Call::SetLen], calls, errno);
    let written = file.write(offset, &data);
    store.heal();
    let what = format!("errno {errno} after {calls} calls, {len} at {offset}: {written:?}");
    let shown = all(&file);
    match &written {
        Ok(()) => assert!(shown == wanted, "{what}"),
        Err(error) => {
            assert_eq!(error.code(), errno, "{what}");
            assert!(is_either(&shown, &plain, &wanted), "{what}");
        }
    }
    let killed = fixture
        .mount(Arc::new(memory.snapshot()), 2, &[1])
        .file("f");
    assert!(all(&killed) == shown, "{what}: killed");
    if again {
        file.write(offset, &data).unwrap();
        assert!(all(&file) == wanted, "{what}: again");
    } else {
        file.sync(false).unwrap();
        wanted = shown;
    }
    file.set_size(260_000).unwrap();
    file.set_size(270_000).unwrap();
    wanted.resize(260_000, 0);
    wanted.resize(270_000, 0);
    mounted.settler.settle_all().unwrap();
    let strict = fixture.mount(memory, 2, &[]).file("f");
    assert!(all(&strict) == wanted, "{what}: strict");
}

/// A file is cut by its state first, and what its last block holds behind the end goes later.
#[test]
fn what_stood_behind_the_end_is_never_seen_again() {
    let mut was_cut_in_part = false;
    for after in 0..8 {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FailingStore::new(memory));
        let mounted = gcm().mount(store.clone(), 1, &[]);
        let file = mounted.file("f");
        file.write(0, &[7; 9000]).unwrap();
        file.sync(false).unwrap();
        store.fail_from(&[Call::Write, Call::SetLen], after, libc::EIO);
        let cut = file.set_size(8500);
        let size = file.size().unwrap() as usize;
        was_cut_in_part |= cut.is_err() && size == 8500;
        let mut out = vec![0; 12_288];
        assert_eq!(file.read(0, &mut out).unwrap(), size);
        assert!(out[..size].iter().all(|byte| *byte == 7), "after {after}");
        assert!(out[size..].iter().all(|byte| *byte == 0), "after {after}");
        store.heal();
        file.set_size(8500).unwrap();
        file.write(9500, &[8]).unwrap();
        let grown = all(&file);
        assert!(
            grown[8500..9500].iter().all(|byte| *byte == 0),
            "after {after}"
        );
    }
    assert!(was_cut_in_part);
}
