//! An enemy who writes to the backing directory while the volume is mounted. Whatever is done there: no program reads other
//! bytes than were written (GCM-SIV), nothing beyond the backing directory is touched, no call hangs, the daemon lives on,
//! and what was not touched reads as before.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;
#[path = "support/victim.rs"]
mod victim;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::random::Random;
use support::{SUITES, tool};
use victim::*;

/// No call on the mount may take longer; the test's own threads may be slow, so it is a watchdog and decides nothing else.
const HANG: Duration = Duration::from_secs(60);

/// A mounted volume with a target, another file, and a directory with one; and a file outside that nothing may touch.
struct Field {
    victim: Victim,
    outside: PathBuf,
    dir: PathBuf,
}

impl Field {
    fn new() -> Self {
        let victim = Victim::new(SUITES[0]);
        let sandbox = &victim.sandbox;
        sandbox.mount();
        let before = raw_entries(&sandbox.vault());
        fs::create_dir(sandbox.mnt().join("dir")).unwrap();
        fs::write(sandbox.mnt().join("dir/file"), content(3)).unwrap();
        let now = raw_entries(&sandbox.vault());
        let dir = now
            .into_iter()
            .find(|path| path.is_dir() && !before.contains(path))
            .unwrap();
        sandbox.remount();
        let outside = sandbox.path("outside");
        fs::write(&outside, b"not of the volume").unwrap();
        Self {
            victim,
            outside,
            dir,
        }
    }

    fn mnt(&self) -> PathBuf {
        self.victim.sandbox.mnt()
    }

    /// What a program gets of a path of the mount: the bytes, or an error. In a process of its own, so that one that hangs
    /// is seen. A fifo is opened without waiting for a writer.
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let from = format!("if={}", self.mnt().join(name).display());
        let (code, bytes) =
            watched(Command::new("dd").args([&from, "iflag=nonblock", "bs=64K", "status=none"]));
        (code == 0).then_some(bytes)
    }

    /// Everything that programs do with a path; that it ends is what counts. A fifo that the mount shows is one: who opens
    /// it waits for the other side, as with any.
    fn poke(&self, name: &str) {
        let path = self.mnt().join(name);
        for (program, args) in [
            ("ls", vec!["-la"]),
            ("stat", vec![]),
            ("getfattr", vec!["-d"]),
            ("touch", vec![]),
            ("chmod", vec!["u+r"]),
        ] {
            watched(Command::new(program).args(args).arg(&path));
        }
        let (_, kind) = watched(Command::new("stat").args(["-c", "%F"]).arg(&path));
        if kind != b"fifo\n" {
            for program in ["head", "tail"] {
                watched(Command::new(program).arg("-c1").arg(&path));
            }
            let append = format!("printf x >> '{}'", path.display());
            watched(Command::new("sh").args(["-c", &append]));
        }
        watched(
            Command::new("mv")
                .arg(&path)
                .arg(self.mnt().join("renamed")),
        );
        watched(
            Command::new("mv")
                .arg(self.mnt().join("renamed"))
                .arg(&path),
        );
        watched(Command::new("ls").arg("-la").arg(self.mnt()));
    }

    /// What must hold after any attack on the target.
    fn holds(&self, what: &str) {
        let info = self.victim.sandbox.ok(&["info", "--json", "vault"]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert!(info["holder"]["pid"].is_u64(), "{what}: the daemon died");
        assert_eq!(
            fs::read(&self.outside).unwrap(),
            b"not of the volume",
            "{what}: outside"
        );
        assert!(
            self.read("other") == Some(content(2)),
            "{what}: another file"
        );
        let read = self.read("dir/file");
        assert!(
            read == Some(content(3)),
            "{what}: a file in a directory: {:?} bytes",
            read.map(|read| read.len())
        );
        let probe = format!("probe {}", what.len());
        fs::write(self.mnt().join(&probe), what).unwrap();
        assert_eq!(
            self.read(&probe).as_deref(),
            Some(what.as_bytes()),
            "{what}: a new file"
        );
        fs::remove_file(self.mnt().join(&probe)).unwrap();
    }
}

fn raw_entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            !path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("strongroom.")
        })
        .collect()
}

/// Runs a program to its end; one that hangs fails the test. Its exit code and standard output.
fn watched(command: &mut Command) -> (i32, Vec<u8>) {
    use std::io::Read;
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes)
    });
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let bytes = reader.join().unwrap().unwrap();
            return (status.code().unwrap_or(-1), bytes);
        }
        if started.elapsed() > HANG {
            let _ = child.kill();
            panic!("{shown} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make(what: &str, path: &Path, outside: &Path) {
    match what {
        "a symlink to the outside" => std::os::unix::fs::symlink(outside, path).unwrap(),
        "a symlink to nothing" => std::os::unix::fs::symlink("nowhere", path).unwrap(),
        "a symlink to itself" => std::os::unix::fs::symlink(path, path).unwrap(),
        "a directory" => fs::create_dir(path).unwrap(),
        "an empty file" => drop(File::create(path).unwrap()),
        "a fifo" => drop(tool(Command::new("mkfifo").arg(path), "coreutils")),
        "a device" => drop(tool(
            Command::new("mknod").arg(path).args(["c", "1", "5"]),
            "coreutils",
        )), // /dev/zero
        "a sparse file of 2^60 bytes" => {
            // As large as the file system allows, at most 2^60.
            let file = File::create(path).unwrap();
            assert!((40..=60).rev().any(|bits| file.set_len(1 << bits).is_ok()));
        }
        "rubbish" => fs::write(path, vec![0xA5; 700_000]).unwrap(),
        other => panic!("{other}"),
    }
}

const KINDS: [&str; 9] = [
    "a symlink to the outside",
    "a symlink to nothing",
    "a symlink to itself",
    "a directory",
    "an empty file",
    "a fifo",
    "a device",
    "a sparse file of 2^60 bytes",
    "rubbish",
];

fn clear(path: &Path) {
    if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn objects_of_any_other_kind_in_a_files_place_do_no_harm() {
    for fresh in [true, false] {
        let field = Field::new();
        let target = &field.victim.target;
        let saved = field.victim.sandbox.path("saved");
        let bytes = fs::read(target).unwrap();
        for what in KINDS {
            let open = File::open(field.mnt().join("target")).unwrap();
            if !fresh {
                let mut byte = [0];
                let read = open.read_exact_at(&mut byte, 0);
                assert!(read.is_ok(), "before {what}: {read:?}");
            }
            fs::rename(target, &saved).unwrap();
            make(what, target, &field.outside);
            // Through the handle that was open before: the file that was opened, or an error.
            let mut buffer = vec![0; SIZE];
            if open.read_exact_at(&mut buffer, 0).is_ok() {
                assert!(
                    buffer == content(1),
                    "{what}: other bytes through an open handle"
                );
            }
            drop(open);
            match field.read("target") {
                None => {}
                Some(bytes) if bytes.is_empty() => assert!(
                    ["an empty file", "a fifo"].contains(&what),
                    "{what} reads as an empty file"
                ),
                Some(bytes) => assert!(bytes == content(1), "{what}: other bytes"),
            }
            field.poke("target");
            clear(target);
            fs::rename(&saved, target).unwrap();
            // Caches of the kernel may still show what was; no other bytes, however.
            if let Some(mut bytes) = field.read("target") {
                bytes.truncate(SIZE); // `poke` may have come through to it
                let emptied = ["an empty file", "a fifo"].contains(&what)
                    && (bytes.is_empty() || bytes == b"x");
                assert!(bytes == content(1) || emptied, "{what}: put back");
            }
            field.victim.sandbox.umount();
            fs::write(target, &bytes).unwrap();
            field.victim.sandbox.mount();
            assert!(
                field.read("target") == Some(content(1)),
                "{what}: mounted again"
            );
            field.holds(what);
        }
    }
}

#[test]
fn objects_of_any_other_kind_in_a_directorys_place_do_no_harm() {
    let field = Field::new();
    let saved = field.victim.sandbox.path("saved");
    let elsewhere = field.victim.sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("file"), b"of another").unwrap();
    for what in KINDS {
        fs::rename(&field.dir, &saved).unwrap();
        let outside = if what == "a symlink to the outside" {
            &elsewhere
        } else {
            &field.outside
        };
        make(what, &field.dir, outside);
        watched(Command::new("ls").arg("-la").arg(field.mnt().join("dir")));
        watched(Command::new("mkdir").arg(field.mnt().join("dir/new")));
        let write = format!("echo x > '{}'", field.mnt().join("dir/written").display());
        watched(Command::new("sh").args(["-c", &write]));
        let names: Vec<_> = fs::read_dir(&elsewhere).unwrap().collect();
        assert_eq!(names.len(), 1, "{what}: a directory outside was written to");
        clear(&field.dir);
        fs::rename(&saved, &field.dir).unwrap();
        field.victim.sandbox.remount();
        field.holds(what);
    }
}

#[test]
fn swapped_files_and_directories_give_nothing_of_each_other() {
    let field = Field::new();
    let Victim { target, other, .. } = &field.victim;
    let swap = |a: &Path, b: &Path| {
        let third = field.victim.sandbox.path("third");
        fs::rename(a, &third).unwrap();
        fs::rename(b, a).unwrap();
        fs::rename(&third, b).unwrap();
    };
    for seen in [false, true] {
        if seen {
            assert!(field.read("target") == Some(content(1)));
        }
        swap(target, other);
        for (name, own) in [("target", 1), ("other", 2)] {
            // What the kernel has cached may be shown; never the other file.
            if let Some(bytes) = field.read(name) {
                assert!(bytes == content(own), "{name} shows another file");
            }
        }
        field.poke("target");
        swap(target, other);
        field.victim.sandbox.remount();
        field.holds("swapped files");
    }
    let copy = field.dir.with_file_name("A".repeat(40));
    tool(
        Command::new("cp").arg("-a").arg(&field.dir).arg(&copy),
        "coreutils",
    );
    watched(Command::new("ls").arg("-laR").arg(field.mnt()));
    fs::remove_dir_all(&copy).unwrap();
    // A directory in the place of a file and a file in that of a directory.
    swap(target, &field.dir);
    for name in ["target", "dir", "dir/file"] {
        if let Some(bytes) = field.read(name) {
            assert!(bytes == content(1) || bytes == content(3), "{name}");
        }
        field.poke(name);
    }
    swap(target, &field.dir);
    // Renamed in the other place, the directory has an id or a place that does not fit here: a repair keeps what is in it.
    let sandbox = &field.victim.sandbox;
    sandbox.umount();
    sandbox.run(&["check", "--repair", "vault"]);
    sandbox.ok(&["check", "vault"]);
    sandbox.mount();
    let (_, found) = watched(
        Command::new("find")
            .arg(field.mnt())
            .args(["-name", "file"]),
    );
    let found = String::from_utf8(found).unwrap();
    assert!(
        field.read(found.trim_end()) == Some(content(3)),
        "after a repair: {found:?}"
    );
}

#[test]
fn older_headers_states_and_halves_put_back_under_the_mount_give_no_other_bytes() {
    let field = Field::new();
    let target = &field.victim.target;
    let length = target.metadata().unwrap().len();
    let sandbox = &field.victim.sandbox;
    let older = fs::read(target).unwrap();
    // A new version of every second block, and a shorter file.
    let mut expected = content(1);
    let file = File::options()
        .write(true)
        .open(field.mnt().join("target"))
        .unwrap();
    for block in (0..146).step_by(2) {
        let new = &content(8)[block * 4096..(block + 1) * 4096];
        file.write_all_at(new, block as u64 * PAGE).unwrap();
        expected[block * 4096..(block + 1) * 4096].copy_from_slice(new);
    }
    file.sync_all().unwrap();
    drop(file);
    sandbox.remount();
    let newer = fs::read(target).unwrap();
    assert_eq!(length, newer.len() as u64);
    let pieces: [(&str, usize, usize); 8] = [
        ("the header page", 0, 4096),
        ("the core", 0, 512),
        ("the key areas", 512, 1024),
        ("the states", 1536, 512),
        ("records of group 0", 2048, 2048),
        ("a tag page", group_page(1) as usize * 4096, 4096),
        ("some slots", slot_page(1, 0) as usize * 4096, 8 * 4096),
        ("the whole file", 0, older.len()),
    ];
    for opened in [false, true] {
        for (what, at, len) in pieces {
            let held = opened.then(|| File::open(field.mnt().join("target")).unwrap());
            if let Some(held) = &held {
                held.read_exact_at(&mut [0; 100], 0).unwrap();
            }
            edit(target)
                .write_all_at(&older[at..at + len], at as u64)
                .unwrap();
            if let Some(bytes) = field.read("target") {
                // Each block is one of its own two versions: an older one put back is authentic, as documented.
                assert_eq!(bytes.len(), SIZE, "{what}");
                for (block, read) in bytes.chunks(4096).enumerate() {
                    let range = block * 4096..block * 4096 + read.len();
                    let own = read == &expected[range.clone()] || read == &content(1)[range];
                    assert!(own, "{what}: block {block} has bytes that were never there");
                }
            }
            field.poke("target");
            drop(held);
            sandbox.umount();
            fs::write(target, &newer).unwrap();
            sandbox.mount();
            assert!(
                field.read("target").as_ref() == Some(&expected),
                "{what}: put back"
            );
            field.holds(what);
        }
    }
}

#[test]
fn planted_files_of_ours_change_nothing_that_is_mounted() {
    let field = Field::new();
    let vault = field.victim.sandbox.vault();
    let volume = fs::read(vault.join("strongroom.volume")).unwrap();
    let plants: Vec<(&str, PathBuf, Vec<u8>)> = vec![
        ("an id", field.dir.join("strongroom.dir"), vec![7; 32]),
        ("two places", field.dir.join("strongroom.dir"), vec![7; 48]),
        ("an empty id", field.dir.join("strongroom.dir"), Vec::new()),
        (
            "an id at the top",
            vault.join("strongroom.dir"),
            vec![7; 32],
        ),
        (
            "a volume file below",
            field.dir.join("strongroom.volume"),
            volume.clone(),
        ),
        (
            "an empty volume file",
            vault.join("strongroom.volume"),
            Vec::new(),
        ),
        (
            "another volume file",
            vault.join("strongroom.volume"),
            vec![b'{'; 3000],
        ),
        (
            "a long volume file",
            vault.join("strongroom.volume"),
            vec![b' '; 5 << 20],
        ),
        (
            "a mount file",
            vault.join("strongroom.mount"),
            b"{}".to_vec(),
        ),
        ("a lock", vault.join("strongroom.lock"), b"rubbish".to_vec()),
        (
            "a marker",
            vault.join(format!("strongroom.gone.{}", "A".repeat(43))),
            Vec::new(),
        ),
        (
            "a side file",
            vault.join(format!("strongroom.long.{}.name", "A".repeat(43))),
            vec![1; 200],
        ),
        (
            "a long name without one",
            vault.join(format!("strongroom.long.{}", "B".repeat(43))),
            vec![1; 200],
        ),
        ("copies", vault.join("strongroom.redo"), vec![7; 33 << 12]),
        (
            "a hidden file",
            vault.join("strongroom.tmp.0123456789abcdef"),
            vec![1; 200],
        ),
    ];
    for (what, path, bytes) in plants {
        let saved = fs::read(&path).ok();
        fs::write(&path, bytes).unwrap();
        for (name, own) in [("target", 1), ("other", 2), ("dir/file", 3)] {
            if let Some(read) = field.read(name) {
                assert!(read == content(own), "{what}: {name}");
            }
        }
        watched(Command::new("ls").arg("-laR").arg(field.mnt()));
        let new = format!(
            "echo x > '{0}/dir/new'; rm -f '{0}/dir/new'",
            field.mnt().display()
        );
        watched(Command::new("sh").args(["-c", &new]));
        match saved {
            Some(saved) => fs::write(&path, saved).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        field.victim.sandbox.remount();
        field.holds(what);
    }
}

#[test]
fn fifos_in_the_place_of_our_own_files_hang_nothing() {
    let field = Field::new();
    let sandbox = &field.victim.sandbox;
    let vault = sandbox.vault();
    for path in [
        field.dir.join("strongroom.dir"),
        vault.join("strongroom.volume"),
        vault.join("strongroom.mount"),
        vault.join("strongroom.lock"),
        vault.join("strongroom.redo"),
    ] {
        let saved = sandbox.path("saved");
        let was_there = fs::rename(&path, &saved).is_ok();
        tool(Command::new("mkfifo").arg(&path), "coreutils");
        watched(Command::new("ls").arg("-laR").arg(field.mnt()));
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(field.read("other") == Some(content(2)), "{name}");
        sandbox.umount();
        for command in ["check", "info", "ls"] {
            watched(sandbox.command().args([command, "vault"]));
        }
        fs::remove_file(&path).unwrap();
        if was_there {
            fs::rename(&saved, &path).unwrap();
        }
        sandbox.mount();
        field.holds(&name);
    }
}

#[test]
fn bytes_changed_under_open_files_are_errors_or_the_bytes_that_were_written() {
    let field = Field::new();
    let target = field.victim.target.clone();
    let newest = fs::read(&target).unwrap();
    let length = newest.len() as u64;
    let mut random = Random::new(1);
    let (mut right, mut refused) = (0, 0);
    for round in 0..60 {
        let open = File::open(field.mnt().join("target"));
        let raw = edit(&target);
        let rounds = 1 + round % 5;
        for _ in 0..rounds {
            let at = random.next() % length;
            match random.next() % 4 {
                0 => raw.write_all_at(&[random.next() as u8], at).unwrap(),
                1 => raw.write_all_at(&[0; 64], at.min(length - 64)).unwrap(),
                2 => raw.set_len(at).unwrap(),
                _ => raw
                    .write_all_at(&newest[..512], at.min(length - 512))
                    .unwrap(),
            }
        }
        // Drops what the kernel has of the file, so that the daemon is asked.
        if let Ok(open) = &open {
            let _ = Command::new("dd")
                .arg(format!("of={}", field.mnt().join("target").display()))
                .args(["oflag=nocache", "conv=notrunc,nocreat", "count=0"])
                .stderr(Stdio::null())
                .status();
            let mut page = vec![0; 4096];
            for block in 0..SIZE as u64 / PAGE {
                match open.read_exact_at(&mut page, block * PAGE) {
                    Ok(()) => {
                        let at = block as usize * 4096;
                        assert!(
                            page == content(1)[at..at + 4096],
                            "round {round}, block {block}"
                        );
                        right += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        drop(open);
        raw.set_len(length).unwrap();
        raw.write_all_at(&newest, 0).unwrap();
        if round % 10 == 9 {
            field.victim.sandbox.remount();
            field.holds("changed bytes");
        }
    }
    assert!(
        right > 0 && refused > 0,
        "{right} blocks read, {refused} refused"
    );
}
