//! Zeros and space: making ranges read as zeros, giving slots back to the store, reserving, and finding data and holes.

use std::sync::atomic::Ordering;

use crate::format::layout::{self, PAGE};
use crate::format::record::Kind;
use crate::store::Allocate;
use crate::volume::error::{Error, Result};

use super::block::{Version, bit, index_in_group};
use super::choose::Job;
use super::{GcmBody, Turn};

/// Where on the store the bytes from `offset` to before `end` (more than 0) have their groups, spare slots and records with
/// them, in a file that is `size` bytes long or will reach to `end`.
pub(in crate::volume::file) fn room(offset: u64, end: u64, size: u64) -> (u64, u64) {
    let from = layout::tag_page_offset(layout::group_of(offset / PAGE));
    let last = layout::group_of((end - 1) / PAGE);
    let slots = layout::slots(last, layout::blocks_of(end.max(size)));
    (from, layout::slot_offset(last, slots))
}

impl GcmBody {
    /// Makes a range within the size read as zeros; `punch`: what its blocks stood in goes back to the store.
    pub(super) fn zero_range(
        &self,
        turn: &Turn<'_>,
        offset: u64,
        len: u64,
        punch: bool,
    ) -> Result<()> {
        let size = self.size.load(Ordering::Acquire);
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Ok(());
        }
        // The last block may go as a whole: it is zero past the end anyway.
        let whole_end = if end == size {
            layout::blocks_of(size)
        } else {
            end / PAGE
        };
        let whole = layout::blocks_of(offset)..whole_end;
        if whole.start > whole.end || whole.is_empty() && offset / PAGE == (end - 1) / PAGE {
            return self.overwrite_zeros(turn, offset, end);
        }
        self.overwrite_zeros(turn, offset, end.min(whole.start * PAGE))?;
        self.overwrite_zeros(turn, offset.max(whole.end * PAGE), end)?;
        let mut freed = Vec::new();
        let mut number = self.next_touched(layout::group_of(whole.start))?;
        while layout::first_block(number) < whole.end {
            let first = layout::first_block(number);
            let to = (whole.end - first).min(layout::capacity(number)) as usize;
            let slots =
                self.make_holes(turn, number, whole.start.saturating_sub(first) as usize..to)?;
            freed.extend((slots != 0).then_some((number, slots)));
            number = self.next_touched(number + 1)?;
        }
        if punch && !freed.is_empty() {
            self.give_back(turn, &freed)
        } else {
            Ok(())
        }
    }

    fn overwrite_zeros(&self, turn: &Turn<'_>, from: u64, to: u64) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        self.overwrite(turn, from, &vec![0; (to - from) as usize])
    }

    /// Gives blocks of a group that hold data a new version that is a hole. The slots that they leave, as bits.
    fn make_holes(
        &self,
        turn: &Turn<'_>,
        number: u32,
        range: std::ops::Range<usize>,
    ) -> Result<u128> {
        let synced = self.memory().ledger.synced;
        let group = self.group_to_change(turn, number)?;
        let has_data = |index: &usize| match group.block(*index).version() {
            Version::Sealed(half) => half.kind == Kind::Data,
            Version::Damaged => *index < group.len(),
            Version::Zero => false,
        };
        let kinds: Vec<_> = range
            .filter(has_data)
            .map(|index| (index, Kind::Hole))
            .collect();
        if kinds.is_empty() {
            return Ok(0);
        }
        let blocks = self.blocks();
        let job = Job::new(number, group, blocks, blocks);
        let slots = kinds
            .iter()
            .filter_map(|(index, _)| job.own_slot(*index))
            .fold(0, |slots, slot| slots | bit(slot));
        let change = self.seal_change(job, &kinds, &mut [], &[], synced);
        self.place(turn, change, &[])?;
        Ok(slots)
    }

    /// Once the holes are durable, the slots that nothing names any more are punched.
    fn give_back(&self, turn: &Turn<'_>, freed: &[(u32, u128)]) -> Result<()> {
        self.barrier(turn)?;
        for (number, slots) in freed {
            let free = slots & !self.group(*number)?.used();
            let mut slot = 0u8;
            while free >> slot != 0 {
                slot += (free >> slot).trailing_zeros() as u8;
                let run = (free >> slot).trailing_ones() as u8;
                let offset = layout::slot_offset(*number, slot);
                self.memory().ledger.changes += 1;
                match self
                    .backing
                    .allocate(Allocate::Punch, offset, u64::from(run) * PAGE)
                {
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
                    punched => punched?,
                }
                slot += run;
            }
        }
        Ok(())
    }

    /// Reserves the groups of a range, spare slots and records with them.
    pub(super) fn reserve_range(&self, _turn: &Turn<'_>, offset: u64, len: u64) -> Result<()> {
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= layout::MAX_SIZE)
            .ok_or(Error::errno(libc::EFBIG))?;
        if len == 0 {
            return Ok(());
        }
        let (from, to) = room(offset, end, self.size.load(Ordering::Acquire));
        self.memory().ledger.changes += 1;
        Ok(self.backing.allocate(Allocate::Reserve, from, to - from)?)
    }

    /// The first offset from `offset` on that is data, or is not; `None` if there is none before the end.
    pub(super) fn find(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        let size = self.size.load(Ordering::Acquire);
        let mut block = offset / PAGE;
        while block < layout::blocks_of(size) {
            let number = layout::group_of(block);
            let touched = self.next_touched(number)?;
            if touched != number {
                if !data {
                    return Ok(Some(offset.max(block * PAGE)));
                }
                block = layout::first_block(touched);
                continue;
            }
            let group = self.group(number)?;
            let is_data = |index: usize| match group.block(index).version() {
                Version::Sealed(half) => half.kind == Kind::Data,
                Version::Zero => false,
                Version::Damaged => true,
            };
            let found = (index_in_group(block)..group.len()).find(|index| is_data(*index) == data);
            if let Some(index) = found {
                let at = offset.max((layout::first_block(number) + index as u64) * PAGE);
                return Ok((at < size).then_some(at));
            }
            block = layout::first_block(number + 1);
        }
        Ok(None)
    }
}
