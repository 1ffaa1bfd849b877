//! Extended attributes of a real object: of an open one by its descriptor, of an entry by
//! `/proc/self/fd/<directory>/<name>` with the `l*xattr` calls, which do not follow the last component. The name is one
//! component and the directory is pinned by its descriptor, so the path cannot lead elsewhere. Needs /proc mounted.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::retry;
use crate::store::Xattrs;

/// Room tried first for a value; most are shorter.
const FIRST_ROOM: usize = 256;
/// Longest value or list of names the kernel hands out (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MOST_ROOM: usize = 65536;

/// The xattrs of an open file or directory.
pub(super) struct FdXattrs<'a>(pub(super) &'a OwnedFd);

impl Xattrs for FdXattrs<'_> {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        with_room(|room| rustix::fs::fgetxattr(self.0, name, room))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        retry(|| rustix::fs::fsetxattr(self.0, name, value, flags(create, replace)))
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        with_room(|room| rustix::fs::flistxattr(self.0, room)).map(|list| split_names(&list))
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        retry(|| rustix::fs::fremovexattr(self.0, name))
    }
}

/// The xattrs of an entry of a directory, by name.
pub(super) struct EntryXattrs {
    path: Vec<u8>,
    /// Keeps the descriptor that `path` names open.
    _dir: Arc<OwnedFd>,
}

impl EntryXattrs {
    /// `name` has been checked to be one component.
    pub(super) fn new(dir: Arc<OwnedFd>, name: &[u8]) -> Self {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        Self { path, _dir: dir }
    }
}

impl Xattrs for EntryXattrs {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        with_room(|room| rustix::fs::lgetxattr(&*self.path, name, room))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        retry(|| rustix::fs::lsetxattr(&*self.path, name, value, flags(create, replace)))
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        with_room(|room| rustix::fs::llistxattr(&*self.path, room)).map(|list| split_names(&list))
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        retry(|| rustix::fs::lremovexattr(&*self.path, name))
    }
}

/// Calls with a small buffer, then with the largest there can be: no race with a value that grows in between.
fn with_room(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut room = vec![0; FIRST_ROOM];
    let len = match call(&mut room) {
        Err(Errno::RANGE) => {
            room.resize(MOST_ROOM, 0);
            retry(|| call(&mut room))?
        }
        Err(Errno::INTR) => retry(|| call(&mut room))?,
        other => other?,
    };
    room.truncate(len);
    Ok(room)
}

fn flags(create: bool, replace: bool) -> XattrFlags {
    let mut flags = XattrFlags::empty();
    flags.set(XattrFlags::CREATE, create);
    flags.set(XattrFlags::REPLACE, replace);
    flags
}

fn split_names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}
