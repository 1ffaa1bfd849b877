//! Names between the caller and the store: sealing, and the side files of long names. Knows no nodes.
//!
//! Invariant: the side file of a long name is durable before its entry appears, and goes after it.

use std::io;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::ids::DirId;
use crate::format::names::{self as format, EntryClass, MAX_NAME, StoredName};
use crate::store::Dir;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::replace::{read_small, replace};

/// The longest side file: a sealed name of 255 bytes.
const SIDE_MAX: usize = 16 + MAX_NAME;

/// The stored name of `name` in this directory. ENAMETOOLONG over 255 bytes, EINVAL for what is no name.
pub(crate) fn seal(env: &Env, dir: &DirId, name: &[u8]) -> Result<StoredName> {
    match name {
        b"" | b"." | b".." => Err(Error::errno(libc::EINVAL)),
        _ if name.len() > MAX_NAME => Err(Error::errno(libc::ENAMETOOLONG)),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Error::errno(libc::EINVAL)),
        _ => Ok(format::seal_name(&env.keys()?.name, dir, name)),
    }
}

/// The name behind a stored entry; `None` for our own files.
pub(crate) fn open(
    env: &Env,
    dir: &Arc<dyn Dir>,
    id: &DirId,
    entry: &[u8],
) -> Result<Option<Vec<u8>>> {
    let side = match format::classify(entry) {
        EntryClass::SideFile | EntryClass::Internal => return Ok(None),
        EntryClass::Name => None,
        EntryClass::Long => match read_small(dir, &format::side_file(entry), SIDE_MAX)? {
            Some(bytes) => Some(bytes),
            None => {
                dir.stat_at(entry)?; // ENOENT: the entry went meanwhile, and its side file after it
                return Err(Error::Damaged(
                    "a long name without its side file".to_owned(),
                ));
            }
        },
    };
    Ok(Some(format::open_name(
        &env.keys()?.name,
        id,
        entry,
        side.as_deref(),
    )?))
}

/// Before an entry of this name appears.
pub(crate) fn put_side(dir: &Arc<dyn Dir>, name: &StoredName) -> io::Result<()> {
    match &name.long {
        Some(sealed) if broken(Rule::SideFileUnsynced) => {
            let _ = dir.remove(&format::side_file(&name.entry));
            dir.create(&format::side_file(&name.entry), 0o600)?
                .write_at(sealed, 0)
        }
        Some(sealed) => replace(dir, &format::side_file(&name.entry), sealed),
        None => Ok(()),
    }
}

/// After the entry of this name went, or did not appear. What cannot be removed is clutter, and does not count.
pub(crate) fn drop_side(dir: &Arc<dyn Dir>, entry: &[u8]) {
    if format::classify(entry) == EntryClass::Long
        && dir
            .stat_at(entry)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        let _ = dir.remove(&format::side_file(entry));
    }
}
