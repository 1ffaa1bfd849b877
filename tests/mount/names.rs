//! Names and directories: renames, links, special files, listings that change, names of any bytes.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use crate::support::{SUITES, Sandbox, tool};
use crate::{errno, in_both};

fn listed(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect()
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    renameat_with(CWD, from, CWD, to, flags)
}

#[test]
fn renames_replace_refuse_and_exchange() {
    in_both(|sandbox, mnt| {
        let (a, b, dir) = (mnt.join("a"), mnt.join("b"), mnt.join("dir"));
        fs::write(&a, b"a").unwrap();
        fs::write(&b, b"b").unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("inside"), b"inside").unwrap();
        let refused = rename(&a, &b, RenameFlags::NOREPLACE).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::EXIST);
        rename(&a, &dir, RenameFlags::EXCHANGE).unwrap();
        assert_eq!(fs::read(a.join("inside")).unwrap(), b"inside");
        assert_eq!(fs::read(&dir).unwrap(), b"a");
        let missing = rename(&a, &mnt.join("none"), RenameFlags::EXCHANGE).unwrap_err();
        assert_eq!(missing, rustix::io::Errno::NOENT);
        fs::rename(&dir, &b).unwrap();
        rename(&b, &a.join("c"), RenameFlags::NOREPLACE).unwrap();
        sandbox.remount();
        assert_eq!(listed(mnt), BTreeSet::from(["a".into()]));
        assert_eq!(fs::read(a.join("c")).unwrap(), b"a");
        assert_eq!(fs::read(a.join("inside")).unwrap(), b"inside");
    });
}

#[test]
fn a_directory_moves_with_all_that_is_below_it() {
    in_both(|sandbox, mnt| {
        let deep = mnt.join("one/two/three");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), b"deep").unwrap();
        fs::create_dir(mnt.join("other")).unwrap();
        fs::rename(mnt.join("one/two"), mnt.join("other/moved")).unwrap();
        assert_eq!(
            fs::read(mnt.join("other/moved/three/file")).unwrap(),
            b"deep"
        );
        assert_eq!(
            errno(fs::rename(mnt.join("other"), mnt.join("other/moved/x"))),
            libc::EINVAL
        );
        assert_eq!(errno(fs::remove_dir(mnt.join("other"))), libc::ENOTEMPTY);
        sandbox.remount();
        assert_eq!(
            fs::read(mnt.join("other/moved/three/file")).unwrap(),
            b"deep"
        );
        fs::remove_dir(mnt.join("one")).unwrap();
    });
}

#[test]
fn hard_links_are_one_file_and_are_counted() {
    in_both(|sandbox, mnt| {
        let (one, two) = (mnt.join("one"), mnt.join("two"));
        fs::write(&one, b"content").unwrap();
        fs::hard_link(&one, &two).unwrap();
        let meta = |path: &Path| fs::metadata(path).unwrap();
        assert_eq!((meta(&one).nlink(), meta(&two).nlink()), (2, 2));
        assert_eq!(meta(&one).ino(), meta(&two).ino());
        fs::write(&two, b"changed").unwrap();
        assert_eq!(fs::read(&one).unwrap(), b"changed");
        sandbox.remount();
        assert_eq!(fs::read(&two).unwrap(), b"changed");
        let before = meta(&two);
        fs::remove_file(&one).unwrap();
        let after = meta(&two);
        assert_eq!(after.nlink(), 1);
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!(fs::read(&two).unwrap(), b"changed");
        assert_eq!(errno(fs::hard_link(mnt, mnt.join("dir"))), libc::EPERM);
    });
}

#[test]
fn symlinks_keep_their_targets() {
    in_both(|sandbox, mnt| {
        let targets = ["file", "/absolute/nowhere", "../up", &"x/".repeat(1000)];
        for (at, target) in targets.iter().enumerate() {
            symlink(target, mnt.join(format!("link{at}"))).unwrap();
        }
        fs::write(mnt.join("file"), b"through").unwrap();
        sandbox.remount();
        for (at, target) in targets.iter().enumerate() {
            let link = mnt.join(format!("link{at}"));
            assert_eq!(
                fs::read_link(&link).unwrap().as_os_str(),
                OsStr::new(target)
            );
            assert_eq!(link.symlink_metadata().unwrap().len(), target.len() as u64);
        }
        assert_eq!(fs::read(mnt.join("link0")).unwrap(), b"through");
        assert_eq!(
            errno(symlink("x".repeat(4000), mnt.join("long"))),
            libc::ENAMETOOLONG
        );
    });
}

#[test]
fn special_files_keep_their_kind_and_number() {
    in_both(|sandbox, mnt| {
        let make = |name: &str, kind, device| {
            mknodat(
                CWD,
                mnt.join(name),
                kind,
                Mode::from_raw_mode(0o640),
                device,
            )
        };
        make("fifo", FileType::Fifo, 0).unwrap();
        make("socket", FileType::Socket, 0).unwrap();
        make("char", FileType::CharacterDevice, makedev(1, 3)).unwrap();
        make("block", FileType::BlockDevice, makedev(259, 70_000)).unwrap();
        make("plain", FileType::RegularFile, 0).unwrap();
        sandbox.remount();
        let kind = |name: &str| mnt.join(name).symlink_metadata().unwrap();
        assert!(kind("fifo").file_type().is_fifo() && kind("socket").file_type().is_socket());
        assert_eq!(kind("char").rdev(), makedev(1, 3));
        assert_eq!(kind("block").rdev(), makedev(259, 70_000));
        assert!(kind("char").file_type().is_char_device());
        fs::write(mnt.join("plain"), b"x").unwrap();
        let refused = File::open(mnt.join("char"));
        assert_eq!(errno(refused), libc::EACCES, "a mount is nodev");
    });
}

#[test]
fn a_fifo_carries_data_between_processes() {
    in_both(|_, mnt| {
        let script = "mkfifo pipe && (echo through > pipe &) && cat pipe";
        let said = tool(
            std::process::Command::new("sh")
                .args(["-c", script])
                .current_dir(mnt),
            "coreutils",
        );
        assert_eq!(said, "through\n");
    });
}

#[test]
fn names_of_255_bytes_and_of_any_bytes_work() {
    in_both(|sandbox, mnt| {
        let odd = (1..=255_u8)
            .filter(|byte| *byte != b'/')
            .collect::<Vec<_>>();
        let long = [b'n'; 255].to_vec();
        let names = [
            odd[..127].to_vec(),
            odd[127..].to_vec(),
            long,
            b"strongroom.volume".to_vec(),
            b" ".to_vec(),
        ];
        for name in &names {
            fs::write(mnt.join(OsStr::from_bytes(name)), name).unwrap();
        }
        let too_long = "n".repeat(256);
        assert_eq!(errno(File::create(mnt.join(&too_long))), libc::ENAMETOOLONG);
        sandbox.remount();
        let wanted = names.iter().map(|name| OsStr::from_bytes(name).to_owned());
        assert_eq!(listed(mnt), wanted.collect());
        for name in &names {
            let path = mnt.join(OsStr::from_bytes(name));
            assert_eq!(&fs::read(&path).unwrap(), name);
            fs::remove_file(path).unwrap();
        }
        assert!(listed(mnt).is_empty());
    });
}

#[test]
fn a_listing_shows_what_stays_while_the_directory_changes() {
    in_both(|_, mnt| {
        let stays = |at: usize| OsString::from(format!("stays-{at:04}"));
        for at in 0..1500 {
            fs::write(mnt.join(stays(at)), b"").unwrap();
            fs::write(mnt.join(format!("goes-{at:04}")), b"").unwrap();
        }
        let mut seen = Vec::new();
        for (at, entry) in fs::read_dir(mnt).unwrap().enumerate() {
            seen.push(entry.unwrap().file_name());
            if at < 1500 {
                fs::remove_file(mnt.join(format!("goes-{at:04}"))).unwrap();
                fs::write(mnt.join(format!("comes-{at:04}")), b"").unwrap();
            }
        }
        let once: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(once.len(), seen.len(), "no name twice");
        assert!((0..1500).all(|at| once.contains(&stays(at))));
        assert_eq!(listed(mnt).len(), 3000);
    });
}

#[test]
fn a_listing_has_the_numbers_and_kinds_that_stat_has() {
    in_both(|_, mnt| {
        fs::create_dir(mnt.join("dir")).unwrap();
        fs::write(mnt.join("file"), b"x").unwrap();
        symlink("file", mnt.join("link")).unwrap();
        let script = "import os,sys\n\
                      for e in os.scandir(sys.argv[1]):\n\
                      \x20s=e.stat(follow_symlinks=False)\n\
                      \x20assert e.inode()==s.st_ino, e.name\n\
                      d=os.stat(sys.argv[1]+'/dir/..'); assert d.st_ino==os.stat(sys.argv[1]).st_ino";
        tool(
            std::process::Command::new("python3")
                .args(["-c", script])
                .arg(mnt),
            "python3",
        );
        let names = tool(
            std::process::Command::new("ls").args(["-aF"]).arg(mnt),
            "coreutils",
        );
        assert_eq!(
            names.split_whitespace().collect::<Vec<_>>(),
            ["./", "../", "dir/", "file", "link@"]
        );
    });
}

#[test]
fn a_directory_of_200_000_entries_is_listed_whole() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let dir = sandbox.mnt().join("many");
    fs::create_dir(&dir).unwrap();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let dir = &dir;
            scope.spawn(move || {
                for at in (part..200_000).step_by(4) {
                    mknodat(
                        CWD,
                        dir.join(format!("{at}")),
                        FileType::RegularFile,
                        Mode::RUSR,
                        0,
                    )
                    .unwrap();
                }
            });
        }
    });
    sandbox.remount();
    let wanted: BTreeSet<_> = (0..200_000)
        .map(|at| OsString::from(at.to_string()))
        .collect();
    assert!(listed(&dir) == wanted);
}
