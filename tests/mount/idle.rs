//! Files that programs have open and leave alone: the kernel opened them by itself, and the daemon closes what nobody uses.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::Sandbox;
use crate::support::daemon::Daemon;
use crate::{SUITES, errno};

/// More than the daemon waits before it closes a file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files of the backing directory that the daemon has open, and how many of them have no name.
fn held(daemon: &Daemon, vault: &Path) -> (usize, usize) {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let paths = descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
    let ours: Vec<_> = paths
        .filter(|path| path.starts_with(vault) && !path.is_dir())
        .filter(|path| !path.to_string_lossy().contains("/strongroom."))
        .collect();
    let removed = ours
        .iter()
        .filter(|path| path.to_string_lossy().ends_with(" (deleted)"));
    (ours.len(), removed.count())
}

fn wait_for(daemon: &Daemon, vault: &Path, wanted: (usize, usize)) {
    let begun = Instant::now();
    while held(daemon, vault) != wanted {
        let now = held(daemon, vault);
        assert!(begun.elapsed() < PATIENCE, "{now:?} open, not {wanted:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn reads(file: &File, wanted: &[u8]) {
    let mut bytes = vec![0; 100];
    let len = file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..len], wanted);
}

/// Runs a test with a daemon of each suite, its mount and its backing directory; afterwards nothing is damaged.
fn in_both(test: impl Fn(&Daemon, &Path, &Path)) {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        let daemon = Daemon::of(&sandbox);
        test(&daemon, &sandbox.mnt(), &sandbox.vault());
        drop(daemon);
        sandbox.ok(&["check", "vault"]);
    }
}

#[test]
fn a_file_that_was_left_alone_is_there_whatever_became_of_its_name() {
    in_both(|daemon, mnt, vault| {
        let path = |name: &str| mnt.join(name);
        let names = [
            "stays",
            "removed",
            "replaced",
            "linked",
            "moved",
            "read-only",
            "cut",
        ];
        for name in names {
            fs::write(path(name), name).unwrap();
        }
        fs::write(path("other"), "other").unwrap();
        fs::create_dir(path("dir")).unwrap();
        let files = names.map(|name| open(&path(name)));
        wait_for(daemon, vault, (0, 0));
        fs::hard_link(path("linked"), path("dir/link")).unwrap();
        fs::remove_file(path("linked")).unwrap();
        fs::remove_file(path("removed")).unwrap();
        fs::rename(path("other"), path("replaced")).unwrap();
        fs::rename(path("moved"), path("dir/moved")).unwrap();
        fs::rename(path("dir"), path("elsewhere")).unwrap();
        fs::set_permissions(path("read-only"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::write(path("cut"), "cu").unwrap();
        wait_for(daemon, vault, (2, 2));
        for (file, name) in files.iter().zip(names) {
            let (content, links) = match name {
                "cut" => ("cu", 1),
                "removed" | "replaced" => (name, 0),
                name => (name, 1),
            };
            reads(file, content.as_bytes());
            assert_eq!(file.metadata().unwrap().nlink(), links, "{name}");
            file.write_all_at(b"X", 0).unwrap();
            file.sync_all().unwrap();
        }
        wait_for(daemon, vault, (2, 2));
        for (file, name) in files.iter().zip(names) {
            let content = if name == "cut" { "cu" } else { name };
            reads(file, &[b"X", &content.as_bytes()[1..]].concat());
            file.set_len(1).unwrap();
            reads(file, b"X");
        }
        drop(files);
        wait_for(daemon, vault, (0, 0));
        assert_eq!(errno(fs::read(path("removed"))), libc::ENOENT);
        assert_eq!(fs::read(path("elsewhere/link")).unwrap(), b"X");
    });
}

#[allow(unsafe_code)]
fn map(file: &File) -> memmap2::MmapMut {
    // SAFETY: nobody else changes the file while it is mapped.
    unsafe { memmap2::MmapMut::map_mut(file).unwrap() }
}

#[test]
fn a_mapping_that_was_left_alone_is_written_where_its_file_is() {
    in_both(|daemon, mnt, vault| {
        fs::write(mnt.join("f"), vec![7; 8192]).unwrap();
        let file = open(&mnt.join("f"));
        let mut map = map(&file);
        drop(file);
        wait_for(daemon, vault, (0, 0));
        fs::rename(mnt.join("f"), mnt.join("g")).unwrap();
        map[5000] = 9;
        map.flush().unwrap();
        wait_for(daemon, vault, (0, 0));
        fs::remove_file(mnt.join("g")).unwrap();
        map[1] = 8;
        map.flush().unwrap();
        assert_eq!((map[0], map[1], map[5000]), (7, 8, 9));
        wait_for(daemon, vault, (1, 1));
        drop(map);
        wait_for(daemon, vault, (0, 0));
    });
}
