//! Writes of bytes: which blocks of which groups they change, and the blocks that are changed in part.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::header::STATES_AT;
use crate::format::layout::{self, PAGE};
use crate::format::state::State;
use crate::volume::error::Result;

use super::choose::{Job, kinds};
use super::place::Change;
use super::scratch::{Scratch, with_scratch};
use super::{GcmBody, Turn};

/// Groups that are overwritten in place with one sync: more than a request of 1 MiB touches.
const TOGETHER: usize = 6;

/// A change of bytes, and what it does to the length.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
    /// Blocks of the file before.
    pub(super) old_blocks: u64,
    /// Blocks of the file after.
    pub(super) new_blocks: u64,
    /// Groups whose zero sectors are holes, after.
    pub(super) sparse: (u32, u32),
}

impl Bytes<'_> {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Blocks that get data.
    pub(super) fn blocks(&self) -> Range<u64> {
        match self.data {
            [] => 0..0,
            _ => self.offset / PAGE..layout::blocks_of(self.end()),
        }
    }
}

impl GcmBody {
    /// Writes within the size.
    pub(super) fn overwrite(&self, turn: &Turn<'_>, offset: u64, data: &[u8]) -> Result<()> {
        let blocks = self.blocks();
        let sparse = self.memory().head.state().sparse;
        let bytes = Bytes {
            offset,
            data,
            old_blocks: blocks,
            new_blocks: blocks,
            sparse,
        };
        let changed = bytes.blocks();
        if self.overwritten.swap(bytes.end(), Ordering::Relaxed) == offset {
            self.ask_for_next(&changed);
        }
        with_scratch(|text| {
            let mut later = Vec::new();
            for number in layout::group_of(changed.start)..=layout::group_of(changed.end - 1) {
                let start = text.len();
                let Some(change) = self.change_of(turn, number, &bytes, text)? else {
                    continue;
                };
                let sealed = text.part(start..text.len());
                match self.place_at_once(turn, change, sealed)? {
                    Some(change) => later.push((change, start..text.len())),
                    None => text.cut(start),
                }
                if later.len() == TOGETHER {
                    self.place_together(turn, &mut later, text.all())?;
                    later.clear();
                    text.cut(0);
                }
            }
            self.place_together(turn, &mut later, text.all())
        })
    }

    /// The part of a change that falls into one group.
    pub(super) fn write_group(
        &self,
        turn: &Turn<'_>,
        number: u32,
        bytes: &Bytes<'_>,
    ) -> Result<()> {
        with_scratch(|text| match self.change_of(turn, number, bytes, text)? {
            Some(change) => self.place(turn, change, text.all()),
            None => Ok(()),
        })
    }

    /// The part of a change that falls into one group, sealed, the ciphertext added to `text`; `None` where nothing is
    /// to be written.
    fn change_of(
        &self,
        turn: &Turn<'_>,
        number: u32,
        bytes: &Bytes<'_>,
        text: &mut Scratch,
    ) -> Result<Option<Change>> {
        let synced = self.memory().ledger.synced;
        let first = layout::first_block(number);
        let new_len = layout::blocks_in(number, bytes.new_blocks) as usize;
        let mut group = match layout::blocks_in(number, bytes.old_blocks) {
            0 => Arc::default(),
            _ => self.group_to_change(turn, number)?,
        };
        // New blocks without a record of their own are zeros of a sparse group.
        if group.len() != new_len {
            Arc::make_mut(&mut group).resize(new_len);
        }
        let job = Job::new(number, group, bytes.old_blocks, bytes.new_blocks);
        let changed = bytes.blocks();
        let within = |block: u64| (block.saturating_sub(first) as usize).min(new_len);
        let data = within(changed.start)..within(changed.end);
        let sparse = (bytes.sparse.0..bytes.sparse.1).contains(&number);
        let kinds = kinds(&job.group, &data, job.old_len, new_len, sparse);
        if kinds.is_empty() {
            self.memory().table.replace(number, job.group);
            return Ok(None);
        }
        let text = text.add(data.len() * PAGE as usize);
        let plain = self.plain_of(first + data.start as u64, bytes, text)?;
        Ok(Some(self.seal_change(job, &kinds, text, &plain, synced)))
    }

    /// The new plaintext of blocks, as many as pages in `text`: where the request has it whole, or (`None`) put in the block's page.
    pub(super) fn plain_of<'a>(
        &self,
        first: u64,
        bytes: &Bytes<'a>,
        text: &mut [u8],
    ) -> Result<Vec<Option<&'a [u8]>>> {
        let pages = text.as_chunks_mut().0.iter_mut();
        let blocks = (first..).zip(pages);
        blocks
            .map(|(block, page)| self.plain_of_block(block, bytes, page))
            .collect()
    }

    fn plain_of_block<'a>(
        &self,
        block: u64,
        bytes: &Bytes<'a>,
        page: &mut [u8; PAGE as usize],
    ) -> Result<Option<&'a [u8]>> {
        let start = block * PAGE;
        let from = bytes.offset.max(start);
        let to = bytes.end().min(start + PAGE);
        let part = bytes
            .data
            .get((from - bytes.offset) as usize..(to - bytes.offset) as usize)
            .unwrap_or_default();
        if part.len() == PAGE as usize {
            return Ok(Some(part));
        }
        page.fill(0);
        let is_whole = from == start && to >= self.size.load(Ordering::Acquire);
        if block < bytes.old_blocks && !is_whole {
            self.read_blocks(start, page)?;
        }
        let within = (from - start) as usize;
        if let Some(place) = page.get_mut(within..within + part.len()) {
            place.copy_from_slice(part);
        }
        Ok(None)
    }

    /// Writes the next state, unsettled, as `change` makes it from the present one.
    pub(super) fn write_state(
        &self,
        _turn: &Turn<'_>,
        change: impl FnOnce(&mut State),
    ) -> Result<()> {
        let (mut state, (at, sequence)) = {
            let memory = self.memory();
            (memory.head.state().clone(), memory.head.next())
        };
        state.flags.unsettled = true;
        change(&mut state);
        state.epoch = self.env.epochs.running;
        state.sequence = sequence;
        let offset = STATES_AT.get(at).copied().unwrap_or_default() as u64;
        self.put(&state.encode(&self.header_key, &self.file), offset)?;
        self.memory().head.wrote(at, state);
        Ok(())
    }
}
