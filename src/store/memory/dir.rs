//! An open directory of a store in memory.

use std::any::Any;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use super::Shared;
use super::file::{Handle, MemoryFile};
use super::tree::Tree;
use crate::store::call::Call;
use crate::store::name::{check, errno};
use crate::store::{Access, Dir, Entry, File, Kind, RenameMode, SetTimes, Stat, Xattrs};

/// Entries in one batch; small, so that tests meet the seams.
const BATCH: usize = 64;
/// Longest target of a symlink on Linux (PATH_MAX less the NUL).
const TARGET_MAX: usize = 4095;

pub(super) struct MemoryDir {
    handle: Handle,
}

impl MemoryDir {
    pub(super) fn new(shared: Shared, ino: u64, number: u64) -> Self {
        Self {
            handle: Handle {
                shared,
                ino,
                number,
            },
        }
    }

    fn call<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut Tree, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        act(&mut self.handle.shared.call(call), self.handle.ino)
    }

    /// A call on the object under a name.
    fn call_at<T>(
        &self,
        call: Call,
        name: &[u8],
        act: impl FnOnce(&mut Tree, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call(call, |tree, dir| {
            let ino = tree.lookup(dir, name)?;
            act(tree, ino)
        })
    }

    fn handle(&self, tree: &mut Tree, ino: u64) -> io::Result<Handle> {
        let number = tree.open(ino)?;
        Ok(Handle {
            shared: self.handle.shared.clone(),
            ino,
            number,
        })
    }

    fn same_store<'a>(&self, dir: &'a dyn Dir) -> io::Result<&'a Self> {
        let other: Option<&Self> = dir.as_any().downcast_ref();
        other
            .filter(|dir| Arc::ptr_eq(&dir.handle.shared.0, &self.handle.shared.0))
            .ok_or_else(|| errno(libc::EXDEV))
    }
}

impl Dir for MemoryDir {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn stat(&self) -> io::Result<Stat> {
        self.call(Call::Stat, Tree::stat)
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        self.call_at(Call::Stat, name, Tree::stat)
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Arc<dyn File>> {
        self.call_at(Call::Open, name, |tree, ino| match tree.kind(ino)? {
            Kind::File => {
                Ok(Arc::new(MemoryFile::new(self.handle(tree, ino)?, access)) as Arc<dyn File>)
            }
            Kind::Symlink => Err(errno(libc::ELOOP)),
            _ => Err(errno(libc::EINVAL)),
        })
    }

    fn create(&self, name: &[u8], mode: u32) -> io::Result<Arc<dyn File>> {
        self.call(Call::Create, |tree, dir| {
            let ino = tree.make(dir, name, Kind::File, mode, 0)?;
            Ok(
                Arc::new(MemoryFile::new(self.handle(tree, ino)?, Access::ReadWrite))
                    as Arc<dyn File>,
            )
        })
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        self.call_at(Call::OpenDir, name, |tree, ino| match tree.kind(ino)? {
            Kind::Dir => Ok(Arc::new(Self {
                handle: self.handle(tree, ino)?,
            }) as Arc<dyn Dir>),
            _ => Err(errno(libc::ENOTDIR)),
        })
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.call(Call::MakeDir, |tree, dir| {
            tree.make(dir, name, Kind::Dir, mode, 0).map(|_| ())
        })
    }

    fn make_node(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> io::Result<()> {
        self.call(Call::MakeNode, |tree, dir| match kind {
            Kind::Dir | Kind::Symlink => check(name).and(Err(errno(libc::EINVAL))),
            _ => tree.make(dir, name, kind, mode, rdev).map(|_| ()),
        })
    }

    fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.call(Call::MakeSymlink, |tree, dir| {
            check(name)?;
            match target.len() {
                0 => return Err(errno(libc::ENOENT)),
                len if len > TARGET_MAX => return Err(errno(libc::ENAMETOOLONG)),
                _ if target.contains(&0) => return Err(errno(libc::EINVAL)),
                _ => {}
            }
            let ino = tree.make(dir, name, Kind::Symlink, 0o777, 0)?;
            tree.inode(ino)?.target = target.to_vec();
            Ok(())
        })
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.call_at(Call::ReadLink, name, |tree, ino| match tree.inode(ino)? {
            inode if inode.kind == Kind::Symlink => Ok(inode.target.clone()),
            _ => Err(errno(libc::EINVAL)),
        })
    }

    fn link(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> io::Result<()> {
        let to = self.same_store(to)?.handle.ino;
        self.call_at(Call::Link, name, |tree, ino| tree.link(ino, to, to_name))
    }

    fn rename(
        &self,
        name: &[u8],
        to: &dyn Dir,
        to_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let to = self.same_store(to)?.handle.ino;
        self.call(Call::Rename, |tree, from| {
            tree.rename((from, name), (to, to_name), mode)
        })
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        self.call(Call::Remove, |tree, dir| tree.remove(dir, name, false))
    }

    fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        self.call(Call::RemoveDir, |tree, dir| tree.remove(dir, name, true))
    }

    fn entries(&self, from: u64) -> io::Result<Vec<Entry>> {
        self.call(Call::Entries, |tree, dir| {
            let entries = &tree.inode(dir)?.folder.entries;
            let range = entries
                .range((Bound::Excluded(from), Bound::Unbounded))
                .take(BATCH);
            let batch: Vec<_> = range
                .map(|(&next, (name, ino))| (next, name.clone(), *ino))
                .collect();
            let entry = |(next, name, ino)| {
                Ok(Entry {
                    name,
                    ino,
                    kind: Some(tree.kind(ino)?),
                    next,
                })
            };
            batch.into_iter().map(entry).collect()
        })
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.call(Call::SetMode, |tree, dir| {
            tree.altering(dir)?.mode = mode & 0o7777;
            Ok(())
        })
    }

    fn set_mode_at(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.call_at(Call::SetMode, name, |tree, ino| match tree.kind(ino)? {
            Kind::Symlink => Err(errno(libc::EOPNOTSUPP)),
            _ => {
                tree.altering(ino)?.mode = mode & 0o7777;
                Ok(())
            }
        })
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.call(Call::SetOwner, |tree, dir| tree.set_owner(dir, uid, gid))
    }

    fn set_owner_at(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.call_at(Call::SetOwner, name, |tree, ino| {
            tree.set_owner(ino, uid, gid)
        })
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.call(Call::SetTimes, |tree, dir| tree.set_times(dir, times))
    }

    fn set_times_at(&self, name: &[u8], times: SetTimes) -> io::Result<()> {
        self.call_at(Call::SetTimes, name, |tree, ino| tree.set_times(ino, times))
    }

    fn xattrs_at(&self, name: &[u8]) -> io::Result<Box<dyn Xattrs>> {
        let mut tree = self.handle.shared.lock();
        let ino = tree.lookup(self.handle.ino, name)?;
        Ok(Box::new(self.handle(&mut tree, ino)?))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Call::SyncDir, |_, _| Ok(()))
    }
}

impl Xattrs for MemoryDir {
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
