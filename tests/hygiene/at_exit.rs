//! Stops a process at its very end, its memory still there (ptrace(2), PTRACE_EVENT_EXIT).
#![allow(unsafe_code)]

use std::ptr;

/// A process that we trace; let go of when dropped, so that it ends.
pub struct Traced {
    pid: libc::pid_t,
}

impl Traced {
    /// Traces the main thread of a process until it ends. To be used by one thread only, as ptrace demands.
    pub fn until_exit(pid: u32) -> Self {
        let pid = libc::pid_t::try_from(pid).unwrap();
        // SAFETY: PTRACE_SEIZE takes no pointer of ours; its last argument is a number.
        let done = unsafe {
            libc::ptrace(
                libc::PTRACE_SEIZE,
                pid,
                ptr::null_mut::<libc::c_void>(),
                libc::PTRACE_O_TRACEEXIT,
            )
        };
        assert_eq!(done, 0, "ptrace: {}", std::io::Error::last_os_error());
        Self { pid }
    }

    /// Waits until it is about to end. Its other threads have ended or will, none frees memory any more.
    pub fn wait(&self) {
        loop {
            let mut status = 0;
            // SAFETY: `status` is ours for the call.
            let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
            assert_eq!(
                waited,
                self.pid,
                "waitpid: {}",
                std::io::Error::last_os_error()
            );
            assert!(
                libc::WIFSTOPPED(status),
                "it ended without a stop: {status:x}"
            );
            if status >> 8 == libc::SIGTRAP | (libc::PTRACE_EVENT_EXIT << 8) {
                return;
            }
            let signal = if status >> 16 == 0 {
                libc::WSTOPSIG(status)
            } else {
                0
            };
            // SAFETY: PTRACE_CONT takes no pointer of ours.
            unsafe {
                libc::ptrace(
                    libc::PTRACE_CONT,
                    self.pid,
                    ptr::null_mut::<libc::c_void>(),
                    signal,
                )
            };
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // SAFETY: PTRACE_DETACH takes no pointer of ours; where it is gone already, nothing happens.
        unsafe {
            libc::ptrace(
                libc::PTRACE_DETACH,
                self.pid,
                ptr::null_mut::<libc::c_void>(),
                0,
            );
        }
    }
}
