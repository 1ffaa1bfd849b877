//! Asks how much of a file is in the kernel's page cache: cachestat(2), Linux 6.5, which no crate here has.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

/// The same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`.
#[repr(C)]
struct Range {
    off: u64,
    len: u64,
}

/// `struct cachestat`: pages.
#[repr(C)]
#[derive(Default)]
struct Found {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Pages of this range in the cache; `None` where the kernel does not say.
pub(super) fn pages(fd: &OwnedFd, offset: u64, len: u64) -> Option<u64> {
    let range = Range { off: offset, len };
    let mut found = Found::default();
    // SAFETY: both pointers are to values of this frame laid out as the kernel's, alive and unshared during the call; the
    // descriptor is open for as long as it is borrowed.
    let asked = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            &raw const range,
            &raw mut found,
            0,
        )
    };
    (asked == 0).then_some(found.cached)
}
