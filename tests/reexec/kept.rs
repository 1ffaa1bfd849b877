//! What programs hold while the mount goes to another process: files, also without a name, mappings, locks, directories.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use strongroom::fuse::control::Client;

use crate::lives::Map;
use crate::support::daemon::Daemon;
use crate::support::{SUITES, Sandbox};
use crate::{ends_whole, ends_without_a_word, pid, reexec, socket};

fn opened(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Files and directories held open over changes of the process.
struct Held {
    mnt: PathBuf,
    named: File,
    nameless: File,
    moved: File,
    replaced: File,
    append: File,
    forbidden: File,
    map: Map,
    numbers: Vec<(PathBuf, u64)>,
}

impl Held {
    fn in_mount(mnt: &Path) -> Self {
        let at = |name: &str| mnt.join(name);
        fs::create_dir_all(at("dir/below/far")).unwrap();
        let write = |name: &str, byte: u8, len: usize| {
            let file = opened(&at(name));
            file.write_all_at(&vec![byte; len], 0).unwrap();
            file
        };
        let named = write("dir/named", 1, 70_000);
        let nameless = write("nameless", 2, 300_000);
        fs::remove_file(at("nameless")).unwrap();
        nameless.write_all_at(&[22; 5_000], 100_000).unwrap();
        let moved = write("moving", 3, 10_000);
        fs::rename(at("moving"), at("dir/below/moved")).unwrap();
        let replaced = write("replaced", 4, 20_000);
        write("replacing", 5, 20_000);
        fs::rename(at("replacing"), at("replaced")).unwrap();
        let append = OpenOptions::new()
            .append(true)
            .create(true)
            .open(at("log"))
            .unwrap();
        let forbidden = write("forbidden", 6, 100);
        fs::set_permissions(at("forbidden"), fs::Permissions::from_mode(0o000)).unwrap();
        let mapped = write("mapped", 0, 40_000);
        symlink("dir/named", at("link")).unwrap();
        fs::hard_link(at("dir/named"), at("other")).unwrap();
        fs::rename(at("dir/below"), at("below")).unwrap();
        let names = [
            "dir",
            "dir/named",
            "below",
            "below/far",
            "below/moved",
            "link",
            "log",
        ];
        let number = |name: &&str| (at(name), fs::symlink_metadata(at(name)).unwrap().ino());
        Self {
            mnt: mnt.to_owned(),
            named,
            nameless,
            moved,
            replaced,
            append,
            forbidden,
            map: Map::of(&mapped, 40_000),
            numbers: names.iter().map(number).collect(),
        }
    }

    /// Changes everything a little, and looks at it. `round`: from 1, no greater than 50.
    fn used(&mut self, round: usize) {
        let byte = round as u8;
        self.named.write_all_at(&[byte; 100], 5_000).unwrap();
        let mut wanted = vec![1; 70_000];
        wanted[5_000..5_100].fill(byte);
        assert!(bytes(&self.named) == wanted);
        assert!(fs::read(self.mnt.join("link")).unwrap() == wanted);
        assert!(fs::read(self.mnt.join("other")).unwrap() == wanted);

        self.nameless.write_all_at(&[byte; 9_000], 200_000).unwrap();
        self.nameless.set_len(300_000 + round as u64).unwrap();
        let mut wanted = vec![2; 300_000];
        wanted[100_000..105_000].fill(22);
        wanted[200_000..209_000].fill(byte);
        wanted.resize(300_000 + round, 0);
        assert!(bytes(&self.nameless) == wanted);
        self.nameless.sync_all().unwrap();
        assert_eq!(self.nameless.metadata().unwrap().nlink(), 0);
        self.nameless.set_len(300_000).unwrap();

        assert!(bytes(&self.moved) == vec![3; 10_000]);
        assert!(bytes(&self.replaced) == vec![4; 20_000]);
        assert!(fs::read(self.mnt.join("replaced")).unwrap() == vec![5; 20_000]);
        self.append.write_all(&[byte]).unwrap();
        let wanted: Vec<_> = (1..=byte).collect();
        assert_eq!(fs::read(self.mnt.join("log")).unwrap(), wanted);
        self.forbidden.rewind().unwrap();
        let mut read = Vec::new();
        self.forbidden.read_to_end(&mut read).unwrap();
        assert_eq!(read, [6; 100]);

        assert!(self.map.bytes().iter().all(|seen| *seen == byte - 1));
        self.map.bytes().fill(byte);
        if round.is_multiple_of(2) {
            self.map.sync().unwrap();
        }
        for (path, number) in &self.numbers {
            assert_eq!(
                fs::symlink_metadata(path).unwrap().ino(),
                *number,
                "{}",
                path.display()
            );
        }
        let far = self.mnt.join("below/far").join(round.to_string());
        fs::write(&far, b"new").unwrap();
        fs::rename(&far, self.mnt.join("dir").join(round.to_string())).unwrap();
        let listed = fs::read_dir(self.mnt.join("dir")).unwrap().count();
        assert_eq!(listed, 1 + round, "all of them, and the one that is named");
    }
}

fn is_kept(suite: &str, options: &str) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.mount_with(options);
    let mut held = Held::in_mount(&sandbox.mnt());
    held.used(1);
    for round in 2..8 {
        reexec(&sandbox);
        held.used(round);
    }
    reexec(&sandbox);
    drop(held);
    reexec(&sandbox);
    let log = fs::read(sandbox.mnt().join("log")).unwrap();
    assert_eq!(log, [1, 2, 3, 4, 5, 6, 7]);
    ends_without_a_word(&sandbox);
    sandbox.mount();
    assert!(fs::read(sandbox.mnt().join("mapped")).unwrap() == vec![7; 40_000]);
    assert!(fs::read(sandbox.mnt().join("below/moved")).unwrap() == vec![3; 10_000]);
}

#[test]
fn what_is_open_stays_open_under_gcm_siv() {
    is_kept(SUITES[0], "rw");
}

#[test]
fn what_is_open_stays_open_under_xts() {
    is_kept(SUITES[1], "rw");
}

#[test]
fn what_is_open_stays_open_with_a_writeback_cache_under_gcm_siv() {
    is_kept(SUITES[0], "writeback,max-threads=2");
}

#[test]
fn what_is_open_stays_open_with_a_writeback_cache_under_xts() {
    is_kept(SUITES[1], "writeback");
}

/// The store gives the number of a removed file to the next one, while the kernel still knows the first.
#[test]
fn numbers_that_were_given_again_stay_two() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        let at = |name: String| sandbox.mnt().join(name);
        let held: Vec<_> = (0..20)
            .map(|number| {
                let path = at(format!("gone-{number}"));
                let file = opened(&path);
                file.write_all_at(&[number; 3_000], 0).unwrap();
                fs::remove_file(&path).unwrap();
                fs::write(at(format!("new-{number}")), [100 + number; 3_000]).unwrap();
                file
            })
            .collect();
        let number = |file: &File| file.metadata().unwrap().ino();
        let before: Vec<_> = held.iter().map(number).collect();
        reexec(&sandbox);
        fs::create_dir(at("after".to_owned())).unwrap();
        assert_eq!(held.iter().map(number).collect::<Vec<_>>(), before);
        for (number, file) in (0..20).zip(&held) {
            assert!(bytes(file) == vec![number; 3_000]);
            let new = fs::read(at(format!("new-{number}"))).unwrap();
            assert!(new == vec![100 + number; 3_000]);
        }
        drop(held);
        ends_whole(&sandbox);
    }
}

#[test]
fn a_mount_that_is_read_only_stays_so() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        fs::write(sandbox.mnt().join("file"), b"text").unwrap();
        sandbox.umount();
        sandbox.mount_with("ro");
        let file = File::open(sandbox.mnt().join("file")).unwrap();
        reexec(&sandbox);
        assert_eq!(bytes(&file), b"text");
        let refused = fs::write(sandbox.mnt().join("new"), b"").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        drop(file);
        ends_whole(&sandbox);
    }
}

#[test]
fn the_next_process_answers_the_control_socket_and_holds_the_lock() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let first = pid(&sandbox);
    reexec(&sandbox);
    let rotation = Client::connect(&socket(&sandbox)).unwrap();
    let rotation = rotation.rotate(&mut |_| {}).unwrap();
    assert_eq!((rotation.headers, rotation.remaining), (1, 0));
    fs::create_dir(sandbox.path("second")).unwrap();
    let refused = sandbox.run(&["mount", "vault", "second"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(7), "{said}");
    assert!(
        said.contains(&format!("process {} ", pid(&sandbox))),
        "{said}"
    );
    let gone = |pid: u64| !Path::new(&format!("/proc/{pid}/fd/0")).exists();
    for _ in 0..500 {
        if gone(first) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(gone(first), "the first process ended");
    reexec(&sandbox);
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    ends_whole(&sandbox);
}

/// As `mount`, it asks for what opens the volume: a daemon keeps nothing of that.
#[test]
fn a_wrong_secret_is_refused_before_anything_stops() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let first = pid(&sandbox);
    fs::write(sandbox.path("wrong"), [7; 32]).unwrap();
    let wrong = sandbox.path("wrong");
    let refused = sandbox.run(&["--key-file", wrong.to_str().unwrap(), "reexec", "mnt"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(pid(&sandbox), first);
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    let refused = sandbox.run(&["reexec", "vault"]);
    assert_eq!(refused.status.code(), Some(11), "{refused:?}");
    ends_whole(&sandbox);
}

/// Whoever started it would take its end for the mount's.
#[test]
fn a_mount_in_the_foreground_is_not_given_away() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let _daemon = Daemon::of(&sandbox);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let refused = sandbox.run(&["reexec", "mnt"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(14), "{said}");
    assert!(said.contains("foreground"), "{said}");
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
}

/// A program that waits in the mount, works in it and has the daemon's command run there.
#[test]
fn a_command_run_in_the_mount_does_not_wait_for_itself() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::create_dir(sandbox.mnt().join("dir")).unwrap();
    let before = pid(&sandbox);
    let program = sandbox.command();
    let mut command = Command::new(program.get_program());
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let out = File::create(sandbox.mnt().join("out")).unwrap();
    command.current_dir(sandbox.mnt().join("dir")).stdout(out);
    let done = command.arg("reexec").arg(sandbox.mnt()).output().unwrap();
    drop(command); // and what it holds
    assert!(done.status.success(), "{done:?}");
    assert_ne!(pid(&sandbox), before);
    ends_whole(&sandbox);
}

/// What a shell holds open in the mount is not the daemon's, which could never be unmounted with it.
#[test]
fn a_daemon_holds_nothing_of_the_shell_that_starts_it() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let program = sandbox.command();
    let mut shell = Command::new("sh");
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let before = pid(&sandbox);
    let script = "exec 7<mnt/file; \"$0\" reexec mnt";
    let done = shell
        .current_dir(sandbox.mnt().parent().unwrap())
        .args(["-c", script])
        .arg(program.get_program())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_ne!(pid(&sandbox), before);
    ends_whole(&sandbox);
}
