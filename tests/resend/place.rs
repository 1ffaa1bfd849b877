//! The calls that take `unsafe`: the device put in the place of a session's socket (fuser has no session without a handshake
//! of its own), and signals to one thread.
#![allow(unsafe_code)]

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
