//! Overwrites on a full disk: where plain ext4 has room, having allocated it, a mount has too.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::support::daemon::Daemon;
use crate::support::image::{Backed, Ext4Image};
use crate::support::{SUITES, Sandbox};
use crate::{code, fill, pattern};

const LEN: usize = 2_000_000;

/// Files that have all the room they will need.
fn prepare(top: &Path) -> Vec<(File, Vec<u8>)> {
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.open(top.join(name)).unwrap()
    };
    let written = open("written");
    written.write_all_at(&pattern(LEN, 1), 0).unwrap();
    let reserved = open("reserved");
    fallocate(&reserved, FallocateFlags::empty(), 0, LEN as u64).unwrap();
    let grown = open("reserved-after-bytes");
    grown.write_all_at(&pattern(10_000, 2), 0).unwrap();
    fallocate(&grown, FallocateFlags::empty(), 0, LEN as u64).unwrap();
    let mut with_hole = pattern(10_000, 2);
    with_hole.resize(LEN, 0);
    let files = vec![
        (written, pattern(LEN, 1)),
        (reserved, vec![0; LEN]),
        (grown, with_hole),
    ];
    files.iter().for_each(|(file, _)| file.sync_all().unwrap());
    files
}

/// Overwrites ranges of all sizes. The errno of each that failed, with what it was.
fn overwrite(files: &mut [(File, Vec<u8>)], seed: u64) -> Vec<(usize, usize, usize, i32)> {
    let mut failed = Vec::new();
    let mut state = seed;
    let mut below = |limit: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % limit
    };
    for step in 0..150 {
        let n = below(files.len());
        let (file, wanted) = &mut files[n];
        let (offset, longest) = (below(LEN), [1, 5000, 200_000, LEN][step % 4]);
        let length = (1 + below(longest)).min(LEN - offset);
        let data = pattern(length, seed + step as u64);
        match file.write_all_at(&data, offset as u64) {
            Ok(()) => wanted[offset..offset + length].copy_from_slice(&data),
            Err(error) => failed.push((n, offset, length, code(&error))),
        }
        if step % 20 == 0 {
            file.sync_all().unwrap();
        }
    }
    failed
}

fn same(top: &Path, files: &[(File, Vec<u8>)]) -> bool {
    let names = ["written", "reserved", "reserved-after-bytes"];
    names
        .iter()
        .zip(files)
        .all(|(name, (_, wanted))| fs::read(top.join(name)).unwrap() == *wanted)
}

#[test]
fn what_is_allocated_can_be_overwritten_on_a_full_disk() {
    let sandbox = Sandbox::new();
    let plain = Ext4Image::new(&sandbox.path(""), "plain", 64, 4096);
    let mut files = prepare(plain.top());
    fill(plain.top(), 5);
    assert_eq!(overwrite(&mut files, 9), [], "plain ext4 itself");
    drop(files);
    for (suite, sector) in SUITES
        .into_iter()
        .flat_map(|suite| [(suite, 4096), (suite, 512)])
    {
        let backed = Backed::new(suite, 64, sector);
        let suite = format!("{suite}, sectors of {sector}");
        let sandbox = &backed.sandbox;
        let mut daemon = Daemon::of(sandbox);
        let mut files = prepare(&sandbox.mnt());
        fs::create_dir(sandbox.mnt().join("more")).unwrap();
        fill(&sandbox.mnt(), 5);
        assert_eq!(
            overwrite(&mut files, 9),
            [],
            "{suite}: file, offset, length, errno"
        );
        assert!(same(&sandbox.mnt(), &files), "{suite}");
        daemon.kill();
        drop(daemon);
        sandbox.mount();
        assert!(same(&sandbox.mnt(), &files), "{suite}, after a kill");
        sandbox.remount();
        assert!(same(&sandbox.mnt(), &files), "{suite}, mounted again");
        // With the disk full again, on files as settling left them.
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(sandbox.mnt().join(name))
                .unwrap()
        };
        let mut again: Vec<_> = ["written", "reserved", "reserved-after-bytes"]
            .iter()
            .zip(files)
            .map(|(name, (_, wanted))| (open(name), wanted))
            .collect();
        fill(&sandbox.mnt().join("more"), 77);
        assert_eq!(overwrite(&mut again, 10), [], "{suite}, settled");
        assert!(same(&sandbox.mnt(), &again), "{suite}, settled");
    }
}

/// Bytes at the beginning of every group of every file, once more: each group then has a spare slot with its room.
fn touch_each_group(files: &mut [(File, Vec<u8>)]) {
    for (file, wanted) in files {
        for offset in (0..LEN).step_by(32 * 4096) {
            file.write_all_at(b"again", offset as u64).unwrap();
            wanted[offset..offset + 5].copy_from_slice(b"again");
        }
        file.sync_all().unwrap();
    }
}

#[test]
fn without_atomic_pages_a_group_that_was_overwritten_before_can_be_on_a_full_disk() {
    let backed = Backed::new(SUITES[0], 64, 512);
    let sandbox = &backed.sandbox;
    let mut daemon = Daemon::of(sandbox);
    let mut files = prepare(&sandbox.mnt());
    touch_each_group(&mut files);
    fill(&sandbox.mnt(), 5);
    assert_eq!(overwrite(&mut files, 9), [], "file, offset, length, errno");
    assert!(same(&sandbox.mnt(), &files));
    daemon.kill();
    drop(daemon);
    sandbox.mount();
    assert!(same(&sandbox.mnt(), &files), "after a kill");
    sandbox.remount();
    assert!(same(&sandbox.mnt(), &files), "mounted again");
}

/// Where a mount cannot have room for copies, on a disk that writes 512 bytes at a time: what is refused keeps its old bytes.
#[test]
fn an_overwrite_that_finds_no_room_changes_nothing() {
    let backed = Backed::new(SUITES[0], 64, 512);
    let sandbox = &backed.sandbox;
    sandbox.mount();
    let mut files = prepare(&sandbox.mnt());
    fs::create_dir(sandbox.mnt().join("more")).unwrap();
    fill(&sandbox.mnt(), 5);
    let open = |(name, wanted): (&str, Vec<u8>)| {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        (options.open(sandbox.mnt().join(name)).unwrap(), wanted)
    };
    let wanted: Vec<Vec<u8>> = files.drain(..).map(|(_, wanted)| wanted).collect();
    sandbox.umount();
    let copies = sandbox.vault().join("strongroom.redo");
    assert_eq!(fs::metadata(&copies).unwrap().len(), 33 * 4096);
    fs::remove_file(&copies).unwrap();
    fs::create_dir(&copies).unwrap();
    sandbox.mount();
    fill(&sandbox.mnt().join("more"), 77);
    let names = ["written", "reserved", "reserved-after-bytes"];
    let mut files: Vec<_> = names.into_iter().zip(wanted).map(open).collect();
    let before: Vec<Vec<u8>> = files.iter().map(|(_, wanted)| wanted.clone()).collect();
    let failed = overwrite(&mut files, 9);
    println!("{} of 150 overwrites found no room", failed.len());
    assert!(!failed.is_empty());
    assert!(
        failed.iter().all(|(.., errno)| *errno == libc::ENOSPC),
        "{failed:?}"
    );
    // Half of a long overwrite may have gone in before the room ended: each block is old or new, and stays so.
    let shown: Vec<Vec<u8>> = names
        .iter()
        .map(|name| fs::read(sandbox.mnt().join(name)).unwrap())
        .collect();
    assert!(
        failed.iter().any(|(n, offset, len, _)| *len < 5000
            && shown[*n][*offset..offset + len] == before[*n][*offset..offset + len]),
        "a small one that was refused left the old bytes"
    );
    drop(files);
    sandbox.remount();
    for (name, shown) in names.iter().zip(shown) {
        assert!(
            fs::read(sandbox.mnt().join(name)).unwrap() == shown,
            "{name}"
        );
    }
}
