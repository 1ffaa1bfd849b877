//! Work on objects whose mode shuts out even their owner, for a daemon that is not root.

use std::io;
use std::sync::Arc;

use crate::store::Dir;

/// Runs `work`; where the mode of the entry forbids it to us, with these owner bits added for the moment.
pub(crate) fn with_owner_bits<T>(
    dir: &Arc<dyn Dir>,
    stored: &[u8],
    bits: u32,
    mut work: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let refused = match work() {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
        done => return done,
    };
    let mode = dir.stat_at(stored)?.mode;
    if mode & bits == bits || dir.set_mode_at(stored, mode | bits).is_err() {
        return Err(refused);
    }
    let done = work();
    dir.set_mode_at(stored, mode)?;
    done
}
