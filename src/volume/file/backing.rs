//! The one backing descriptor of a file, as its body holds it: first opened as the caller could, later replaced in place
//! by one that can write. Invariant: once a writable descriptor is there, nothing goes through the first one, so that
//! a failed writeback is reported where the file's syncs ask; one that was begun ahead of them is, too.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::fetch::Fetch;
use crate::store::{ALIGNED, Allocate, File, Lent, SetTimes, Stat, Taken, Time, TimeSpec, Xattrs};

/// A file of the store whose descriptor may become writable while in use.
pub(crate) struct Backing {
    first: Arc<dyn File>,
    writable: OnceLock<Arc<dyn File>>,
    stream: Mutex<Stream>,
    /// What a writeback begun ahead failed with, until a sync has told it: the kernel may not.
    failed: Mutex<Option<io::Error>>,
    pub(super) fetch: Fetch,
}

/// Large writes that go through the file from front to back. They are written back while they go on, not all at the sync
/// that ends them.
struct Stream {
    /// The length that was set last.
    len: u64,
    /// That before it: what is written from here on makes the file grow.
    grows_from: u64,
    /// Where the first of them was.
    first: u64,
    /// What was not asked to be written back begins here.
    start: u64,
    /// Where the last large write ended.
    end: u64,
}

/// What is written back at a time, bytes.
const PORTION: u64 = 4 << 20;
/// From this many bytes on a write is a large one; records, states and single blocks between them do not count.
const LARGE: u64 = 64 << 10;
/// What a stream may skip, bytes: the slots that a group has spare, and its records.
const GAP: u64 = 16 << 12;

impl Default for Stream {
    fn default() -> Self {
        Self {
            len: u64::MAX,
            grows_from: u64::MAX,
            first: 0,
            start: 0,
            end: 0,
        }
    }
}

impl Stream {
    fn set_len(&mut self, len: u64) {
        self.grows_from = self.len.min(len);
        self.len = len;
    }

    fn goes_on(&self, offset: u64) -> bool {
        offset >= self.end && offset - self.end <= GAP
    }

    /// Whether a write belongs to so many that it need not be kept in the store's cache. Where the file grows to within a page,
    /// that page is read again for the next write.
    fn streams(&self, offset: u64, len: u64) -> bool {
        let grows = offset.saturating_add(len) > self.grows_from;
        let comes_back = grows && !self.len.is_multiple_of(ALIGNED as u64);
        len >= LARGE && self.goes_on(offset) && self.end - self.first >= PORTION && !comes_back
    }

    /// Takes a write in; the range to be written back now, if there is one.
    fn wrote(&mut self, offset: u64, len: u64) -> Option<Range<u64>> {
        if len < LARGE {
            return None;
        }
        if !self.goes_on(offset) {
            self.first = offset;
            self.start = offset;
        }
        self.end = offset.saturating_add(len);
        if self.end - self.start < PORTION {
            return None;
        }
        let portion = self.start..self.end;
        self.start = self.end;
        Some(portion)
    }
}

impl Backing {
    /// `writable` says whether `file` was opened for writing.
    pub(crate) fn new(file: Arc<dyn File>, writable: bool) -> Self {
        let backing = Self {
            first: file.clone(),
            writable: OnceLock::new(),
            stream: Mutex::default(),
            failed: Mutex::default(),
            fetch: Fetch::default(),
        };
        if writable {
            backing.make_writable(file);
        }
        backing
    }

    /// Uses `file`, opened for writing, from now on; keeps the present one if that can write.
    pub(crate) fn make_writable(&self, file: Arc<dyn File>) {
        self.writable.get_or_init(|| file);
    }

    /// Has a range read ahead for who goes through the file: past the store's cache, unless most of it is in there.
    pub(super) fn read_ahead(&self, offset: u64, len: u64) {
        let file = self.file();
        let range = offset..offset.saturating_add(len);
        if file.cached(offset, len) > len / 2 || !self.fetch.ask(|| self.file(), range) {
            file.will_need(offset, len);
        }
    }

    fn write(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let _writing = self.fetch.writing();
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let large = len >= LARGE;
        // What is fetched may come through a descriptor that knows nothing of what is posted through this one.
        let streams = large && self.lock_stream().streams(offset, len) && !self.fetch.is_active();
        match (streams, bufs) {
            (true, _) => self.file().write_streamed_at(bufs, offset)?,
            (false, [one]) => self.file().write_at(one, offset)?,
            (false, _) => self.file().write_vectored_at(bufs, offset)?,
        }
        if !large {
            return Ok(());
        }
        let portion = self.lock_stream().wrote(offset, len);
        if let Some(portion) = portion {
            self.begin_write_back(portion.start, portion.end - portion.start);
        }
        Ok(())
    }

    fn lock_stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_write_back(&self, offset: u64, len: u64) {
        if let Err(error) = self.file().write_back(offset, len) {
            self.lock_failed().get_or_insert(error);
        }
    }

    /// Whether a sync of this file has a failure to tell of, whatever the store says of itself.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock_failed().is_some() || self.file().has_failed()
    }

    fn lock_failed(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure that was kept makes a good sync a failed one, once.
    fn told(&self, synced: io::Result<()>) -> io::Result<()> {
        let failed = self.lock_failed().take();
        synced.and(failed.map_or(Ok(()), Err))
    }

    /// Whether a writable descriptor is there.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.get().is_some()
    }

    pub(super) fn file(&self) -> &dyn File {
        self.writable.get().unwrap_or(&self.first).as_ref()
    }
}

/// Runs `change` on a file and puts its mtime back: for what Strongroom writes on its own account. The caller keeps
/// writes of users out meanwhile. A store that refuses to set times keeps the change.
pub(crate) fn quietly<T, E: From<io::Error>>(
    backing: &dyn File,
    change: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let mtime = backing.stat()?.mtime;
    let done = change();
    restore_mtime(backing, mtime);
    done
}

/// Puts an mtime back where it is another now.
pub(super) fn restore_mtime(backing: &dyn File, mtime: Time) {
    if backing.stat().is_ok_and(|now| now.mtime != mtime) {
        put_mtime_back(backing, mtime);
    }
}

/// Puts an mtime back after a change.
pub(super) fn put_mtime_back(backing: &dyn File, mtime: Time) {
    let times = SetTimes {
        atime: None,
        mtime: Some(TimeSpec::At(mtime)),
    };
    if let Err(error) = backing.set_times(times) {
        tracing::debug!("mtime not restored: {error}");
    }
}

impl Xattrs for Backing {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.file().xattr(name)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        self.file().set_xattr(name, value, create, replace)
    }
    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.file().xattr_names()
    }
    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        self.file().remove_xattr(name)
    }
}

impl File for Backing {
    fn stat(&self) -> io::Result<Stat> {
        self.file().stat()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let fetched = self.fetch.copy(buf, offset);
        match buf.get_mut(fetched..) {
            Some(rest) if !rest.is_empty() => {
                let read = self.file().read_at(rest, offset + fetched as u64)?;
                Ok(fetched + read)
            }
            _ => Ok(fetched),
        }
    }
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let mut fetched = 0;
        for buf in &mut *bufs {
            let copied = self.fetch.copy(buf, offset + fetched as u64);
            fetched += copied;
            if copied < buf.len() {
                return self.file().read_vectored_at(bufs, offset);
            }
        }
        Ok(fetched)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write(&[IoSlice::new(buf)], offset)
    }
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write(bufs, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let _writing = self.fetch.writing();
        self.lock_stream().set_len(len);
        self.file().set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.told(self.file().sync_data())
    }
    fn sync_unstreamed(&self) -> io::Result<()> {
        self.told(self.file().sync_unstreamed())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.told(self.file().sync_all())
    }
    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()> {
        let _writing = self.fetch.writing();
        self.file().allocate(how, offset, len)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file().next_data(offset)
    }
    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file().next_hole(offset)
    }
    fn will_need(&self, offset: u64, len: u64) {
        self.file().will_need(offset, len);
    }
    fn fetched(&self, offset: u64, len: usize) -> Option<Lent> {
        self.fetch.lend(offset, len)
    }
    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        self.begin_write_back(offset, len);
        Ok(())
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file().set_mode(mode)
    }
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.file().set_owner(uid, gid)
    }
    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.file().set_times(times)
    }
    fn take_contents(&self, from: &dyn File) -> io::Result<Taken> {
        let _writing = self.fetch.writing();
        self.file().take_contents(from)
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file().descriptor()
    }
    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.file().try_lock(exclusive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RealStore, Store};

    #[test]
    fn a_stream_is_written_back_in_portions_without_gaps() {
        let mut stream = Stream::default();
        let (mut at, mut portions) = (1 << 20, Vec::new());
        for _ in 0..64 {
            portions.extend(stream.wrote(at, 65 << 12));
            assert_eq!(stream.wrote(at, 64), None, "a record");
            at += 74 << 12;
        }
        assert!(portions.len() > 3);
        assert_eq!(portions[0].start, 1 << 20);
        for pair in portions.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
            assert!(pair[1].end - pair[1].start >= PORTION);
        }
    }

    #[test]
    fn only_a_stream_that_does_not_come_back_to_its_last_page_leaves_the_cache() {
        const MIB: u64 = 1 << 20;
        let streams = |call: u64, calls: u64| {
            let mut stream = Stream::default();
            let posted = (0..calls).map(|number| {
                let (start, end) = (number * call, (number + 1) * call);
                stream.set_len(end);
                let (first, last) = (start / 4096 * 4096, end.next_multiple_of(4096));
                let streams = stream.streams(first, last - first);
                stream.wrote(start, call);
                streams
            });
            posted.collect::<Vec<_>>()
        };
        let aligned = streams(MIB, 20);
        assert!(aligned.iter().position(|streams| *streams) == Some(4));
        assert!(aligned[4..].iter().all(|streams| *streams));
        assert!(streams(MIB - 1, 20).iter().all(|streams| !streams));
        // Within what is there already nothing comes back, however long the file is.
        let mut stream = Stream::default();
        stream.set_len(5000);
        stream.set_len(20 * MIB + 1);
        stream.set_len(20 * MIB + 1);
        for number in 0..5 {
            stream.wrote(number * MIB, MIB);
        }
        assert!(stream.streams(5 * MIB, MIB));
    }

    #[test]
    fn nothing_is_posted_while_the_file_is_fetched_through_whatever_descriptor() {
        const MIB: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let store = RealStore::open(folder.path()).unwrap();
        for (fetched, name) in [(true, b"a"), (false, b"b")] {
            let file = store.root().create(name, 0o600).unwrap();
            let backing = Backing::new(file, true);
            backing.set_len(16 << 20).unwrap();
            backing.fetch.pretend(fetched);
            for at in 0..16 {
                backing.write_at(&[at; MIB], u64::from(at) << 20).unwrap();
            }
            backing.fetch.pretend(false);
            backing.sync_all().unwrap();
            let cached = backing.file().cached(0, 16 << 20);
            match fetched {
                true => assert_eq!(cached, 16 << 20, "all through the cache"),
                false => assert!(
                    cached < 16 << 20,
                    "TMPDIR is not on a file system with O_DIRECT"
                ),
            }
        }
    }

    #[test]
    fn writes_here_and_there_are_left_to_the_kernel() {
        let mut stream = Stream::default();
        for at in (0..100).rev() {
            assert_eq!(stream.wrote(at << 22, 1 << 20), None);
        }
        for at in 0..10_000 {
            assert_eq!(stream.wrote(at << 12, 1 << 12), None);
        }
    }
}
