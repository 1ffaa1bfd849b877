//! What a cut may leave, and what it may not.

use super::*;
use crate::store::{Access, File, RenameMode};

const RULES: Rules = Rules {
    whole_pages: true,
    is_metadata: |page| page == 0,
    drops_cache: true,
};

fn store(kind: Journal) -> PowerStore {
    PowerStore::over(&MemoryStore::new(), kind, RULES, 7)
}

fn bytes(store: &MemoryStore, name: &[u8]) -> Option<Vec<u8>> {
    let file = store.root().open(name, Access::Read).ok()?;
    let mut bytes = vec![0; file.stat().unwrap().size as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

fn cuts(store: &PowerStore) -> Vec<MemoryStore> {
    (0..300).map(|_| store.cut()).collect()
}

fn made(store: &PowerStore, name: &[u8], content: &[u8]) -> Arc<dyn File> {
    let file = store.root().create(name, 0o600).unwrap();
    file.write_at(content, 0).unwrap();
    file
}

#[test]
fn what_was_synced_survives_every_cut_and_what_was_not_may_be_lost() {
    let store = store(Journal::Global);
    let file = made(&store, b"f", &[1; 1000]);
    file.sync_all().unwrap();
    file.write_at(&[2; 1000], 0).unwrap();
    let sectors = |at: usize, value: u8| {
        cuts(&store)
            .iter()
            .filter(|cut| bytes(cut, b"f").unwrap()[at] == value)
            .count()
    };
    assert!(sectors(0, 1) > 0 && sectors(0, 2) > 0);
    let mixed = cuts(&store).iter().any(|cut| {
        let bytes = bytes(cut, b"f").unwrap();
        (bytes[0], bytes[999]) == (2, 1)
    });
    assert!(mixed, "sectors are independent");
    file.sync_data().unwrap();
    assert!(
        cuts(&store)
            .iter()
            .all(|cut| bytes(cut, b"f").unwrap() == [2; 1000])
    );
}

#[test]
fn a_name_is_durable_with_its_directory_or_with_the_one_journal() {
    for (kind, with_file) in [(Journal::Global, true), (Journal::PerDir, false)] {
        let store = store(kind);
        let file = made(&store, b"f", b"x");
        file.sync_all().unwrap();
        let there = |store: &PowerStore| cuts(store).iter().all(|cut| bytes(cut, b"f").is_some());
        assert_eq!(there(&store), with_file);
        store.root().sync().unwrap();
        assert!(there(&store));
    }
}

#[test]
fn a_rename_is_one_change_and_a_directory_keeps_its_order() {
    for kind in [Journal::Global, Journal::PerDir] {
        let store = store(kind);
        let root = store.root();
        root.make_dir(b"d", 0o700).unwrap();
        made(&store, b"a", b"x");
        store.sync().unwrap();
        let dir = root.open_dir(b"d").unwrap();
        root.rename(b"a", &*dir, b"b", RenameMode::Replace).unwrap();
        made(&store, b"later", b"");
        let mut seen = [false; 2];
        for cut in cuts(&store) {
            let root = cut.root();
            let moved = root.open_dir(b"d").unwrap().stat_at(b"b").is_ok();
            assert_ne!(moved, root.stat_at(b"a").is_ok());
            assert!(moved || root.stat_at(b"later").is_err());
            seen[usize::from(moved)] = true;
        }
        assert_eq!(seen, [true; 2]);
    }
}

#[test]
fn a_cut_that_did_not_survive_hides_what_was_written_after_it() {
    let store = store(Journal::Global);
    let file = made(&store, b"f", &[1; 8192]);
    store.sync().unwrap();
    file.set_len(100).unwrap();
    file.set_len(8192).unwrap();
    file.write_at(&[2; 4096], 4096).unwrap();
    for cut in cuts(&store) {
        let bytes = bytes(&cut, b"f").unwrap();
        let old = bytes == [1; 8192];
        let cut_short = bytes == [1; 100];
        let grown =
            bytes.len() == 8192 && bytes[..100] == [1; 100] && bytes[100..4096] == [0; 3996];
        assert!(old || cut_short || grown);
    }
}

#[test]
fn pages_that_a_failed_sync_lost_stay_lost_until_they_are_written_again() {
    let mut lost = 0;
    for seed in 0..64 {
        let store = PowerStore::over(&MemoryStore::new(), Journal::Global, RULES, seed);
        let file = made(&store, b"f", &[1; 8192]);
        store.sync().unwrap();
        file.write_at(&[2; 4096], 4096).unwrap();
        store.fail_sync(Some(0));
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        lost += usize::from(
            cuts(&store)
                .iter()
                .all(|cut| bytes(cut, b"f").unwrap()[4096] == 1),
        );
        file.write_at(&[3; 1], 4096).unwrap();
        file.write_at(&[2; 4096], 4096).unwrap();
        file.sync_data().unwrap();
        assert!(
            cuts(&store)
                .iter()
                .all(|cut| bytes(cut, b"f").unwrap()[4096..] == [2; 4096])
        );
    }
    assert!((5..60).contains(&lost), "{lost} of 64 lost");
}

#[test]
fn what_is_written_while_a_sync_runs_is_not_covered() {
    let store = store(Journal::Global);
    let file = made(&store, b"f", &[1; 512]);
    store.sync().unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    let other = file.clone();
    store.during_next_sync(Some(Box::new(move || {
        other.write_at(&[3; 512], 0).unwrap()
    })));
    file.sync_data().unwrap();
    let firsts: Vec<u8> = cuts(&store)
        .iter()
        .map(|cut| bytes(cut, b"f").unwrap()[511])
        .collect();
    assert!(firsts.contains(&2) && firsts.contains(&3) && !firsts.contains(&1));
}

#[test]
fn a_killed_process_changes_nothing_more_and_the_next_one_sees_what_it_left() {
    let store = store(Journal::Global);
    let file = made(&store, b"f", b"1");
    store.kill_after(1);
    file.write_at(b"2", 0).unwrap();
    assert!(file.write_at(b"3", 0).is_err() && file.sync_data().is_err() && store.is_dead());
    store.revive();
    assert!(file.write_at(b"4", 0).is_err());
    let mut byte = [0];
    store
        .root()
        .open(b"f", Access::Read)
        .unwrap()
        .read_at(&mut byte, 0)
        .unwrap();
    assert_eq!(byte, *b"2");
}

#[test]
fn watching_takes_cuts_after_every_change() {
    let store = store(Journal::Global);
    store.watch(1000, 3);
    made(&store, b"f", b"1").sync_all().unwrap();
    assert_eq!(store.taken().len(), 9);
}
