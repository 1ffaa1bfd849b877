//! Attributes: modes, owners, times, extended attributes, ACLs, totals.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, utimensat};
use rustix::fs::{getxattr, listxattr, removexattr, setxattr, statvfs};
use rustix::io::Errno;

use crate::in_both;
use crate::support::tool;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn changed(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ctime(), meta.ctime_nsec())
}

fn modified(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn modes_and_owners_stay() {
    in_both(|sandbox, mnt| {
        let (file, dir) = (mnt.join("file"), mnt.join("dir"));
        fs::write(&file, b"x").unwrap();
        fs::create_dir(&dir).unwrap();
        for wanted in [0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1644] {
            chmod(&file, wanted);
            assert_eq!(mode(&file), wanted);
        }
        chmod(&dir, 0o3770);
        chown(&dir, Some(1234), Some(4321)).unwrap();
        chmod(&file, 0o200);
        chown(&file, Some(1), None).unwrap();
        sandbox.remount();
        let meta = fs::metadata(&dir).unwrap();
        assert_eq!((meta.uid(), meta.gid(), mode(&dir)), (1234, 4321, 0o3770));
        assert_eq!(
            (fs::metadata(&file).unwrap().uid(), mode(&file)),
            (1, 0o200)
        );
    });
}

#[test]
fn a_directory_with_setgid_hands_its_group_down() {
    in_both(|_, mnt| {
        let dir = mnt.join("dir");
        fs::create_dir(&dir).unwrap();
        chown(&dir, None, Some(4321)).unwrap();
        chmod(&dir, 0o2755);
        fs::write(dir.join("file"), b"").unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        assert_eq!(fs::metadata(dir.join("file")).unwrap().gid(), 4321);
        let sub = fs::metadata(dir.join("sub")).unwrap();
        assert_eq!((sub.gid(), sub.mode() & 0o2000), (4321, 0o2000));
    });
}

#[test]
fn the_umask_of_the_program_counts() {
    in_both(|_, mnt| {
        let script = "umask 027; touch file; mkdir dir; mkfifo fifo; umask 0; touch open";
        tool(
            Command::new("sh").args(["-c", script]).current_dir(mnt),
            "coreutils",
        );
        let modes = ["file", "dir", "fifo", "open"].map(|name| mode(&mnt.join(name)));
        assert_eq!(modes, [0o640, 0o750, 0o640, 0o666]);
    });
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    in_both(|sandbox, mnt| {
        let path = mnt.join("file");
        fs::write(&path, b"x").unwrap();
        for (sec, nsec) in [
            (1_700_000_000, 123_456_789),
            (0, 1),
            (-1, 999_999_999),
            (-86_400, 5),
        ] {
            let time = Timespec {
                tv_sec: sec,
                tv_nsec: nsec,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
            assert_eq!(modified(&path), (sec, nsec));
            sandbox.remount();
            assert_eq!(modified(&path), (sec, nsec), "after a remount");
        }
    });
}

#[test]
fn each_change_moves_its_times() {
    in_both(|_, mnt| {
        let path = mnt.join("file");
        fs::write(&path, b"x").unwrap();
        let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_modified(past).unwrap();
        assert_eq!(modified(&path), (1_000_000, 0));
        (&file).write_all(b"more").unwrap();
        assert!(modified(&path).0 > 1_000_000, "a write moves mtime");
        file.set_modified(past).unwrap();
        file.set_len(2).unwrap();
        assert!(modified(&path).0 > 1_000_000, "a truncation moves mtime");
        let moves_ctime = |what: &str, change: &dyn Fn()| {
            let before = changed(&path);
            // The store's clock ticks in steps of a few milliseconds.
            std::thread::sleep(Duration::from_millis(20));
            change();
            assert!(changed(&path) > before, "{what} moves ctime");
        };
        moves_ctime("chmod", &|| chmod(&path, 0o600));
        moves_ctime("chown", &|| chown(&path, Some(7), None).unwrap());
        moves_ctime("setxattr", &|| {
            setxattr(&path, "user.a", b"1", XattrFlags::empty()).unwrap()
        });
        moves_ctime("link", &|| {
            fs::hard_link(&path, mnt.join("second")).unwrap()
        });
        moves_ctime("unlink", &|| fs::remove_file(mnt.join("second")).unwrap());
        moves_ctime("rename", &|| {
            fs::rename(&path, mnt.join("away")).unwrap();
            fs::rename(mnt.join("away"), &path).unwrap();
        });
    });
}

#[test]
fn a_directory_shows_when_it_changed() {
    in_both(|_, mnt| {
        let before = modified(mnt);
        std::thread::sleep(Duration::from_millis(20));
        fs::write(mnt.join("new"), b"").unwrap();
        let created = modified(mnt);
        assert!(created > before);
        std::thread::sleep(Duration::from_millis(20));
        fs::remove_file(mnt.join("new")).unwrap();
        assert!(modified(mnt) > created);
    });
}

fn xattr(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = Vec::with_capacity(65_536);
    getxattr(path, name, rustix::buffer::spare_capacity(&mut value))?;
    Ok(value)
}

fn names(path: &Path) -> Vec<String> {
    let mut list = Vec::with_capacity(65_536);
    listxattr(path, rustix::buffer::spare_capacity(&mut list)).unwrap();
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut names: Vec<_> = names
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn extended_attributes_of_three_spaces_stay() {
    in_both(|sandbox, mnt| {
        let path = mnt.join("file");
        fs::write(&path, b"x").unwrap();
        let kept = ["security.own", "trusted.own", "user.empty", "user.own"];
        for name in kept {
            let value = if name == "user.empty" {
                b""
            } else {
                name.as_bytes()
            };
            setxattr(&path, name, value, XattrFlags::CREATE).unwrap();
        }
        let again = setxattr(&path, "user.own", b"y", XattrFlags::CREATE);
        assert_eq!(again.unwrap_err(), Errno::EXIST);
        let missing = setxattr(&path, "user.none", b"y", XattrFlags::REPLACE);
        assert_eq!(missing.unwrap_err(), Errno::NODATA);
        sandbox.remount();
        assert_eq!(names(&path), kept);
        assert_eq!(xattr(&path, "trusted.own").unwrap(), b"trusted.own");
        assert_eq!(xattr(&path, "user.empty").unwrap(), b"");
        assert_eq!(xattr(&path, "user.none").unwrap_err(), Errno::NODATA);
        let small = getxattr(&path, "user.own", &mut [0_u8; 3]);
        assert_eq!(small.unwrap_err(), Errno::RANGE);
        removexattr(&path, "user.own").unwrap();
        assert_eq!(removexattr(&path, "user.own").unwrap_err(), Errno::NODATA);
        assert_eq!(names(&path), ["security.own", "trusted.own", "user.empty"]);
        let foreign = setxattr(&path, "system.own", b"y", XattrFlags::empty());
        assert_eq!(foreign.unwrap_err(), Errno::OPNOTSUPP);
    });
}

#[test]
fn acls_are_kept_inherited_and_obeyed() {
    in_both(|sandbox, mnt| {
        let dir = mnt.join("dir");
        fs::create_dir(&dir).unwrap();
        chmod(&dir, 0o755);
        let set = |args: &[&str]| tool(Command::new("setfacl").args(args).arg(&dir), "acl");
        set(&["-m", "u:1234:rwx"]);
        set(&["-d", "-m", "u:1234:rw,g::r,o::-"]);
        let script = "umask 077; echo x > inherits";
        tool(
            Command::new("sh").args(["-c", script]).current_dir(&dir),
            "coreutils",
        );
        sandbox.remount();
        let acl = |path: &Path| tool(Command::new("getfacl").args(["-cpn"]).arg(path), "acl");
        assert!(acl(&dir).contains("user:1234:rwx"), "{}", acl(&dir));
        let inherited = acl(&dir.join("inherits"));
        assert!(
            inherited.contains("user:1234:rw-") && inherited.contains("other::---"),
            "{inherited}"
        );
        assert_eq!(
            mode(&dir.join("inherits")),
            0o660,
            "the default ACL takes the umask's place"
        );
        chmod(&dir.join("inherits"), 0o600);
        let masked = acl(&dir.join("inherits"));
        assert!(masked.contains("mask::---"), "{masked}");
        tool(Command::new("setfacl").arg("-b").arg(&dir), "acl");
        assert!(!acl(&dir).contains("1234"));
    });
}

#[test]
fn totals_are_those_of_the_store() {
    in_both(|sandbox, mnt| {
        let (ours, below) = (statvfs(mnt).unwrap(), statvfs(sandbox.vault()).unwrap());
        assert_eq!(ours.f_namemax, 255);
        assert_eq!(
            (ours.f_bsize, ours.f_blocks, ours.f_files),
            (below.f_bsize, below.f_blocks, below.f_files)
        );
    });
}
