//! Copies of volumes, files encrypted anew, and keys that go away, through the program.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::image::Loop;
use support::{SUITES, Sandbox, is_mounted, tool};

/// How long a test waits before it says that something never happened.
const NEVER: Duration = Duration::from_secs(120);

const MODES: [&[&str]; 2] = [&[], &["--share-data-keys"]];

/// A second mount point, taken off with the test.
struct Second<'a>(&'a Sandbox);

impl<'a> Second<'a> {
    fn mount(sandbox: &'a Sandbox, vault: &str) -> Self {
        fs::create_dir_all(sandbox.path("mnt2")).unwrap();
        sandbox.ok(&["mount", vault, "mnt2"]);
        Self(sandbox)
    }

    fn path(&self) -> PathBuf {
        self.0.path("mnt2")
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        if is_mounted(&self.path()) {
            let _ = self.0.run(&["umount", "mnt2"]);
        }
        if is_mounted(&self.path()) {
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(self.path())
                .output();
        }
    }
}

fn content(n: usize) -> Vec<u8> {
    format!("file {n} ").repeat(1 + n * 37 % 4000).into_bytes()
}

fn plant(top: &Path) {
    for dir in 0..5 {
        fs::create_dir(top.join(format!("d{dir}"))).unwrap();
        for file in 0..20 {
            let path = top.join(format!("d{dir}/f{file}"));
            fs::write(&path, content(dir * 20 + file)).unwrap();
        }
    }
    fs::write(top.join("empty"), b"").unwrap();
    let sparse = fs::File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"end", 20_000_000).unwrap();
    sparse.set_len(30_000_000).unwrap();
    fs::hard_link(top.join("d0/f0"), top.join("d1/linked")).unwrap();
    fs::hard_link(top.join("d0/f0"), top.join("n".repeat(255))).unwrap();
    symlink("d0/f0", top.join("link")).unwrap();
    tool(Command::new("mkfifo").arg(top.join("fifo")), "coreutils");
    tool(
        Command::new("setfattr")
            .args(["-n", "user.note", "-v", "a value"])
            .arg(top.join("d0/f1")),
        "attr",
    );
    tool(
        Command::new("setfacl")
            .args(["-m", "u:1234:rw"])
            .arg(top.join("d0/f2")),
        "acl",
    );
    tool(
        Command::new("setfacl")
            .args(["-d", "-m", "u:1234:rx"])
            .arg(top.join("d3")),
        "acl",
    );
    std::os::unix::fs::chown(top.join("d0/f3"), Some(1234), Some(2345)).unwrap();
    fs::set_permissions(top.join("d0/f3"), fs::Permissions::from_mode(0o6711)).unwrap();
    fs::set_permissions(top.join("d2"), fs::Permissions::from_mode(0o1500)).unwrap();
    for (path, time) in [
        ("d0/f1", "2001-02-03 04:05:06.123456789"),
        ("d4", "1969-01-01"),
    ] {
        tool(
            Command::new("touch").args(["-d", time]).arg(top.join(path)),
            "coreutils",
        );
    }
}

/// Everything of a tree but contents: one line an object.
fn list(top: &Path) -> String {
    let format = "%P %y %M %U %G %s %n %T@ %l\n";
    let mut find = Command::new("find");
    find.current_dir(top)
        .args([".", "-mindepth", "1", "-printf", format]);
    let mut lines: Vec<_> = tool(&mut find, "findutils")
        .lines()
        .map(|line| {
            // The size of a directory is the store's matter.
            if line.contains(" d ") {
                line.split(' ')
                    .enumerate()
                    .filter(|(at, _)| *at != 5)
                    .map(|(_, word)| word)
                    .collect::<Vec<_>>()
                    .join(" ")
            } else {
                line.to_owned()
            }
        })
        .collect();
    lines.sort();
    let mut attrs = Command::new("getfattr");
    attrs
        .current_dir(top)
        .args(["-R", "-P", "-d", "-m", "-", "."]);
    let attrs = tool(&mut attrs, "attr");
    let mut blocks: Vec<_> = attrs.split("\n\n").map(str::trim).collect(); // in the order of the listing
    blocks.sort_unstable();
    lines.join("\n") + &blocks.join("\n")
}

fn assert_same(one: &Path, other: &Path) {
    tool(
        Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg("--exclude=fifo")
            .arg(one)
            .arg(other),
        "diffutils",
    );
    assert_eq!(list(one), list(other));
    let inode = |top: &Path, path: &str| fs::metadata(top.join(path)).unwrap().ino();
    for path in ["d1/linked", &"n".repeat(255)] {
        assert_eq!(inode(other, "d0/f0"), inode(other, path));
    }
}

#[test]
fn a_copy_is_the_same_through_a_mount_and_a_volume_of_its_own() {
    for cipher in SUITES {
        for mode in MODES {
            let sandbox = Sandbox::mounted(cipher);
            sandbox.ok(&["key", "create", "alias/other"]);
            plant(&sandbox.mnt());
            sandbox.umount();
            let mut copy = vec!["copy", "--to", "alias/other", "--json"];
            copy.extend(mode);
            copy.extend(["vault", "dest"]);
            let report: serde_json::Value = serde_json::from_str(&sandbox.ok(&copy)).unwrap();
            assert_eq!(report["files"], 102, "{report}");
            assert_eq!(
                (&report["links"], &report["specials"]),
                (&2.into(), &1.into())
            );
            sandbox.ok(&["check", "vault"]);
            sandbox.ok(&["check", "dest"]);
            sandbox.mount();
            let second = Second::mount(&sandbox, "dest");
            assert_same(&sandbox.mnt(), &second.path());
            // Each goes its own way.
            fs::write(sandbox.mnt().join("d0/f5"), b"in the source").unwrap();
            fs::write(second.path().join("d0/f6"), b"in the copy").unwrap();
            fs::remove_file(sandbox.mnt().join("d1/f1")).unwrap();
            sandbox.ok(&["rotate", "mnt"]);
            sandbox.ok(&["rotate", "mnt2"]);
            assert_eq!(fs::read(second.path().join("d0/f5")).unwrap(), content(5));
            assert_eq!(fs::read(sandbox.mnt().join("d0/f6")).unwrap(), content(6));
            assert_eq!(fs::read(second.path().join("d1/f1")).unwrap(), content(21));
            drop(second);
            sandbox.umount();
            sandbox.ok(&["check", "vault"]);
            sandbox.ok(&["check", "dest"]);
        }
    }
}

#[test]
fn a_copy_that_is_killed_is_no_volume_and_is_told_of() {
    for mode in MODES {
        let sandbox = Sandbox::mounted(SUITES[0]);
        sandbox.ok(&["key", "create", "alias/other"]);
        for n in 0..400 {
            fs::write(sandbox.mnt().join(format!("f{n}")), content(n)).unwrap();
        }
        sandbox.umount();
        let mut killed = false;
        for attempt in 0..20 {
            let dest = format!("dest{attempt}");
            let mut command = sandbox.command();
            command
                .args(["copy", "--to", "alias/other"])
                .args(mode)
                .args(["vault", &dest]);
            let mut copy = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let started = Instant::now();
            let entries = || fs::read_dir(sandbox.path(&dest)).map_or(0, Iterator::count);
            while entries() < 20 && copy.try_wait().unwrap().is_none() {
                assert!(started.elapsed() < NEVER);
            }
            copy.kill().unwrap();
            copy.wait().unwrap();
            if sandbox.path(&dest).join("strongroom.volume").exists() {
                sandbox.ok(&["check", &dest]); // it was faster: then it is whole
                continue;
            }
            killed = true;
            assert_eq!(sandbox.run(&["info", &dest]).status.code(), Some(8));
            let again = sandbox.run(&["copy", "--to", "alias/other", "vault", &dest]);
            assert_eq!(again.status.code(), Some(8));
            assert!(String::from_utf8_lossy(&again.stderr).contains("interrupted copy"));
            fs::remove_dir_all(sandbox.path(&dest)).unwrap();
            sandbox.ok(&["copy", "--to", "alias/other", "vault", &dest]);
            sandbox.ok(&["check", &dest]);
            break;
        }
        assert!(killed, "no copy could be killed on its way");
        sandbox.ok(&["check", "vault"]);
    }
}

#[test]
fn a_store_with_reflinks_shares_the_blocks() {
    for cipher in SUITES {
        let sandbox = Sandbox::new();
        let disk = Loop::xfs(&sandbox.path("disk.img"), &sandbox.path("disk"), 512);
        sandbox.ok(&["init", "--cipher", cipher, "disk/vault"]);
        sandbox.ok(&["key", "create", "alias/other"]);
        sandbox.ok(&["mount", "disk/vault", "mnt"]);
        let data: Vec<u8> = (0..40_000_000_u32).map(|at| (at % 251) as u8).collect();
        fs::write(sandbox.mnt().join("big"), &data).unwrap();
        sandbox.umount();
        let used = || {
            let stat = rustix::fs::statvfs(sandbox.path("disk")).unwrap();
            (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        };
        let before = used();
        let report = sandbox.ok(&[
            "copy",
            "--to",
            "alias/other",
            "--share-data-keys",
            "--json",
            "disk/vault",
            "disk/dest",
        ]);
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            (&report["files"], &report["shared"]),
            (&1.into(), &1.into())
        );
        tool(
            Command::new("sync").arg("-f").arg(sandbox.path("disk")),
            "coreutils",
        );
        let taken = used() - before;
        assert!(taken < 10_000_000, "{taken} bytes for a copy of 40 MB");
        {
            let second = Second::mount(&sandbox, "disk/dest");
            assert!(fs::read(second.path().join("big")).unwrap() == data);
            fs::write(second.path().join("big"), b"changed").unwrap();
        }
        sandbox.ok(&["mount", "disk/vault", "mnt"]);
        assert!(fs::read(sandbox.mnt().join("big")).unwrap() == data);
        sandbox.umount();
        sandbox.ok(&["check", "disk/dest"]);
        drop(disk);
        assert!(!is_mounted(&sandbox.path("disk")));
    }
}

#[test]
fn files_are_encrypted_anew_under_a_mount_also_those_that_programs_have_open() {
    for cipher in SUITES {
        let sandbox = Sandbox::mounted(cipher);
        plant(&sandbox.mnt());
        sandbox.remount();
        let before = list(&sandbox.mnt());
        let held = fs::OpenOptions::new()
            .write(true)
            .open(sandbox.mnt().join("d0/f7"))
            .unwrap();
        let inode = fs::metadata(sandbox.mnt().join("d0/f8")).unwrap().ino();
        let refused = sandbox.run(&["rekey-data", "--json", "mnt", "d0", "sparse"]);
        assert_eq!(refused.status.code(), Some(1));
        let report: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
        // In d0: 20 files, one of them linked.
        assert_eq!(
            (&report["files"], &report["refused"]),
            (&20.into(), &1.into()),
            "{report}"
        );
        held.write_all_at(b"FILE", 0).unwrap();
        drop(held);
        let mut changed = content(7);
        changed[..4].copy_from_slice(b"FILE");
        assert_eq!(fs::read(sandbox.mnt().join("d0/f7")).unwrap(), changed);
        for file in (1..20).filter(|file| *file != 7) {
            let path = sandbox.mnt().join(format!("d0/f{file}"));
            assert_eq!(fs::read(&path).unwrap(), content(file));
        }
        assert_eq!(
            fs::metadata(sandbox.mnt().join("d0/f8")).unwrap().ino(),
            inode
        );
        // What is written now is in the new file.
        fs::write(sandbox.mnt().join("d0/f9"), b"after").unwrap();
        sandbox.umount();
        sandbox.ok(&["check", "vault"]);
        sandbox.mount();
        assert_eq!(fs::read(sandbox.mnt().join("d0/f9")).unwrap(), b"after");
        let without = |text: &str| {
            let kept = text
                .lines()
                .filter(|line| !["d0/f7 ", "d0/f9 "].iter().any(|name| line.contains(name)));
            kept.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(without(&list(&sandbox.mnt())), without(&before));
        sandbox.umount();
        sandbox.ok(&["rekey-data", "vault", "d2"]);
        sandbox.ok(&["check", "vault"]);
    }
}

#[test]
fn a_mount_locks_when_its_key_is_disabled_and_can_be_unmounted() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    sandbox.ok(&[
        "mount",
        "-o",
        "on-key-loss=lock,key-check=1s",
        "vault",
        "mnt",
    ]);
    let file = sandbox.mnt().join("file");
    fs::write(&file, b"written before").unwrap();
    symlink("file", sandbox.mnt().join("link")).unwrap();
    assert_eq!(
        fs::read(sandbox.mnt().join("link")).unwrap(),
        b"written before"
    );
    let open = fs::File::open(&file).unwrap();
    sandbox.ok(&["key", "disable", "alias/default"]);
    let started = Instant::now();
    while fs::read_dir(sandbox.mnt())
        .is_ok_and(|mut entries| entries.next().is_some_and(|entry| entry.is_ok()))
    {
        assert!(started.elapsed() < NEVER, "it never locked");
        std::thread::sleep(Duration::from_millis(50));
    }
    let eio = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO))
    };
    eio(fs::read(&file).map(drop));
    // Nor from the kernel's caches, by what is open. The hook runs last: wait for it, then it stays so.
    let started = Instant::now();
    let target = || fs::read_link(sandbox.mnt().join("link"));
    while open.read_at(&mut [0; 4], 0).is_ok() || target().is_ok() {
        assert!(
            started.elapsed() < NEVER,
            "the kernel still gives plaintext out"
        );
    }
    eio(target().map(drop));
    eio(fs::write(sandbox.mnt().join("new"), b"x"));
    drop(open);
    sandbox.ok(&["key", "enable", "alias/default"]);
    eio(fs::read(&file).map(drop)); // until it is unmounted
    sandbox.umount();
    sandbox.ok(&["check", "vault"]);
    sandbox.mount();
    assert_eq!(fs::read(&file).unwrap(), b"written before");
    sandbox.umount();
}
