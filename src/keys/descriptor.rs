//! Takes over an inherited descriptor by its number. The only unsafe code of `keys`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The descriptor of this number, which from now on is closed with the value returned.
///
/// # Errors
/// EBADF where no such descriptor is open; EINVAL for a negative number, or 1 and 2, which the program writes to.
pub fn claim(number: i32) -> io::Result<File> {
    if number < 0 || number == 1 || number == 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: F_GETFD only looks; any number may be asked.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the user named it on the command line for this one reader.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}
