//! Damaged, missing and exchanged headers, and re-wrap.

use std::sync::Arc;

use super::{all, breakable, rotate};
use crate::format::ids::KeyVersion;
use crate::format::suite::Suite;
use crate::store::{Call, MemoryStore, SetTimes, Store, Time, TimeSpec};
use crate::volume::Error;
use crate::volume::fixture::Fixture;

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
    assert!(!file.rewrap_finish().unwrap(), "not durable yet");
    let between = fixture.mount(Arc::new(store.snapshot()), 2, &[1]).file("f");
    assert_eq!(all(&between), vec![5; 9000]);
    assert!(
        between.rewrap().unwrap(),
        "an interrupted re-wrap is finished"
    );
    assert!(
        !between.rewrap_finish().unwrap(),
        "the new area may be in the page cache only"
    );
    mounted.settler.sync_store().unwrap();
    assert!(file.rewrap_finish().unwrap());
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
    mounted.allow(&[KeyVersion(2)]);
    assert!(matches!(mounted.file("f").size(), Err(Error::Damaged(_))));
}

#[test]
fn an_old_key_area_stays_while_the_sync_of_the_new_one_failed() {
    for calls in [[Call::SyncStore, Call::SyncFile], [Call::SyncFile; 2]] {
        let broken = breakable(Suite::Xts);
        broken.mounted.file("f").write(0, b"data").unwrap();
        broken.mounted.settler.settle_all().unwrap();
        rotate(&broken.fixture, &broken.mounted);
        let file = broken.mounted.file("f");
        assert!(file.rewrap().unwrap());
        broken.store.fail_from(&calls, 0, libc::EIO);
        assert!(file.sync(false).is_err());
        let _ = broken.mounted.settler.sync_store();
        assert!(!file.rewrap_finish().unwrap());
        broken.store.heal();
        let before = broken.memory.writes();
        file.sync(false).unwrap();
        assert!(
            broken.memory.writes().since(&before).of(Call::Write) > 0,
            "the area is written again"
        );
        assert!(file.rewrap_finish().unwrap());
        broken.mounted.settler.settle_all().unwrap();
        assert_eq!(all(&broken.reopened()), b"data");
    }
}

#[test]
fn two_that_re_wrap_one_file_do_not_fail_each_other() {
    let fixture = Fixture::new(Suite::Gcm);
    let mounted = fixture.mount(Arc::new(MemoryStore::new()), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &[5; 9000]).unwrap();
    rotate(&fixture, &mounted);
    // The walk of a rotation is between its sync and the end when the file is renamed, which re-wraps it first.
    assert!(file.rewrap().unwrap());
    file.sync(false).unwrap();
    file.rewrap_now().unwrap();
    assert!(
        !file.rewrap_finish().unwrap(),
        "what the rename wrote is not durable"
    );
    file.rewrap_now().unwrap();
    assert!(!file.rewrap().unwrap(), "nothing is left to do");
}
