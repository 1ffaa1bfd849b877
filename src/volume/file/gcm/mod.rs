//! A file under AES-256-GCM-SIV (FORMAT.md sections 2 to 4): blocks that are never overwritten where they must survive,
//! two halves of every record and of the state. Owns blocks, records, states and length of one file; knows nothing of
//! directories or of keys above the file's own. May call format, crypto, store.
//!
//! Invariant: at any instant the store holds, for every block and for the state, the version that the last good sync made
//! durable, in bytes that nothing rewrites; and memory counts nothing as durable that such a sync did not cover.
//!
//! Lock order: `writer` < `beside` < `io` < `memory`. `writer` is held by every change and by every sync that a caller is promised
//! (rule 4). `memory` is never held over I/O. Readers take `io` shared and no `writer`: they take entries from `memory`,
//! read, and read again where a block does not open and its entry changed meanwhile.

mod beside;
mod block;
mod choose;
mod copies;
mod create;
mod durable;
mod groups;
mod in_place;
mod inspect;
mod mend;
mod names;
mod place;
mod read;
mod resize;
mod scout;
mod scratch;
mod settle;
mod space;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod write;

use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::broken::{Rule, broken};
use crate::crypto::{GcmSiv, Secret};
use crate::format::header::ContentCipher;
use crate::format::ids::FileId;
use crate::format::layout;
use crate::store::File;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::body::{Body, Mark, Names, Place};
use crate::volume::file::quietly;
use beside::Beside;
use scout::Scout;
pub(in crate::volume::file) use space::room;
use state::Head;
use table::Table;

/// Groups that may wait for a sync before a writer syncs on its own account: 1 GiB of data, 30 MiB of memory.
const MAX_UNSYNCED: usize = 4096;

/// A non-empty file of a GCM-SIV volume.
pub(crate) struct GcmBody {
    env: Arc<Env>,
    backing: Arc<dyn File>,
    cipher: GcmSiv,
    header_key: Secret<32>,
    file: FileId,
    size: AtomicU64,
    /// Where the last overwrite ended.
    overwritten: AtomicU64,
    scout: Scout,
    writer: Mutex<()>,
    /// A sync that runs while the writer goes on.
    beside: Mutex<Option<Beside>>,
    io: RwLock<()>,
    memory: Mutex<Memory>,
}

/// The right to change the file.
struct Turn<'a>(#[allow(dead_code)] MutexGuard<'a, ()>);

/// What is known of the file.
struct Memory {
    head: Head,
    table: Table,
    ledger: Ledger,
    doubt: Doubt,
}

/// What waits for a sync.
#[derive(Debug, Default)]
struct Ledger {
    /// Calls that changed the store.
    changes: u64,
    /// Those of them that wrote versions into free slots, or their records.
    ordinary: u64,
    /// `changes` as of the last sync that ended well.
    synced: u64,
    /// The stamp of the newest copies that this mount made and that the file needs until a sync; 0: none.
    copied: u64,
    /// A sync failed: nothing counts as durable before everything that was not was written again.
    failed: bool,
    /// Something past the end was given up and that is not durable: growing waits for a sync (rule 6).
    stale: bool,
    /// The file on the store goes on past the size, in records or in length.
    to_cut: bool,
    /// It was loaded with what may not be durable: to be synced, and mended where in doubt, before it changes (rule 8).
    to_mend: bool,
    /// It was loaded with what may not be durable, and not synced since.
    loaded_unsynced: bool,
}

impl Ledger {
    /// Changes other than ordinary ones.
    fn unusual(&self) -> u64 {
        self.changes - self.ordinary
    }
}

/// How much of a crash's traces is tolerated (FORMAT.md section 4, *Unclean ends*).
#[derive(Debug, Clone, Copy, Default)]
struct Doubt {
    /// Other halves count, lengths, tails and slots are mended.
    in_doubt: bool,
    /// Blocks between the two sizes (`between`) may be missing, and name tags.
    lenient: bool,
    /// The tag of the name by which the file was reached.
    via: [u8; 16],
    /// The blocks between the sizes of the two states, from the first to before the second.
    between: (u64, u64),
    /// Length on the store when it was loaded.
    physical_len: u64,
    /// Groups from 0 to before this one were mended.
    mended_groups: u32,
}

impl GcmBody {
    fn assemble(
        env: &Arc<Env>,
        backing: Arc<dyn File>,
        content: ContentCipher,
        header_key: Secret<32>,
        file: FileId,
        memory: Memory,
    ) -> Result<Self> {
        let ContentCipher::Gcm(cipher) = content else {
            return Err(Error::Damaged("header: its suite is not GCM-SIV".into()));
        };
        Ok(Self {
            env: env.clone(),
            backing,
            cipher,
            header_key,
            file,
            size: AtomicU64::new(memory.head.state().size),
            overwritten: AtomicU64::new(0),
            scout: Scout::default(),
            writer: Mutex::new(()),
            beside: Mutex::default(),
            io: RwLock::new(()),
            memory: Mutex::new(memory),
        })
    }

    /// Waits for the right to change the file; before the first change it is mended, before any a cut is completed.
    fn turn(&self) -> Result<Turn<'_>> {
        if self.env.read_only {
            return Err(Error::errno(libc::EROFS));
        }
        let turn = self.wait_turn();
        self.look_beside(&turn);
        if self.memory().ledger.to_mend && !broken(Rule::NotMended) {
            quietly(self.backing.as_ref(), || self.mend(&turn))?;
        }
        if self.memory().ledger.to_cut {
            self.finish_cut(&turn)?;
        }
        if self.memory().table.unsynced().len() > MAX_UNSYNCED {
            self.barrier(&turn)?;
        }
        Ok(turn)
    }

    fn wait_turn(&self) -> Turn<'_> {
        Turn(self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_beside(&self) -> MutexGuard<'_, Option<Beside>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.io.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn io_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.io.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks of the file.
    fn blocks(&self) -> u64 {
        layout::blocks_of(self.size.load(Ordering::Acquire))
    }

    // Every change of the store goes through one of these, so that no change goes uncounted.

    fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.memory().ledger.changes += 1;
        Ok(self.backing.write_at(bytes, offset)?)
    }

    fn put_all(&self, pieces: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.memory().ledger.changes += 1;
        Ok(self.backing.write_vectored_at(pieces, offset)?)
    }

    fn put_len(&self, len: u64) -> Result<()> {
        self.memory().ledger.changes += 1;
        self.backing.set_len(len)?;
        self.memory().doubt.physical_len = len;
        Ok(())
    }
}

impl Body for GcmBody {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let _shared = self.io_shared();
        self.read_blocks(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= layout::MAX_SIZE);
        let end = end.ok_or(Error::errno(libc::EFBIG))?;
        let turn = self.turn()?;
        if end > self.size() {
            self.grow(&turn, end, offset, data)
        } else {
            self.overwrite(&turn, offset, data)
        }
    }

    fn set_size(&self, size: u64) -> Result<()> {
        if size > layout::MAX_SIZE {
            return Err(Error::errno(libc::EFBIG));
        }
        let turn = self.turn()?;
        match size.cmp(&self.size()) {
            std::cmp::Ordering::Greater => self.grow(&turn, size, size, &[]),
            std::cmp::Ordering::Less => self.shrink(&turn, size),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn zero(&self, offset: u64, len: u64, punch: bool) -> Result<()> {
        let turn = self.turn()?;
        self.zero_range(&turn, offset, len, punch)
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        let turn = self.turn()?;
        self.reserve_range(&turn, offset, len)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        let _shared = self.io_shared();
        self.find(offset, true)
    }

    fn next_hole(&self, offset: u64) -> Result<u64> {
        let _shared = self.io_shared();
        Ok(self.find(offset, false)?.unwrap_or(self.size()))
    }

    fn sync(&self, metadata: bool) -> Result<()> {
        let turn = self.wait_turn();
        self.mend_before_sync(&turn)?;
        self.promised_sync(&turn, metadata)
    }

    fn check_name(&self, place: &Place) -> Result<()> {
        self.name_is_known(place)
    }

    fn add_name(&self, via: &Place, new: &Place, links: u64, link: bool) -> Result<()> {
        if !self.env.bind_names {
            return Ok(());
        }
        let turn = self.turn()?;
        quietly(self.backing.as_ref(), || {
            self.bind_name(&turn, via, new, links > 1 || link)
        })
    }

    fn is_durable(&self) -> bool {
        let ledger = &self.memory().ledger;
        ledger.changes == ledger.synced && !ledger.failed
    }

    fn is_settled(&self) -> bool {
        self.env.read_only || self.nothing_to_settle()
    }

    fn mark(&self) -> Mark {
        let turn = self.wait_turn();
        self.wait_beside(&turn);
        Mark(self.memory().ledger.changes)
    }

    fn synced(&self, mark: Mark) -> bool {
        self.covered(mark)
    }

    fn settle_halves(&self, mark: Mark, names: &Names) -> Result<Option<Mark>> {
        let turn = self.wait_turn();
        self.drop_superseded(&turn, mark, names)
    }

    fn settle_state(&self, mark: Mark) -> Result<Option<Mark>> {
        let turn = self.wait_turn();
        self.drop_older_state(&turn, mark)
    }

    fn needs_mending(&self) -> bool {
        self.memory().doubt.in_doubt || !self.nothing_to_settle()
    }

    fn mend_all(&self) -> Result<()> {
        loop {
            self.sync(false)?;
            let doubt = self.memory().doubt;
            if !doubt.in_doubt || layout::first_block(doubt.mended_groups) >= self.blocks() {
                return Ok(());
            }
        }
    }

    fn with_header(&self, change: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _turn = self.wait_turn();
        change()
    }
}
