//! Syncs, and what they make durable (FORMAT.md section 4, *Durable*). After a sync that failed, everything that was not
//! durable is written again, the same bytes in the same place, before the next one may count.

use std::io;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::header::{Core, STATE_LEN, STATES_AT};
use crate::format::layout::{self, PAGE};
use crate::format::record::{Half, Kind};
use crate::volume::error::{Error, Result};
use crate::volume::file::body::Mark;
use crate::volume::file::quietly;

use super::block::{Group, Version};
use super::{GcmBody, Turn};

impl GcmBody {
    /// Makes everything written so far durable.
    pub(super) fn promised_sync(&self, turn: &Turn<'_>, metadata: bool) -> Result<()> {
        self.wait_beside(turn);
        let clean = {
            let ledger = &self.memory().ledger;
            ledger.changes == ledger.synced && !ledger.failed && !ledger.loaded_unsynced
        };
        if clean && !metadata {
            return Ok(());
        }
        self.repair(turn)?;
        self.sync_store(metadata)?;
        self.all_is_durable();
        Ok(())
    }

    /// What an unclean end left may stand in the store's cache alone, if a sync failed before it: before a caller is told
    /// that it is durable, it is written again. Not through a descriptor that cannot write.
    pub(super) fn mend_before_sync(&self, turn: &Turn<'_>) -> Result<()> {
        if self.env.read_only || !self.memory().doubt.in_doubt || broken(Rule::CacheTrusted) {
            return Ok(());
        }
        match quietly(self.backing.as_ref(), || self.finish_mending(turn)) {
            Err(error) if matches!(error.code(), libc::EBADF | libc::EINVAL) => Ok(()),
            mended => mended,
        }
    }

    /// A sync in the midst of a change: everything written before it is durable after it.
    pub(super) fn barrier(&self, turn: &Turn<'_>) -> Result<()> {
        self.promised_sync(turn, false)
    }

    /// A sync of records after which nothing more counts as durable than before: between tags and data of a write in place. The data
    /// of the write before may still be on its way to the device, and is not waited for.
    pub(super) fn sync_records(&self) -> Result<()> {
        self.noticed(self.backing.sync_unstreamed())
    }

    /// Whether a sync that began after `mark` was taken and ended well covered everything; if so, everything is durable.
    ///
    /// A writer may be at work: this takes no turn, since a pass would wait for it. `mark` was taken with the turn, and every
    /// change is counted before it is made, so an equal count says that this writer has put nothing on the store yet, and what
    /// it read from memory is from before the sync. It takes less for durable than is: it chooses slots that are free all the
    /// same, and halves which the sync has just covered, not those that were durable before. These are still whole, nothing
    /// counts on the newer ones yet (an fsync has to wait for the turn, and finds a change then; so does the next step of
    /// settling), and a slot that this frees is taken by nobody but the writer, whose own groups do not know of it.
    pub(super) fn covered(&self, mark: Mark) -> bool {
        let mut memory = self.memory();
        let unchanged = memory.ledger.changes == mark.0 || broken(Rule::MarkIgnored);
        if memory.ledger.failed || !unchanged {
            return false;
        }
        let copied = memory.all_is_durable();
        drop(memory);
        self.drop_copies(copied);
        true
    }

    fn all_is_durable(&self) {
        let copied = self.memory().all_is_durable();
        self.drop_copies(copied);
    }

    fn sync_store(&self, metadata: bool) -> Result<()> {
        self.noticed(match metadata {
            true => self.backing.sync_all(),
            false => self.backing.sync_data(),
        })
    }

    fn noticed(&self, synced: io::Result<()>) -> Result<()> {
        if synced.is_err() {
            self.memory().ledger.failed = true;
            self.env.mark_unclean();
        }
        Ok(synced?)
    }

    /// After a failed sync: writes again what is not durable, read back and opened. Without one: nothing.
    fn repair(&self, turn: &Turn<'_>) -> Result<()> {
        if !self.memory().ledger.failed {
            return Ok(());
        }
        if !broken(Rule::NotRewritten) {
            quietly(self.backing.as_ref(), || self.write_again(turn))?;
        }
        self.memory().ledger.failed = false;
        Ok(())
    }

    fn write_again(&self, turn: &Turn<'_>) -> Result<()> {
        let physical = self.backing.stat()?.size;
        self.put_len(physical)?;
        let groups: Vec<u32> = self.memory().table.unsynced().iter().copied().collect();
        for number in groups {
            self.write_group_again(turn, number)?;
        }
        if self.memory().ledger.stale {
            self.zero_records_past_end(turn)?;
        }
        self.write_header_again()
    }

    /// Core, key areas and states as the store has them, the newest state as memory has it.
    pub(super) fn write_header_again(&self) -> Result<()> {
        let (state, at) = {
            let memory = self.memory();
            (
                memory.head.state().encode(&self.header_key, &self.file),
                memory.head.at(),
            )
        };
        let mut bytes = [0; layout::RECORDS_0 as usize];
        self.backing.read_at(&mut bytes, 0)?;
        let core = bytes.first_chunk().map(Core::parse);
        if !core.is_some_and(|core| core.is_ok_and(|core| core.file == self.file)) {
            tracing::error!("the header is gone from the store");
            return Err(Error::Damaged("header: it is gone from the store".into()));
        }
        let offset = STATES_AT.get(at).copied().unwrap_or_default();
        if let Some(place) = bytes.get_mut(offset..offset + STATE_LEN) {
            place.copy_from_slice(&state);
        }
        self.put(&bytes, 0)
    }

    /// Where the version that counts is gone from the store's cache, the durable one counts again and the sync fails.
    fn write_group_again(&self, turn: &Turn<'_>, number: u32) -> Result<()> {
        let mut group = Group::clone(&*self.group(number)?);
        let first = layout::first_block(number);
        let mut lost = None;
        for (index, block) in group
            .blocks_mut()
            .iter_mut()
            .enumerate()
            .filter(|(_, block)| block.data_unsynced)
        {
            let Version::Sealed(half) = block.version() else {
                continue;
            };
            match self.write_slot_again(number, first + index as u64, &half) {
                Err(Error::Damaged(_)) => {
                    lost = Some(damaged(first + index as u64, "a failed sync lost it"));
                    *block = block.fallen_back();
                }
                written => written?,
            }
        }
        let unsynced = group
            .blocks()
            .iter()
            .enumerate()
            .filter(|(_, block)| block.record_unsynced);
        let changed: Vec<usize> = unsynced.map(|(index, _)| index).collect();
        self.put_records(turn, number, &group, &changed)?;
        self.memory().table.wrote(number, Arc::new(group));
        lost.map_or(Ok(()), Err)
    }

    pub(super) fn write_slot_again(&self, group: u32, block: u64, half: &Half) -> Result<()> {
        if half.kind == Kind::Hole {
            return self.open(block, half, &mut []);
        }
        let offset = layout::slot_offset(group, half.slot);
        let mut sealed = [0; PAGE as usize];
        self.backing.read_at(&mut sealed, offset)?;
        if let Err(error) = self.open(block, half, &mut sealed.clone()) {
            sealed = self.copy_of(block, half).ok_or(error)?.sealed;
        }
        self.put(&sealed, offset)
    }
}

impl super::Memory {
    /// The stamp of the newest copies that are not needed any more.
    fn all_is_durable(&mut self) -> u64 {
        self.table.synced();
        self.head.synced();
        self.ledger.synced = self.ledger.changes;
        self.ledger.stale = false;
        self.ledger.loaded_unsynced = false;
        std::mem::take(&mut self.ledger.copied)
    }
}

/// The error for a block that cannot be trusted, with its log line.
pub(super) fn damaged(block: u64, what: &str) -> Error {
    tracing::error!(block, "a block cannot be read: {what}");
    Error::Damaged(format!("block {block}: {what}"))
}
