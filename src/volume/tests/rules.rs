//! Rules of directories, names and handles (FORMAT.md section 5), one test each.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Bench, READ_WRITE, code, list, me};
use crate::format::ids::DirId;
use crate::format::suite::Suite;
use crate::store::{Kind, RenameMode, Store, Time, TimeSpec};
use crate::volume::{Caller, Node, OpenFlags, SetAttr, Volume, dir};

const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
};

pub(super) fn put(volume: &Volume, dir: &Arc<Node>, name: &[u8], data: &[u8]) -> Arc<Node> {
    let (node, _, file) = volume.create(dir, name, 0o644, &me(), READ_WRITE).unwrap();
    volume.write(&file, 0, data).unwrap();
    volume.fsync(&file, false).unwrap();
    node
}

fn contents(volume: &Volume, dir: &Arc<Node>, name: &[u8]) -> Result<Vec<u8>, i32> {
    let read = || {
        let (node, attr) = volume.lookup(dir, name)?;
        let file = volume.open(&node, READ)?;
        let mut data = vec![0; attr.size as usize];
        let len = volume.read(&file, 0, &mut data)?;
        data.truncate(len);
        crate::volume::Result::Ok(data)
    };
    read().map_err(|error| error.code())
}

fn mkdir(volume: &Volume, dir: &Arc<Node>, name: &[u8]) -> Arc<Node> {
    volume.make_dir(dir, name, 0o755, &me()).unwrap().0
}

fn find(volume: &Volume, path: &[&[u8]]) -> Arc<Node> {
    path.iter().fold(volume.root(), |dir, name| {
        volume.lookup(&dir, name).unwrap().0
    })
}

fn ids(volume: &Volume, from: &Arc<Node>, found: &mut Vec<DirId>) {
    found.push(dir::id(volume, from).unwrap());
    for name in list(volume, from).unwrap() {
        let (node, attr) = volume.lookup(from, &name).unwrap();
        if attr.kind == Kind::Dir {
            ids(volume, &node, found);
        }
    }
}

#[test]
fn everything_below_a_renamed_directory_is_found_at_once_and_after_a_remount() {
    for suite in [Suite::Xts, Suite::Gcm] {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let (a, away) = (
            mkdir(&volume, &volume.root(), b"a"),
            mkdir(&volume, &volume.root(), b"away"),
        );
        let b = mkdir(&volume, &a, b"b");
        put(&volume, &b, b"f", b"deep");
        put(&volume, &a, b"f", b"shallow");
        for round in 0..4u8 {
            let (from, to) = if round % 2 == 0 {
                (volume.root(), away.clone())
            } else {
                (away.clone(), volume.root())
            };
            volume
                .rename(&from, b"a", &to, b"a", RenameMode::Replace)
                .unwrap();
            assert_eq!(contents(&volume, &b, b"f").unwrap(), b"deep");
            let again = volume.lookup(&to, b"a").unwrap().0;
            assert_eq!(again.id(), a.id());
        }
        volume
            .rename(&volume.root(), b"a", &away, b"c", RenameMode::NoReplace)
            .unwrap();
        drop(volume);
        let volume = bench.open_after_kill();
        let c = find(&volume, &[b"away", b"c"]);
        assert_eq!(contents(&volume, &c, b"f").unwrap(), b"shallow");
        assert_eq!(
            contents(&volume, &find(&volume, &[b"away", b"c", b"b"]), b"f").unwrap(),
            b"deep"
        );
        volume.close().unwrap();
    }
}

#[test]
fn two_directories_never_share_an_id() {
    let mut bench = Bench::new(Suite::Xts);
    let mut volume = bench.open();
    for round in 0..6u8 {
        let root = volume.root();
        let x = volume
            .lookup(&root, b"x")
            .map_or_else(|_| mkdir(&volume, &root, b"x"), |found| found.0);
        mkdir(&volume, &x, b"y");
        // x/y goes away with its id; then x, which holds a marker, goes and comes again.
        volume
            .rename(&x, b"y", &root, &[b'0' + round], RenameMode::Replace)
            .unwrap();
        match round % 3 {
            0 => mkdir(&volume, &x, b"y"),
            1 => {
                volume.remove_dir(&root, b"x").unwrap();
                let again = mkdir(&volume, &root, b"x");
                mkdir(&volume, &again, b"y")
            }
            _ => {
                let other = mkdir(&volume, &root, b"other");
                volume
                    .rename(&root, b"other", &root, b"x", RenameMode::Replace)
                    .unwrap();
                mkdir(&volume, &other, b"y")
            }
        };
        let mut found = Vec::new();
        ids(&volume, &root, &mut found);
        assert_eq!(
            found.iter().collect::<HashSet<_>>().len(),
            found.len(),
            "round {round}"
        );
        let y = find(&volume, &[b"x"]);
        volume.remove_dir(&y, b"y").unwrap();
        volume.close().unwrap();
        volume = bench.open();
        let mut after = Vec::new();
        ids(&volume, &volume.root(), &mut after);
        assert!(after.iter().all(|id| found.contains(id)), "ids stay");
    }
}

#[test]
fn another_files_ciphertext_under_this_name_is_refused() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    let root = volume.root();
    put(&volume, &root, b"one", b"first");
    put(&volume, &root, b"two", b"second");
    volume.close().unwrap();
    let top = bench.store.root();
    let mut stored: Vec<_> = top
        .entries(0)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    stored.retain(|name| !name.starts_with(b"strongroom."));
    top.rename(&stored[0], &*top, &stored[1], RenameMode::Exchange)
        .unwrap();
    let volume = bench.open();
    assert_eq!(contents(&volume, &volume.root(), b"one"), Err(libc::EIO));
    assert_eq!(contents(&volume, &volume.root(), b"two"), Err(libc::EIO));
    volume.close().unwrap();
    // A hard link that nobody made through the volume, to a file that is open.
    top.rename(&stored[0], &*top, &stored[1], RenameMode::Exchange)
        .unwrap();
    top.remove(&stored[1]).unwrap();
    top.link(&stored[0], &*top, &stored[1]).unwrap();
    let volume = bench.open();
    let outcomes = [
        contents(&volume, &volume.root(), b"one"),
        contents(&volume, &volume.root(), b"two"),
    ];
    assert!(outcomes.contains(&Err(libc::EIO)), "{outcomes:?}");
    assert!(
        outcomes.iter().all(
            |outcome| *outcome != Ok(b"first".to_vec()) || outcomes[0] == Ok(b"first".to_vec())
        )
    );
}

#[test]
fn files_open_under_every_name_they_were_given() {
    for suite in [Suite::Xts, Suite::Gcm] {
        let mut bench = Bench::new(suite);
        let mut volume = bench.open();
        let sub = mkdir(&volume, &volume.root(), b"sub");
        let node = put(&volume, &volume.root(), b"a", b"text");
        volume.link(&node, &sub, b"b").unwrap();
        let attr = volume.link(&node, &sub, &[b'l'; 200]).unwrap();
        assert_eq!(attr.nlink, 3);
        volume
            .rename(&sub, b"b", &volume.root(), b"c", RenameMode::Replace)
            .unwrap();
        for kill in [false, true, false] {
            let sub = find(&volume, &[b"sub"]);
            for (dir, name) in [
                (volume.root(), b"a".to_vec()),
                (volume.root(), b"c".to_vec()),
                (sub, vec![b'l'; 200]),
            ] {
                assert_eq!(contents(&volume, &dir, &name).unwrap(), b"text");
            }
            if !kill {
                volume.close().unwrap();
            }
            drop(volume);
            volume = if kill {
                bench.open_after_kill()
            } else {
                bench.open()
            };
        }
    }
}

#[test]
fn an_open_file_goes_on_after_its_last_name_went() {
    for suite in [Suite::Xts, Suite::Gcm] {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let root = volume.root();
        let (node, _, file) = volume
            .create(&root, b"f", 0o600, &me(), READ_WRITE)
            .unwrap();
        volume.write(&file, 0, b"before").unwrap();
        volume.unlink(&root, b"f").unwrap();
        volume.write(&file, 6, b" after").unwrap();
        volume.fsync(&file, false).unwrap();
        let mut read = [0; 12];
        assert_eq!(volume.read(&file, 0, &mut read).unwrap(), 12);
        assert_eq!(&read, b"before after");
        let attr = volume
            .set_attr(
                &node,
                &SetAttr {
                    size: Some(3),
                    ..SetAttr::default()
                },
                Some(&file),
            )
            .unwrap();
        assert_eq!((attr.size, attr.nlink), (3, 0));
        assert_eq!(volume.attr(&node).unwrap().size, 3);
        let (new, ..) = volume
            .create(&root, b"f", 0o600, &me(), READ_WRITE)
            .unwrap();
        assert_ne!(new.id(), node.id());
        drop(file);
        volume.close().unwrap();
    }
}

#[test]
fn a_number_given_again_makes_another_node() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    let mut held = Vec::new();
    for _ in 0..50 {
        let (node, _, file) = volume
            .create(&root, b"f", 0o600, &me(), READ_WRITE)
            .unwrap();
        drop(file);
        volume.unlink(&root, b"f").unwrap();
        assert_eq!(volume.attr(&node).unwrap().nlink, 0);
        held.push(node);
    }
    assert_eq!(
        held.iter()
            .map(|node| node.id())
            .collect::<HashSet<_>>()
            .len(),
        50
    );
}

#[test]
fn directories_go_with_nothing_but_our_files_in_them() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    let a = mkdir(&volume, &root, b"a");
    let b = mkdir(&volume, &a, b"b");
    volume
        .rename(&a, b"b", &root, b"b", RenameMode::Replace)
        .unwrap();
    put(&volume, &b, b"f", b"x");
    assert_eq!(code(&volume.remove_dir(&root, b"b")), libc::ENOTEMPTY);
    assert_eq!(
        code(&volume.rename(&root, b"a", &root, b"b", RenameMode::Replace)),
        libc::ENOTEMPTY
    );
    volume.unlink(&b, b"f").unwrap();
    volume
        .rename(&root, b"a", &root, b"b", RenameMode::Replace)
        .unwrap();
    assert_eq!(list(&volume, &root).unwrap(), [b"b".to_vec()]);
    volume.remove_dir(&root, b"b").unwrap();
    assert_eq!(
        code(&volume.create(&a, b"late", 0o600, &me(), READ_WRITE)),
        libc::ENOENT
    );
    assert_eq!(list(&volume, &a).unwrap().len(), 0);
    let left: Vec<_> = bench
        .store
        .root()
        .entries(0)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(
        left.iter()
            .all(|name| name.starts_with(b"strongroom.gone.")),
        "{left:?}"
    );
}

#[test]
fn a_directory_cannot_go_into_itself() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    let a = mkdir(&volume, &root, b"a");
    let b = mkdir(&volume, &a, b"b");
    assert_eq!(
        code(&volume.rename(&root, b"a", &b, b"a", RenameMode::Replace)),
        libc::EINVAL
    );
    assert_eq!(
        code(&volume.rename(&root, b"a", &a, b"x", RenameMode::Replace)),
        libc::EINVAL
    );
    assert_eq!(
        code(&volume.rename(&a, b"b", &root, b"a", RenameMode::Replace)),
        libc::ENOTEMPTY
    );
    assert_eq!(
        code(&volume.rename(&a, b"b", &root, b"a", RenameMode::Exchange)),
        libc::EINVAL
    );
}

#[test]
fn owners_groups_and_modes_are_those_of_a_local_file_system() {
    if !rustix::process::geteuid().is_root() {
        return assert_eq!(
            me().uid,
            rustix::process::geteuid().as_raw(),
            "only root can give things away"
        );
    }
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let caller = Caller {
        uid: 1000,
        gid: 1001,
        umask: 0o027,
    };
    let root = volume.root();
    let (_, attr, _) = volume
        .create(&root, b"f", 0o4777, &caller, READ_WRITE)
        .unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (1000, 1001, 0o4750));
    let (dir, attr) = volume.make_dir(&root, b"d", 0o777, &caller).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (1000, 1001, 0o750));
    volume
        .set_attr(
            &dir,
            &SetAttr {
                mode: Some(0o2775),
                gid: Some(55),
                ..SetAttr::default()
            },
            None,
        )
        .unwrap();
    let (_, attr, _) = volume
        .create(&dir, b"f", 0o666, &caller, READ_WRITE)
        .unwrap();
    assert_eq!((attr.gid, attr.mode), (55, 0o640));
    let (_, attr) = volume.make_dir(&dir, b"d", 0o777, &caller).unwrap();
    assert_eq!((attr.gid, attr.mode), (55, 0o2750));
    let (f, _) = volume.lookup(&root, b"f").unwrap();
    let set = |set: SetAttr| volume.set_attr(&f, &set, None).unwrap();
    assert_eq!(
        set(SetAttr {
            mode: Some(0o6755),
            ..SetAttr::default()
        })
        .mode,
        0o6755
    );
    assert_eq!(
        set(SetAttr {
            uid: Some(7),
            ..SetAttr::default()
        })
        .mode,
        0o755
    );
    set(SetAttr {
        mode: Some(0o6745),
        ..SetAttr::default()
    });
    assert_eq!(
        set(SetAttr {
            kill_suid: true,
            ..SetAttr::default()
        })
        .mode,
        0o2745
    );
    let at = TimeSpec::At(Time {
        sec: -5,
        nsec: 123_456_789,
    });
    let attr = set(SetAttr {
        mtime: Some(at),
        ..SetAttr::default()
    });
    assert_eq!(
        attr.mtime,
        Time {
            sec: -5,
            nsec: 123_456_789
        }
    );
}

#[test]
fn extended_attributes_are_sealed_and_limited_as_on_linux() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    let node = put(&volume, &root, b"f", b"x");
    let set = |name: &[u8], value: &[u8], create, replace| {
        code(&volume.set_xattr(&node, name, value, create, replace))
    };
    assert_eq!(set(b"user.a", b"secret value", false, true), libc::ENODATA);
    assert_eq!(set(b"user.a", b"secret value", true, false), 0);
    assert_eq!(set(b"user.a", b"secret value", true, false), libc::EEXIST);
    assert_eq!(set(b"trusted.b", b"", false, false), 0);
    assert_eq!(set(b"system.other", b"", false, false), libc::EOPNOTSUPP);
    assert_eq!(set(b"plain", b"", false, false), libc::EOPNOTSUPP);
    assert_eq!(set(b"user.big", &vec![0; 65537], false, false), libc::E2BIG);
    assert_eq!(volume.xattr(&node, b"user.a").unwrap(), b"secret value");
    let mut names = volume.xattr_names(&node).unwrap();
    names.sort();
    assert_eq!(names, [b"trusted.b".to_vec(), b"user.a".to_vec()]);
    let entry = bench.store.root().entries(0).unwrap().remove(0).name;
    let stored = bench
        .store
        .root()
        .open(&entry, crate::store::Access::Read)
        .unwrap();
    for name in stored.xattr_names().unwrap() {
        assert!(name.starts_with(b"user.strongroom."));
        assert!(
            !stored
                .xattr(&name)
                .unwrap()
                .windows(6)
                .any(|window| window == b"secret")
        );
    }
    volume.remove_xattr(&node, b"user.a").unwrap();
    assert_eq!(code(&volume.remove_xattr(&node, b"user.a")), libc::ENODATA);
    let (link, _) = volume.make_symlink(&root, b"s", b"target", &me()).unwrap();
    assert_eq!(
        code(&volume.set_xattr(&link, b"user.a", b"", false, false)),
        libc::EPERM
    );
    assert_eq!(code(&volume.xattr(&link, b"security.x")), libc::ENODATA);
}

#[test]
fn symlinks_hold_up_to_3039_bytes() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    for len in [1, 2, 3, 4, 100, 3039] {
        let target = vec![b't'; len];
        let name = len.to_string().into_bytes();
        let (node, attr) = volume
            .make_symlink(&volume.root(), &name, &target, &me())
            .unwrap();
        assert_eq!(attr.size, len as u64);
        assert_eq!(volume.read_link(&node).unwrap(), target);
    }
    assert_eq!(
        code(&volume.make_symlink(&volume.root(), b"l", &[b't'; 3040], &me())),
        libc::ENAMETOOLONG
    );
}

#[test]
fn a_volume_opened_for_reading_is_not_written() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    let root = volume.root();
    put(&volume, &root, b"f", b"text");
    mkdir(&volume, &root, b"d");
    volume.close().unwrap();
    drop(volume);
    let writes = bench.store.writes();
    let volume = bench.open_read_only();
    let root = volume.root();
    assert_eq!(contents(&volume, &root, b"f").unwrap(), b"text");
    let (f, _) = volume.lookup(&root, b"f").unwrap();
    let refused = [
        code(&volume.create(&root, b"x", 0o600, &me(), READ_WRITE)),
        code(&volume.make_dir(&root, b"x", 0o700, &me())),
        code(&volume.make_symlink(&root, b"x", b"t", &me())),
        code(&volume.make_node(&root, b"x", Kind::Fifo, 0o600, 0, &me())),
        code(&volume.unlink(&root, b"f")),
        code(&volume.remove_dir(&root, b"d")),
        code(&volume.rename(&root, b"f", &root, b"g", RenameMode::Replace)),
        code(&volume.link(&f, &root, b"g")),
        code(&volume.open(&f, READ_WRITE)),
        code(&volume.open(
            &f,
            OpenFlags {
                truncate: true,
                ..READ
            },
        )),
        code(&volume.set_attr(
            &f,
            &SetAttr {
                mode: Some(0o600),
                ..SetAttr::default()
            },
            None,
        )),
        code(&volume.set_xattr(&f, b"user.a", b"", false, false)),
        code(&volume.remove_xattr(&f, b"user.a")),
    ];
    assert_eq!(refused, [libc::EROFS; 13]);
    volume.close().unwrap();
    assert_eq!(format!("{:?}", bench.store.writes()), format!("{writes:?}"));
}

#[test]
fn few_directories_are_kept_open_whatever_is_known() {
    let mut bench = Bench::new(Suite::Xts);
    let volume = bench.open();
    let root = volume.root();
    let mut known = Vec::new();
    for number in 0..5000u32 {
        let dir = mkdir(&volume, &root, number.to_string().as_bytes());
        volume.create(&dir, b"f", 0o600, &me(), READ_WRITE).unwrap();
        known.push(dir);
    }
    let open = known
        .iter()
        .filter(|node| node.dir().unwrap().open.lock().unwrap().is_some())
        .count();
    assert!(open <= 4096 && open > 0, "{open}");
    for node in &known {
        assert_eq!(list(&volume, node).unwrap(), [b"f".to_vec()]);
    }
}
