//! Small files of the volume, read whole and replaced atomically. Invariant: at every instant, through any crash, the name
//! holds either the old bytes or the new ones, whole.

use std::io;
use std::sync::Arc;

use crate::format::names::random_tmp;
use crate::store::{Access, Dir, RenameMode};

/// Reads a file whole; `None` if there is none. Longer than `limit` bytes is InvalidData: nothing of ours is.
pub(crate) fn read_small(
    dir: &Arc<dyn Dir>,
    name: &[u8],
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let file = match dir.open(name, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; limit + 1];
    let length = file.read_at(&mut bytes, 0)?;
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "longer than any file of this kind",
        ));
    }
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// Puts `bytes` under `name`: a hidden file, synced, renamed over it, the directory synced.
pub(crate) fn replace(dir: &Arc<dyn Dir>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let hidden = random_tmp();
    let written = write_new(dir, &hidden, bytes)
        .and_then(|()| dir.rename(&hidden, &**dir, name, RenameMode::Replace));
    if let Err(error) = written {
        let _ = dir.remove(&hidden); // what is left is only clutter: hidden names never count
        return Err(error);
    }
    dir.sync()
}

/// As `replace`; what stood there before is kept, whole and durable, under `older`.
pub(crate) fn replace_keeping(
    dir: &Arc<dyn Dir>,
    name: &[u8],
    older: &[u8],
    bytes: &[u8],
    limit: usize,
) -> io::Result<()> {
    if let Some(before) = read_small(dir, name, limit)? {
        replace(dir, older, &before)?;
    }
    replace(dir, name, bytes)
}

fn write_new(dir: &Arc<dyn Dir>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let file = dir.create(name, 0o600)?;
    file.write_at(bytes, 0)?;
    file.sync_all()
}
