//! The one door to the backing store: everything Strongroom keeps on disk goes through these traits, so that tests can
//! record, fail and count what the real code does. Knows nothing of ciphers, formats or volumes.
//!
//! Invariant: a name is one path component and is never followed when it is a symlink; nothing here takes a path string.

mod call;
#[cfg(test)]
mod conformance;
mod failing;
mod host;
mod memory;
mod name;
mod pages;
mod real;
mod take;

pub use call::{Call, Counts};
pub use failing::{FailingStore, Fault};
pub use host::Host;
pub use memory::MemoryStore;
#[cfg(test)]
pub(crate) use memory::power;
pub use pages::{ALIGNED, Lent, Pages};
pub use real::RealStore;
pub use take::Taken;

use std::any::Any;
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What kind of object a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A point in time as the store keeps it: seconds and nanoseconds since 1970, UTC.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// The attributes of an object in the store. Lengths are physical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stat {
    /// Device of the file system the object lies on.
    pub dev: u64,
    /// Inode number on that device.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, as `makedev` packs it.
    pub rdev: u64,
    /// Physical length in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading only.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// What a rename does when the target exists (renameat2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail with EEXIST.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// Which times `set_times` changes; `None` leaves one alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetTimes {
    /// New access time.
    pub atime: Option<TimeSpec>,
    /// New modification time.
    pub mtime: Option<TimeSpec>,
}

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum TimeSpec {
    /// The store's present time.
    Now,
    /// This time.
    At(Time),
}

/// What `allocate` does to a range of a file; the length never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Reserve space (FALLOC_FL_KEEP_SIZE).
    Reserve,
    /// Give space back; the range reads as zeros (FALLOC_FL_PUNCH_HOLE).
    Punch,
}

/// One entry of a directory, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Stored name, without `.` and `..`.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Kind; `None` where the store does not say (then stat).
    pub kind: Option<Kind>,
    /// Position after this entry, to go on from; stays valid while entries come and go, as telldir's does.
    pub next: u64,
}

/// Totals of the file system (statvfs), in units of `block_size` bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Unit of the block counts, bytes.
    pub block_size: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks free for ordinary users.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name of an entry, bytes.
    pub name_max: u64,
}

/// What the file system under the store is known to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// `Store::sync` reports failed writeback of every file (ext4, XFS, btrfs from Linux 5.8).
    pub syncfs_reports: bool,
    /// An aligned 4 KiB overwrite is atomic under a power cut (physical block and fs block of 4096 bytes or more).
    pub atomic_page: bool,
    /// The file system does not journal well enough for our crash rules (ext4 without journal, or data=writeback).
    pub unsafe_journal: bool,
}

/// Extended attributes of one object. Names are whole, with their namespace.
pub trait Xattrs {
    /// The value; ENODATA where there is none.
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>>;
    /// Sets a value. `create`: EEXIST if there is one; `replace`: ENODATA if there is none.
    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()>;
    /// All names.
    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>>;
    /// Removes one; ENODATA where there is none.
    fn remove_xattr(&self, name: &[u8]) -> io::Result<()>;
}

/// An open regular file of the store.
pub trait File: Xattrs + Send + Sync {
    /// Its attributes.
    fn stat(&self) -> io::Result<Stat>;
    /// Its attributes as `Dir::open` saw them, where the store kept those, else as they are now.
    fn stat_as_opened(&self) -> io::Result<Stat> {
        self.stat()
    }
    /// Reads into `buf` at `offset`; less than asked only at the end of the file (short reads and EINTR are retried).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads into several buffers in turn at `offset` with one call where the kernel allows; short only at the end.
    fn read_vectored_at(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`. After an error any part of it may have been written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all buffers in turn at `offset`, with one pwritev where it fits.
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// As `write_vectored_at`, for what goes through the file from front to back and is not read again soon. The store may have
    /// its device take it past its cache, and still do so when this returns: the write survives the process all the same, and
    /// whatever is done with this file, or with `uncached` of it, sees it. Another opened by name does once this one was
    /// synced or dropped. What it fails with later, the next sync of the file tells.
    fn write_streamed_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(bufs, offset)
    }
    /// Whether the next sync of this file has a failure to tell of that a sync of the whole store does not.
    fn has_failed(&self) -> bool {
        false
    }
    /// ftruncate.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// fdatasync: content and what is needed to read it back.
    fn sync_data(&self) -> io::Result<()>;
    /// As `sync_data`, but that what `write_streamed_at` wrote need not be durable by it, nor its failures be told.
    fn sync_unstreamed(&self) -> io::Result<()> {
        self.sync_data()
    }
    /// fsync: content and all attributes.
    fn sync_all(&self) -> io::Result<()>;
    /// fallocate; EOPNOTSUPP where the store cannot.
    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()>;
    /// Start of the next allocated range at or after `offset` (SEEK_DATA); `None` when there is none.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Start of the next hole at or after `offset` (SEEK_HOLE), the end of the file being one; `None` past the end.
    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Asks the store to read ahead this range (posix_fadvise WILLNEED); best effort.
    fn will_need(&self, offset: u64, len: u64);
    /// Bytes of this range that the store has in its cache, rounded up to pages; all of them where it does not say.
    fn cached(&self, offset: u64, len: u64) -> u64 {
        let _unknown = offset;
        len
    }
    /// The file once more, for reads that go past the store's cache and leave nothing in it (O_DIRECT); `None` where there
    /// are none. What was written through the cache before, they see.
    fn uncached(&self) -> Option<Arc<dyn Uncached>> {
        None
    }
    /// These bytes, where they are in memory already; `None` where they are to be read.
    fn fetched(&self, offset: u64, len: usize) -> Option<Lent> {
        let _none = (offset, len);
        None
    }
    /// Asks the store to begin to write back this range (sync_file_range WRITE), without waiting; it promises
    /// nothing. An error may be one that no sync tells of.
    fn write_back(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Sets the permission bits.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// Sets owner and group; `None` leaves one alone.
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// Sets times.
    fn set_times(&self, times: SetTimes) -> io::Result<()>;
    /// Takes over the whole contents of another file, of this store or another, holes as holes; this one is empty. Shares
    /// the blocks where the store can (FICLONE).
    fn take_contents(&self, from: &dyn File) -> io::Result<Taken> {
        take::by_ranges(self, from, |offset, len| {
            take::through_memory(self, from, offset, len)
        })?;
        Ok(Taken::Copied)
    }
    /// The kernel's descriptor, where there is one, for calls that take two files.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Takes a whole-file lock without waiting (flock): `false` when another descriptor holds it in conflict. It goes
    /// with the last reference to this file.
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;
}

/// A file, for reads past the store's cache.
pub trait Uncached: Send + Sync {
    /// Reads into `buf` at `offset`; short only at the end of the file. EINVAL where the address of `buf`, its length or
    /// `offset` is not a multiple of what the device wants: `ALIGNED` will do for most.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// An open directory of the store. Every `name` is one component: not empty, no `/`, no NUL, not `.` or `..`
/// (EINVAL otherwise).
pub trait Dir: Xattrs + Send + Sync {
    /// For the calls that take two directories of one store.
    fn as_any(&self) -> &dyn Any;
    /// Attributes of the directory itself.
    fn stat(&self) -> io::Result<Stat>;
    /// Attributes of an entry; a symlink's own.
    fn stat_at(&self, name: &[u8]) -> io::Result<Stat>;
    /// Opens a regular file. A symlink is ELOOP, anything else that is not a regular file EINVAL, without blocking on it.
    fn open(&self, name: &[u8], access: Access) -> io::Result<Arc<dyn File>>;
    /// Makes a new regular file, open for reading and writing (O_EXCL). `mode` is not reduced by a umask.
    fn create(&self, name: &[u8], mode: u32) -> io::Result<Arc<dyn File>>;
    /// Opens a directory; a symlink is ELOOP or ENOTDIR.
    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>>;
    /// Makes a directory. `mode` is not reduced by a umask.
    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()>;
    /// Makes a fifo, socket, device or (Kind::File) an empty file. `mode` is not reduced by a umask.
    fn make_node(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> io::Result<()>;
    /// Makes a symlink with these target bytes.
    fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()>;
    /// Target bytes of a symlink.
    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>>;
    /// Links `name` as `to_name` in `to` (same store).
    fn link(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> io::Result<()>;
    /// Renames `name` to `to_name` in `to` (same store). A store without the mode's flag answers EINVAL.
    fn rename(&self, name: &[u8], to: &dyn Dir, to_name: &[u8], mode: RenameMode)
    -> io::Result<()>;
    /// Removes an entry that is not a directory.
    fn remove(&self, name: &[u8]) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, name: &[u8]) -> io::Result<()>;
    /// Some entries from position `from` (0: the start); empty at the end. Not `.` and `..`.
    fn entries(&self, from: u64) -> io::Result<Vec<Entry>>;
    /// Sets the permission bits of the directory itself.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// Sets the permission bits of an entry that is no symlink; never follows.
    fn set_mode_at(&self, name: &[u8], mode: u32) -> io::Result<()>;
    /// Sets owner and group of the directory itself.
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// Sets owner and group of an entry; a symlink's own.
    fn set_owner_at(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// Sets times of the directory itself.
    fn set_times(&self, times: SetTimes) -> io::Result<()>;
    /// Sets times of an entry; a symlink's own.
    fn set_times_at(&self, name: &[u8], times: SetTimes) -> io::Result<()>;
    /// Xattr operations on an entry that is not opened (symlink, special file, file without permission).
    fn xattrs_at(&self, name: &[u8]) -> io::Result<Box<dyn Xattrs>>;
    /// fsync of the directory.
    fn sync(&self) -> io::Result<()>;
}

/// A backing store: one directory tree on one file system.
pub trait Store: Send + Sync {
    /// The top directory.
    fn root(&self) -> Arc<dyn Dir>;
    /// syncfs: everything written before the call began is durable when it ends well.
    fn sync(&self) -> io::Result<()>;
    /// Totals of the file system.
    fn usage(&self) -> io::Result<Usage>;
    /// What the file system is known to do.
    fn traits(&self) -> Traits;
    /// A regular file of this store by a descriptor that another process had open; Unsupported where there are none.
    fn file_of(&self, descriptor: OwnedFd) -> io::Result<Arc<dyn File>> {
        drop(descriptor);
        Err(io::ErrorKind::Unsupported.into())
    }
}
