//! Extended attributes in the kernel's protocol: sizes first, values after, names joined.

use std::sync::Arc;

use fuser::ReplyXattr;

use super::opened::{by_number, is};
use super::served::Adapter;
use crate::volume::{ACCESS_ACL, CAPABILITY, Error, Node, Result, Volume};

/// Names that only the administrator is shown.
const TRUSTED: &[u8] = b"trusted.";

/// setxattr(2).
pub(super) fn set(
    adapter: &Adapter,
    node: &Arc<Node>,
    name: &[u8],
    value: &[u8],
    flags: i32,
) -> Result<()> {
    let (create, replace) = (
        flags & libc::XATTR_CREATE != 0,
        flags & libc::XATTR_REPLACE != 0,
    );
    if create && replace {
        return Err(Error::errno(libc::EINVAL));
    }
    let volume = &adapter.volume;
    // Made twice, the second time would find what the first one left.
    let unconditional = (create || replace)
        && volume.on_condition(|| match (volume.xattr(node, name), create) {
            (Ok(_), true) => Err(Error::errno(libc::EEXIST)),
            (Err(error), true) if is(&error, libc::ENODATA) => Ok(()),
            (found, _) => found.map(drop),
        })?;
    let (create, replace) = (create && !unconditional, replace && !unconditional);
    let done = volume.set_xattr(node, name, value, create, replace);
    match name {
        CAPABILITY => node.capability().may_be_set(),
        ACCESS_ACL => node.set_id().may_be_set(), // its group entry is the mode's: setgid may count now
        _ => {}
    }
    by_number(node, done)
}

/// removexattr(2).
pub(super) fn remove(adapter: &Adapter, node: &Arc<Node>, name: &[u8]) -> Result<()> {
    let volume = &adapter.volume;
    let unconditional = volume.on_condition(|| volume.xattr(node, name).map(drop))?;
    match volume.remove_xattr(node, name) {
        Err(error) if unconditional && is(&error, libc::ENODATA) => Ok(()),
        done => done,
    }
}

/// getxattr(2). The kernel asks for capabilities before the first write to each file.
pub(super) fn value(adapter: &Adapter, node: &Arc<Node>, name: &[u8]) -> Result<Vec<u8>> {
    let look = || by_number(node, adapter.volume.xattr(node, name));
    if name != CAPABILITY {
        return look();
    }
    let found = node.capability().find(|| match look() {
        Err(error) if is(&error, libc::ENODATA) => Ok(None),
        found => found.map(Some),
    });
    found?.ok_or_else(|| Error::errno(libc::ENODATA))
}

/// Removes file capabilities, if there are any.
pub(super) fn drop_capability(volume: &Volume, node: &Arc<Node>) -> Result<()> {
    match volume.remove_xattr(node, CAPABILITY) {
        Err(error) if is(&error, libc::ENODATA) || is(&error, libc::EOPNOTSUPP) => Ok(()),
        done => done,
    }
}

/// Names as listxattr(2) gives them, each with a NUL after it.
pub(super) fn joined(names: &[Vec<u8>], by_root: bool) -> Vec<u8> {
    let mut joined = Vec::new();
    for name in names
        .iter()
        .filter(|name| by_root || !name.starts_with(TRUSTED))
    {
        joined.extend_from_slice(name);
        joined.push(0);
    }
    joined
}

/// The bytes, if they fit into `room`; ERANGE if not. Room 0 asks for the size only.
pub(super) fn fitting(bytes: Vec<u8>, room: u32) -> Result<Vec<u8>> {
    if room != 0 && bytes.len() > room as usize {
        Err(Error::errno(libc::ERANGE))
    } else {
        Ok(bytes)
    }
}

/// Sends the bytes, or their number where room is 0.
pub(super) fn send(reply: ReplyXattr, bytes: &[u8], room: u32) {
    match room {
        0 => reply.size(bytes.len() as u32),
        _ => reply.data(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_trusted_names_to_root_only() {
        let names = [b"user.a".to_vec(), b"trusted.b".to_vec()];
        assert_eq!(joined(&names, true), b"user.a\0trusted.b\0");
        assert_eq!(joined(&names, false), b"user.a\0");
    }

    #[test]
    fn too_little_room_is_said() {
        assert!(is(&fitting(vec![0; 5], 4).unwrap_err(), libc::ERANGE));
        assert_eq!(fitting(vec![0; 5], 0).unwrap().len(), 5);
    }
}
