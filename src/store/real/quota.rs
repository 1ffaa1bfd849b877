//! Asks whether a file system keeps anyone to a quota: quotactl_fd(2), Linux 5.14, which no crate here has.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The same number on every architecture.
const SYS_QUOTACTL_FD: libc::c_long = 443;
/// `Q_GETINFO` of linux/quota.h.
const Q_GETINFO: u32 = 0x80_0005;
/// `USRQUOTA`, `GRPQUOTA`, `PRJQUOTA`.
const TYPES: [u32; 3] = [0, 1, 2];

/// Whether a write to this file may find a quota used up. Where the kernel does not say, it may.
pub(super) fn may_be_on(file: &OwnedFd) -> bool {
    TYPES.into_iter().any(|kind| {
        let mut info = [0_u64; 3]; // `struct if_dqinfo`
        let command = Q_GETINFO << 8 | kind;
        // SAFETY: numbers, and a pointer to a value of this frame that is as large as the kernel's; the descriptor is open for as
        // long as it is borrowed.
        let asked = unsafe {
            libc::syscall(
                SYS_QUOTACTL_FD,
                file.as_raw_fd(),
                command,
                0,
                info.as_mut_ptr(),
            )
        };
        let error = io::Error::last_os_error().raw_os_error();
        // ESRCH: not on. ENOSYS: this file system has none.
        asked == 0 || !matches!(error, Some(libc::ESRCH | libc::ENOSYS))
    })
}
