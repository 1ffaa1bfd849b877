//! Ranges of a file: fallocate, holes, copy_file_range.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};

use crate::{in_both, pattern};

fn filled(path: &Path, len: usize) -> File {
    fs::write(path, pattern(len, 5)).unwrap();
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn punching_leaves_zeros_and_the_size() {
    in_both(|sandbox, mnt| {
        let path = mnt.join("file");
        let file = filled(&path, 1_000_000);
        let before = file.metadata().unwrap().blocks();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, punch, 100_000, 700_001).unwrap();
        let mut wanted = pattern(1_000_000, 5);
        wanted[100_000..800_001].fill(0);
        assert!(fs::read(&path).unwrap() == wanted);
        assert!(
            file.metadata().unwrap().blocks() < before,
            "space was given back"
        );
        drop(file);
        sandbox.remount();
        assert!(fs::read(&path).unwrap() == wanted, "after a remount");
    });
}

#[test]
fn zeroing_a_range_grows_a_file_unless_told_not_to() {
    in_both(|_, mnt| {
        let path = mnt.join("file");
        let file = filled(&path, 10_000);
        let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, keep, 5_000, 10_000).unwrap();
        let mut wanted = pattern(10_000, 5);
        wanted[5_000..].fill(0);
        assert!(fs::read(&path).unwrap() == wanted);
        fallocate(&file, FallocateFlags::ZERO_RANGE, 8_000, 12_000).unwrap();
        wanted.resize(20_000, 0);
        assert!(fs::read(&path).unwrap() == wanted);
    });
}

#[test]
fn reserving_keeps_what_is_there() {
    in_both(|_, mnt| {
        let path = mnt.join("file");
        let file = filled(&path, 10_000);
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 100_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_000);
        fallocate(&file, FallocateFlags::empty(), 5_000, 45_000).unwrap();
        let mut wanted = pattern(10_000, 5);
        wanted.resize(50_000, 0);
        assert!(fs::read(&path).unwrap() == wanted);
        fallocate(&file, FallocateFlags::empty(), 0, 10).unwrap();
        assert_eq!(
            file.metadata().unwrap().len(),
            50_000,
            "reserving inside cuts nothing"
        );
    });
}

#[test]
fn modes_that_move_data_are_refused() {
    in_both(|_, mnt| {
        let file = filled(&mnt.join("file"), 10_000);
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            let refused = fallocate(&file, mode, 0, 4096).unwrap_err();
            assert_eq!(refused.raw_os_error(), libc::EOPNOTSUPP);
        }
    });
}

#[test]
fn holes_and_data_are_found() {
    in_both(|_, mnt| {
        let path = mnt.join("sparse");
        let file = filled(&path, 4096);
        let far = 64 << 20;
        file.write_all_at(&pattern(4096, 6), far).unwrap();
        file.sync_all().unwrap();
        let at = |from| seek(&file, from);
        assert_eq!(at(SeekFrom::Data(0)).unwrap(), 0);
        let hole = at(SeekFrom::Hole(0)).unwrap();
        assert!((4096..far).contains(&hole), "a hole at {hole}");
        let data = at(SeekFrom::Data(hole)).unwrap();
        assert!((hole + 1..=far).contains(&data), "data at {data}");
        assert_eq!(
            at(SeekFrom::Hole(far)).unwrap(),
            far + 4096,
            "the end counts as a hole"
        );
        for past in [SeekFrom::Data(far + 4096), SeekFrom::Hole(far + 5000)] {
            assert_eq!(at(past).unwrap_err(), rustix::io::Errno::NXIO);
        }
    });
}

#[test]
fn copies_of_a_range_show_at_once_through_every_cache() {
    in_both(|_, mnt| {
        let (from, to) = (mnt.join("from"), mnt.join("to"));
        let source = filled(&from, 300_000);
        fs::write(&to, vec![b'-'; 50_000]).unwrap();
        let _cached = fs::read(&to).unwrap();
        let target = OpenOptions::new().write(true).open(&to).unwrap();
        let (mut read_at, mut write_at) = (1_000, 10_000);
        while read_at < 201_000 {
            let left = (201_000 - read_at) as usize;
            let copied = copy_file_range(
                &source,
                Some(&mut read_at),
                &target,
                Some(&mut write_at),
                left,
            );
            assert!(copied.unwrap() > 0);
        }
        let mut wanted = vec![b'-'; 10_000];
        wanted.extend_from_slice(&pattern(300_000, 5)[1_000..201_000]);
        assert!(fs::read(&to).unwrap() == wanted);
        let past = copy_file_range(&source, Some(&mut 300_000), &target, None, 10);
        assert_eq!(past.unwrap(), 0);
    });
}

#[test]
fn a_copy_within_one_file_works_where_ranges_are_apart() {
    in_both(|_, mnt| {
        let path = mnt.join("file");
        let file = filled(&path, 100_000);
        let (mut from, mut to) = (0, 60_000);
        assert_eq!(
            copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 30_000).unwrap(),
            30_000
        );
        let mut wanted = pattern(100_000, 5);
        wanted.copy_within(0..30_000, 60_000);
        assert!(fs::read(&path).unwrap() == wanted);
        let overlap = copy_file_range(&file, Some(&mut 0), &file, Some(&mut 10), 1_000);
        assert_eq!(overlap.unwrap_err(), rustix::io::Errno::INVAL);
    });
}
