//! Begins to write back a range of a file. Unsafe because what is safe to call (posix_fadvise DONTNEED) drops
//! pages, too, and waits for every processor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Asks the kernel to begin with the dirty pages of this range, and does not wait for them. Where that is not known, or not
/// allowed, nothing is done.
pub(super) fn begin(fd: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Ok(());
    };
    // SAFETY: numbers only, and a descriptor that is open for as long as it is borrowed.
    let begun =
        unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if begun == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}
