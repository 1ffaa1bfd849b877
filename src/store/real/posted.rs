//! Posted writes: the device takes them from memory of ours, past the kernel's cache, while the caller goes on. For streams,
//! of which a copy in the cache costs more than the cipher.
//!
//! Invariants: a write counts as made once the kernel has it, and survives this process then as one in the cache does.
//! While any is under way, nothing is read, written or cut where it goes, the kernel reads nothing ahead into the cache, and no
//! sync begins that is to cover it: so nobody sees the file without it, and the cache holds nothing older. One that the device
//! refused is made again through the cache; where that fails, too, the file's next sync does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use rustix::fs::{Advice, SeekFrom};

use super::file_system::is_ext;
use super::line::Line;
use super::{file, locked, quota, retry};
use crate::store::ALIGNED;

/// What goes through the cache once the file was read while writes were under way, bytes: who reads and writes by turns would
/// wait for the device each time.
const HELD_BACK: u64 = 16 << 20;

/// Bytes that a file system must have free for all: where they run out while a write is under way, its caller is gone.
const FREE: u64 = 256 << 20;

/// The posted writes of one file.
pub(super) struct Posts {
    file: Arc<OwnedFd>,
    state: RwLock<State>,
}

#[derive(Default)]
pub(super) struct State {
    line: Option<Line>,
    /// Only what has its place on the store already is posted.
    placed_only: bool,
    /// Bytes that go through the cache before anything is posted again.
    held_back: u64,
    /// What a write that was done for its caller failed with later, until a sync has told it.
    failed: Option<io::Error>,
}

/// Files that may have writes under way.
static OPEN: Mutex<Vec<Weak<Posts>>> = Mutex::new(Vec::new());

/// Waits for all writes of all files, before a sync of a whole store, and gives back what they were posted with. What failed
/// stays with each file for its own next sync.
pub(super) fn before_sync_of_all() {
    // They stay in the list: another sync that begins meanwhile waits for the same writes.
    let open = locked(&OPEN).clone();
    for posts in open.iter().filter_map(Weak::upgrade) {
        let mut state = posts.write();
        state.close(&posts.file);
    }
}

impl Posts {
    pub(super) fn new(file: Arc<OwnedFd>) -> Arc<Self> {
        let state = RwLock::default();
        Arc::new(Self { file, state })
    }

    /// Posts a write if that can be now; false otherwise, and nothing was written.
    ///
    /// # Errors
    /// The device refused it at once, and so did the cache.
    pub(super) fn post(self: &Arc<Self>, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let Ok(mut state) = self.state.try_write() else {
            return Ok(false); // the file is being read
        };
        if state.held_back > 0 {
            state.held_back = state.held_back.saturating_sub(bytes.len() as u64);
            return Ok(false);
        }
        if state.line.is_none() {
            match state.open(&self.file) {
                true => self.register(),
                false => state.held_back = HELD_BACK,
            }
        }
        if state.overlaps(offset, bytes.len() as u64) {
            state.drain(&self.file);
        }
        state.post(&self.file, bytes, offset)
    }

    /// To be held over a read of so many bytes, or over looking where the file has data. Who reads more than a page may be
    /// reading on: that is what the cache is for.
    pub(super) fn reading(&self, offset: u64, len: u64) -> RwLockReadGuard<'_, State> {
        if len <= ALIGNED as u64 {
            return self.changing(offset, len);
        }
        loop {
            let state = self.read();
            if state.line.is_none() {
                return state;
            }
            drop(state);
            let mut state = self.write();
            state.close(&self.file);
            state.held_back = HELD_BACK;
        }
    }

    /// To be held over a change of this range.
    pub(super) fn changing(&self, offset: u64, len: u64) -> RwLockReadGuard<'_, State> {
        loop {
            let state = self.read();
            if !state.overlaps(offset, len) {
                return state;
            }
            drop(state);
            self.write().drain(&self.file);
        }
    }

    /// Before a sync: waits for all writes, and says what one failed with of which nobody was told.
    pub(super) fn before_sync(&self) -> io::Result<()> {
        if self.read().is_quiet() {
            return Ok(());
        }
        let mut state = self.write();
        state.drain(&self.file);
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Whether the next sync has a failure to tell of.
    pub(super) fn has_failed(&self) -> bool {
        self.read().failed.is_some()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        let mut open = locked(&OPEN);
        open.retain(|posts| posts.strong_count() > 0 && !posts.ptr_eq(&this));
        open.push(this);
    }
}

impl Drop for Posts {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.close(&self.file);
        if let Some(error) = &state.failed {
            tracing::error!("a write past the cache failed and no sync came to tell it: {error}");
        }
    }
}

impl State {
    fn open(&mut self, file: &OwnedFd) -> bool {
        self.line = Line::open(file);
        if self.line.is_some() {
            self.placed_only = lays_out_each(file) || quota::may_be_on(file);
            read_ahead(file, Advice::Random);
        }
        self.line.is_some()
    }

    fn close(&mut self, file: &OwnedFd) {
        self.drain(file);
        if self.line.take().is_some() {
            read_ahead(file, Advice::Normal);
        }
    }

    fn is_idle(&self) -> bool {
        self.line.as_ref().is_none_or(Line::is_idle)
    }

    fn is_quiet(&self) -> bool {
        self.is_idle() && self.failed.is_none()
    }

    fn overlaps(&self, offset: u64, len: u64) -> bool {
        let line = self.line.as_ref();
        line.is_some_and(|line| line.overlaps(offset, len))
    }

    fn post(&mut self, file: &OwnedFd, bytes: &[u8], offset: u64) -> io::Result<bool> {
        self.reap(file, false, None);
        let len = bytes.len() as u64;
        let may_begin = has_room(file) && (!self.placed_only || has_place(file, offset, len));
        let line = self.line.as_mut().filter(|_| may_begin);
        // Also none where the device is behind: the cache does not wait for it.
        let Some(number) = line.and_then(|line| line.give(bytes, offset)) else {
            return Ok(false);
        };
        // What cannot begin at all is told here, as a write through the cache would.
        let refused = self.reap(file, false, Some(number));
        refused.map_or(Ok(true), Err)
    }

    fn drain(&mut self, file: &OwnedFd) {
        while !self.is_idle() {
            self.reap(file, true, None);
        }
    }

    /// Takes in what is done, and makes again through the cache what the device refused. What the cache refuses as well is
    /// kept for the next sync, but of the write `own`, which is returned.
    fn reap(&mut self, cached: &OwnedFd, wait: bool, own: Option<u64>) -> Option<io::Error> {
        let Self { line, failed, .. } = self;
        let mut told = None;
        line.as_mut()?.reap(wait, &mut |refused| {
            let Err(error) = file::write_at(cached, refused.bytes, refused.offset) else {
                return;
            };
            match own == Some(refused.number) {
                true => told = Some(error),
                false => {
                    failed.get_or_insert(error);
                }
            }
        });
        told
    }
}

/// Whether a file system lays out direct writes one by one, and in one piece what goes through its cache, as XFS does; ext4 puts
/// blocks at the distance that they have in the file.
fn lays_out_each(file: &OwnedFd) -> bool {
    let totals = retry(|| rustix::fs::fstatfs(file));
    !totals.is_ok_and(|totals| is_ext(&totals))
}

/// Whether a write will not find the store full.
fn has_room(file: &OwnedFd) -> bool {
    let totals = retry(|| rustix::fs::fstatfs(file));
    totals.is_ok_and(|totals| totals.f_bavail.saturating_mul(totals.f_bsize as u64) >= FREE)
}

/// Whether a write goes to what the file has of the store already.
fn has_place(file: &OwnedFd, offset: u64, len: u64) -> bool {
    let hole = rustix::fs::seek(file, SeekFrom::Hole(offset));
    hole.is_ok_and(|hole| hole >= offset.saturating_add(len))
}

/// What the kernel reads of a file beside what it is asked for.
fn read_ahead(file: &OwnedFd, advice: Advice) {
    let _never_refused = rustix::fs::fadvise(file, 0, None, advice);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::super::line::tests::Later;
    use super::*;
    use crate::store::Pages;

    const PAGE: usize = ALIGNED;

    /// Posts of this file to a device of the test's.
    fn posts(file: OwnedFd) -> (Later, Arc<Posts>) {
        let posts = Posts::new(Arc::new(file));
        let device = Later::default();
        let ring = Pages::new(16 * PAGE).unwrap();
        posts.write().line = Some(Line::with(Box::new(device.clone()), ring));
        (device, posts)
    }

    fn errno(code: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(code))
    }

    #[test]
    fn what_the_device_refuses_is_made_through_the_cache() {
        let file = tempfile::tempfile().unwrap();
        let (device, posts) = posts(file.try_clone().unwrap().into());
        assert!(posts.post(&[7; 2 * PAGE], PAGE as u64).unwrap());
        device.end(0, errno(libc::EIO));
        posts.before_sync().unwrap();
        assert!(!posts.has_failed());
        let mut content = Vec::new();
        (&file).read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), 3 * PAGE);
        assert!(content[PAGE..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_the_cache_refuses_as_well_is_told_by_the_next_sync_once() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(path.path()).unwrap();
        let (device, posts) = posts(read_only.into());
        assert!(posts.post(&[7; PAGE], 0).unwrap());
        device.end(0, errno(libc::EIO));
        assert!(!posts.has_failed());
        drop(posts.changing(0, 1));
        assert!(posts.has_failed());
        let told = posts.before_sync().unwrap_err();
        assert_eq!(told.raw_os_error(), Some(libc::EBADF));
        assert!(!posts.has_failed() && posts.before_sync().is_ok());
    }

    #[test]
    fn a_write_that_cannot_begin_fails_at_once_and_others_later() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(path.path()).unwrap();
        let (device, posts) = posts(read_only.into());
        assert!(posts.post(&[7; PAGE], 0).unwrap());
        device.end(0, errno(libc::ENOSPC));
        device.refuse_next(libc::EIO);
        let error = posts.post(&[8; PAGE], PAGE as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert!(posts.has_failed(), "of the first");
        posts.before_sync().unwrap_err();
        posts.before_sync().unwrap();
        assert!(posts.post(&[7; PAGE], 0).unwrap());
        device.refuse_next_and_end(libc::EIO, 2);
        posts.post(&[8; PAGE], PAGE as u64).unwrap_err();
        assert!(posts.has_failed(), "of the one before, told together");
    }

    #[test]
    fn only_changes_elsewhere_go_on_while_a_write_is_under_way() {
        let file = tempfile::tempfile().unwrap();
        let (device, posts) = posts(file.into());
        assert!(posts.post(&[7; 2 * PAGE], PAGE as u64).unwrap());
        let page = PAGE as u64;
        drop(posts.changing(0, page));
        drop(posts.changing(3 * page, u64::MAX));
        drop(posts.reading(0, page));
        assert!(!posts.read().is_idle());
        let waits: [fn(&Posts); 6] = [
            |posts| drop(posts.changing(page_of(2), 1)),
            |posts| drop(posts.changing(page_of(2), u64::MAX)),
            |posts| drop(posts.reading(page_of(1), page_of(1))),
            |posts| drop(posts.reading(page_of(9), page_of(2))),
            |posts| posts.before_sync().unwrap(),
            |_| before_sync_of_all(),
        ];
        posts.register();
        for (number, wait) in waits.into_iter().enumerate() {
            device.end(number as u64, Ok(2 * PAGE));
            wait(&posts);
            let mut state = posts.write();
            assert!(state.is_idle(), "{number}");
            state.held_back = 0;
            if state.line.is_none() {
                let ring = Pages::new(16 * PAGE).unwrap();
                let line = Line::with_next(Box::new(device.clone()), ring, number as u64 + 1);
                state.line = Some(line);
            }
            drop(state);
            posts.register();
            assert!(posts.post(&[7; 2 * PAGE], page).unwrap(), "{number}");
        }
        device.end(6, Ok(2 * PAGE));
    }

    #[test]
    fn a_stream_leaves_nothing_in_the_cache_where_the_file_system_knows_o_direct() {
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let posts = Posts::new(Arc::clone(&file));
        let piece: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        let mut posted = 0;
        for at in 0..32 {
            match posts.post(&piece, at << 20).unwrap() {
                true => posted += 1,
                false => file::write_at(&file, &piece, at << 20).unwrap(),
            }
        }
        posts.before_sync().unwrap();
        rustix::fs::fsync(&file).unwrap();
        let whole = 32 << 20;
        assert!(
            posted >= 6,
            "{posted}: is TMPDIR on a file system with O_DIRECT?"
        );
        let cached = super::super::cached::pages(&file, 0, whole).unwrap();
        assert!(
            cached <= (32 - posted) << 8,
            "{cached} pages, {posted} posted"
        );
        let mut content = Vec::new();
        File::from(file.try_clone().unwrap())
            .seek(io::SeekFrom::Start(0))
            .unwrap();
        File::from(file.try_clone().unwrap())
            .read_to_end(&mut content)
            .unwrap();
        assert!(content.chunks(1 << 20).all(|chunk| chunk == piece));
        assert_eq!(content.len() as u64, whole);
    }

    #[test]
    fn two_syncs_of_a_store_at_once_wait_for_the_same_writes() {
        let file = tempfile::tempfile().unwrap();
        let (device, posts) = posts(file.into());
        posts.register();
        assert!(posts.post(&[7; PAGE], 0).unwrap());
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    before_sync_of_all();
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            thread::sleep(Duration::from_millis(100));
            assert_eq!(done.load(Ordering::SeqCst), 0, "a write is under way");
            device.end(0, Ok(PAGE));
        });
        assert_eq!(done.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn where_a_place_is_needed_only_what_has_one_is_posted() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 8 * PAGE], 0).unwrap();
        file.sync_all().unwrap();
        file.set_len(64 << 20).unwrap();
        let (device, posts) = posts(file.into());
        posts.write().placed_only = true;
        assert!(!posts.post(&[2; 2 * PAGE], page_of(8)).unwrap(), "a hole");
        assert!(!posts.post(&[2; 2 * PAGE], page_of(7)).unwrap(), "in part");
        assert!(posts.post(&[2; 2 * PAGE], page_of(6)).unwrap());
        device.end(0, Ok(2 * PAGE));
    }

    const fn page_of(number: u64) -> u64 {
        number * PAGE as u64
    }

    #[test]
    fn who_reads_on_has_what_follows_go_through_the_cache() {
        let file = tempfile::tempfile().unwrap();
        let (device, posts) = posts(file.into());
        assert!(posts.post(&[7; 2 * PAGE], 0).unwrap());
        device.end(0, Ok(2 * PAGE));
        drop(posts.reading(1 << 30, 2 << 20));
        let write = vec![1; 4 << 20];
        for _ in 0..HELD_BACK >> 22 {
            assert!(!posts.post(&write, 0).unwrap());
        }
        assert_eq!(posts.read().held_back, 0);
        let reader = posts.reading(0, 1);
        assert!(!posts.post(&write, 0).unwrap(), "being read");
        drop(reader);
    }
}
