//! Names as they stand in the store, and what is done with damaged ones.

use std::collections::HashSet;

use super::{Bench, READ_WRITE, code, list, me};
use crate::format::names::{EntryClass, classify};
use crate::format::suite::Suite;
use crate::store::{Dir, RenameMode, Store};

pub(super) fn raw(dir: &dyn Dir) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let mut from = 0;
    loop {
        let batch = dir.entries(from).unwrap();
        let Some(last) = batch.last() else {
            return names;
        };
        from = last.next;
        names.extend(batch.into_iter().map(|entry| entry.name));
    }
}

#[test]
fn any_name_of_up_to_255_bytes_comes_back() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let mut names: Vec<Vec<u8>> = (1..=255u8)
        .filter(|byte| *byte != b'/')
        .map(|byte| vec![byte])
        .filter(|name| name != b".")
        .collect();
    names.extend((1..=255).map(|len| vec![b'x'; len]));
    names.sort();
    names.dedup();
    for name in &names {
        volume
            .create(&volume.root(), name, 0o600, &me(), READ_WRITE)
            .unwrap();
    }
    volume.close().unwrap();
    let volume = bench.open();
    let mut listed = list(&volume, &volume.root()).unwrap();
    listed.sort();
    assert_eq!(listed, names);
    for entry in raw(&*bench.store.root()) {
        assert!(entry.len() <= 255);
    }
    let refused =
        |name: &[u8]| code(&volume.create(&volume.root(), name, 0o600, &me(), READ_WRITE));
    assert_eq!(refused(&[b'x'; 256]), libc::ENAMETOOLONG);
    assert_eq!(
        (
            refused(b""),
            refused(b"a/b"),
            refused(b"a\0"),
            refused(b".."),
            refused(b".")
        ),
        (22, 22, 22, 22, 22)
    );
}

#[test]
fn side_files_of_long_names_go_with_them() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let (root, long, other) = (volume.root(), [b'a'; 200], [b'b'; 200]);
    volume
        .create(&root, &long, 0o600, &me(), READ_WRITE)
        .unwrap();
    assert_eq!(
        code(&volume.create(&root, &long, 0o600, &me(), READ_WRITE)),
        libc::EEXIST
    );
    volume
        .rename(&root, &long, &root, &other, RenameMode::Replace)
        .unwrap();
    volume.make_dir(&root, &long, 0o700, &me()).unwrap();
    volume
        .rename(&root, &long, &root, &other, RenameMode::Exchange)
        .unwrap();
    assert_eq!(list(&volume, &root).unwrap().len(), 2);
    volume.unlink(&root, &long).unwrap();
    volume.remove_dir(&root, &other).unwrap();
    let left = raw(&*bench.store.root());
    assert!(
        left.iter()
            .all(|entry| !matches!(classify(entry), EntryClass::Long | EntryClass::SideFile)),
        "{left:?}"
    );
}

#[test]
fn a_damaged_entry_is_left_out_and_a_directory_of_them_is_damaged() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let (dir, _) = volume.make_dir(&volume.root(), b"d", 0o700, &me()).unwrap();
    volume.create(&dir, b"a", 0o600, &me(), READ_WRITE).unwrap();
    volume.create(&dir, b"b", 0o600, &me(), READ_WRITE).unwrap();
    let top = bench.store.root();
    let stored = raw(&*top)
        .into_iter()
        .find(|entry| classify(entry) == EntryClass::Name)
        .unwrap();
    let backing = top.open_dir(&stored).unwrap();
    let mut entries = raw(&*backing).into_iter();
    let mut damage = || {
        let entry = entries.next().unwrap();
        let mut swapped = entry.clone();
        swapped.rotate_left(1);
        backing
            .rename(&entry, &*backing, &swapped, RenameMode::NoReplace)
            .unwrap();
    };
    damage();
    assert_eq!(list(&volume, &dir).unwrap().len(), 1);
    damage();
    assert_eq!(code(&list(&volume, &dir)), libc::EIO);
    assert_eq!(
        list(&volume, &volume.root()).unwrap(),
        [b"d".to_vec()],
        "no other directory is hurt"
    );
}

#[test]
fn a_long_name_whose_side_file_is_another_ones_is_left_out() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    for name in [[b'a'; 200], [b'b'; 200]] {
        volume
            .create(&root, &name, 0o600, &me(), READ_WRITE)
            .unwrap();
    }
    let top = bench.store.root();
    let sides: Vec<_> = raw(&*top)
        .into_iter()
        .filter(|entry| classify(entry) == EntryClass::SideFile)
        .collect();
    top.rename(&sides[0], &*top, &sides[1], RenameMode::Exchange)
        .unwrap();
    assert_eq!(code(&list(&volume, &root)), libc::EIO);
}

#[test]
fn twenty_thousand_entries_are_listed_once_each_while_others_go() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    let name = |number: usize| format!("file {number}").into_bytes();
    for number in 0..20_000 {
        volume
            .create(&root, &name(number), 0o600, &me(), READ_WRITE)
            .unwrap();
    }
    let mut seen = HashSet::new();
    let mut from = 0;
    let mut removed = 0;
    loop {
        let batch = volume.read_dir(&root, from).unwrap();
        let Some(last) = batch.last() else { break };
        from = last.next;
        for entry in &batch {
            assert!(seen.insert(entry.name.clone()), "twice");
        }
        // What was just seen goes, as rm -r does it.
        for entry in batch.iter().take(3) {
            volume.unlink(&root, &entry.name).unwrap();
            removed += 1;
        }
    }
    assert_eq!(seen.len(), 20_000);
    assert_eq!(list(&volume, &root).unwrap().len(), 20_000 - removed);
}

#[test]
fn who_looked_a_name_up_before_it_was_replaced_still_opens_what_it_was() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let root = volume.root();
        for (name, data) in [(&b"old"[..], &b"before"[..]), (b"new", b"after")] {
            let (_, _, file) = volume
                .create(&root, name, 0o600, &me(), READ_WRITE)
                .unwrap();
            volume.write(&file, 0, data).unwrap();
            volume
                .make_symlink(&root, &[name, b"-link"].concat(), data, &me())
                .unwrap();
        }
        let old = volume.lookup(&root, b"old").unwrap().0;
        let link = volume.lookup(&root, b"old-link").unwrap().0;
        volume
            .rename(&root, b"new", &root, b"old", RenameMode::Replace)
            .unwrap();
        volume
            .rename(&root, b"new-link", &root, b"old-link", RenameMode::Replace)
            .unwrap();
        let file = volume.open(&old, READ_WRITE).unwrap();
        let mut read = [0; 20];
        assert_eq!(volume.read(&file, 0, &mut read).unwrap(), 6);
        assert_eq!(&read[..6], b"before");
        assert_eq!(volume.attr(&old).unwrap().nlink, 0);
        assert_eq!(volume.read_link(&link).unwrap(), b"before");
        volume.unlink(&root, b"old").unwrap();
        drop((file, old, link, root));
        volume.close().unwrap();
    }
}
