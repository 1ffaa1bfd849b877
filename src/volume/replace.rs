//! Small files of the volume, read whole and replaced atomically. Invariant: at every instant, through any crash, the name
//! holds either the old bytes or the new ones, whole.

use std::io;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::names::{RESERVE, VOLUME, random_tmp};
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
    let size = usize::try_from(file.stat()?.size).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size.min(limit) + 1];
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
    if name == VOLUME && broken(Rule::VolumeFileUnsynced) {
        return Ok(());
    }
    dir.sync()
}

/// As `replace`, in the top directory of a volume and also where the store is full: a file kept in reserve gives its room.
pub(crate) fn replace_always(dir: &Arc<dyn Dir>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    match replace(dir, name, bytes) {
        Err(error) if is_no_room(&error) => from_reserve(dir, name, bytes).map_err(|_| error)?,
        replaced => replaced?,
    }
    if let Err(error) = keep_reserve(dir, bytes.len()) {
        tracing::warn!("no room is kept for the next mount of this volume: {error}");
    }
    Ok(())
}

/// Whether the store had no room: no sign of damage.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// The two change names, so that what the older bytes stand in is the reserve of the next time: nothing is allocated.
fn from_reserve(dir: &Arc<dyn Dir>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    dir.sync()?; // else a power cut could show these bytes, half written, under `name`: an exchange before may not be durable
    let file = dir.open(RESERVE, Access::ReadWrite)?;
    file.write_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    match dir.rename(RESERVE, &**dir, name, RenameMode::Exchange) {
        Err(error) if is_unknown(&error) => {
            dir.rename(RESERVE, &**dir, name, RenameMode::Replace)?;
        }
        exchanged => exchanged?,
    }
    dir.sync()
}

/// Whether a file system has no such rename.
fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)
    )
}

/// Room for a little more than was written last, in whole pages. What is there is given up only for something larger.
fn keep_reserve(dir: &Arc<dyn Dir>, len: usize) -> io::Result<()> {
    let pages = (len + 1024).div_ceil(4096);
    if dir
        .stat_at(RESERVE)
        .is_ok_and(|stat| stat.size.div_ceil(4096) >= pages as u64)
    {
        return Ok(());
    }
    replace(dir, RESERVE, &vec![0; pages * 4096])
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
    if broken(Rule::ReplaceUnsynced) {
        return Ok(());
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Call, FailingStore, MemoryStore, Store};

    const NAME: &[u8] = b"strongroom.mount";

    #[test]
    fn a_full_store_takes_one_replacement_after_the_other() {
        let store = FailingStore::new(Arc::new(MemoryStore::new()));
        let dir = store.root();
        replace_always(&dir, NAME, &[1; 500]).unwrap();
        store.fail_from(&[Call::Create], 0, libc::ENOSPC);
        for round in 2..6 {
            let bytes = vec![round; 480 + usize::from(round) * 10];
            replace_always(&dir, NAME, &bytes).unwrap();
            assert_eq!(read_small(&dir, NAME, 4096).unwrap(), Some(bytes));
        }
    }

    #[test]
    fn without_a_reserve_the_old_bytes_stay_on_a_full_store() {
        let store = FailingStore::new(Arc::new(MemoryStore::new()));
        let dir = store.root();
        replace(&dir, NAME, b"old").unwrap();
        store.fail_from(&[Call::Create], 0, libc::ENOSPC);
        let refused = replace_always(&dir, NAME, b"new").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(read_small(&dir, NAME, 4096).unwrap(), Some(b"old".to_vec()));
    }
}
