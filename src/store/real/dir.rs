//! An open directory of a real store: names in, `*at` calls out.
//!
//! Invariant: every name is checked before the kernel sees it, and every open says O_NOFOLLOW.

use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;

use super::file::RealFile;
use super::xattr::{EntryXattrs, FdXattrs};
use super::{file_type_of, kind_of, owner, retry, stat_of, timestamps};
use crate::store::name::{check, errno};
use crate::store::{Access, Dir, Entry, File, Kind, RenameMode, SetTimes, Stat, Xattrs};

/// Room for one getdents64: about a thousand entries.
const LISTING_BYTES: usize = 64 * 1024;

/// What every open says besides its access: never follow, never wait for a fifo's other end, never take a terminal.
const SAFE: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);

pub(super) struct RealDir {
    fd: Arc<OwnedFd>,
    umask: u32,
    /// A second open of the directory for `entries`, whose position lseek moves; there while a listing goes on. Guards
    /// lseek and getdents64 as one step against other listings of this `Dir`.
    listing: Mutex<Option<OwnedFd>>,
}

impl RealDir {
    pub(super) fn new(fd: Arc<OwnedFd>, umask: u32) -> Self {
        Self {
            fd,
            umask,
            listing: Mutex::new(None),
        }
    }

    fn open_fd(&self, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        check(name)?;
        retry(|| rustix::fs::openat(&*self.fd, name, flags | SAFE, Mode::empty()))
    }

    fn open_listing(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        retry(|| rustix::fs::openat(&*self.fd, c".", flags, Mode::empty()))
    }

    /// Makes up for a umask that took bits of `mode` away from the entry just made.
    fn undo_umask(&self, name: &[u8], mode: u32) -> io::Result<()> {
        if mode & self.umask == 0 {
            Ok(())
        } else {
            self.set_mode_at(name, mode)
        }
    }
}

fn mode_bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn same_store(dir: &dyn Dir) -> io::Result<&RealDir> {
    dir.as_any()
        .downcast_ref()
        .ok_or_else(|| errno(libc::EXDEV))
}

impl Dir for RealDir {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn stat(&self) -> io::Result<Stat> {
        stat_of(&retry(|| rustix::fs::fstat(&*self.fd))?)
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        check(name)?;
        stat_of(&retry(|| {
            rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
        })?)
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Arc<dyn File>> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let fd = self
            .open_fd(name, flags)
            .map_err(|error| match error.raw_os_error() {
                // What the kernel says of a directory, a socket, a device without a driver: not a regular file.
                Some(libc::EISDIR | libc::ENXIO | libc::ENODEV) => errno(libc::EINVAL),
                _ => error,
            })?;
        let file = RealFile::opened(fd)?;
        match file.stat_as_opened()?.kind {
            Kind::File => Ok(Arc::new(file)),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    fn create(&self, name: &[u8], mode: u32) -> io::Result<Arc<dyn File>> {
        check(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | SAFE;
        let file = RealFile::new(retry(|| {
            rustix::fs::openat(&*self.fd, name, flags, mode_bits(mode))
        })?);
        if mode & self.umask != 0 {
            file.set_mode(mode)?;
        }
        Ok(Arc::new(file))
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        let fd = self.open_fd(name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Arc::new(RealDir::new(Arc::new(fd), self.umask)))
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        check(name)?;
        retry(|| rustix::fs::mkdirat(&*self.fd, name, mode_bits(mode)))?;
        self.undo_umask(name, mode)
    }

    fn make_node(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> io::Result<()> {
        check(name)?;
        if matches!(kind, Kind::Dir | Kind::Symlink) {
            return Err(errno(libc::EINVAL));
        }
        retry(|| rustix::fs::mknodat(&*self.fd, name, file_type_of(kind), mode_bits(mode), rdev))?;
        self.undo_umask(name, mode)
    }

    fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        check(name)?;
        retry(|| rustix::fs::symlinkat(target, &*self.fd, name))
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        check(name)?;
        Ok(retry(|| rustix::fs::readlinkat(&*self.fd, name, Vec::new()))?.into_bytes())
    }

    fn link(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> io::Result<()> {
        check(name)?;
        check(to_name)?;
        let to = same_store(to)?;
        retry(|| rustix::fs::linkat(&*self.fd, name, &*to.fd, to_name, AtFlags::empty()))
    }

    fn rename(
        &self,
        name: &[u8],
        to: &dyn Dir,
        to_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        check(name)?;
        check(to_name)?;
        let to = same_store(to)?;
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        retry(|| rustix::fs::renameat_with(&*self.fd, name, &*to.fd, to_name, flags))
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        check(name)?;
        retry(|| rustix::fs::unlinkat(&*self.fd, name, AtFlags::empty()))
    }

    fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        check(name)?;
        retry(|| rustix::fs::unlinkat(&*self.fd, name, AtFlags::REMOVEDIR))
    }

    fn entries(&self, from: u64) -> io::Result<Vec<Entry>> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        // A listing that starts anew gets a new open, so that nothing the kernel keeps per open can be stale.
        let fd = match listing.take() {
            Some(fd) if from != 0 => fd,
            _ => self.open_listing()?,
        };
        retry(|| rustix::fs::seek(&fd, SeekFrom::Start(from)))?;
        let batch = read_batch(&fd)?;
        if !batch.is_empty() {
            *listing = Some(fd);
        }
        Ok(batch)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        retry(|| rustix::fs::fchmod(&*self.fd, mode_bits(mode)))
    }

    /// Pins the entry with an O_PATH descriptor and changes it through /proc, as libc does where fchmodat2 is missing
    /// (before Linux 6.6). On an O_PATH symlink that would change the symlink on some file systems: EOPNOTSUPP.
    fn set_mode_at(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let pinned = self.open_fd(name, OFlags::PATH)?;
        if stat_of(&retry(|| rustix::fs::fstat(&pinned))?)?.kind == Kind::Symlink {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        retry(|| rustix::fs::chmod(path.as_str(), mode_bits(mode)))
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid)?;
        retry(|| rustix::fs::fchown(&*self.fd, uid, gid))
    }

    fn set_owner_at(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        check(name)?;
        let (uid, gid) = owner(uid, gid)?;
        retry(|| rustix::fs::chownat(&*self.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        retry(|| rustix::fs::futimens(&*self.fd, &timestamps(times)))
    }

    fn set_times_at(&self, name: &[u8], times: SetTimes) -> io::Result<()> {
        check(name)?;
        retry(|| {
            rustix::fs::utimensat(
                &*self.fd,
                name,
                &timestamps(times),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })
    }

    fn xattrs_at(&self, name: &[u8]) -> io::Result<Box<dyn Xattrs>> {
        check(name)?;
        Ok(Box::new(EntryXattrs::new(Arc::clone(&self.fd), name)))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&*self.fd)?)
    }
}

impl Xattrs for RealDir {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        FdXattrs(&self.fd).xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        FdXattrs(&self.fd).set_xattr(name, value, create, replace)
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        FdXattrs(&self.fd).xattr_names()
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        FdXattrs(&self.fd).remove_xattr(name)
    }
}

/// The entries of one getdents64, or of several while they hold nothing but `.` and `..`; empty at the end.
fn read_batch(fd: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut room = Vec::with_capacity(LISTING_BYTES);
    let mut raw = RawDir::new(fd, room.spare_capacity_mut());
    let mut batch = Vec::new();
    loop {
        match raw.next() {
            None => break,
            Some(Err(Errno::INTR)) => continue,
            // A directory that was removed while it is open has no entries.
            Some(Err(Errno::NOENT)) => break,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(entry)) => {
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    batch.push(Entry {
                        name: name.to_vec(),
                        ino: entry.ino(),
                        kind: kind_of(entry.file_type()),
                        next: entry.next_entry_cookie(),
                    });
                }
            }
        }
        if raw.is_buffer_empty() && !batch.is_empty() {
            break;
        }
    }
    Ok(batch)
}
