//! A file under AES-256-XTS (FORMAT.md section 3): blocks in place, no integrity. Owns block pages, length and durability
//! of one file; knows nothing of names, directories or keys above the file's own.
//!
//! Invariant: the physical length is that of `size` whenever `writer` is free, and bytes past the end of the file are
//! zero before the file grows over them.

mod blocks;
mod ledger;
mod ranges;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::crypto::Xts;
use crate::format::header::{AREAS_AT, ContentCipher, PAGE0, STATES_AT, State, StateFlags};
use crate::format::layout::{self, PAGE};
use crate::store::{Allocate, File};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::body::{Body, Mark, Names, Place};
use crate::volume::file::header::{LoadedHeader, NewHeader};
use crate::volume::file::quietly;
use ledger::Ledger;

/// A non-empty file of an XTS volume. Lock order: `syncing` < `writer` < `io` < `ledger`.
pub(crate) struct XtsBody {
    backing: Arc<dyn File>,
    cipher: Xts,
    size: AtomicU64,
    /// One sync at a time, so that an error which one of them is told reaches all.
    syncing: Mutex<()>,
    /// One writer at a time; not held during a sync.
    writer: Mutex<()>,
    /// Pages change and the file is cut only while it is held alone, so that a reader never decrypts half a page.
    io: RwLock<()>,
    ledger: Mutex<Ledger>,
}

impl XtsBody {
    /// The first write: length, header and data, the latter two with one call where the data begins in block 0. After an error
    /// the caller cuts the file to nothing.
    pub(crate) fn create(
        env: &Env,
        backing: Arc<dyn File>,
        header: NewHeader,
        offset: u64,
        data: &[u8],
    ) -> Result<Self> {
        let page = first_page(env, &header)?;
        let size = offset + data.len() as u64;
        let body = Self::new(backing, header.keys.content, 0)?;
        body.backing.set_len(layout::xts_physical_len(size))?;
        body.lock_ledger().end_is_zero = true;
        body.write_blocks(Some(&page), offset, data, size)?;
        body.size.store(size, Ordering::Release);
        Ok(body)
    }

    /// A file with this header and physical length.
    pub(crate) fn load(
        env: &Env,
        backing: Arc<dyn File>,
        header: LoadedHeader,
        physical_len: u64,
    ) -> Result<Self> {
        let state = header
            .states
            .into_iter()
            .flatten()
            .max_by_key(|state| state.sequence)
            .filter(|state| state.size == 0 && state.tags.is_empty())
            .ok_or_else(|| Error::Damaged("header: the state is not one of an XTS file".into()))?;
        let size = layout::xts_size(physical_len)
            .map_err(|error| Error::Damaged(format!("length {physical_len}: {error}")))?;
        if size == 0 {
            return Err(Error::Damaged(format!(
                "length {physical_len}: a header without a block"
            )));
        }
        let body = Self::new(backing, header.keys.content, size)?;
        body.lock_ledger().header_in_doubt = env.epochs.in_doubt(state.settled_epoch);
        Ok(body)
    }

    fn new(backing: Arc<dyn File>, content: ContentCipher, size: u64) -> Result<Self> {
        let ContentCipher::Xts(cipher) = content else {
            return Err(Error::Damaged("header: its suite is not XTS".into()));
        };
        Ok(Self {
            backing,
            cipher,
            size: AtomicU64::new(size),
            syncing: Mutex::new(()),
            writer: Mutex::new(()),
            io: RwLock::new(()),
            ledger: Mutex::default(),
        })
    }

    /// Takes the writer's turn. Before the first change of a file in doubt, its header is written once more, same bytes:
    /// the store may have lost it in a sync that failed, and show it from the page cache only.
    fn turn(&self) -> Result<MutexGuard<'_, ()>> {
        let turn = self.lock_writer();
        if self.lock_ledger().header_in_doubt {
            self.rewrite(0..1)?;
            let mut ledger = self.lock_ledger();
            ledger.header_in_doubt = false;
            ledger.wrote(0..1);
        }
        Ok(turn)
    }

    /// Takes the writer's turn for a change that leaves the file `size` bytes long or longer. Where it grows, all past the
    /// present end is durably zero when this returns.
    fn turn_to_write(&self, size: u64) -> Result<MutexGuard<'_, ()>> {
        loop {
            let turn = self.turn()?;
            if size > self.size() {
                self.zero_past_end(self.size())?;
                if self.lock_ledger().growing_waits() {
                    drop(turn);
                    self.sync(false)?;
                    continue;
                }
            }
            return Ok(turn);
        }
    }

    /// Sets the physical length for a larger size; the caller has the turn of `turn_to_write`.
    fn lengthen(&self, size: u64) -> Result<()> {
        self.backing.set_len(layout::xts_physical_len(size))?;
        self.lock_ledger().wrote(0..0);
        Ok(())
    }

    /// Takes back a growth whose data could not be written; keeps it (as zeros) where even that fails.
    fn take_back(&self, old: u64, grown: u64) {
        let _alone = self.io_alone();
        let size = if self.backing.set_len(layout::xts_physical_len(old)).is_ok() {
            old
        } else {
            grown
        };
        self.size.store(size, Ordering::Release);
        let mut ledger = self.lock_ledger();
        ledger.end_is_zero = false;
        ledger.cut();
    }

    fn shrink(&self, size: u64) -> Result<()> {
        {
            let _alone = self.io_alone();
            self.backing.set_len(layout::xts_physical_len(size))?;
            self.size.store(size, Ordering::Release);
            let mut ledger = self.lock_ledger();
            ledger.end_is_zero = false;
            ledger.cut();
        }
        // The file has its new size whatever comes of this; a growth tries again, and fails if it must.
        if let Err(error) = self.zero_past_end(size) {
            tracing::warn!("old bytes past the end of a shortened file not wiped yet: {error}");
        }
        Ok(())
    }

    /// Writes the pages that a failed sync left behind once more, as the store has them now.
    fn repair(&self) -> Result<()> {
        let _turn = self.lock_writer();
        let pages = self.lock_ledger().unsynced();
        quietly(self.backing.as_ref(), || {
            pages.into_iter().try_for_each(|range| self.rewrite(range))
        })
    }

    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.io.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn io_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.io.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for XtsBody {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let _shared = self.io_shared();
        self.read_blocks(offset, out, self.size())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset + data.len() as u64;
        let _turn = self.turn_to_write(end)?;
        let old = self.size();
        if end <= old {
            return self.write_blocks(None, offset, data, old);
        }
        self.lengthen(end)?;
        let written = self.write_blocks(None, offset, data, end);
        match written {
            Ok(()) => self.size.store(end, Ordering::Release),
            Err(_) => self.take_back(old, end),
        }
        written
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let _turn = self.turn_to_write(size)?;
        let old = self.size();
        if size > old {
            self.lengthen(size)?;
            self.size.store(size, Ordering::Release);
        } else if size < old {
            self.shrink(size)?;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, punch: bool) -> Result<()> {
        let _turn = self.turn()?;
        self.zero_blocks(offset, len.min(self.size().saturating_sub(offset)), punch)
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let (first, end) = (offset / PAGE, (offset + len).div_ceil(PAGE));
        let _turn = self.lock_writer();
        Ok(self
            .backing
            .allocate(Allocate::Reserve, (1 + first) * PAGE, (end - first) * PAGE)?)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        let _shared = self.io_shared();
        let size = self.size();
        if offset >= size {
            return Ok(None);
        }
        let data = self.backing.next_data(PAGE + offset)?;
        Ok(data
            .map(|at| at.saturating_sub(PAGE).max(offset))
            .filter(|at| *at < size))
    }

    fn next_hole(&self, offset: u64) -> Result<u64> {
        let _shared = self.io_shared();
        let size = self.size();
        if offset >= size {
            return Ok(size);
        }
        let hole = self.backing.next_hole(PAGE + offset)?;
        Ok(hole.map_or(size, |at| at.saturating_sub(PAGE).clamp(offset, size)))
    }

    fn sync(&self, metadata: bool) -> Result<()> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock_ledger().failed() {
            self.repair()?;
        }
        let mark = self.lock_ledger().begin();
        let synced = if metadata {
            self.backing.sync_all()
        } else {
            self.backing.sync_data()
        };
        let mut ledger = self.lock_ledger();
        match synced {
            Ok(()) => ledger.ended_well(mark),
            Err(_) => ledger.ended_badly(),
        }
        Ok(synced?)
    }

    fn check_name(&self, _: &Place) -> Result<()> {
        Ok(())
    }

    fn add_name(&self, _: &Place, _: &Place, _: u64, _: bool) -> Result<()> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        self.lock_ledger().is_durable()
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn mark(&self) -> Mark {
        self.lock_ledger().mark()
    }

    fn synced(&self, mark: Mark) -> bool {
        self.lock_ledger().synced(mark)
    }

    fn settle_halves(&self, mark: Mark, _: &Names) -> Result<Option<Mark>> {
        Ok(Some(mark).filter(|mark| *mark == self.mark()))
    }

    fn settle_state(&self, mark: Mark) -> Result<Option<Mark>> {
        Ok(Some(mark).filter(|mark| *mark == self.mark()))
    }

    fn needs_mending(&self) -> bool {
        self.lock_ledger().header_in_doubt
    }

    fn mend_all(&self) -> Result<()> {
        drop(self.turn()?);
        self.sync(false)
    }

    fn with_header(&self, change: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _turn = self.lock_writer();
        let changed = change();
        self.lock_ledger().wrote(0..1);
        changed
    }
}

/// Page 0 of a new file: its one state is settled and never written again.
fn first_page(env: &Env, header: &NewHeader) -> Result<Box<[u8; PAGE0]>> {
    let state = State {
        size: 0,
        flags: StateFlags::default(),
        epoch: env.epochs.running,
        sequence: 1,
        sparse: (0, 0),
        settled_epoch: env.epochs.running,
        tags: Vec::new(),
    };
    let state = state.encode(&header.keys.header, &header.file);
    let mut page = Box::new([0; PAGE0]);
    for (offset, part) in [
        (0, &header.core[..]),
        (AREAS_AT[0], &header.area[..]),
        (STATES_AT[0], &state[..]),
    ] {
        page.iter_mut()
            .skip(offset)
            .zip(part)
            .for_each(|(to, from)| *to = *from);
    }
    Ok(page)
}
