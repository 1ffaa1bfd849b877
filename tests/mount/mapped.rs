//! Mappings, shared and private.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::{in_both, pattern};

const LEN: usize = 40_000;

/// Maps a file of `LEN` bytes, lets `work` have the bytes, unmaps.
fn with_map(file: &File, flags: MapFlags, work: impl FnOnce(&mut [u8])) {
    // SAFETY: a fresh mapping, gone before this returns; nobody cuts the file meanwhile.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let start = mmap(null_mut(), LEN, protection, flags, file, 0).unwrap();
        work(std::slice::from_raw_parts_mut(start.cast(), LEN));
        if flags.contains(MapFlags::SHARED) {
            msync(start, LEN, MsyncFlags::SYNC).unwrap();
        }
        munmap(start, LEN).unwrap();
    }
}

fn opened(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn a_shared_mapping_is_the_file() {
    in_both(|sandbox, mnt| {
        let path = mnt.join("mapped");
        fs::write(&path, pattern(LEN, 7)).unwrap();
        let file = opened(&path);
        with_map(&file, MapFlags::SHARED, |bytes| {
            assert!(bytes == pattern(LEN, 7));
            bytes[5_000..15_000].fill(b'm');
            file.write_all_at(b"write", 20_000).unwrap();
            assert_eq!(&bytes[20_000..20_005], b"write");
        });
        let mut wanted = pattern(LEN, 7);
        wanted[5_000..15_000].fill(b'm');
        wanted[20_000..20_005].copy_from_slice(b"write");
        assert!(fs::read(&path).unwrap() == wanted);
        drop(file);
        sandbox.remount();
        assert!(fs::read(&path).unwrap() == wanted, "after a remount");
    });
}

#[test]
fn pages_of_a_mapping_go_where_they_belong_while_a_handle_appends() {
    in_both(|sandbox, mnt| {
        let path = mnt.join("mapped");
        fs::write(&path, vec![b'o'; LEN]).unwrap();
        let append = OpenOptions::new().append(true).open(&path).unwrap();
        let file = opened(&path);
        with_map(&file, MapFlags::SHARED, |bytes| {
            bytes[..9_000].fill(b'm');
            std::io::Write::write_all(&mut &append, b"end").unwrap();
        });
        drop((file, append));
        sandbox.remount();
        let mut wanted = vec![b'o'; LEN];
        wanted[..9_000].fill(b'm');
        wanted.extend_from_slice(b"end");
        assert!(fs::read(&path).unwrap() == wanted);
    });
}

#[test]
fn a_private_mapping_keeps_its_changes_to_itself() {
    in_both(|_, mnt| {
        let path = mnt.join("mapped");
        fs::write(&path, pattern(LEN, 8)).unwrap();
        with_map(&opened(&path), MapFlags::PRIVATE, |bytes| bytes.fill(b'p'));
        assert!(fs::read(&path).unwrap() == pattern(LEN, 8));
    });
}
