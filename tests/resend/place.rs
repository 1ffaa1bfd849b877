//! The calls that take `unsafe`: the device put in the place of a session's socket (fuser has no session without a handshake
//! of its own), shared mappings, and signals to one thread.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

/// Makes `place` another name of what `device` is.
pub fn put(device: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open; the number stays its owner's, who goes on to use it for what it now stands for.
    match unsafe { libc::dup3(device.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
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

extern "C" fn nothing(_: libc::c_int) {}

/// Sends a thread a signal that interrupts what it waits for and does nothing else.
pub fn interrupt<T>(thread: &JoinHandle<T>) {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a zeroed sigaction is one with no flag (SA_RESTART neither) and an empty mask; the handler does nothing; the
    // thread was not joined.
    let sent = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut());
        libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1)
    };
    assert_eq!(sent, 0);
}
