//! Names: what is one, what is never followed, what opens.

use super::{code, content, list, names, over_all_stores, put};
use crate::store::{Access, Kind, RenameMode, SetTimes};

#[test]
fn refuses_names_that_are_not_one_component() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"");
        root.make_dir(b"d", 0o700).unwrap();
        let bad: [&[u8]; 7] = [b"", b".", b"..", b"d/f", b"/", b"f\0", b"\0"];
        let long = [b'n'; 256];
        let cases = bad
            .iter()
            .map(|&name| (name, libc::EINVAL))
            .chain([(&long[..], libc::ENAMETOOLONG)]);
        for (name, wanted) in cases {
            let mode = RenameMode::Replace;
            let results = [
                root.stat_at(name).map(drop),
                root.open(name, Access::Read).map(drop),
                root.create(name, 0o600).map(drop),
                root.open_dir(name).map(drop),
                root.make_dir(name, 0o700),
                root.make_node(name, Kind::File, 0o600, 0),
                root.make_symlink(name, b"t"),
                root.read_link(name).map(drop),
                root.link(name, &**root, b"x"),
                root.link(b"f", &**root, name),
                root.rename(name, &**root, b"x", mode),
                root.rename(b"f", &**root, name, mode),
                root.rename(b"f", &**root, name, RenameMode::Exchange),
                root.remove(name),
                root.remove_dir(name),
                root.set_mode_at(name, 0),
                root.set_owner_at(name, None, None),
                root.set_times_at(name, SetTimes::default()),
                root.xattrs_at(name).map(drop),
            ];
            for (number, result) in results.into_iter().enumerate() {
                assert_eq!(code(result), wanted, "call {number} with {name:?}");
            }
        }
        assert_eq!(names(&**root), [b"d", b"f"]);
    });
}

#[test]
fn takes_names_of_any_bytes_up_to_255() {
    over_all_stores(|root, _| {
        let mut all: Vec<Vec<u8>> = (1..=255u8)
            .filter(|b| !b"./".contains(b))
            .map(|b| vec![b])
            .collect();
        all.extend([
            vec![b'n'; 255],
            vec![0xff; 255],
            b"...".to_vec(),
            b".x".to_vec(),
            b"\xc3(".to_vec(),
            b"-rf *\n".to_vec(),
        ]);
        all.sort();
        for name in &all {
            put(&**root, name, name);
        }
        assert_eq!(names(&**root), all);
        for name in &all {
            assert_eq!(content(&**root, name), *name);
            root.remove(name).unwrap();
        }
        assert!(list(&**root).is_empty());
    });
}

#[test]
fn opens_only_regular_files_and_never_waits() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"secret");
        root.make_symlink(b"link", b"f").unwrap();
        root.make_symlink(b"dangling", b"nowhere").unwrap();
        root.make_symlink(b"loop", b"loop").unwrap();
        root.make_dir(b"dir", 0o700).unwrap();
        root.make_node(b"fifo", Kind::Fifo, 0o600, 0).unwrap();
        root.make_node(b"socket", Kind::Socket, 0o600, 0).unwrap();
        for access in [Access::Read, Access::ReadWrite] {
            for name in [&b"link"[..], b"dangling", b"loop"] {
                assert_eq!(code(root.open(name, access)), libc::ELOOP);
            }
            for name in [&b"dir"[..], b"fifo", b"socket"] {
                assert_eq!(code(root.open(name, access)), libc::EINVAL, "{name:?}");
            }
            assert_eq!(code(root.open(b"missing", access)), libc::ENOENT);
        }
        for name in [&b"link"[..], b"dangling", b"dir", b"fifo", b"f"] {
            assert_eq!(code(root.create(name, 0o600)), libc::EEXIST);
        }
        assert_eq!(code(root.stat_at(b"nowhere")), libc::ENOENT);
    });
}

#[test]
fn opens_only_directories_as_directories() {
    over_all_stores(|root, _| {
        root.make_dir(b"dir", 0o700).unwrap();
        put(&**root, b"f", b"");
        root.make_symlink(b"link", b"dir").unwrap();
        root.make_node(b"fifo", Kind::Fifo, 0o600, 0).unwrap();
        for name in [&b"f"[..], b"link", b"fifo"] {
            let refused = code(root.open_dir(name));
            assert!(
                refused == libc::ENOTDIR || refused == libc::ELOOP,
                "{name:?}: {refused}"
            );
        }
        assert_eq!(code(root.open_dir(b"missing")), libc::ENOENT);
        assert_eq!(
            root.open_dir(b"dir").unwrap().stat().unwrap().ino,
            root.stat_at(b"dir").unwrap().ino
        );
    });
}

#[test]
fn changes_a_symlink_and_never_what_it_points_at() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"");
        root.set_mode_at(b"f", 0o640).unwrap();
        root.make_symlink(b"s", b"f").unwrap();
        let before = root.stat_at(b"f").unwrap();
        assert_eq!(code(root.set_mode_at(b"s", 0o777)), libc::EOPNOTSUPP);
        let at = crate::store::Time { sec: 1, nsec: 2 };
        let spec = Some(crate::store::TimeSpec::At(at));
        root.set_times_at(
            b"s",
            SetTimes {
                atime: spec,
                mtime: spec,
            },
        )
        .unwrap();
        root.set_owner_at(b"s", Some(before.uid), Some(before.gid))
            .unwrap();
        assert_eq!(root.stat_at(b"f").unwrap(), before);
        let link = root.stat_at(b"s").unwrap();
        assert_eq!((link.kind, link.mtime, link.size), (Kind::Symlink, at, 1));
        assert_eq!(root.read_link(b"s").unwrap(), b"f");
        root.link(b"s", &**root, b"t").unwrap();
        assert_eq!(root.stat_at(b"t").unwrap().kind, Kind::Symlink);
        root.remove(b"s").unwrap();
        assert_eq!(root.stat_at(b"f").unwrap().nlink, 1);
    });
}

#[test]
fn symlink_targets_are_any_bytes() {
    over_all_stores(|root, _| {
        let long = [b't'; 4000];
        for (name, target) in [(b"a", &b"/\xff/../x"[..]), (b"b", &long)] {
            root.make_symlink(name, target).unwrap();
            assert_eq!(root.read_link(name).unwrap(), target);
        }
        assert_eq!(
            code(root.make_symlink(b"c", &[b't'; 4096])),
            libc::ENAMETOOLONG
        );
        assert_eq!(code(root.make_symlink(b"c", b"")), libc::ENOENT);
        assert_eq!(code(root.make_symlink(b"c", b"a\0b")), libc::EINVAL);
        put(&**root, b"f", b"");
        assert_eq!(code(root.read_link(b"f")), libc::EINVAL);
    });
}

#[test]
fn modes_are_exact_under_any_umask() {
    over_all_stores(|root, _| {
        root.create(b"f", 0o4777).unwrap();
        root.make_dir(b"d", 0o1777).unwrap();
        root.make_node(b"p", Kind::Fifo, 0o666, 0).unwrap();
        root.make_node(b"e", Kind::File, 0o222, 0).unwrap();
        let mode = |name: &[u8]| root.stat_at(name).unwrap().mode;
        assert_eq!(
            (mode(b"f"), mode(b"d"), mode(b"p"), mode(b"e")),
            (0o4777, 0o1777, 0o666, 0o222)
        );
        root.set_mode_at(b"d", 0o700).unwrap();
        root.open_dir(b"d").unwrap().set_mode(0o2750).unwrap();
        assert_eq!(mode(b"d"), 0o2750);
        assert_eq!(
            code(root.make_node(b"x", Kind::Dir, 0o700, 0)),
            libc::EINVAL
        );
        assert_eq!(
            code(root.make_node(b"x", Kind::Symlink, 0o700, 0)),
            libc::EINVAL
        );
        assert_eq!(
            code(root.make_node(b"f", Kind::File, 0o700, 0)),
            libc::EEXIST
        );
    });
}
