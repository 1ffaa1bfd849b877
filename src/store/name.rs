//! The rule every store holds for the name of an entry. Knows no store.

use std::io;

/// Longest name of an entry, bytes (Linux NAME_MAX).
pub(super) const NAME_MAX: usize = 255;

/// Refuses what is not one component: empty, `.`, `..`, or with `/` or NUL in it (EINVAL); ENAMETOOLONG over 255 bytes.
pub(super) fn check(name: &[u8]) -> io::Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0)
    {
        return Err(errno(libc::EINVAL));
    }
    if name.len() > NAME_MAX {
        return Err(errno(libc::ENAMETOOLONG));
    }
    Ok(())
}

/// The I/O error of an errno value.
pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
