//! Moving aside what is left of a file whose header never arrived (FORMAT.md section 4). Invariant: the copy and its name
//! are durable before the remains are cut.

use crate::format::names::random_lost;
use crate::store::{Dir, File};
use crate::volume::error::Result;

const BATCH: usize = 1 << 20;

/// Copies the bytes of `backing` to a new file beside it, syncs that and its directory, then cuts `backing` to nothing.
/// Returns the name of the copy.
pub(super) fn move_aside(backing: &dyn File, dir: &dyn Dir) -> Result<Vec<u8>> {
    let name = random_lost();
    let copy = dir.create(&name, 0o600)?;
    if let Err(error) = copy_all(backing, copy.as_ref()) {
        dir.remove(&name)?;
        return Err(error);
    }
    dir.sync()?;
    backing.set_len(0)?;
    Ok(name)
}

fn copy_all(from: &dyn File, to: &dyn File) -> Result<()> {
    let len = from.stat()?.size;
    to.set_len(len)?;
    let mut buffer = vec![0; BATCH];
    let mut at = 0;
    while let Some(data) = from.next_data(at)?.filter(|data| *data < len) {
        let read = from.read_at(&mut buffer, data)?;
        if read == 0 {
            break;
        }
        to.write_at(buffer.get(..read).unwrap_or_default(), data)?;
        at = data + read as u64;
    }
    Ok(to.sync_all()?)
}
