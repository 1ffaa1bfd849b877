//! Growing and shrinking (FORMAT.md section 4, rules 5 and 6), and the end of the file on the store.
//!
//! Invariant: the state is written last when the file grows and first when it shrinks, and what lies past the end is
//! durably gone before the file grows over it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broken::{Rule, broken};
use crate::format::layout::{self, PAGE};
use crate::format::record::{Kind, RECORD_LEN};
use crate::volume::error::{Error, Result};

use super::block::{Group, Version};
use super::choose::Job;
use super::scratch::with_scratch;
use super::write::Bytes;
use super::{GcmBody, Turn};

/// Skipped groups from which on they are left sparse rather than filled with holes.
const SPARSE_FROM: u32 = 16;

impl GcmBody {
    /// Grows to `size`; `data` is written at `offset` and ends there, or is empty. Between, there are zeros.
    pub(super) fn grow(&self, turn: &Turn<'_>, size: u64, offset: u64, data: &[u8]) -> Result<()> {
        if self.memory().ledger.stale {
            self.barrier(turn)?;
        }
        let old = self.size.load(Ordering::Acquire);
        let grown = self
            .put_len(layout::gcm_physical_len(size))
            .and_then(|()| self.fill(turn, old, size, offset, data));
        if let Err(error) = grown {
            self.undo_growth(turn, old);
            return Err(error);
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Data, records, state.
    fn fill(&self, turn: &Turn<'_>, old: u64, size: u64, offset: u64, data: &[u8]) -> Result<()> {
        let (old_blocks, new_blocks) = (layout::blocks_of(old), layout::blocks_of(size));
        let last = layout::group_of(new_blocks - 1);
        let before = self.memory().head.state().sparse;
        let (skipped, sparse) = self.skipped(before, old_blocks, new_blocks, offset, data);
        let bytes = Bytes {
            offset,
            data,
            old_blocks,
            new_blocks,
            sparse,
        };
        let start = if data.is_empty() {
            old_blocks
        } else {
            old_blocks.min(offset / PAGE)
        };
        for number in (layout::group_of(start)..skipped.start).chain(skipped.end..last + 1) {
            self.write_group(turn, number, &bytes)?;
        }
        self.write_state(turn, |state| {
            state.size = size;
            state.sparse = sparse;
            state.flags.sparse = sparse != (0, 0);
        })
    }

    /// The new groups that a growth leaves without records, an empty range if it fills them, and the sparse groups after it.
    pub(super) fn skipped(
        &self,
        before: (u32, u32),
        old_blocks: u64,
        new_blocks: u64,
        offset: u64,
        data: &[u8],
    ) -> (Range<u32>, (u32, u32)) {
        let last = layout::group_of(new_blocks - 1);
        let first_new = old_blocks
            .checked_sub(1)
            .map_or(1, |block| layout::group_of(block) + 1);
        let until = if data.is_empty() {
            last + 1
        } else {
            layout::group_of(offset / PAGE)
        };
        if !self.env.sparse || until.saturating_sub(first_new) < SPARSE_FROM {
            let start = if data.is_empty() {
                old_blocks
            } else {
                old_blocks.min(offset / PAGE)
            };
            let start = layout::group_of(start);
            return (start..start, before);
        }
        let sparse = match before {
            (0, 0) => (first_new, until),
            (lo, hi) => (lo.min(first_new), hi.max(until)),
        };
        (first_new..until, sparse)
    }

    /// Takes back a growth that failed: nothing of it was ever shown.
    fn undo_growth(&self, turn: &Turn<'_>, old: u64) {
        self.forget_past_end();
        let undone = self
            .zero_records_past_end(turn)
            .and_then(|()| self.put_len(layout::gcm_physical_len(old)));
        let mut memory = self.memory();
        memory.ledger.stale = true;
        if let Err(error) = undone {
            tracing::warn!("a growth that failed is not undone yet: {error}");
            memory.ledger.to_cut = true;
        }
    }

    /// Shrinks: the new size is durable before anything is given up.
    pub(super) fn shrink(&self, turn: &Turn<'_>, size: u64) -> Result<()> {
        let groups = layout::group_of(layout::blocks_of(size) - 1) + 1;
        self.write_state(turn, |state| {
            state.size = size;
            let hi = state.sparse.1.min(groups);
            state.sparse = if state.sparse.0 < hi {
                (state.sparse.0, hi)
            } else {
                (0, 0)
            };
            state.flags.sparse = state.sparse != (0, 0);
        })?;
        {
            let _alone = self.io_alone();
            self.size.store(size, Ordering::Release);
        }
        self.memory().ledger.to_cut = true;
        self.finish_cut(turn)
    }

    /// Makes the file on the store end where its state says.
    pub(super) fn finish_cut(&self, turn: &Turn<'_>) -> Result<()> {
        if !broken(Rule::ShrinkUnsynced) {
            self.barrier(turn)?;
        }
        self.forget_past_end();
        if !broken(Rule::NotMoved) && self.tidy_end(turn)? && !broken(Rule::MoveUnsynced) {
            self.barrier(turn)?;
        }
        self.memory().ledger.stale = true;
        self.zero_records_past_end(turn)?;
        let _alone = self.io_alone();
        self.put_len(layout::gcm_physical_len(self.size.load(Ordering::Acquire)))?;
        self.memory().ledger.to_cut = false;
        Ok(())
    }

    /// Moves blocks of the last group down from slots that the file does not have, and zeroes the last block past the
    /// end. True if anything had to change. Damaged blocks stay as they are.
    pub(super) fn tidy_end(&self, turn: &Turn<'_>) -> Result<bool> {
        let size = self.size.load(Ordering::Acquire);
        let blocks = layout::blocks_of(size);
        let number = layout::group_of(blocks - 1);
        let synced = self.memory().ledger.synced;
        let group = self.group_to_change(turn, number)?;
        let (first, slots) = (layout::first_block(number), layout::slots(number, blocks));
        with_scratch(|text| {
            let mut kinds = Vec::new();
            for (index, block) in group.blocks().iter().enumerate() {
                let Version::Sealed(half) = block.version() else {
                    continue;
                };
                let tail = if first + index as u64 == blocks - 1 {
                    (size % PAGE) as usize
                } else {
                    0
                };
                if half.kind == Kind::Hole || (half.slot < slots && tail == 0) {
                    continue;
                }
                let mut page = [0; PAGE as usize];
                match self.read_run(first + index as u64, &mut page) {
                    Err(Error::Damaged(_)) => continue,
                    read => read?,
                }
                let past_end = page
                    .get_mut(tail..)
                    .filter(|_| tail > 0)
                    .unwrap_or_default();
                if half.slot < slots && past_end.iter().all(|byte| *byte == 0) {
                    continue;
                }
                past_end.fill(0);
                text.add(page.len()).copy_from_slice(&page);
                kinds.push((index, Kind::Data));
            }
            if kinds.is_empty() {
                return Ok(false);
            }
            let job = Job::new(number, group, blocks, blocks);
            let change = self.seal_change(job, &kinds, text.all_mut(), &[], synced);
            self.place(turn, change, text.all()).map(|()| true)
        })
    }

    /// Zeroes what records stand past the end in the last group.
    pub(super) fn zero_records_past_end(&self, _turn: &Turn<'_>) -> Result<()> {
        if broken(Rule::RecordsKept) {
            return Ok(());
        }
        let blocks = self.blocks();
        let number = layout::group_of(blocks - 1);
        let mut bytes = [0; layout::BLOCKS as usize * RECORD_LEN];
        let records = self.read_records(number, &mut bytes)?;
        let len = layout::blocks_in(number, blocks) as usize * RECORD_LEN;
        let past_end = records.get(len..).unwrap_or_default();
        if past_end.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let zeros = vec![0; past_end.len()];
        self.put(
            &zeros,
            layout::record_offset(layout::first_block(number)) + len as u64,
        )
    }

    fn forget_past_end(&self) {
        let blocks = self.blocks();
        let number = layout::group_of(blocks - 1);
        self.memory()
            .table
            .cut(number, layout::blocks_in(number, blocks) as usize);
    }

    /// A group that is to be changed: mended, if it must be, durably.
    pub(super) fn group_to_change(&self, turn: &Turn<'_>, number: u32) -> Result<Arc<Group>> {
        let group = self.group(number)?;
        if group.to_mend == 0 {
            return Ok(group);
        }
        self.mend_group(turn, number)?;
        self.barrier(turn)?;
        self.group(number)
    }
}
