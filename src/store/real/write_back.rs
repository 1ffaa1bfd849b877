//! Begins to write back a range of a file. The only unsafe code of `store`: what is safe to call (posix_fadvise DONTNEED) drops
//! pages, too, and waits for every processor.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

/// Asks the kernel to begin with the dirty pages of this range, and does not wait for them. Best effort: whether it failed,
/// the next sync says.
pub(super) fn begin(fd: &OwnedFd, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    // SAFETY: numbers only, and a descriptor that is open for as long as it is borrowed.
    let _best_effort =
        unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}
