//! The state of one inode's contents in memory: empty, not read yet, or a body of the volume's suite. Owns the change
//! between empty and not empty, and what is known of the file's names; hands everything else to the body. Knows no path.
//!
//! Lock order: `quiet` < `content` < `syncing`, `extend` < the body's locks; `names`, `owed` and the settler's list last,
//! never over a call that writes. `content` is held shared by every operation and alone where the body is exchanged or re-wrapped.
//! `quiet` is held by what changes names or times and by settling, so that none of these falls into another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use std::time::{Duration, Instant};

use crate::broken::{Rule, broken};
use crate::format::header::PAGE0;
use crate::format::layout::{MAX_SIZE, PAGE};
use crate::format::suite::Suite;
use crate::store::{Allocate, Dir, File, SetTimes};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::Backing;
use crate::volume::file::body::{Body, Place};
use crate::volume::file::gcm::{GcmBody, room};
use crate::volume::file::header::{self, Loaded};
use crate::volume::file::names::KnownNames;
use crate::volume::file::owed::Owed;
use crate::volume::file::xts::XtsBody;
use crate::volume::settle::Settler;

/// What a file holds.
pub(super) enum Content {
    /// Not looked at yet.
    Unread,
    /// No bytes.
    Empty,
    /// Remains of a header that never arrived; reads as empty.
    Remains,
    /// A first write that failed and could not be taken back, by this mount; reads as empty. The settler tries again.
    Unmade,
    /// A header and data.
    Body(Arc<dyn Body>),
}

/// The contents of one inode while it is open, not durable or not settled: at most one for each (device, inode).
pub(crate) struct FileState {
    me: Weak<Self>,
    /// Of all states of this process, in the order in which they were made.
    pub(in crate::volume) number: u64,
    pub(super) env: Arc<Env>,
    pub(super) settler: Arc<Settler>,
    pub(super) backing: Arc<Backing>,
    pub(super) dir: Arc<dyn Dir>,
    pub(super) content: RwLock<Content>,
    pub(super) quiet: Mutex<()>,
    /// Counts the begins and ends of changes by users, for settling: an mtime that one of them set is not put back.
    pub(super) user_changes: AtomicU64,
    syncing: Mutex<()>,
    /// Held by whoever makes the file longer, so that an append finds its end where it was.
    extend: Mutex<()>,
    pub(super) names: Mutex<KnownNames>,
    pub(super) owed: Mutex<Owed>,
    /// Whether the settler has it.
    pub(in crate::volume) listed: AtomicBool,
    /// Whether the settler ever had it.
    pub(in crate::volume) came_before: AtomicBool,
    /// Whether its last name went: nothing of it waits for a sync any more.
    deleted: AtomicBool,
    /// When it was last changed, milliseconds since `START`.
    changed_at: AtomicU64,
    /// Physical length as it was opened; taken by who reads the header first, as nothing changes it before that.
    opened_len: Mutex<Option<u64>>,
    /// The inode number of a file that this mount made: it knows every name of it.
    pub(super) made: OnceLock<u64>,
}

impl FileState {
    /// `backing` is open, for writing if `writable`; `here` is its name and `dir` the directory that has it, where the
    /// remains of a header that never arrived are put. Reads nothing yet.
    pub(crate) fn new(
        env: &Arc<Env>,
        settler: &Arc<Settler>,
        backing: Arc<dyn File>,
        writable: bool,
        here: Place,
        dir: Arc<dyn Dir>,
    ) -> Arc<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            number: MADE.fetch_add(1, Ordering::Relaxed),
            env: env.clone(),
            settler: settler.clone(),
            backing: Arc::new(Backing::new(backing, writable)),
            dir,
            content: RwLock::new(Content::Unread),
            quiet: Mutex::new(()),
            user_changes: AtomicU64::new(0),
            syncing: Mutex::new(()),
            extend: Mutex::new(()),
            names: Mutex::new(KnownNames::new(here)),
            owed: Mutex::default(),
            listed: AtomicBool::new(false),
            came_before: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            changed_at: AtomicU64::new(0),
            opened_len: Mutex::default(),
            made: OnceLock::new(),
        })
    }

    /// How long the file was, in physical bytes, when it was opened for this state just now: spares a look at it.
    pub(crate) fn opened_with(&self, len: u64) {
        *self.lock_opened_len() = Some(len);
    }

    /// It was made just now, as this inode, and every name that it gets comes through this state.
    pub(crate) fn was_made_as(&self, ino: u64) {
        let _ = self.made.set(ino);
    }

    /// The descriptor in use.
    pub(crate) fn backing(&self) -> Arc<dyn File> {
        self.backing.clone()
    }

    /// Takes a descriptor open for writing, where the present one is not.
    pub(crate) fn make_writable(&self, backing: Arc<dyn File>) {
        self.backing.make_writable(backing);
    }

    /// Reads the header if that was not done yet, and checks that the file may have the name by which it was reached.
    pub(crate) fn load(&self, via: &Place) -> Result<()> {
        if let Content::Body(body) = &*self.content_via(via)? {
            body.check_name(via)?;
        }
        self.lock_names().seen(via);
        Ok(())
    }

    /// As `load` for a file without a name any more: it must have been bound to the last one.
    pub(crate) fn check_last_name(&self) -> Result<()> {
        let here = self.lock_names().here().clone();
        match &*self.content_via(&here)? {
            Content::Body(body) => body.check_name(&here),
            _ => Ok(()),
        }
    }

    /// Plaintext size.
    pub(crate) fn size(&self) -> Result<u64> {
        Ok(size_of(&*self.content()?))
    }

    /// Plaintext size if the header was read already.
    pub(crate) fn loaded_size(&self) -> Option<u64> {
        match &*self.content_shared() {
            Content::Unread => None,
            content => Some(size_of(content)),
        }
    }

    /// Reads at `offset`; short only at the end.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        match &*self.content()? {
            Content::Body(body) if offset < body.size() => body.read(offset, out),
            _ => Ok(0),
        }
    }

    /// Writes all of `data`; EFBIG past the largest size.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = end_of(offset, data.len() as u64)?;
        loop {
            let written = self.change(|body| {
                let _extend = (end > body.size()).then(|| self.lock_extend());
                body.write(offset, data)
            })?;
            if written.is_some() || self.first_write(offset, data)? {
                return Ok(());
            }
        }
    }

    /// Writes `data` at the end and returns where that was.
    pub(crate) fn append(&self, data: &[u8]) -> Result<u64> {
        if data.is_empty() {
            return self.size();
        }
        loop {
            let appended = self.change(|body| {
                let _extend = self.lock_extend();
                let offset = body.size();
                end_of(offset, data.len() as u64)?;
                body.write(offset, data).map(|()| offset)
            })?;
            if let Some(offset) = appended {
                return Ok(offset);
            }
            if self.first_write(0, data)? {
                return Ok(0);
            }
        }
    }

    /// Changes the size, both ways; to 0 also where the contents are damaged.
    pub(crate) fn set_size(&self, size: u64) -> Result<()> {
        if size == 0 {
            return self.cut_to_nothing();
        }
        end_of(size, 0)?;
        loop {
            let changed = self.change(|body| {
                let _extend = self.lock_extend();
                body.set_size(size)
            })?;
            if changed.is_some() || self.first_write(size, &[])? {
                return Ok(());
            }
        }
    }

    /// Makes the file at least this long.
    pub(crate) fn grow(&self, size: u64) -> Result<()> {
        end_of(size, 0)?;
        if size == 0 {
            return Ok(());
        }
        loop {
            let grown = self.change(|body| {
                let _extend = self.lock_extend();
                if size > body.size() {
                    body.set_size(size)?;
                }
                Ok(())
            })?;
            if grown.is_some() || self.first_write(size, &[])? {
                return Ok(());
            }
        }
    }

    /// Makes a range inside the size read as zeros; `punch`: also gives its space back.
    pub(crate) fn zero(&self, offset: u64, len: u64, punch: bool) -> Result<()> {
        self.change(|body| match len.min(body.size().saturating_sub(offset)) {
            0 => Ok(()),
            len => body.zero(offset, len, punch),
        })?;
        Ok(())
    }

    /// Reserves space in the store; the size does not change.
    pub(crate) fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        let end = end_of(offset, len)?;
        if self.change(|body| body.reserve(offset, len))?.is_none() && len > 0 {
            let (from, to) = self.on_store(offset, end, 0);
            self.backing.allocate(Allocate::Reserve, 0, PAGE)?; // the header
            self.backing.allocate(Allocate::Reserve, from, to - from)?;
        }
        Ok(())
    }

    /// Where on the store the bytes from `offset` to before `end` (more than `offset`) stand in a file of this size.
    fn on_store(&self, offset: u64, end: u64, size: u64) -> (u64, u64) {
        match self.env.suite {
            Suite::Gcm => room(offset, end, size),
            Suite::Xts => (
                PAGE + offset / PAGE * PAGE,
                PAGE + end.next_multiple_of(PAGE),
            ),
        }
    }

    /// Has read ahead what bytes from `offset` to before `end` (more than `offset`, within the size) need.
    pub(crate) fn read_ahead(&self, offset: u64, end: u64) {
        let (from, to) = self.on_store(offset, end, end);
        self.backing.read_ahead(from, to - from);
    }

    /// Start of the next data at or after `offset`; `None` if only holes follow.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        match &*self.content()? {
            Content::Body(body) => body.next_data(offset),
            _ => Ok(None),
        }
    }

    /// Start of the next hole at or after `offset`; the size if none comes before.
    pub(crate) fn next_hole(&self, offset: u64) -> Result<u64> {
        match &*self.content()? {
            Content::Body(body) => body.next_hole(offset),
            _ => Ok(0),
        }
    }

    /// Makes everything written so far durable; `metadata`: owner, mode and times too.
    pub(crate) fn sync(&self, metadata: bool) -> Result<()> {
        if self.env.read_only || broken(Rule::FsyncIgnored) {
            return Ok(());
        }
        let content = self.content_shared();
        // One at a time, so that an error which one is told reaches all.
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock_owed().areas_wait() {
            self.rewrite_areas(&content)?;
        }
        let mark = self.lock_owed().mark();
        let synced = match &*content {
            Content::Body(body) => body.sync(metadata),
            _ if metadata => self.backing.sync_all().map_err(Error::from),
            _ => self.backing.sync_data().map_err(Error::from),
        };
        match synced {
            Ok(()) => self.lock_owed().synced(mark),
            Err(_) => {
                self.lock_owed().sync_failed();
                self.env.distrust("a sync failed");
            }
        }
        synced
    }

    /// Before `new` appears in a directory: `via` is the name by which the file was reached, `links` its number of links
    /// now, `link`: the old name stays. `name_is(new)` or `name_gone(new)` must follow.
    pub(crate) fn add_name(&self, via: &Place, new: &Place, links: u64, link: bool) -> Result<()> {
        self.make_room();
        let _quiet = self.lock_quiet();
        self.lock_names().moving(new);
        if self.env.suite == Suite::Xts || !self.env.bind_names {
            return Ok(());
        }
        let added = self.change_here(|body| body.add_name(via, new, links, link));
        if added.is_err() {
            self.lock_names().gone(new);
        }
        added.map(|_| ())
    }

    /// Before the name `place` goes, by unlink or because another file takes it. `name_gone`, or `name_is` if that
    /// failed, must follow.
    pub(crate) fn name_going(&self, place: &Place) {
        self.lock_names().moving(place);
    }

    /// After a directory change: the file does not have this name.
    pub(crate) fn name_gone(&self, place: &Place) {
        self.lock_names().gone(place);
    }

    /// After a directory change: the file has this name.
    pub(crate) fn name_is(&self, place: &Place) {
        self.lock_names().is(place);
    }

    /// Sets times of the file, as a user asks. All such calls come here while the file has a state in memory, since
    /// settling reads the mtime and puts it back.
    pub(crate) fn set_times(&self, times: SetTimes) -> Result<()> {
        let _quiet = self.lock_quiet();
        Ok(self.backing.set_times(times)?)
    }

    /// After its last name went: the settler lets it go, so that the store has its space back with the last handle. One
    /// that is busy goes in the next pass.
    pub(in crate::volume) fn last_name_gone(&self) {
        if !self.backing.stat().is_ok_and(|stat| stat.nlink == 0) {
            return; // it got another one meanwhile
        }
        self.deleted.store(true, Ordering::Release);
        let Ok(_alone) = self.content.try_write() else {
            return;
        };
        self.listed.store(false, Ordering::Release);
        if let Some(me) = self.me.upgrade() {
            self.settler.remove(&me);
        }
    }

    /// Forgets the contents and the keys to them, after whoever uses them; whether nothing of them waited.
    pub(in crate::volume) fn unload(&self) -> bool {
        let mut content = self.content_alone();
        let at_rest = self.owes_nothing(&content);
        if let Content::Body(body) = &*content
            && !at_rest
            && let Err(error) = body.sync(true)
        {
            tracing::error!(
                "a file of a locked volume may have lost what was written last: {error}"
            );
        }
        *content = Content::Unread;
        at_rest
    }

    /// A count that moves with every change of the contents by a user.
    pub(crate) fn user_changes(&self) -> u64 {
        self.user_changes.load(Ordering::Acquire)
    }

    /// How long ago it was last changed.
    pub(in crate::volume) fn idle(&self) -> Duration {
        now().saturating_sub(Duration::from_millis(
            self.changed_at.load(Ordering::Relaxed),
        ))
    }

    /// Runs a change of a file that is not empty; `None` if it is empty. The settler knows of the file before.
    fn change<T>(&self, change: impl FnOnce(&dyn Body) -> Result<T>) -> Result<Option<T>> {
        self.make_room();
        self.change_here(change)
    }

    /// As `change`, where a lock of this file is held already.
    fn change_here<T>(&self, change: impl FnOnce(&dyn Body) -> Result<T>) -> Result<Option<T>> {
        if self.env.read_only {
            return Err(Error::errno(libc::EROFS));
        }
        let content = self.content()?;
        let Content::Body(body) = &*content else {
            return Ok(None);
        };
        self.note();
        self.user_changes.fetch_add(1, Ordering::AcqRel);
        let changed = change(body.as_ref());
        self.user_changes.fetch_add(1, Ordering::AcqRel);
        changed.map(Some)
    }

    /// Before this file needs a place on the settler's list; with no lock of it held.
    fn make_room(&self) {
        if !self.listed.load(Ordering::Acquire) {
            self.settler.make_room();
        }
    }

    /// Puts it on the settler's list; the caller holds `content`.
    pub(super) fn note(&self) {
        self.changed_at
            .store(now().as_millis() as u64, Ordering::Relaxed);
        if !self.listed.load(Ordering::Acquire)
            && !self.deleted.load(Ordering::Acquire)
            && let Some(me) = self.me.upgrade()
        {
            self.settler.note(&me);
        }
    }

    fn cut_to_nothing(&self) -> Result<()> {
        if self.env.read_only {
            return Err(Error::errno(libc::EROFS));
        }
        // A header that cannot be read does not keep anyone from giving the contents up.
        if let Err(error) = self.content() {
            tracing::warn!("a file whose header cannot be read is cut to nothing: {error}");
        }
        let mut content = self.content_alone();
        if matches!(*content, Content::Remains) {
            return Ok(());
        }
        self.note();
        self.user_changes.fetch_add(1, Ordering::AcqRel);
        let cut = self.backing.set_len(0);
        self.lock_owed().changed();
        if cut.is_ok() {
            *content = Content::Empty;
        }
        Ok(cut?)
    }

    /// The content, read if it was not yet, held shared.
    pub(super) fn content(&self) -> Result<RwLockReadGuard<'_, Content>> {
        let content = self.content_shared();
        if !matches!(*content, Content::Unread) {
            return Ok(content);
        }
        drop(content);
        let here = self.lock_names().here().clone();
        self.content_via(&here)
    }

    fn content_via(&self, via: &Place) -> Result<RwLockReadGuard<'_, Content>> {
        loop {
            let content = self.content_shared();
            if !matches!(*content, Content::Unread) {
                return Ok(content);
            }
            drop(content);
            let mut content = self.content_alone();
            if matches!(*content, Content::Unread) {
                *content = self.read_content(via)?;
            }
        }
    }

    fn read_content(&self, via: &Place) -> Result<Content> {
        let opened = self.lock_opened_len().take();
        let len = match opened {
            Some(len) => len,
            None => self.backing.stat()?.size,
        };
        let header = match header::load_header(&self.env, self.backing.as_ref(), len)? {
            Loaded::Empty => return Ok(Content::Empty),
            Loaded::NeverArrived => return Ok(Content::Remains),
            Loaded::Header(header) => *header,
        };
        match self.env.suite {
            Suite::Xts => Ok(Content::Body(Arc::new(XtsBody::load(
                &self.env,
                self.backing.clone(),
                header,
                len,
            )?))),
            Suite::Gcm => {
                let body = GcmBody::load(&self.env, self.backing.clone(), header, len, via)?;
                Ok(Content::Body(Arc::new(body)))
            }
        }
    }

    pub(super) fn content_shared(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn content_alone(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, KnownNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_quiet(&self) -> MutexGuard<'_, ()> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_opened_len(&self) -> MutexGuard<'_, Option<u64>> {
        self.opened_len
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_extend(&self) -> MutexGuard<'_, ()> {
        self.extend.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a range; EFBIG where that exceeds the largest size of a file.
fn end_of(offset: u64, len: u64) -> Result<u64> {
    offset
        .checked_add(len)
        .filter(|end| *end <= MAX_SIZE)
        .ok_or(Error::errno(libc::EFBIG))
}

fn size_of(content: &Content) -> u64 {
    match content {
        Content::Body(body) => body.size(),
        _ => 0,
    }
}

fn now() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

const _: () = assert!(PAGE0 as u64 == PAGE);
