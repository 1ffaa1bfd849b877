//! An open file of a store in memory, and the xattrs of any open object.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use super::Shared;
use super::tree::{Inode, Tree};
use crate::store::call::Call;
use crate::store::name::errno;
use crate::store::{Access, Allocate, File, Kind, SetTimes, Stat, Uncached, Xattrs};

/// Longest name and value of an xattr (XATTR_NAME_MAX, XATTR_SIZE_MAX).
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = 65536;

/// A handle on an inode, which lives at least as long.
pub(super) struct Handle {
    pub(super) shared: Shared,
    pub(super) ino: u64,
    pub(super) number: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().close(self.ino, self.number);
    }
}

#[derive(Clone)]
pub(super) struct MemoryFile {
    handle: Arc<Handle>,
    access: Access,
}

impl MemoryFile {
    pub(super) fn new(handle: Handle, access: Access) -> Self {
        let handle = Arc::new(handle);
        Self { handle, access }
    }

    fn call<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut Tree, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        act(&mut self.handle.shared.call(call), self.handle.ino)
    }

    /// A call that needs the file open for writing; `refusal` is the errno if it is not.
    fn change<T>(
        &self,
        call: Call,
        refusal: i32,
        act: impl FnOnce(&mut Tree, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call(call, |tree, ino| match self.access {
            Access::Read => Err(errno(refusal)),
            Access::ReadWrite => act(tree, ino),
        })
    }
}

impl Uncached for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        File::read_at(self, buf, offset)
    }
}

/// EINVAL for an offset that is no file position, `past_end` for an end that is none.
fn check_range(offset: u64, len: u64, past_end: i32) -> io::Result<()> {
    if offset > i64::MAX as u64 {
        return Err(errno(libc::EINVAL));
    }
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(errno(past_end)),
    }
}

impl File for MemoryFile {
    fn stat(&self) -> io::Result<Stat> {
        self.call(Call::Stat, Tree::stat)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_vectored_at(&mut [IoSliceMut::new(buf)], offset)
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.call(Call::Read, |tree, ino| {
            check_range(offset, 0, libc::EINVAL)?;
            let content = &tree.inode(ino)?.content;
            let mut done = 0;
            for buf in bufs {
                let n = content.read(buf, offset.saturating_add(done as u64));
                done += n;
                if n < buf.len() {
                    break;
                }
            }
            Ok(done)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_vectored_at(&[IoSlice::new(buf)], offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.change(Call::Write, libc::EBADF, |tree, ino| {
            let total: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
            check_range(offset, total, libc::EINVAL)?;
            if total == 0 {
                return Ok(());
            }
            let content = &mut tree.changing(ino)?.content;
            let mut at = offset;
            for buf in bufs {
                content.write(buf, at);
                at += buf.len() as u64;
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Call::SetLen, libc::EINVAL, |tree, ino| {
            check_range(len, 0, libc::EINVAL)?;
            tree.changing(ino)?.content.set_len(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(Call::SyncFile, |_, _| Ok(()))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.call(Call::SyncFile, |_, _| Ok(()))
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()> {
        self.change(Call::Allocate, libc::EBADF, |tree, ino| {
            if len == 0 {
                return Err(errno(libc::EINVAL));
            }
            check_range(offset, len, libc::EFBIG)?;
            match how {
                // Room is never short here, and a hole that is reserved may be found as a hole.
                Allocate::Reserve => tree.altering(ino).map(|_| ()),
                Allocate::Punch => {
                    tree.changing(ino)?.content.punch(offset, len);
                    Ok(())
                }
            }
        })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.call(Call::NextData, |tree, ino| {
            Ok(tree.inode(ino)?.content.next_data(offset))
        })
    }

    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.call(Call::NextHole, |tree, ino| {
            Ok(tree.inode(ino)?.content.next_hole(offset))
        })
    }

    fn will_need(&self, _offset: u64, _len: u64) {
        let _counted = self.call(Call::WillNeed, |_, _| Ok(()));
    }

    fn cached(&self, _offset: u64, _len: u64) -> u64 {
        0
    }

    fn uncached(&self) -> Option<Arc<dyn Uncached>> {
        Some(Arc::new(self.clone()))
    }

    fn write_back(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.call(Call::SetMode, |tree, ino| {
            tree.altering(ino)?.mode = mode & 0o7777;
            Ok(())
        })
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.call(Call::SetOwner, |tree, ino| tree.set_owner(ino, uid, gid))
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.call(Call::SetTimes, |tree, ino| tree.set_times(ino, times))
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.call(Call::Lock, |tree, ino| {
            let locks = &mut tree.inode(ino)?.locks;
            let conflict = locks
                .iter()
                .any(|(&by, &theirs)| by != self.handle.number && (exclusive || theirs));
            if !conflict {
                locks.insert(self.handle.number, exclusive);
            }
            Ok(!conflict)
        })
    }
}

impl Xattrs for MemoryFile {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.handle.xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        self.handle.set_xattr(name, value, create, replace)
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.handle.xattr_names()
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        self.handle.remove_xattr(name)
    }
}

impl Xattrs for Handle {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let mut tree = self.shared.call(Call::ReadXattr);
        let inode = tree.inode(self.ino)?;
        check_xattr(inode, name, libc::ENODATA)?;
        inode
            .xattrs
            .get(name)
            .cloned()
            .ok_or_else(|| errno(libc::ENODATA))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        let mut tree = self.shared.call(Call::SetXattr);
        let inode = tree.inode(self.ino)?;
        check_xattr(inode, name, libc::EPERM)?;
        if value.len() > XATTR_SIZE_MAX {
            return Err(errno(libc::E2BIG));
        }
        match (inode.xattrs.contains_key(name), create, replace) {
            (_, true, true) => return Err(errno(libc::EINVAL)),
            (true, true, _) => return Err(errno(libc::EEXIST)),
            (false, _, true) => return Err(errno(libc::ENODATA)),
            _ => {}
        }
        tree.altering(self.ino)?
            .xattrs
            .insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut tree = self.shared.call(Call::ReadXattr);
        Ok(tree.inode(self.ino)?.xattrs.keys().cloned().collect())
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        let mut tree = self.shared.call(Call::RemoveXattr);
        let inode = tree.inode(self.ino)?;
        check_xattr(inode, name, libc::EPERM)?;
        inode
            .xattrs
            .remove(name)
            .ok_or_else(|| errno(libc::ENODATA))?;
        tree.altering(self.ino).map(|_| ())
    }
}

/// The rules of Linux for names; `user_refused` is the errno for `user.*` on what is neither file nor directory.
fn check_xattr(inode: &Inode, name: &[u8], user_refused: i32) -> io::Result<()> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(errno(libc::ERANGE));
    }
    if name.contains(&0) {
        return Err(errno(libc::EINVAL));
    }
    let spaces: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
    match spaces.iter().find(|space| name.starts_with(space)) {
        None => Err(errno(libc::EOPNOTSUPP)),
        Some(space) if name.len() == space.len() => Err(errno(libc::EINVAL)),
        Some(&b"user.") if !matches!(inode.kind, Kind::File | Kind::Dir) => {
            Err(errno(user_refused))
        }
        Some(_) => Ok(()),
    }
}
