//! Extended attributes: `user.`, `security.` and `trusted.` sealed under one stored namespace, POSIX ACLs as the store
//! keeps them, nothing else.

use std::io;
use std::sync::Arc;

use crate::format::texts::{
    XATTR_PREFIX, open_xattr_name, open_xattr_value, seal_xattr_name, seal_xattr_value,
};
use crate::store::{Kind, Xattrs};
use crate::volume::attr::{Target, with_target};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::node::Node;
use crate::volume::sync::locked;

/// The default ACL of a directory, as the kernel names it.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// A file's ACL, as the kernel names it.
pub(crate) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// What an executable file may do that its user may not.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// Linux's limits, bytes.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 * 1024;

/// How an attribute is kept.
enum Keeping {
    /// Under this stored name, sealed.
    Sealed(Vec<u8>),
    /// Under its own name, as it is.
    AsIs,
}

/// The value; ENODATA where there is none.
pub(crate) fn value(volume: &Volume, node: &Arc<Node>, name: &[u8]) -> Result<Vec<u8>> {
    match keeping(volume, name)? {
        Keeping::Sealed(_) if !takes_xattrs(node) => Err(Error::errno(libc::ENODATA)),
        Keeping::Sealed(stored) => {
            let sealed = with_xattrs(volume, node, |xattrs| xattrs.xattr(&stored))?;
            Ok(open_xattr_value(
                &volume.env.keys()?.xattr_value,
                &stored,
                &sealed,
            )?)
        }
        Keeping::AsIs => with_xattrs(volume, node, |xattrs| xattrs.xattr(name)),
    }
}

/// Sets a value. `create`: EEXIST if there is one; `replace`: ENODATA if there is none.
pub(crate) fn set(
    volume: &Volume,
    node: &Arc<Node>,
    name: &[u8],
    value: &[u8],
    create: bool,
    replace: bool,
) -> Result<()> {
    volume.require_writable()?;
    if value.len() > VALUE_MAX {
        return Err(Error::errno(libc::E2BIG));
    }
    match keeping(volume, name)? {
        Keeping::Sealed(_) if !takes_xattrs(node) => Err(Error::errno(libc::EPERM)),
        Keeping::Sealed(stored) => {
            let sealed = seal_xattr_value(&volume.env.keys()?.xattr_value, &stored, value);
            with_xattrs(volume, node, |xattrs| {
                xattrs.set_xattr(&stored, &sealed, create, replace)
            })
        }
        Keeping::AsIs => {
            let done = with_xattrs(volume, node, |xattrs| {
                xattrs.set_xattr(name, value, create, replace)
            });
            forget_inherited(node);
            done
        }
    }
}

/// All names. What cannot be deciphered is logged and left out.
pub(crate) fn names(volume: &Volume, node: &Arc<Node>) -> Result<Vec<Vec<u8>>> {
    list(volume, node, false)
}

/// All names, for who must not miss any: one that cannot be deciphered is an error.
pub(crate) fn names_whole(volume: &Volume, node: &Arc<Node>) -> Result<Vec<Vec<u8>>> {
    list(volume, node, true)
}

fn list(volume: &Volume, node: &Arc<Node>, whole: bool) -> Result<Vec<Vec<u8>>> {
    if node.kind() == Kind::Symlink {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for stored in with_xattrs(volume, node, |xattrs| xattrs.xattr_names())? {
        if stored == ACCESS_ACL || stored == DEFAULT_ACL {
            names.push(stored);
        } else if stored.starts_with(XATTR_PREFIX) {
            match open_xattr_name(&volume.env.keys()?.xattr_name, &stored) {
                Ok(name) => names.push(name),
                Err(error) if whole => return Err(error.into()),
                Err(error) => tracing::warn!(
                    "an extended attribute of inode {} is left out: {error}",
                    node.ino()
                ),
            }
        }
    }
    Ok(names)
}

/// Removes one; ENODATA where there is none.
pub(crate) fn remove(volume: &Volume, node: &Arc<Node>, name: &[u8]) -> Result<()> {
    volume.require_writable()?;
    match keeping(volume, name)? {
        Keeping::Sealed(_) if !takes_xattrs(node) => Err(Error::errno(libc::EPERM)),
        Keeping::Sealed(stored) => with_xattrs(volume, node, |xattrs| xattrs.remove_xattr(&stored)),
        Keeping::AsIs => {
            let done = with_xattrs(volume, node, |xattrs| xattrs.remove_xattr(name));
            forget_inherited(node);
            done
        }
    }
}

/// Drops file capabilities, as a write or chown by an ordinary user does.
pub(crate) fn drop_capability(volume: &Volume, target: &Target) -> Result<()> {
    let stored = seal_xattr_name(&volume.env.keys()?.xattr_name, CAPABILITY);
    match target.with_xattrs(|xattrs| xattrs.remove_xattr(&stored)) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// Whether a stored attribute is the volume's: sealed, or an ACL.
pub(crate) fn is_kept(stored: &[u8]) -> bool {
    stored == ACCESS_ACL || stored == DEFAULT_ACL || stored.starts_with(XATTR_PREFIX)
}

fn keeping(volume: &Volume, name: &[u8]) -> Result<Keeping> {
    if name == ACCESS_ACL || name == DEFAULT_ACL {
        return Ok(Keeping::AsIs);
    }
    let spaces: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
    let space = spaces.into_iter().find(|space| name.starts_with(space));
    match space {
        None => Err(Error::errno(libc::EOPNOTSUPP)),
        Some(space) if space.len() == name.len() => Err(Error::errno(libc::EINVAL)),
        Some(_) => {
            let stored = seal_xattr_name(&volume.env.keys()?.xattr_name, name);
            // Sealed, a name of more than 163 bytes exceeds what the store takes.
            if stored.len() > NAME_MAX {
                Err(Error::errno(libc::ERANGE))
            } else {
                Ok(Keeping::Sealed(stored))
            }
        }
    }
}

/// The stored namespace is `user.`, which Linux has on files and directories only.
fn takes_xattrs(node: &Node) -> bool {
    matches!(node.kind(), Kind::File | Kind::Dir)
}

fn forget_inherited(node: &Node) {
    if let Ok(part) = node.dir() {
        *locked(&part.inherit) = None;
    }
}

fn with_xattrs<T>(
    volume: &Volume,
    node: &Arc<Node>,
    work: impl FnOnce(&dyn Xattrs) -> io::Result<T>,
) -> Result<T> {
    with_target(volume, node, |target| Ok(target.with_xattrs(work)?))
}
