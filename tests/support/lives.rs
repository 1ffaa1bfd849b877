//! What goes on in a mount while its server changes under it: any error, and any byte that is not what was written, ends a test.
#![allow(unsafe_code)] // shared mappings

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that goes on in a directory until it is told to stop, once at least; how often it was done.
pub type Life = fn(&Path, usize, &AtomicBool) -> u64;

/// One file's life over and over; any error, and any byte that is not what was written, ends the test.
pub fn lives(mnt: &Path, who: usize, stop: &AtomicBool) -> u64 {
    let mut round = 0;
    while round == 0 || !stop.load(Ordering::Relaxed) {
        round += 1;
        let (first, second) = (mnt.join(format!("{who}-a")), mnt.join(format!("{who}-b")));
        let text = format!("{who} {round} ").repeat(1 + round as usize % 3000);
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true);
        let mut file = options.open(&first).expect("an exclusive creation");
        file.write_all(text.as_bytes()).expect("a write");
        if round % 4 == 0 {
            file.sync_all().expect("an fsync");
        }
        fs::rename(&first, &second).expect("a rename");
        assert_eq!(
            options.open(&second).unwrap_err().raw_os_error(),
            Some(libc::EEXIST)
        );
        drop(file);
        assert_eq!(fs::read_to_string(&second).expect("a read"), text);
        fs::remove_file(&second).expect("an unlink");
        assert_eq!(
            fs::remove_file(&second).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
    }
    round
}

/// As `lives`, of files that take requests of the greatest length.
pub fn large_lives(mnt: &Path, who: usize, stop: &AtomicBool) -> u64 {
    let name = mnt.join(format!("{who}-large"));
    let mut round = 0;
    while round == 0 || !stop.load(Ordering::Relaxed) {
        round += 1;
        let bytes = vec![(round % 251) as u8; 12 << 20];
        fs::write(&name, &bytes).expect("a large write");
        assert!(fs::read(&name).expect("a large read") == bytes);
    }
    fs::remove_file(&name).expect("an unlink");
    round
}

/// A shared mapping that is written, synced and read while the server dies.
pub fn mapped_lives(mnt: &Path, who: usize, stop: &AtomicBool) -> u64 {
    let name = mnt.join(format!("{who}-mapped"));
    fs::write(&name, vec![0; 1 << 20]).expect("a write");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&name)
        .unwrap();
    let mut map = Map::of(&file, 1 << 20);
    let mut round = 0;
    while round == 0 || !stop.load(Ordering::Relaxed) {
        round += 1;
        let byte = (round % 251) as u8;
        map.bytes().fill(byte);
        map.sync().expect("an msync");
        let mut seen = vec![0; 1 << 20];
        file.read_exact_at(&mut seen, 0).expect("a read");
        assert!(seen.iter().all(|seen| *seen == byte));
    }
    drop(map);
    fs::remove_file(&name).expect("an unlink");
    round
}

/// A shared mapping of a file, writable.
pub struct Map {
    at: *mut libc::c_void,
    len: usize,
}

impl Map {
    /// Maps the first bytes, which the file has and keeps.
    pub fn of(file: &File, len: usize) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self { at, len }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped so long, and borrowed from its one owner.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }

    pub fn sync(&mut self) -> io::Result<()> {
        // SAFETY: the whole of a living mapping.
        match unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, used by nobody any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}
