//! What reaches the store: how many calls, which fail, and what a failure leaves.

use std::sync::Arc;
use std::time::Duration;

use super::{Rng, all, breakable};
use crate::format::suite::Suite;
use crate::store::{Call, Store};
use crate::volume::fixture::place;

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

/// The kernel tells whoever begins a writeback that it failed, and need not tell a later sync.
#[test]
fn a_writeback_that_failed_ahead_of_a_sync_is_told_by_it_and_the_pages_are_written_again() {
    for suite in [Suite::Gcm, Suite::Xts] {
        for settled in [false, true] {
            let broken = breakable(suite);
            let file = broken.mounted.file("f");
            broken.store.fail_once(&[Call::WriteBack], 0, libc::ENOSPC);
            for at in 0..9 {
                file.write(at << 20, &vec![1; 1 << 20]).unwrap();
            }
            if settled {
                let pass = broken.mounted.settler.pass(Duration::ZERO);
                assert_eq!(pass.error.unwrap().code(), libc::ENOSPC);
                assert_eq!(pass.left, 1);
            } else {
                assert_eq!(file.sync(false).unwrap_err().code(), libc::ENOSPC);
            }
            let before = broken.memory.writes();
            file.sync(false).unwrap();
            let again = broken.memory.writes().since(&before).of(Call::Write);
            assert!(again > 1, "{again} writes");
            assert_eq!(all(&file), vec![1; 9 << 20]);
        }
    }
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
fn growing_makes_no_file_shorter() {
    let broken = breakable(Suite::Xts);
    let file = broken.mounted.file("f");
    file.grow(5000).unwrap();
    assert_eq!(all(&file), vec![0; 5000]);
    file.write(0, &[1; 9000]).unwrap();
    file.grow(8000).unwrap();
    assert_eq!(all(&file), vec![1; 9000]);
}

#[test]
fn the_header_of_a_file_in_doubt_is_written_again_before_anything_builds_on_it() {
    let broken = breakable(Suite::Xts);
    broken.mounted.file("f").write(0, &[1; 9000]).unwrap();
    for (listed, writes) in [(&[1][..], 2), (&[], 1)] {
        let store = Arc::new(broken.memory.snapshot());
        let file = broken.fixture.mount(store.clone(), 2, listed).file("f");
        assert_eq!(file.size().unwrap(), 9000);
        assert_eq!(store.writes().total(), 0, "opening writes nothing");
        file.write(4096, &[2; 4096]).unwrap();
        assert_eq!(store.writes().of(Call::Write), writes);
        file.write(4096, &[3; 4096]).unwrap();
        assert_eq!(store.writes().of(Call::Write), writes + 1);
    }
}
