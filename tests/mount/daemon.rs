//! The daemon: how a mount begins, what it is mounted with, how it ends.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::errno;
use crate::support::daemon::Daemon;
use crate::support::user::OrdinaryUser;
use crate::support::{SUITES, Sandbox, is_mounted};

#[test]
fn each_ending_signal_unmounts_and_loses_nothing() {
    for (suite, signal) in SUITES
        .iter()
        .cycle()
        .zip([Signal::TERM, Signal::INT, Signal::HUP])
    {
        let sandbox = Sandbox::with_volume(suite);
        let mut daemon = Daemon::of(&sandbox);
        fs::write(sandbox.mnt().join("file"), b"kept").unwrap();
        daemon.signal(signal);
        daemon.wait_for_success();
        assert!(!is_mounted(&sandbox.mnt()));
        sandbox.mount();
        assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"kept");
    }
}

#[test]
fn a_signal_while_a_file_is_open_serves_it_to_its_end() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let mut daemon = Daemon::of(&sandbox);
    let path = sandbox.mnt().join("file");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    daemon.signal(Signal::TERM);
    let mnt = sandbox.mnt();
    daemon.wait_until("it is out of sight", |_| !is_mounted(&mnt));
    file.write_all_at(b"still served", 0).unwrap();
    file.sync_all().unwrap();
    assert!(
        daemon.child.try_wait().unwrap().is_none(),
        "a daemon with an open file goes on"
    );
    drop(file);
    daemon.wait_for_success();
    sandbox.mount();
    assert_eq!(fs::read(path).unwrap(), b"still served");
}

#[test]
fn a_second_signal_cuts_open_files_off() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let mut daemon = Daemon::of(&sandbox);
    let path = sandbox.mnt().join("file");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"acknowledged", 0).unwrap();
    daemon.signal(Signal::TERM);
    let mnt = sandbox.mnt();
    daemon.wait_until("it is out of sight", |_| !is_mounted(&mnt));
    daemon.signal(Signal::TERM);
    daemon.wait_for_success();
    assert_eq!(errno(file.write_all_at(b"too late", 0)), libc::ENOTCONN);
    drop(file);
    sandbox.mount();
    assert_eq!(fs::read(path).unwrap(), b"acknowledged");
}

#[test]
fn an_unmount_from_outside_ends_the_daemon() {
    let sandbox = Sandbox::with_volume(SUITES[1]);
    let mut daemon = Daemon::of(&sandbox);
    fs::write(sandbox.mnt().join("file"), b"kept").unwrap();
    let unmounted = Command::new("umount").arg(sandbox.mnt()).status().unwrap();
    assert!(unmounted.success());
    daemon.wait_for_success();
    sandbox.mount();
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"kept");
}

#[test]
fn what_write_acknowledged_survives_a_kill() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        let mut daemon = Daemon::of(&sandbox);
        fs::write(sandbox.mnt().join("file"), vec![7; 100_000]).unwrap();
        fs::rename(sandbox.mnt().join("file"), sandbox.mnt().join("renamed")).unwrap();
        daemon.signal(Signal::KILL);
        daemon.wait_until("it is dead", |daemon| {
            daemon.child.try_wait().unwrap().is_some()
        });
        assert_eq!(
            errno(fs::metadata(sandbox.mnt().join("renamed"))),
            libc::ENOTCONN
        );
        let refused = sandbox.run(&["mount", "vault", "mnt"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("unmount it first"),
            "{said}"
        );
        drop(daemon);
        sandbox.mount();
        assert!(fs::read(sandbox.mnt().join("renamed")).unwrap() == vec![7; 100_000]);
    }
}

#[test]
fn a_second_writer_is_refused_with_the_pid_of_the_first() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let daemon = Daemon::of(&sandbox);
    fs::create_dir(sandbox.path("second")).unwrap();
    let refused = sandbox.run(&["mount", "vault", "second"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains(&daemon.child.id().to_string()),
        "{said}"
    );
    assert!(!is_mounted(&sandbox.path("second")));
}

/// Every file below a directory, with its content and times.
fn everything_below(top: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTimes)> {
    let mut found = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        found.push((path, content, SystemTimes::of(&meta)));
    }
    found.sort();
    found
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SystemTimes([i64; 4]);

impl SystemTimes {
    fn of(meta: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self([
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ])
    }
}

#[test]
fn a_read_only_mount_changes_nothing_below() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        fs::create_dir(sandbox.mnt().join("dir")).unwrap();
        fs::write(sandbox.mnt().join("dir/file"), vec![1; 50_000]).unwrap();
        fs::write(sandbox.mnt().join("dir/secret"), b"x").unwrap();
        fs::set_permissions(
            sandbox.mnt().join("dir/secret"),
            Permissions::from_mode(0o000),
        )
        .unwrap();
        sandbox.umount();
        let before = everything_below(&sandbox.vault());
        sandbox.ok(&["mount", "--read-only", "vault", "mnt"]);
        assert!(fs::read(sandbox.mnt().join("dir/file")).unwrap() == vec![1; 50_000]);
        assert_eq!(fs::read(sandbox.mnt().join("dir/secret")).unwrap(), b"x");
        assert_eq!(errno(File::create(sandbox.mnt().join("new"))), libc::EROFS);
        assert_eq!(
            errno(fs::remove_file(sandbox.mnt().join("dir/file"))),
            libc::EROFS
        );
        sandbox.umount();
        assert!(everything_below(&sandbox.vault()) == before);
    }
}

#[test]
fn a_mount_is_nosuid_and_nodev_and_says_what_it_is() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mnt = sandbox.mnt();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == mnt.to_str())
        .unwrap();
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!(
        fields[0],
        format!("strongroom:{}", sandbox.vault().display())
    );
    assert_eq!(fields[2], "fuse.strongroom");
    for option in ["nosuid", "nodev", "rw", "default_permissions"] {
        assert!(
            fields[3].split(',').any(|shown| shown == option),
            "{option}: {line}"
        );
    }
}

#[test]
fn mount_options_do_what_they_say() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    sandbox.ok(&[
        "mount",
        "-o",
        "suid,noexec,writeback,max-threads=2",
        "vault",
        "mnt",
    ]);
    let path = sandbox.mnt().join("script");
    fs::write(&path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(errno(Command::new(&path).status()), libc::EACCES);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    (0..1000).for_each(|_| std::io::Write::write_all(&mut file, b"#\n").unwrap());
    drop(file);
    sandbox.remount();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("#!/bin/sh\n{}", "#\n".repeat(1000))
    );
    sandbox.umount();
    let refused = sandbox.run(&["mount", "-o", "bogus", "vault", "mnt"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("\"bogus\""),
        "{said}"
    );
}

#[test]
fn mount_points_that_do_not_fit_are_refused() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    fs::write(sandbox.path("plain"), b"").unwrap();
    fs::create_dir(sandbox.vault().join("inside")).unwrap();
    let cases = [
        ("none", "no directory"),
        ("plain", "not a directory"),
        ("vault/inside", "inside the volume's own directory"),
        ("vault", "inside the volume's own directory"),
        (".", "would be hidden"),
    ];
    for (mountpoint, why) in cases {
        let refused = sandbox.run(&["mount", "vault", mountpoint]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains(why),
            "{mountpoint}: {said}"
        );
    }
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    for suite in SUITES {
        let sandbox = Sandbox::new();
        let user = OrdinaryUser::of(&sandbox, &["mnt"]);
        let as_user = |args: &[&str]| {
            let output = user.strongroom(args).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success(),
                "{args:?}: {said} (needs the package fuse3)"
            );
        };
        as_user(&["init", "--cipher", suite, "vault"]);
        as_user(&["mount", "vault", "mnt"]);
        let script = "echo mine > mnt/file && mkdir mnt/dir && chmod 700 mnt/dir && cat mnt/file && ls -l mnt";
        let said = user.shell(script).output().unwrap();
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        assert!(said.stdout.starts_with(b"mine\n"));
        assert_eq!(
            errno(fs::metadata(sandbox.mnt().join("file"))),
            libc::EACCES,
            "root is another user"
        );
        as_user(&["umount", "mnt"]);
        as_user(&["mount", "--read-only", "vault", "mnt"]);
        as_user(&["umount", "mnt"]);
    }
}
