//! Settling and names through the shell and the settler, for GCM-SIV files.

use std::sync::Arc;
use std::time::Duration;

use super::{all, breakable};
use crate::format::suite::Suite;
use crate::store::{Call, MemoryStore, RenameMode, SetTimes, Store, Time, TimeSpec};
use crate::volume::Error;
use crate::volume::file::{FileState, Step};
use crate::volume::fixture::{Fixture, place};

/// The two state halves as the store has them.
fn states(store: &MemoryStore, name: &str) -> [Vec<u8>; 2] {
    let mut halves = [Vec::new(), Vec::new()];
    store
        .edit(&[name.as_bytes()], |bytes| {
            halves = [bytes[1536..1792].to_vec(), bytes[1792..2048].to_vec()];
        })
        .unwrap();
    halves
}

fn is_settled(store: &MemoryStore, name: &str) -> bool {
    let zero = states(store, name)
        .iter()
        .filter(|half| half.iter().all(|byte| *byte == 0))
        .count();
    zero == 1
}

#[test]
fn a_pass_settles_many_files_with_three_syncs_and_restores_their_mtime() {
    let broken = breakable(Suite::Gcm);
    let old = Time { sec: 77, nsec: 7 };
    let files: Vec<_> = (0..50)
        .map(|n| (n, broken.mounted.file(&n.to_string())))
        .collect();
    for (n, file) in &files {
        file.write(*n * 1000, &[1; 5000]).unwrap();
        file.set_times(SetTimes {
            atime: None,
            mtime: Some(TimeSpec::At(old)),
        })
        .unwrap();
    }
    let before = broken.memory.calls();
    let pass = broken.mounted.settler.pass(Duration::ZERO);
    assert!(pass.error.is_none());
    assert_eq!(pass.left, 0);
    let calls = broken.memory.calls().since(&before);
    assert_eq!(
        (calls.of(Call::SyncStore), calls.of(Call::SyncFile)),
        (3, 0)
    );
    for (n, file) in &files {
        assert!(is_settled(&broken.memory, &n.to_string()));
        assert_eq!(file.backing().stat().unwrap().mtime, old, "file {n}");
    }
    let before = broken.memory.calls();
    broken.mounted.settler.settle_all().unwrap();
    assert_eq!(
        broken.memory.calls().since(&before).total(),
        0,
        "nothing is left to do"
    );
}

#[test]
fn where_a_sync_of_the_store_tells_nothing_every_file_is_synced_by_itself() {
    let traits = crate::store::Traits {
        syncfs_reports: false,
        ..MemoryStore::new().traits()
    };
    let store = Arc::new(MemoryStore::with_traits(traits));
    let mounted = Fixture::new(Suite::Gcm).mount(store.clone(), 1, &[]);
    ["a", "b"]
        .iter()
        .for_each(|name| mounted.file(name).write(0, b"data").unwrap());
    mounted.settler.settle_all().unwrap();
    assert!(store.calls().of(Call::SyncFile) >= 6);
    assert!(["a", "b"].iter().all(|name| is_settled(&store, name)));
}

#[test]
fn a_failed_sync_between_the_steps_settles_nothing_more_until_it_is_repaired() {
    for after in 0..3 {
        let broken = breakable(Suite::Gcm);
        let file = broken.mounted.file("f");
        file.write(0, &[4; 30_000]).unwrap();
        file.sync(false).unwrap();
        file.write(0, &[5; 30_000]).unwrap();
        broken
            .store
            .fail_from(&[Call::SyncStore, Call::SyncFile], after, libc::EIO);
        assert!(
            broken.mounted.settler.settle_all().is_err(),
            "sync {after} fails"
        );
        assert!(!broken.mounted.env.may_end_clean());
        assert_eq!(all(&broken.reopened()), vec![5; 30_000]);
        broken.store.heal();
        broken.mounted.settler.settle_all().unwrap();
        assert!(is_settled(&broken.memory, "f"));
        assert_eq!(
            all(&broken
                .fixture
                .mount(broken.memory.clone(), 2, &[])
                .file("f")),
            vec![5; 30_000]
        );
    }
}

#[test]
fn a_file_is_not_settled_while_its_name_is_moving() {
    let broken = breakable(Suite::Gcm);
    let file = broken.mounted.file("a");
    file.write(0, b"data").unwrap();
    file.add_name(&place("a"), &place("b"), 1, false).unwrap();
    assert_eq!(broken.mounted.settler.pass(Duration::ZERO).left, 1);
    assert!(!is_settled(&broken.memory, "a"));
    let root = broken.store.root();
    root.rename(b"a", root.as_ref(), b"b", RenameMode::Replace)
        .unwrap();
    file.name_is(&place("b"));
    file.name_gone(&place("a"));
    broken.mounted.settler.settle_all().unwrap();
    let clean = broken.fixture.mount(broken.memory.clone(), 2, &[]);
    clean.file("b").load(&place("b")).unwrap();
    assert!(
        matches!(clean.file("b").load(&place("a")), Err(Error::Damaged(_))),
        "the tag of the gone name is dropped"
    );
}

fn link(root: &dyn crate::store::Dir, file: &FileState, from: &str, to: &str) {
    let links = file.backing().stat().unwrap().nlink;
    file.add_name(&place(from), &place(to), links, true)
        .unwrap();
    root.link(from.as_bytes(), root, to.as_bytes()).unwrap();
    file.name_is(&place(to));
}

#[test]
fn a_link_that_goes_leaves_the_tag_of_the_one_that_stays() {
    let broken = breakable(Suite::Gcm);
    let root = broken.store.root();
    let file = broken.mounted.file("a");
    file.write(0, b"data").unwrap();
    link(root.as_ref(), &file, "a", "b");
    broken.mounted.settler.settle_all().unwrap();
    drop(file);
    // In another state, which knows the file by one name only; the pass comes in the middle of the unlink.
    let file = broken.mounted.file("b");
    file.load(&place("b")).unwrap();
    file.write(0, b"DATA").unwrap();
    file.name_going(&place("b"));
    root.remove(b"b").unwrap();
    assert_eq!(broken.mounted.settler.pass(Duration::ZERO).left, 1);
    file.name_gone(&place("b"));
    broken.mounted.settler.settle_all().unwrap();
    assert!(is_settled(&broken.memory, "a"));
    let reopened = broken
        .fixture
        .mount(broken.memory.clone(), 2, &[])
        .file("a");
    reopened.load(&place("a")).unwrap();
    assert_eq!(all(&reopened), b"DATA");
}

#[test]
fn a_file_linked_before_its_first_byte_opens_by_every_name() {
    let broken = breakable(Suite::Gcm);
    let root = broken.store.root();
    broken.mounted.file("a");
    root.link(b"a", root.as_ref(), b"b").unwrap();
    let file = broken.mounted.file("a");
    file.write(0, b"data").unwrap();
    drop(file);
    broken.mounted.settler.settle_all().unwrap();
    let clean = broken.fixture.mount(broken.memory.clone(), 2, &[]);
    for name in ["a", "b"] {
        let file = clean.file(name);
        file.load(&place(name)).unwrap();
        assert_eq!(all(&file), b"data");
    }
}

#[test]
fn a_settled_file_moved_onto_another_name_behind_our_back_is_found_out() {
    let broken = breakable(Suite::Gcm);
    for name in ["a", "b"] {
        broken.mounted.file(name).write(0, name.as_bytes()).unwrap();
    }
    broken.mounted.settler.settle_all().unwrap();
    let root = broken.memory.root();
    root.rename(b"a", root.as_ref(), b"b", RenameMode::Exchange)
        .unwrap();
    let clean = broken.fixture.mount(broken.memory.clone(), 2, &[]);
    assert!(matches!(
        clean.file("a").load(&place("a")),
        Err(Error::Damaged(_))
    ));
}

#[test]
fn a_change_during_a_pass_waits_for_the_next() {
    let broken = breakable(Suite::Gcm);
    let file = broken.mounted.file("f");
    file.write(0, &[1; 9000]).unwrap();
    let mut settling = super::super::Settling::begin(file.clone(), true).unwrap();
    file.write(0, &[2; 9000]).unwrap();
    broken.store.sync().unwrap();
    assert!(!settling.synced());
    assert!(!settling.step(super::super::Step::Halves).unwrap());
    assert!(!is_settled(&broken.memory, "f"));
    broken.mounted.settler.settle_all().unwrap();
    assert!(is_settled(&broken.memory, "f"));
    assert_eq!(all(&file), vec![2; 9000]);
}

#[test]
fn a_time_set_between_the_steps_is_kept_and_a_write_between_them_counts() {
    let broken = breakable(Suite::Gcm);
    let at = |sec| Time { sec, nsec: 7 };
    let set = |file: &FileState, sec| {
        let mtime = Some(TimeSpec::At(at(sec)));
        file.set_times(SetTimes { atime: None, mtime }).unwrap();
    };
    let mtime = |file: &FileState| file.backing().stat().unwrap().mtime;
    let file = broken.mounted.file("f");
    file.write(0, &[1; 9000]).unwrap();
    set(&file, 1);
    let mut settling = super::super::Settling::begin(file.clone(), true).unwrap();
    set(&file, 2);
    for (step, sec) in [(Step::Halves, 2), (Step::State, 3)] {
        broken.store.sync().unwrap();
        assert!(settling.synced());
        set(&file, sec);
        assert!(settling.step(step).unwrap());
        assert_eq!(mtime(&file), at(sec), "{step:?}");
    }
    assert!(is_settled(&broken.memory, "f"));
    file.write(0, &[2; 9000]).unwrap();
    set(&file, 4);
    let mut settling = super::super::Settling::begin(file.clone(), true).unwrap();
    broken.store.sync().unwrap();
    assert!(settling.synced() && settling.step(Step::Halves).unwrap());
    assert_eq!(mtime(&file), at(4));
    file.write(0, &[3; 9000]).unwrap();
    let written = mtime(&file);
    assert_ne!(written, at(4));
    assert!(!settling.step(Step::State).unwrap());
    assert_eq!(mtime(&file), written);
}
