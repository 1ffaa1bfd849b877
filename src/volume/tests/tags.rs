//! When the tags of names that went are dropped (FORMAT.md section 5), and what a header made meanwhile knows of them.

use std::sync::Arc;
use std::time::Duration;

use super::names::raw;
use super::rules::put;
use super::{Bench, READ_WRITE};
use crate::format::suite::Suite;
use crate::store::{Call, FailingStore, Kind, MemoryStore, Store, Traits};

/// Tags of names that went are dropped only once the directory change is durable, also where the file itself was synced.
#[test]
fn a_tag_stays_while_the_store_does_not_say_that_its_name_went_for_good() {
    let traits = Traits {
        syncfs_reports: false,
        atomic_page: true,
        unsafe_journal: false,
    };
    for store_syncs in [false, true] {
        let mut bench = Bench::new(Suite::Gcm);
        bench.store = Arc::new(MemoryStore::with_traits(traits));
        let volume = bench.open();
        let root = volume.root();
        let stored = |bench: &Bench| raw(bench.store.root().as_ref());
        let before = stored(&bench);
        put(&volume, &root, b"f", b"text");
        let new = |bench: &Bench, known: &[Vec<u8>]| {
            let mut names = stored(bench).into_iter();
            names.find(|name| !known.contains(name)).unwrap()
        };
        let went = new(&bench, &before);
        let (node, _) = volume.lookup(&root, b"f").unwrap();
        volume.link(&node, &root, b"g").unwrap();
        let stays = new(&bench, &[before, vec![went.clone()]].concat());
        volume.close().unwrap();
        drop((node, root, volume));

        let failing = Arc::new(FailingStore::new(bench.store.clone()));
        let volume = bench.open_on(failing.clone());
        let root = volume.root();
        volume.unlink(&root, b"f").unwrap();
        let (node, _) = volume.lookup(&root, b"g").unwrap();
        let file = volume.open(&node, READ_WRITE).unwrap();
        volume.write(&file, 0, b"T").unwrap();
        drop(file);
        if !store_syncs {
            failing.fail_from(&[Call::SyncStore], 0, libc::EIO);
        }
        let pass = volume.settler.pass(Duration::ZERO);
        assert_eq!(pass.error.is_none(), store_syncs);

        // The power cut: the name is back, as the directory was.
        let back = bench.store.root();
        back.link(&stays, back.as_ref(), &went).unwrap();
        let volume = bench.open_after_kill();
        let read = volume.lookup(&volume.root(), b"f").and_then(|(node, _)| {
            let mut text = [0; 4];
            let file = volume.open(&node, READ_WRITE)?;
            volume.read(&file, 0, &mut text).map(|_| text)
        });
        assert_eq!(
            read.ok(),
            (!store_syncs).then_some(*b"Text"),
            "the store synced: {store_syncs}"
        );
    }
}

#[test]
fn a_sync_that_begins_within_a_change_of_names_does_not_cover_it() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    put(&volume, &volume.root(), b"f", b"text");
    let (node, _) = volume.lookup(&volume.root(), b"f").unwrap();
    volume.link(&node, &volume.root(), b"g").unwrap();
    volume.settler.sync_store().unwrap();
    let store = bench.store.root();
    let names = raw(store.as_ref());
    let stats = names.iter().map(|name| store.stat_at(name).unwrap());
    let stat = stats
        .into_iter()
        .find(|stat| stat.kind == Kind::File && stat.nlink == 2);
    let stat = stat.unwrap();
    assert!(!volume.settler.may_have_had_others(stat.ino));
    let moving = volume.settler.moving(&stat);
    volume.settler.sync_store().unwrap();
    drop(moving);
    assert!(volume.settler.may_have_had_others(stat.ino));
    volume.settler.sync_store().unwrap();
    assert!(!volume.settler.may_have_had_others(stat.ino));
}
