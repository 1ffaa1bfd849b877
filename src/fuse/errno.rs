//! From what went wrong to what a program sees.
//!
//! Invariant: no error of the store reaches the kernel as ENOSYS, which would turn the call off for the whole mount (and
//! an fsync that is off succeeds without a sync).

use fuser::Errno;

use crate::volume::Error;

/// The largest errno that the kernel takes from a FUSE server; it drops an answer with a larger one, and the program would
/// wait for ever.
const LARGEST: i32 = 511;

/// The errno for a failed call; what is the store's or the key's fault is logged.
pub(super) fn of(call: &str, error: &Error) -> Errno {
    let code = match error {
        Error::Refused(code) => *code,
        Error::At { error, .. } => return of(call, error),
        Error::Store(cause) => cause.raw_os_error().unwrap_or(libc::EIO),
        Error::Damaged(_) | Error::Key(_) => {
            tracing::error!("{call}: {error}");
            libc::EIO
        }
        Error::InUse(_) | Error::NotAVolume(_) | Error::Pinned(_) => {
            tracing::error!("{call}: {error}");
            libc::EIO
        }
    };
    if code == libc::EIO && matches!(error, Error::Store(_)) {
        tracing::error!("{call}: {error}");
    }
    told(code)
}

/// A code as the kernel may be told it.
fn told(code: i32) -> Errno {
    match code {
        libc::ENOSYS => Errno::EOPNOTSUPP,
        1..=LARGEST => Errno::from_i32(code),
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn never_turns_a_call_off() {
        let error = Error::Store(io::Error::from_raw_os_error(libc::ENOSYS));
        assert_eq!(of("fsync", &error).code(), libc::EOPNOTSUPP);
        assert_eq!(
            of("fsync", &Error::errno(libc::ENOSYS)).code(),
            libc::EOPNOTSUPP
        );
    }

    #[test]
    fn keeps_what_the_store_says() {
        let error = Error::Store(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(of("write", &error).code(), libc::ENOSPC);
    }

    #[test]
    fn makes_an_io_error_of_what_has_no_errno() {
        let short = Error::Store(io::Error::other("short read"));
        let internal = Error::Store(io::Error::from_raw_os_error(512));
        for error in [short, internal, Error::Damaged("block 3".to_owned())] {
            assert_eq!(of("read", &error).code(), libc::EIO);
        }
    }
}
