//! An open regular file of a real store. Every read and write names its offset; the file position is never used, but
//! SEEK_DATA moves it.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::posted::Posts;
use super::xattr::FdXattrs;
use super::{cached, owner, retry, stat_of, timestamps, write_back};
use crate::store::{ALIGNED, Allocate, File, SetTimes, Stat, Taken, Uncached, Xattrs, take};

/// Most buffers the kernel takes in one preadv or pwritev.
const IOV_MAX: usize = 1024;

/// From this many bytes on a piece of a stream is posted: records and states are changed again soon.
const POSTED: usize = 64 << 10;

pub(super) struct RealFile {
    fd: Arc<OwnedFd>,
    posts: Arc<Posts>,
    /// Attributes as of the open, where those were looked at.
    opened: Option<Stat>,
}

impl RealFile {
    /// One just made.
    pub(super) fn new(fd: OwnedFd) -> Self {
        let fd = Arc::new(fd);
        Self {
            posts: Posts::new(Arc::clone(&fd)),
            fd,
            opened: None,
        }
    }

    /// One that was there.
    pub(super) fn opened(fd: OwnedFd) -> io::Result<Self> {
        let mut file = Self::new(fd);
        file.opened = Some(file.stat()?);
        Ok(file)
    }
}

impl File for RealFile {
    fn stat(&self) -> io::Result<Stat> {
        stat_of(&retry(|| rustix::fs::fstat(&self.fd))?)
    }

    fn stat_as_opened(&self) -> io::Result<Stat> {
        self.opened.map_or_else(|| self.stat(), Ok)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let _nothing_posted = self.posts.reading(offset, buf.len() as u64);
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match retry(|| rustix::io::pread(&self.fd, &mut *rest, offset_after(offset, done)?))? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn read_vectored_at(&self, mut bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let total = bufs.iter().map(|buf| buf.len() as u64).sum();
        let _nothing_posted = self.posts.reading(offset, total);
        let mut done = 0;
        IoSliceMut::advance_slices(&mut bufs, 0); // drops leading empty buffers
        while !bufs.is_empty() {
            let few = bufs.len().min(IOV_MAX);
            let part = bufs.get_mut(..few).unwrap_or_default();
            match retry(|| rustix::io::preadv(&self.fd, part, offset_after(offset, done)?))? {
                0 if part.iter().all(|buf| buf.is_empty()) => {
                    bufs = bufs.get_mut(few..).unwrap_or_default()
                }
                0 => break,
                n => {
                    done += n;
                    IoSliceMut::advance_slices(&mut bufs, n);
                }
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let _nothing_posted = self.posts.changing(offset, buf.len() as u64);
        write_at(&self.fd, buf, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Ok(());
        }
        let _nothing_posted = self.posts.changing(offset, total as u64);
        let mut done = 0;
        if bufs.len() <= IOV_MAX {
            done = retry(|| rustix::io::pwritev(&self.fd, bufs, offset))?;
            if done == total {
                return Ok(());
            }
        }
        let mut rest = bufs.to_vec();
        let mut rest = rest.as_mut_slice();
        IoSlice::advance_slices(&mut rest, done);
        while done < total {
            let part = rest.get(..rest.len().min(IOV_MAX)).unwrap_or_default();
            let n = retry(|| rustix::io::pwritev(&self.fd, part, offset_after(offset, done)?))?;
            if n == 0 && part.iter().any(|buf| !buf.is_empty()) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += n;
            IoSlice::advance_slices(&mut rest, n);
        }
        Ok(())
    }

    fn write_streamed_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut through_cache = Vec::new();
        let mut at = offset;
        for buf in bufs {
            if buf.len() < POSTED || !self.posts.post(buf, at)? {
                through_cache.push((*buf, at));
            }
            at = at.saturating_add(buf.len() as u64);
        }
        if through_cache.len() == bufs.len() {
            return self.write_vectored_at(bufs, offset);
        }
        let mut rest = through_cache.into_iter();
        rest.try_for_each(|(buf, at)| self.write_at(&buf, at))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _nothing_posted = self.posts.changing(len, u64::MAX);
        retry(|| rustix::fs::ftruncate(&self.fd, len))
    }

    // The syncs are not retried: a failed writeback is reported once, so a second call could hide it.
    fn sync_data(&self) -> io::Result<()> {
        let posted = self.posts.before_sync();
        self.sync_unstreamed()?;
        posted
    }

    fn sync_unstreamed(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        let posted = self.posts.before_sync();
        rustix::fs::fsync(&self.fd)?;
        posted
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()> {
        let flags = match how {
            Allocate::Reserve => FallocateFlags::KEEP_SIZE,
            Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        };
        let _nothing_posted = self.posts.changing(offset, len);
        retry(|| rustix::fs::fallocate(&self.fd, flags, offset, len))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let _nothing_posted = self.posts.reading(0, u64::MAX);
        match rustix::fs::seek(&self.fd, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        let _nothing_posted = self.posts.reading(0, u64::MAX);
        match rustix::fs::seek(&self.fd, SeekFrom::Hole(offset)) {
            Ok(hole) => Ok(Some(hole)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn will_need(&self, offset: u64, len: u64) {
        if let Some(len) = NonZeroU64::new(len) {
            let _nothing_posted = self.posts.reading(offset, len.get());
            let _best_effort = rustix::fs::fadvise(&self.fd, offset, Some(len), Advice::WillNeed);
        }
    }

    fn cached(&self, offset: u64, len: u64) -> u64 {
        cached::pages(&self.fd, offset, len).map_or(len, |pages| pages * ALIGNED as u64)
    }

    fn uncached(&self) -> Option<Arc<dyn Uncached>> {
        // The descriptor's own link: no path is followed. The flag cannot be set on the descriptor itself, which others read.
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = retry(|| rustix::fs::open(&link, flags, Mode::empty())).ok()?;
        let posts = Arc::clone(&self.posts);
        Some(Arc::new(UncachedFile { fd, posts }))
    }

    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        write_back::begin(&self.fd, offset, len)
    }

    fn has_failed(&self) -> bool {
        self.posts.has_failed()
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        retry(|| rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode & 0o7777)))
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid)?;
        retry(|| rustix::fs::fchown(&self.fd, uid, gid))
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        retry(|| rustix::fs::futimens(&self.fd, &timestamps(times)))
    }

    fn take_contents(&self, from: &dyn File) -> io::Result<Taken> {
        let Some(source) = from.descriptor() else {
            take::by_ranges(self, from, |offset, len| {
                take::through_memory(self, from, offset, len)
            })?;
            return Ok(Taken::Copied);
        };
        // Refused where the file system shares no blocks, and between file systems.
        if retry(|| rustix::fs::ioctl_ficlone(&self.fd, source)).is_ok() {
            return Ok(Taken::Shared);
        }
        take::by_ranges(self, from, |offset, len| {
            let copied = self.copy_in_kernel(source, offset, len)?;
            take::through_memory(self, from, offset + copied, len - copied)
        })?;
        Ok(Taken::Copied)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        drop(self.posts.reading(0, u64::MAX));
        Some(self.fd.as_fd())
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let how = match exclusive {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&self.fd, how) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Xattrs for RealFile {
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

impl RealFile {
    /// Copies a range by copy_file_range; the bytes copied, fewer where the kernel does not do it for these files.
    fn copy_in_kernel(&self, from: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
        let mut done = 0;
        while done < len {
            let (mut from_at, mut to_at) = (offset + done, offset + done);
            let step = usize::try_from(len - done)
                .unwrap_or(usize::MAX)
                .min(1 << 30);
            let copied = retry(|| {
                rustix::fs::copy_file_range(
                    from,
                    Some(&mut from_at),
                    &self.fd,
                    Some(&mut to_at),
                    step,
                )
            });
            match copied {
                Ok(0) | Err(_) => break, // what is wrong with it, reading and writing will tell
                Ok(copied) => done += copied as u64,
            }
        }
        Ok(done)
    }
}

/// A file opened with O_DIRECT.
struct UncachedFile {
    fd: OwnedFd,
    posts: Arc<Posts>,
}

impl Uncached for UncachedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let _nothing_posted = self.posts.reading(offset, buf.len() as u64);
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let n = retry(|| rustix::io::pread(&self.fd, &mut *rest, offset_after(offset, done)?))?;
            done += n;
            if n == 0 || n % ALIGNED != 0 {
                break; // the end of the file; behind it nothing can be asked for
            }
        }
        Ok(done)
    }
}

/// Writes all of `buf` through the cache.
pub(super) fn write_at(fd: &OwnedFd, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = buf.get(done..).filter(|rest| !rest.is_empty()) {
        match retry(|| rustix::io::pwrite(fd, rest, offset_after(offset, done)?))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => done += n,
        }
    }
    Ok(())
}

/// The offset `done` bytes on; EINVAL past 2^64, as the kernel answers past 2^63.
fn offset_after(offset: u64, done: usize) -> Result<u64, Errno> {
    offset.checked_add(done as u64).ok_or(Errno::INVAL)
}
