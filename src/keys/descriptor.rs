//! Inherited descriptors by their numbers: one is taken over, or all are kept from children. The only unsafe code of `keys`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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

/// Keeps every descriptor from 3 up but these from the programs that are started from here on: what a shell holds open is not a
/// child's to hold.
///
/// # Errors
/// Where /proc cannot be listed.
pub fn keep_from_children(but: &[&OwnedFd]) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else {
            continue;
        };
        if but.iter().all(|fd| fd.as_raw_fd() != number) {
            // SAFETY: sets a flag, and no descriptor is closed by it; any number may be given.
            let _closed_meanwhile = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}
