//! Open files and directories of a store whose power can be cut: each call is made on the live store and noted.

use std::any::Any;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use super::file_log::FileLog;
use super::journal::{Attribute, Change};
use super::{PowerStore, Synced};
use crate::store::memory::content::PAGE;
use crate::store::name::errno;
use crate::store::{Access, Allocate, Dir, Entry, File, Kind, RenameMode, SetTimes, Stat, Xattrs};

/// An object of the live store, held by one process.
pub(super) struct Held<T: ?Sized> {
    store: PowerStore,
    process: u64,
    inner: Arc<T>,
    ino: u64,
}

impl<T: ?Sized> Held<T> {
    pub(super) fn new(store: &PowerStore, process: u64, inner: Arc<T>, ino: u64) -> Self {
        Self {
            store: store.clone(),
            process,
            inner,
            ino,
        }
    }

    fn inner(&self) -> io::Result<&T> {
        self.store.lock().require_alive(self.process)?;
        Ok(&self.inner)
    }

    fn wrap<U: ?Sized>(&self, inner: Arc<U>, ino: u64) -> Held<U> {
        Held::new(&self.store, self.process, inner, ino)
    }

    /// A change of an object's attributes.
    fn set(
        &self,
        ino: u64,
        attribute: Attribute,
        act: impl FnOnce(&T) -> io::Result<()>,
    ) -> io::Result<()> {
        self.store.change(self.process, |disk, time| {
            act(&self.inner)?;
            disk.note_attribute(time, ino, attribute);
            Ok(())
        })
    }
}

impl<T: Xattrs + ?Sized> Xattrs for Held<T> {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner()?.xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        let attribute = Attribute::Xattr(name.to_vec(), Some(value.to_vec()));
        self.set(self.ino, attribute, |inner| {
            inner.set_xattr(name, value, create, replace)
        })
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.inner()?.xattr_names()
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        let attribute = Attribute::Xattr(name.to_vec(), None);
        self.set(self.ino, attribute, |inner| inner.remove_xattr(name))
    }
}

impl Held<dyn File> {
    /// A change of content. `pages`: the first and last page that may differ.
    fn write(
        &self,
        pages: (u64, u64),
        act: impl FnOnce(&dyn File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.store.change(self.process, |disk, time| {
            let before = self.inner.stat()?.size;
            if disk.full {
                let content = disk.live.lock().inode(self.ino)?.content.clone();
                if (pages.0..=pages.1).any(|page| content.page(page).is_none()) {
                    return Err(errno(libc::ENOSPC));
                }
            }
            act(&*self.inner)?;
            let mut live = disk.live.lock();
            let content = live.inode(self.ino)?.content.clone();
            drop(live);
            let log = disk.files.entry(self.ino).or_default();
            if content.len() != before {
                log.set_len(time, before, &content);
            }
            log.wrote(time, &content, pages.0, pages.1);
            if content.len() != before {
                disk.note_attribute(time, self.ino, Attribute::Len);
            }
            Ok(())
        })
    }
}

impl File for Held<dyn File> {
    fn stat(&self) -> io::Result<Stat> {
        self.inner()?.stat()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner()?.read_at(buf, offset)
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.inner()?.read_vectored_at(bufs, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_vectored_at(&[IoSlice::new(buf)], offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        if len == 0 {
            return self.inner()?.write_vectored_at(bufs, offset);
        }
        let pages = (offset / PAGE, (offset + len - 1) / PAGE);
        self.write(pages, |inner| inner.write_vectored_at(bufs, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.store.change(self.process, |disk, time| {
            let before = self.inner.stat()?.size;
            self.inner.set_len(len)?;
            if len != before {
                let mut live = disk.live.lock();
                let content = live.inode(self.ino)?.content.clone();
                drop(live);
                let log = disk.files.entry(self.ino).or_default();
                log.set_len(time, before, &content);
                disk.note_attribute(time, self.ino, Attribute::Len);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let ino = self.ino;
        self.store.sync_with(
            self.process,
            Synced::File(ino),
            |disk, time| disk.file_synced(ino, time, false),
            |disk, time| disk.file_sync_failed(ino, time),
        )
    }

    fn sync_all(&self) -> io::Result<()> {
        let ino = self.ino;
        self.store.sync_with(
            self.process,
            Synced::File(ino),
            |disk, time| disk.file_synced(ino, time, true),
            |disk, time| disk.file_sync_failed(ino, time),
        )
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()> {
        match how {
            Allocate::Reserve => self.inner()?.allocate(how, offset, len),
            Allocate::Punch if len == 0 => self.inner()?.allocate(how, offset, len),
            Allocate::Punch => {
                self.store.change(self.process, |disk, time| {
                    let size = self.inner.stat()?.size;
                    self.inner.allocate(how, offset, len)?;
                    let content = disk.live.lock().inode(self.ino)?.content.clone();
                    let end = (offset + len).min(size.next_multiple_of(PAGE));
                    let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
                    let log = disk.files.entry(self.ino).or_default();
                    // Blocks go by a change of metadata; what is left of pages is zeroed as by a write.
                    log.punched(time, first, last);
                    for edge in [offset, end]
                        .into_iter()
                        .filter(|at| !at.is_multiple_of(PAGE))
                    {
                        log.wrote(time, &content, edge / PAGE, edge / PAGE);
                    }
                    disk.note_attribute(time, self.ino, Attribute::Len);
                    Ok(())
                })
            }
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner()?.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner()?.next_hole(offset)
    }

    fn will_need(&self, offset: u64, len: u64) {
        self.inner.will_need(offset, len);
    }

    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner()?.write_back(offset, len)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.set(self.ino, Attribute::Mode(mode), |inner| {
            inner.set_mode(mode)
        })
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let attribute = Attribute::Owner(uid, gid);
        self.set(self.ino, attribute, |inner| inner.set_owner(uid, gid))
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.set(self.ino, Attribute::Times(times), |inner| {
            inner.set_times(times)
        })
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.inner()?.try_lock(exclusive)
    }
}

/// The directory under the handle; EXDEV for one of another kind of store.
fn live(dir: &dyn Dir) -> io::Result<&Held<dyn Dir>> {
    dir.as_any()
        .downcast_ref()
        .ok_or_else(|| errno(libc::EXDEV))
}

impl Held<dyn Dir> {
    /// Makes an object; `act` answers whatever the caller needs.
    fn make<T>(
        &self,
        name: &[u8],
        target: &[u8],
        act: impl FnOnce(&dyn Dir) -> io::Result<T>,
    ) -> io::Result<(T, u64)> {
        self.store.change(self.process, |disk, time| {
            let made = act(&*self.inner)?;
            let stat = self.inner.stat_at(name)?;
            let change = Change::Make {
                dir: self.ino,
                name: name.to_vec(),
                kind: stat.kind,
                mode: stat.mode,
                rdev: stat.rdev,
                ino: stat.ino,
                target: target.to_vec(),
            };
            disk.note(time, change);
            if stat.kind == Kind::File {
                disk.files.insert(stat.ino, FileLog::default());
            }
            Ok((made, stat.ino))
        })
    }

    fn set_at(
        &self,
        name: &[u8],
        attribute: Attribute,
        act: impl FnOnce(&dyn Dir) -> io::Result<()>,
    ) -> io::Result<()> {
        let ino = self.inner()?.stat_at(name)?.ino;
        self.set(ino, attribute, |inner| act(inner))
    }

    fn take(
        &self,
        name: &[u8],
        directory: bool,
        act: impl FnOnce(&dyn Dir) -> io::Result<()>,
    ) -> io::Result<()> {
        self.store.change(self.process, |disk, time| {
            let ino = self.inner.stat_at(name)?.ino;
            act(&*self.inner)?;
            let change = Change::Remove {
                dir: self.ino,
                name: name.to_vec(),
                directory,
                ino,
            };
            disk.note(time, change);
            Ok(())
        })
    }
}

impl Dir for Held<dyn Dir> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn stat(&self) -> io::Result<Stat> {
        self.inner()?.stat()
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        self.inner()?.stat_at(name)
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Arc<dyn File>> {
        let file = self.inner()?.open(name, access)?;
        let ino = file.stat()?.ino;
        Ok(Arc::new(self.wrap(file, ino)))
    }

    fn create(&self, name: &[u8], mode: u32) -> io::Result<Arc<dyn File>> {
        let (file, ino) = self.make(name, b"", |inner| inner.create(name, mode))?;
        Ok(Arc::new(self.wrap(file, ino)))
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        let dir = self.inner()?.open_dir(name)?;
        let ino = dir.stat()?.ino;
        Ok(Arc::new(self.wrap(dir, ino)))
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.make(name, b"", |inner| inner.make_dir(name, mode))
            .map(drop)
    }

    fn make_node(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> io::Result<()> {
        self.make(name, b"", |inner| inner.make_node(name, kind, mode, rdev))
            .map(drop)
    }

    fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.make(name, target, |inner| inner.make_symlink(name, target))
            .map(drop)
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner()?.read_link(name)
    }

    fn link(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> io::Result<()> {
        let to = live(to)?;
        self.store.change(self.process, |disk, time| {
            self.inner.link(name, &*to.inner, to_name)?;
            let change = Change::Link {
                ino: self.inner.stat_at(name)?.ino,
                dir: to.ino,
                name: to_name.to_vec(),
            };
            disk.note(time, change);
            Ok(())
        })
    }

    fn rename(
        &self,
        name: &[u8],
        to: &dyn Dir,
        to_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let to = live(to)?;
        self.store.change(self.process, |disk, time| {
            let moved = self.inner.stat_at(name)?.ino;
            let replaced = to.inner.stat_at(to_name).ok().map(|stat| stat.ino);
            self.inner.rename(name, &*to.inner, to_name, mode)?;
            let change = Change::Rename {
                from: (self.ino, name.to_vec()),
                to: (to.ino, to_name.to_vec()),
                mode,
                moved,
                replaced,
            };
            disk.note(time, change);
            Ok(())
        })
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        self.take(name, false, |inner| inner.remove(name))
    }

    fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        self.take(name, true, |inner| inner.remove_dir(name))
    }

    fn entries(&self, from: u64) -> io::Result<Vec<Entry>> {
        self.inner()?.entries(from)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.set(self.ino, Attribute::Mode(mode), |inner| {
            inner.set_mode(mode)
        })
    }

    fn set_mode_at(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.set_at(name, Attribute::Mode(mode), |inner| {
            inner.set_mode_at(name, mode)
        })
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let attribute = Attribute::Owner(uid, gid);
        self.set(self.ino, attribute, |inner| inner.set_owner(uid, gid))
    }

    fn set_owner_at(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let attribute = Attribute::Owner(uid, gid);
        self.set_at(name, attribute, |inner| inner.set_owner_at(name, uid, gid))
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.set(self.ino, Attribute::Times(times), |inner| {
            inner.set_times(times)
        })
    }

    fn set_times_at(&self, name: &[u8], times: SetTimes) -> io::Result<()> {
        self.set_at(name, Attribute::Times(times), |inner| {
            inner.set_times_at(name, times)
        })
    }

    fn xattrs_at(&self, name: &[u8]) -> io::Result<Box<dyn Xattrs>> {
        let ino = self.inner()?.stat_at(name)?.ino;
        let inner: Arc<dyn Xattrs> = Arc::from(self.inner.xattrs_at(name)?);
        Ok(Box::new(self.wrap(inner, ino)))
    }

    fn sync(&self) -> io::Result<()> {
        let ino = self.ino;
        self.store.sync_with(
            self.process,
            Synced::Dir(ino),
            |disk, time| disk.log.force_dir(ino, time),
            |_, _| false,
        )
    }
}
