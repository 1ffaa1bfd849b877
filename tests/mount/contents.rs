//! Reading and writing: open flags, appending, truncation, files without a name, large files, syncs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::support::{Sandbox, backing_of, cached};
use crate::{errno, in_both, pattern};

fn read_write(path: &std::path::Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.truncate(false).open(path).unwrap()
}

#[test]
fn keeps_contents_of_every_length_over_a_remount() {
    in_both(|sandbox, mnt| {
        let lengths = [0, 1, 15, 16, 4095, 4096, 4097, 131_072, 131_073, 1_500_001];
        for len in lengths {
            fs::write(mnt.join(len.to_string()), pattern(len, len as u64)).unwrap();
        }
        sandbox.remount();
        for len in lengths {
            let path = mnt.join(len.to_string());
            assert_eq!(fs::metadata(&path).unwrap().len(), len as u64);
            assert!(
                fs::read(path).unwrap() == pattern(len, len as u64),
                "{len} bytes"
            );
        }
    });
}

#[test]
fn exclusive_creation_refuses_what_is_there() {
    in_both(|_, mnt| {
        let path = mnt.join("lock");
        let exclusive = || OpenOptions::new().write(true).create_new(true).open(&path);
        exclusive().unwrap();
        assert_eq!(errno(exclusive()), libc::EEXIST);
        assert_eq!(errno(fs::create_dir(&path)), libc::EEXIST);
    });
}

#[test]
fn opening_with_truncation_empties_a_file_for_everybody() {
    in_both(|_, mnt| {
        let path = mnt.join("file");
        fs::write(&path, pattern(10_000, 1)).unwrap();
        let held = File::open(&path).unwrap();
        let cut = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        assert_eq!(held.metadata().unwrap().len(), 0);
        cut.write_all_at(b"new", 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    });
}

#[test]
fn truncation_both_ways_leaves_zeros_where_nothing_was() {
    in_both(|sandbox, mnt| {
        let path = mnt.join("file");
        let data = pattern(20_000, 2);
        fs::write(&path, &data).unwrap();
        let file = read_write(&path);
        file.set_len(5_000).unwrap();
        file.set_len(300_000).unwrap();
        let mut wanted = data[..5_000].to_vec();
        wanted.resize(300_000, 0);
        assert!(fs::read(&path).unwrap() == wanted);
        drop(file);
        sandbox.remount();
        assert!(fs::read(&path).unwrap() == wanted, "after a remount");
    });
}

#[test]
fn appenders_of_two_handles_lose_nothing() {
    in_both(|_, mnt| {
        let path = mnt.join("log");
        let append = || {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)
                .unwrap()
        };
        let (mut one, mut two) = (append(), append());
        let mut wanted = Vec::new();
        for round in 0_u32..200 {
            let line = format!("line {round}\n");
            let file = if round % 2 == 0 { &mut one } else { &mut two };
            file.write_all(line.as_bytes()).unwrap();
            wanted.extend_from_slice(line.as_bytes());
        }
        assert!(fs::read(&path).unwrap() == wanted);
    });
}

#[test]
fn appending_threads_interleave_whole_records() {
    in_both(|_, mnt| {
        let path = mnt.join("log");
        std::thread::scope(|scope| {
            for letter in [b'a', b'b', b'c', b'd'] {
                let path = &path;
                scope.spawn(move || {
                    let mut file = OpenOptions::new()
                        .append(true)
                        .create(true)
                        .open(path)
                        .unwrap();
                    (0..100).for_each(|_| file.write_all(&[letter; 100]).unwrap());
                });
            }
        });
        let log = fs::read(&path).unwrap();
        assert_eq!(log.len(), 4 * 100 * 100);
        assert!(
            log.chunks(100)
                .all(|record| record.iter().all(|byte| *byte == record[0]))
        );
    });
}

#[test]
fn a_file_without_a_name_lives_until_it_is_closed() {
    in_both(|_, mnt| {
        let path = mnt.join("gone");
        let mut file = read_write(&path);
        file.write_all(b"before").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
        file.write_all(&pattern(100_000, 3)).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.len()), (0, 100_006));
        fs::write(&path, b"another").unwrap();
        file.seek(SeekFrom::Start(6)).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == pattern(100_000, 3));
        assert_eq!(fs::read(&path).unwrap(), b"another");
    });
}

#[test]
fn data_beyond_4_gib_and_beyond_1_tib_stays_where_it_was_put() {
    in_both(|sandbox, mnt| {
        let offsets = [0, (4 << 30) - 2_000, (4 << 30) + 5_000, (1 << 40) + 12_345];
        let path = mnt.join("huge");
        let file = read_write(&path);
        for offset in offsets {
            file.write_all_at(&pattern(8_000, offset), offset).unwrap();
        }
        file.sync_all().unwrap();
        drop(file);
        sandbox.remount();
        let file = File::open(&path).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), (1 << 40) + 12_345 + 8_000);
        assert!(
            meta.blocks() * 512 < 64 << 20,
            "a sparse file takes {} blocks",
            meta.blocks()
        );
        let mut read = vec![0; 8_000];
        for offset in offsets {
            file.read_exact_at(&mut read, offset).unwrap();
            let next = offsets
                .iter()
                .find(|next| **next > offset && **next < offset + 8_000);
            let whole = next.map_or(8_000, |next| (next - offset) as usize);
            assert!(
                read[..whole] == pattern(8_000, offset)[..whole],
                "at {offset}"
            );
        }
        file.read_exact_at(&mut read, 1 << 35).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_size_that_no_volume_has_is_too_big() {
    in_both(|_, mnt| {
        let file = read_write(&mnt.join("file"));
        assert_eq!(errno(file.set_len(1 << 51)), libc::EFBIG);
        assert_eq!(file.metadata().unwrap().len(), 0);
    });
}

#[test]
fn direct_reads_and_writes_work() {
    in_both(|_, mnt| {
        let path = mnt.join("direct");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .custom_flags(libc::O_DIRECT);
        let file = options.open(&path).unwrap();
        let data = pattern(65_536, 4);
        file.write_all_at(&data, 0).unwrap();
        let mut read = vec![0; 65_536];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == data);
    });
}

#[test]
fn syncs_of_files_and_directories_succeed() {
    in_both(|_, mnt| {
        let dir = mnt.join("dir");
        fs::create_dir(&dir).unwrap();
        let mut file = File::create(dir.join("file")).unwrap();
        file.write_all(b"x").unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        File::open(&dir).unwrap().sync_all().unwrap();
        File::open(mnt).unwrap().sync_all().unwrap();
    });
}

#[test]
fn a_handle_does_only_what_it_was_opened_for() {
    in_both(|_, mnt| {
        let path = mnt.join("file");
        fs::write(&path, b"content").unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(errno(reader.write_all_at(b"x", 0)), libc::EBADF);
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(errno(writer.read_at(&mut [0; 4], 0)), libc::EBADF);
        assert_eq!(
            errno(OpenOptions::new().write(true).open(mnt)),
            libc::EISDIR
        );
    });
}

/// That less than half of a file is cached.
fn is_not_cached(path: &std::path::Path, size: usize) {
    let (cached, all) = (cached(path), size as u64 / 4096);
    assert!(
        cached < all / 2,
        "{cached} of {all} pages of ciphertext are cached"
    );
}

/// Has the kernel forget what it has cached of a file.
fn forget(path: &std::path::Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(cached(path), 0);
}

/// Writes a file and has the kernel forget it, mounted again; its backing file.
fn written_and_forgotten(sandbox: &Sandbox, path: &std::path::Path, size: usize) -> PathBuf {
    fs::write(path, pattern(size, 5)).unwrap();
    sandbox.umount();
    let backing = backing_of(&sandbox.vault(), size);
    forget(&backing);
    sandbox.mount();
    backing
}

#[test]
fn the_first_byte_of_a_small_file_brings_all_of_it_into_the_cache() {
    const SIZE: usize = 13_000;
    in_both(|sandbox, mnt| {
        let path = mnt.join("small");
        let backing = written_and_forgotten(sandbox, &path, SIZE);
        let mut direct = OpenOptions::new();
        let file = direct
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .unwrap();
        let mut bytes = vec![0; SIZE];
        file.read_exact_at(&mut bytes[..1], 0).unwrap();
        let pages = fs::metadata(&backing).unwrap().len().div_ceil(4096);
        assert_eq!(cached(&backing), pages, "of {pages} pages");
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == pattern(SIZE, 5));
    });
}

#[test]
fn a_file_read_from_one_end_to_the_other_is_cached_once() {
    const SIZE: usize = 48 << 20;
    in_both(|sandbox, mnt| {
        let path = mnt.join("stream");
        let backing = written_and_forgotten(sandbox, &path, SIZE);
        assert!(fs::read(&path).unwrap() == pattern(SIZE, 5));
        is_not_cached(&backing, SIZE);
    });
}

#[test]
fn a_file_written_from_one_end_to_the_other_is_cached_once_and_reads_back() {
    const SIZE: usize = 64 << 20;
    in_both(|sandbox, mnt| {
        let path = mnt.join("stream");
        for seed in [5, 6] {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path);
            let (file, bytes) = (file.unwrap(), pattern(SIZE, seed));
            for (part, at) in bytes.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
                file.write_all_at(part, at).unwrap();
            }
            file.sync_all().unwrap();
            drop(file);
            let backing = backing_of(&sandbox.vault(), SIZE);
            if seed == 5 {
                is_not_cached(&backing, SIZE);
            }
            sandbox.remount();
            assert!(fs::read(&path).unwrap() == bytes, "of {seed}");
        }
    });
}
