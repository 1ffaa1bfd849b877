//! The command-line contract of `docs/CLI.md` where a volume is mounted: `up`, `mount`, `umount`, `info`, `rotate`, the
//! commands without FUSE, and what a running daemon shows of its secrets.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use support::{SUITES, Sandbox, is_mounted};

fn fails(sandbox: &Sandbox, expected: i32, args: &[&str]) -> String {
    let output = sandbox.run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(expected),
        "strongroom {args:?}: {said}"
    );
    said
}

fn info(sandbox: &Sandbox, path: &str) -> Value {
    serde_json::from_str(&sandbox.ok(&["info", path, "--json"])).unwrap()
}

#[test]
fn up_goes_from_nothing_to_a_mount_and_back() {
    let sandbox = Sandbox::new();
    let said = sandbox.ok(&["up", "vault", "mnt"]);
    assert!(said.contains("Recovery key"));
    assert!(is_mounted(&sandbox.mnt()));
    fs::write(sandbox.mnt().join("hello"), "world").unwrap();
    // Again: nothing is made, three lines are said.
    assert_eq!(sandbox.ok(&["up", "vault", "mnt"]).lines().count(), 3);
    sandbox.umount();
    assert!(!is_mounted(&sandbox.mnt()));
    assert_eq!(sandbox.ok(&["up", "vault", "mnt"]).lines().count(), 3);
    assert_eq!(
        fs::read_to_string(sandbox.mnt().join("hello")).unwrap(),
        "world"
    );
}

#[test]
fn a_second_mount_is_refused_and_umount_frees_the_volume() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::create_dir(sandbox.path("mnt2")).unwrap();
    let pid = info(&sandbox, "vault")["holder"]["pid"].as_u64().unwrap();
    assert!(fails(&sandbox, 7, &["mount", "vault", "mnt2"]).contains(&pid.to_string()));
    fails(&sandbox, 7, &["ls", "vault"]);
    for _ in 0..5 {
        sandbox.umount();
        assert_eq!(info(&sandbox, "vault")["holder"], Value::Null);
        sandbox.mount();
    }
}

#[test]
fn mounting_that_fails_says_why() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    fails(&sandbox, 11, &["umount", "mnt"]);
    fails(&sandbox, 11, &["mount", "vault", "nowhere"]);
    fails(&sandbox, 11, &["umount", "nowhere"]);
    fails(&sandbox, 2, &["mount", "-o", "bogus", "vault", "mnt"]);
    fails(&sandbox, 11, &["mount", "vault", "vault"]);
    fs::rename(sandbox.path("keystore.key"), sandbox.path("elsewhere")).unwrap();
    fails(&sandbox, 3, &["mount", "vault", "mnt"]);
    sandbox.ok(&["--key-file", "elsewhere", "key", "disable", "alias/default"]);
    let said = fails(
        &sandbox,
        6,
        &["--key-file", "elsewhere", "mount", "vault", "mnt"],
    );
    assert!(said.contains("key enable"), "{said}");
    sandbox.ok(&["--key-file", "elsewhere", "key", "enable", "alias/default"]);
    sandbox.ok(&["--key-file", "elsewhere", "mount", "vault", "mnt"]);
}

#[test]
fn a_daemon_shows_no_secret_and_leaves_no_core() {
    let sandbox = Sandbox::new();
    let passphrase = "a passphrase that occurs nowhere else";
    fs::write(sandbox.path("pw"), passphrase).unwrap();
    fs::set_permissions(sandbox.path("pw"), fs::Permissions::from_mode(0o600)).unwrap();
    sandbox.ok(&[
        "--passphrase-file",
        "pw",
        "keystore",
        "init",
        "--argon2-memory",
        "1",
        "--argon2-passes",
        "1",
    ]);
    sandbox.ok(&["--passphrase-file", "pw", "init", "vault"]);
    sandbox.ok(&["--passphrase-file", "pw", "mount", "vault", "mnt"]);
    let pid = info(&sandbox, "mnt")["holder"]["pid"].as_u64().unwrap();
    let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
    for name in ["cmdline", "environ"] {
        let text = proc(name);
        assert!(
            !text
                .windows(passphrase.len())
                .any(|window| window == passphrase.as_bytes()),
            "{name}"
        );
    }
    let limits = String::from_utf8(proc("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // A process of another user that is not dumpable has files in /proc that belong to root; ours is root's anyway, so the
    // daemon must have left the terminal and the directory, which anyone can see.
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        std::path::Path::new("/")
    );
}

#[test]
fn files_are_read_without_fuse() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        let mnt = sandbox.mnt();
        fs::create_dir(mnt.join("dir")).unwrap();
        let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(mnt.join("dir/file"), &content).unwrap();
        fs::set_permissions(mnt.join("dir/file"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", mnt.join("dir/link")).unwrap();
        sandbox.umount();
        let listed: Value =
            serde_json::from_str(&sandbox.ok(&["ls", "vault", "/dir", "--json"])).unwrap();
        let names: Vec<_> = listed["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| &entry["name"])
            .collect();
        assert_eq!(names, ["file", "link"]);
        assert_eq!(listed["entries"][0]["size"], 300_000);
        assert!(sandbox.ok(&["ls", "vault"]).ends_with("dir\n"));
        assert!(
            sandbox.run(&["cat", "vault", "dir/file"]).stdout == content,
            "{suite}"
        );
        fails(&sandbox, 1, &["cat", "vault", "dir/none"]);
        fails(&sandbox, 1, &["cat", "vault", "dir"]);
        fails(&sandbox, 2, &["cat", "vault", "dir/../dir/file"]);
        sandbox.ok(&["export", "vault", "/", "out"]);
        assert!(
            fs::read(sandbox.path("out/dir/file")).unwrap() == content,
            "{suite}"
        );
        assert_eq!(
            fs::metadata(sandbox.path("out/dir/file"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o640
        );
        assert_eq!(
            fs::read_link(sandbox.path("out/dir/link")).unwrap(),
            std::path::Path::new("file")
        );
        fails(&sandbox, 1, &["export", "vault", "/", "out"]);
    }
}

#[test]
fn reading_without_fuse_writes_nothing_to_the_volume() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), "content").unwrap();
    sandbox.umount();
    let listing = || {
        let mut names: Vec<_> = fs::read_dir(sandbox.vault())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let about = entry.metadata().unwrap();
                (
                    entry.file_name(),
                    about.len(),
                    about.modified().unwrap(),
                    fs::read(entry.path()).ok(),
                )
            })
            .collect();
        names.sort();
        names
    };
    let before = listing();
    sandbox.ok(&["ls", "vault"]);
    sandbox.ok(&["cat", "vault", "file"]);
    sandbox.ok(&["mount", "--read-only", "vault", "mnt"]);
    assert_eq!(
        fs::read_to_string(sandbox.mnt().join("file")).unwrap(),
        "content"
    );
    assert!(fs::write(sandbox.mnt().join("file"), "x").is_err());
    assert_eq!(info(&sandbox, "mnt")["mounted"]["read_only"], true);
    sandbox.umount();
    assert!(listing() == before);
}

#[test]
fn rotate_works_mounted_and_not() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), "content").unwrap();
    let rotated = |path: &str| -> Value {
        serde_json::from_str(&sandbox.ok(&["rotate", path, "--json"])).unwrap()
    };
    for (path, to) in [("mnt", 2), ("vault", 3)] {
        let report = rotated(path);
        assert_eq!(
            (&report["to_version"], &report["remaining"]),
            (&to.into(), &0.into()),
            "{report}"
        );
    }
    sandbox.umount();
    let report = rotated("vault");
    assert_eq!(report["from_version"], 3);
    assert_eq!(
        (report["to_version"].as_u64(), report["rewrapped"].as_u64()),
        (Some(4), Some(1))
    );
    assert_eq!(info(&sandbox, "vault")["versions"], serde_json::json!([4]));
    sandbox.mount();
    assert_eq!(
        fs::read_to_string(sandbox.mnt().join("file")).unwrap(),
        "content"
    );
}

#[test]
fn an_older_copy_of_a_volume_is_refused() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    sandbox.umount();
    let copy = |from: &str, to: &str| {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(sandbox.path(from))
            .arg(sandbox.path(to))
            .status();
        assert!(status.unwrap().success());
    };
    copy("vault", "backup");
    sandbox.mount();
    sandbox.umount();
    fs::remove_dir_all(sandbox.vault()).unwrap();
    copy("backup", "vault");
    let said = fails(&sandbox, 10, &["mount", "vault", "mnt"]);
    assert!(said.contains("--expect-volume"), "{said}");
}

#[test]
fn a_daemon_whose_socket_file_was_removed_still_ends_and_lets_the_volume_go() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), "content").unwrap();
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    sandbox.umount(); // cannot wait for the daemon
    let read = || sandbox.run(&["cat", "vault", "file"]);
    let mut tries = 600; // a minute at the most; what counts is that it ends
    while read().status.code() == Some(7) && tries > 0 {
        tries -= 1;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(read().stdout, b"content");
}
