//! Inode numbers that a store gives to another object as soon as the one before is gone.

use std::sync::{Arc, Mutex};

use super::{Bench, READ_WRITE, code, me};
use crate::format::suite::Suite;
use crate::store::{Call, FailingStore, Kind, RenameMode};
use crate::volume::{Node, Volume};

#[test]
fn what_went_is_never_taken_for_what_has_its_number_now() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let root = volume.root();
        let (old, _, file) = volume
            .create(&root, b"old", 0o600, &me(), READ_WRITE)
            .unwrap();
        volume.write(&file, 0, b"mine").unwrap();
        drop(file);
        let before = volume.attr(&old).unwrap();
        volume.settler.settle_all().unwrap();
        volume.unlink(&root, b"old").unwrap();
        let (new, _, file) = volume
            .create(&root, b"new", 0o640, &me(), READ_WRITE)
            .unwrap();
        volume.write(&file, 0, b"another's").unwrap();
        assert_eq!(
            (old.ino(), old.id() != new.id(), new.is_dead()),
            (new.ino(), true, false)
        );
        let left = volume.attr(&old).unwrap();
        assert_eq!(
            (left.size, left.mode, left.nlink),
            (before.size, before.mode, 0)
        );
        let codes = [
            code(&volume.open(&old, READ_WRITE)),
            code(&volume.xattr(&old, b"user.any")),
        ];
        assert_eq!(codes, [libc::ENOENT; 2], "{suite:?}");
        assert_eq!(volume.attr(&new).unwrap().size, 9);
    }
}

/// How an object's last name goes, and the store's call by which it does.
type Goes = fn(&Volume, &Arc<Node>);

const WAYS: [(&str, Kind, bool, Call, Goes); 8] = [
    ("unlink", Kind::File, false, Call::Remove, unlink),
    (
        "unlink a symlink",
        Kind::Symlink,
        false,
        Call::Remove,
        unlink,
    ),
    ("rmdir", Kind::Dir, false, Call::RemoveDir, remove_dir),
    (
        "rmdir with our own files",
        Kind::Dir,
        true,
        Call::RemoveDir,
        remove_dir,
    ),
    ("replace a file", Kind::File, false, Call::Rename, replace),
    (
        "replace a symlink",
        Kind::Symlink,
        false,
        Call::Rename,
        replace,
    ),
    (
        "replace a directory",
        Kind::Dir,
        false,
        Call::Rename,
        replace,
    ),
    (
        "replace a directory with our own files",
        Kind::Dir,
        true,
        Call::RemoveDir,
        replace,
    ),
];

fn unlink(volume: &Volume, dir: &Arc<Node>) {
    volume.unlink(dir, b"old").unwrap();
}

fn remove_dir(volume: &Volume, dir: &Arc<Node>) {
    volume.remove_dir(dir, b"old").unwrap();
}

fn replace(volume: &Volume, dir: &Arc<Node>) {
    let replaced = volume.rename(dir, b"other", dir, b"old", RenameMode::Replace);
    replaced.unwrap();
}

fn make(volume: &Volume, dir: &Arc<Node>, name: &[u8], kind: Kind) -> Arc<Node> {
    match kind {
        Kind::Dir => volume.make_dir(dir, name, 0o700, &me()).unwrap().0,
        Kind::Symlink => volume.make_symlink(dir, name, b"target", &me()).unwrap().0,
        _ => {
            volume
                .create(dir, name, 0o600, &me(), READ_WRITE)
                .unwrap()
                .0
        }
    }
}

/// Another object of its kind is made in another directory after the store freed the number, and before anyone knows that.
#[test]
fn an_object_made_while_another_goes_is_not_that_one() {
    for (way, kind, marked, call, goes) in WAYS {
        let mut bench = Bench::new(Suite::Gcm);
        bench.open(); // an epoch of its own
        let failing = Arc::new(FailingStore::new(bench.store.clone()));
        let volume = bench.open_on(failing.clone());
        let root = volume.root();
        let [here, there] =
            [b"here".as_slice(), b"there"].map(|name| make(&volume, &root, name, Kind::Dir));
        let old = make(&volume, &here, b"old", kind);
        make(&volume, &here, b"other", kind);
        if marked {
            make(&volume, &old, b"moves", Kind::Dir);
            let moved = volume.rename(&old, b"moves", &here, b"moved", RenameMode::NoReplace);
            moved.unwrap(); // leaves a marker
        }
        let made = Arc::new(Mutex::new(None));
        failing.after(call, {
            let (volume, there) = (Arc::downgrade(&volume), Arc::downgrade(&there));
            let made = Arc::clone(&made);
            move || {
                let (volume, there) = (volume.upgrade().unwrap(), there.upgrade().unwrap());
                *made.lock().unwrap() = Some(make(&volume, &there, b"new", kind));
            }
        });
        goes(&volume, &here);
        let new = made.lock().unwrap().take().unwrap();
        assert!(!Arc::ptr_eq(&old, &new) && old.id() != new.id(), "{way}");
        assert!(old.is_dead() && !new.is_dead(), "{way}");
        let (found, attr) = volume.lookup(&there, b"new").unwrap();
        assert!(Arc::ptr_eq(&found, &new) && attr.nlink > 0, "{way}");
    }
}

#[test]
fn an_object_whose_last_name_could_not_go_stays_the_same() {
    for (kind, call) in [
        (Kind::File, Call::Remove),
        (Kind::Dir, Call::RemoveDir),
        (Kind::File, Call::Rename),
        (Kind::Dir, Call::Rename),
    ] {
        let mut bench = Bench::new(Suite::Gcm);
        bench.open(); // an epoch of its own
        let failing = Arc::new(FailingStore::new(bench.store.clone()));
        let volume = bench.open_on(failing.clone());
        let root = volume.root();
        let old = make(&volume, &root, b"old", kind);
        make(&volume, &root, b"other", kind);
        failing.fail_once(&[call], 0, libc::EIO);
        let refused = match call {
            Call::Remove => volume.unlink(&root, b"old"),
            Call::RemoveDir => volume.remove_dir(&root, b"old"),
            _ => volume.rename(&root, b"other", &root, b"old", RenameMode::Replace),
        };
        assert_eq!(code(&refused), libc::EIO, "{kind:?} {call:?}");
        let (found, _) = volume.lookup(&root, b"old").unwrap();
        assert!(
            Arc::ptr_eq(&found, &old) && old.is_found() && !old.is_dead(),
            "{kind:?} {call:?}"
        );
        if kind == Kind::File {
            drop(volume.open(&old, READ_WRITE).unwrap());
            volume.unlink(&root, b"old").unwrap();
        } else {
            make(&volume, &old, b"below", Kind::File);
        }
    }
}
