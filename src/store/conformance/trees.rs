//! Directories: links, renames, listings, and the life of what was removed.

use std::collections::HashSet;
use std::thread;

use super::{code, content, list, names, over_all_stores, put};
use crate::store::{Kind, MemoryStore, RealStore, RenameMode, Store};

#[test]
fn counts_links_of_files_and_directories() {
    over_all_stores(|root, _| {
        let nlink = |name: &[u8]| root.stat_at(name).unwrap().nlink;
        put(&**root, b"a", b"one");
        root.make_dir(b"d", 0o700).unwrap();
        let dir = root.open_dir(b"d").unwrap();
        root.link(b"a", &*dir, b"b").unwrap();
        assert_eq!(nlink(b"a"), 2);
        assert_eq!(
            dir.stat_at(b"b").unwrap().ino,
            root.stat_at(b"a").unwrap().ino
        );
        assert_eq!(code(root.link(b"a", &*dir, b"b")), libc::EEXIST);
        assert_eq!(code(root.link(b"d", &*dir, b"x")), libc::EPERM);
        assert_eq!(code(root.link(b"missing", &*dir, b"x")), libc::ENOENT);
        root.remove(b"a").unwrap();
        assert_eq!(content(&*dir, b"b"), b"one");
        assert_eq!(dir.stat_at(b"b").unwrap().nlink, 1);
    });
}

#[test]
fn removes_files_and_empty_directories_only_as_such() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"");
        root.make_dir(b"d", 0o700).unwrap();
        let dir = root.open_dir(b"d").unwrap();
        put(&*dir, b"x", b"");
        assert_eq!(code(root.remove(b"d")), libc::EISDIR);
        assert_eq!(code(root.remove_dir(b"f")), libc::ENOTDIR);
        assert_eq!(code(root.remove_dir(b"d")), libc::ENOTEMPTY);
        assert_eq!(code(root.remove(b"missing")), libc::ENOENT);
        assert_eq!(code(root.remove_dir(b"missing")), libc::ENOENT);
        assert_eq!(code(root.make_dir(b"d", 0o700)), libc::EEXIST);
        dir.remove(b"x").unwrap();
        root.remove_dir(b"d").unwrap();
        assert_eq!(names(&**root), [b"f"]);
    });
}

#[test]
fn a_removed_directory_takes_nothing_new() {
    over_all_stores(|root, _| {
        root.make_dir(b"d", 0o700).unwrap();
        let dir = root.open_dir(b"d").unwrap();
        root.remove_dir(b"d").unwrap();
        put(&**root, b"f", b"");
        assert_eq!(code(dir.create(b"x", 0o600)), libc::ENOENT);
        assert_eq!(code(dir.make_dir(b"x", 0o700)), libc::ENOENT);
        assert_eq!(code(root.link(b"f", &*dir, b"x")), libc::ENOENT);
        assert_eq!(
            code(root.rename(b"f", &*dir, b"x", RenameMode::Replace)),
            libc::ENOENT
        );
        assert!(list(&*dir).is_empty());
        assert_eq!(dir.stat().unwrap().kind, Kind::Dir);
    });
}

#[test]
fn a_rename_replaces_like_with_like() {
    over_all_stores(|root, _| {
        let rename = |from: &[u8], to: &[u8]| root.rename(from, &**root, to, RenameMode::Replace);
        put(&**root, b"f", b"f");
        put(&**root, b"g", b"g");
        root.make_dir(b"empty", 0o700).unwrap();
        root.make_dir(b"full", 0o700).unwrap();
        let full = root.open_dir(b"full").unwrap();
        put(&*full, b"x", b"x");

        assert_eq!(code(rename(b"f", b"empty")), libc::EISDIR);
        assert_eq!(code(rename(b"empty", b"f")), libc::ENOTDIR);
        assert_eq!(code(rename(b"empty", b"full")), libc::ENOTEMPTY);
        assert_eq!(code(rename(b"missing", b"f")), libc::ENOENT);
        assert_eq!(
            code(root.rename(b"full", &*full, b"inside", RenameMode::Replace)),
            libc::EINVAL
        );
        rename(b"full", b"empty").unwrap();
        assert_eq!(content(&*root.open_dir(b"empty").unwrap(), b"x"), b"x");
        rename(b"f", b"g").unwrap();
        assert_eq!(content(&**root, b"g"), b"f");
        root.rename(b"g", &*full, b"x", RenameMode::Replace)
            .unwrap();
        assert_eq!(content(&*full, b"x"), b"f");
        assert_eq!(names(&**root), [b"empty"]);
    });
}

#[test]
fn a_rename_onto_another_link_of_the_same_file_does_nothing() {
    over_all_stores(|root, _| {
        put(&**root, b"a", b"");
        root.link(b"a", &**root, b"b").unwrap();
        root.rename(b"a", &**root, b"b", RenameMode::Replace)
            .unwrap();
        assert_eq!(names(&**root), [b"a", b"b"]);
        assert_eq!(root.stat_at(b"a").unwrap().nlink, 2);
    });
}

#[test]
fn a_rename_that_must_not_replace_does_not() {
    over_all_stores(|root, _| {
        put(&**root, b"a", b"a");
        put(&**root, b"b", b"b");
        assert_eq!(
            code(root.rename(b"a", &**root, b"b", RenameMode::NoReplace)),
            libc::EEXIST
        );
        root.rename(b"a", &**root, b"c", RenameMode::NoReplace)
            .unwrap();
        assert_eq!(
            (content(&**root, b"b"), content(&**root, b"c")),
            (b"b".to_vec(), b"a".to_vec())
        );
        assert_eq!(names(&**root), [b"b", b"c"]);
    });
}

#[test]
fn an_exchange_swaps_a_file_and_a_directory() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"f");
        root.make_dir(b"d", 0o700).unwrap();
        root.make_dir(b"sub", 0o700).unwrap();
        let dir = root.open_dir(b"d").unwrap();
        dir.make_dir(b"inner", 0o700).unwrap();
        assert_eq!(
            code(root.rename(b"f", &**root, b"no", RenameMode::Exchange)),
            libc::ENOENT
        );
        assert_eq!(
            code(root.rename(b"d", &*dir, b"inner", RenameMode::Exchange)),
            libc::EINVAL
        );
        let inner = code(dir.rename(b"inner", &**root, b"d", RenameMode::Exchange));
        assert!(inner == libc::EINVAL || inner == libc::ENOTEMPTY, "{inner}");
        let before = (root.stat().unwrap().nlink, dir.stat().unwrap().nlink);
        root.rename(b"f", &*dir, b"inner", RenameMode::Exchange)
            .unwrap();
        assert_eq!(content(&*dir, b"inner"), b"f");
        assert_eq!(root.stat_at(b"f").unwrap().kind, Kind::Dir);
        assert_eq!(
            (root.stat().unwrap().nlink, dir.stat().unwrap().nlink),
            (before.0 + 1, before.1 - 1)
        );
        // The directory that moved up has a new parent: the old one can now move into it.
        root.rename(
            b"d",
            &*root.open_dir(b"f").unwrap(),
            b"d",
            RenameMode::Replace,
        )
        .unwrap();
        assert_eq!(names(&**root), [&b"f"[..], b"sub"]);
    });
}

#[test]
fn a_listing_shows_every_entry_once_with_its_kind() {
    over_all_stores(|root, _| {
        for number in 0..3000 {
            root.make_node(format!("file-{number}").as_bytes(), Kind::File, 0o600, 0)
                .unwrap();
        }
        root.make_dir(b"dir", 0o700).unwrap();
        root.make_symlink(b"link", b"t").unwrap();
        let all = list(&**root);
        let distinct: HashSet<_> = all.iter().map(|entry| &entry.name).collect();
        assert_eq!((all.len(), distinct.len()), (3002, 3002));
        for entry in &all {
            let stat = root.stat_at(&entry.name).unwrap();
            assert_eq!(entry.ino, stat.ino);
            assert!(entry.kind.is_none_or(|kind| kind == stat.kind));
        }
        let middle = &all[1500];
        let rest: Vec<_> = root.entries(middle.next).unwrap();
        assert_eq!(rest[0], all[1501]);
    });
}

#[test]
fn a_listing_goes_on_while_entries_are_removed() {
    over_all_stores(|root, _| {
        for number in 0..3000 {
            root.make_node(format!("{number:0>60}").as_bytes(), Kind::File, 0o600, 0)
                .unwrap();
        }
        let mut from = 0;
        let mut seen = HashSet::new();
        loop {
            let batch = root.entries(from).unwrap();
            let Some(last) = batch.last() else { break };
            from = last.next;
            for entry in batch {
                root.remove(&entry.name).unwrap();
                assert!(seen.insert(entry.name), "an entry came twice");
            }
        }
        assert_eq!(seen.len(), 3000);
        assert!(list(&**root).is_empty());
    });
}

#[test]
fn listings_of_one_directory_do_not_disturb_each_other() {
    over_all_stores(|root, _| {
        for number in 0..4000 {
            root.make_node(format!("{number:0>60}").as_bytes(), Kind::File, 0o600, 0)
                .unwrap();
        }
        thread::scope(|scope| {
            let listings: Vec<_> = (0..4).map(|_| scope.spawn(|| names(&**root))).collect();
            for listing in listings {
                let listing = listing.join().unwrap();
                assert_eq!(listing.len(), 4000);
                assert!(listing.is_sorted_by(|a, b| a < b));
            }
        });
    });
}

#[test]
fn nothing_is_linked_or_renamed_into_another_store() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"");
        let other = MemoryStore::new();
        let other = other.root();
        assert_eq!(code(root.link(b"f", &*other, b"f")), libc::EXDEV);
        assert_eq!(
            code(root.rename(b"f", &*other, b"f", RenameMode::Replace)),
            libc::EXDEV
        );
        assert_eq!(names(&**root), [b"f"]);
    });
}

#[test]
fn a_real_store_is_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        code(RealStore::open(&folder.path().join("missing"))),
        libc::ENOENT
    );
    std::fs::write(folder.path().join("file"), b"").unwrap();
    assert_eq!(
        code(RealStore::open(&folder.path().join("file"))),
        libc::ENOTDIR
    );
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    let store = RealStore::open(&folder.path().join("link")).unwrap();
    assert_eq!(names(&*store.root()), [&b"file"[..], b"link"]);
}

#[test]
fn a_mount_point_below_a_real_store_opens_and_shows_its_device() {
    let store = RealStore::open(std::path::Path::new("/")).unwrap();
    let root = store.root();
    let proc = root.open_dir(b"proc").unwrap();
    assert_ne!(proc.stat().unwrap().dev, root.stat().unwrap().dev);
    assert_eq!(root.stat_at(b"proc").unwrap().dev, proc.stat().unwrap().dev);
    let mut version = [0; 5];
    let file = proc.open(b"version", crate::store::Access::Read).unwrap();
    file.read_at(&mut version, 0).unwrap();
    assert_eq!(&version, b"Linux");
}
