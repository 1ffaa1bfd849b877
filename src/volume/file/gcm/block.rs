//! What memory holds of one group: for each block the two halves of its record as the store has them, which of them
//! counts, and which must survive until a sync. No I/O, no ciphers.
//!
//! Invariant: a slot that a current or a kept half names is not free, and a kept half's bytes do not change.

use crate::broken::{Rule, broken};
use crate::format::layout;
use crate::format::record::{Half, Kind, RECORD_LEN, RECORDS_PER_SECTOR, Record};

/// Which version of a block counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Current {
    /// That of this half, 0 or 1.
    Half(usize),
    /// No record: zeros, in a sparse group or where a growth was cut off.
    Zero,
    /// None that can be trusted.
    Damaged,
}

/// A block of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    halves: [Option<Half>; 2],
    current: Current,
    /// The half that must survive until a sync ends well: the durable version where the current one is not durable.
    kept: Option<usize>,
    /// The record was written and is not known durable.
    pub(super) record_unsynced: bool,
    /// The slot was written and is not known durable.
    pub(super) data_unsynced: bool,
    /// Both halves name one slot, written in place: not to be written again before a sync.
    pub(super) in_place: bool,
}

/// The version of a block that readers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Zeros without a record.
    Zero,
    /// A hole or a slot's content.
    Sealed(Half),
    /// Nothing that can be trusted.
    Damaged,
}

impl Block {
    /// Zeros without a record.
    pub(super) const ZERO: Self = Self::found([None, None], Current::Zero);

    /// A block as it was found on the store.
    pub(super) const fn found(halves: [Option<Half>; 2], current: Current) -> Self {
        Self {
            halves,
            current,
            kept: None,
            record_unsynced: false,
            data_unsynced: false,
            in_place: false,
        }
    }

    /// What counts.
    pub(super) fn version(&self) -> Version {
        match self.current {
            Current::Half(index) => match self.half(index) {
                Some(half) => Version::Sealed(half),
                None => Version::Damaged,
            },
            Current::Zero => Version::Zero,
            Current::Damaged => Version::Damaged,
        }
    }

    /// Which version counts.
    pub(super) fn current(&self) -> Current {
        self.current
    }

    /// The block after a new version, which takes the half that is not kept and the next sequence; `half.sequence` is
    /// ignored.
    pub(super) fn successor(&self, half: Half) -> Self {
        let in_place = broken(Rule::HalfInPlace);
        let kept = self.kept.or(match self.current {
            Current::Half(_) if in_place => None,
            Current::Half(index) => Some(index),
            Current::Zero | Current::Damaged => None,
        });
        let sequence = match kept.and_then(|index| self.half(index)) {
            Some(old) => old.sequence.wrapping_add(1),
            None => 1,
        };
        let half = Some(Half { sequence, ..half });
        let (halves, current) = match kept {
            Some(0) => ([self.half(0), half], 1),
            Some(_) => ([half, self.half(1)], 0),
            None => ([half, None], 0),
        };
        Self {
            halves,
            current: Current::Half(current),
            kept,
            record_unsynced: true,
            data_unsynced: true,
            in_place: false,
        }
    }

    /// The block with nothing but what counts.
    pub(super) fn alone(&self) -> Self {
        let halves = match self.current {
            Current::Half(0) => [self.half(0), None],
            Current::Half(_) => [None, self.half(1)],
            Current::Zero | Current::Damaged => [None, None],
        };
        Self {
            halves,
            kept: None,
            record_unsynced: true,
            ..*self
        }
    }

    /// The block with nothing but what counts in memory, as it was found: the other half is to be mended away.
    pub(super) fn alone_as_found(&self) -> Self {
        Self {
            record_unsynced: false,
            ..self.alone()
        }
    }

    /// The block after its slot and record were written again as they are.
    pub(super) fn written_again(&self) -> Self {
        Self {
            record_unsynced: true,
            data_unsynced: true,
            ..*self
        }
    }

    /// The block as a failed sync left it, where the version that counted is gone: the kept one, if there is one.
    pub(super) fn fallen_back(&self) -> Self {
        match self.kept {
            Some(half) => Self {
                current: Current::Half(half),
                ..*self
            }
            .alone(),
            None => Self::found(self.halves, Current::Damaged),
        }
    }

    /// Whether a half stands beside the one that counts.
    pub(super) fn has_other(&self) -> bool {
        match self.current {
            Current::Half(0) => self.half(1).is_some(),
            Current::Half(_) => self.half(0).is_some(),
            Current::Zero | Current::Damaged => false,
        }
    }

    /// Whether what counts is not known durable.
    pub(super) fn is_unsynced(&self) -> bool {
        self.record_unsynced || self.data_unsynced
    }

    /// Everything written is durable.
    pub(super) fn synced(&mut self) {
        self.kept = None;
        (self.record_unsynced, self.data_unsynced, self.in_place) = (false, false, false);
    }

    /// The record's bytes.
    pub(super) fn encode(&self) -> [u8; RECORD_LEN] {
        Record {
            halves: self.halves,
        }
        .encode()
    }

    /// The one half, 0 or 1, in which the records of two states of this block differ; `None` for both or neither.
    pub(super) fn changed_half(&self, other: &Self) -> Option<usize> {
        match (self.half(0) == other.half(0), self.half(1) == other.half(1)) {
            (true, false) => Some(1),
            (false, true) => Some(0),
            _ => None,
        }
    }

    /// Slots that its versions stand in, as bits.
    fn slots(&self) -> u128 {
        match broken(Rule::SlotReused) {
            true => self.current_slot(),
            false => self.current_slot() | self.kept.map_or(0, |index| self.slot_of(index)),
        }
    }

    /// The slot of the version that counts, as a bit.
    fn current_slot(&self) -> u128 {
        match self.current {
            Current::Half(index) => self.slot_of(index),
            Current::Zero | Current::Damaged => 0,
        }
    }

    fn slot_of(&self, index: usize) -> u128 {
        let half = self.half(index).filter(|half| half.kind == Kind::Data);
        half.map_or(0, |half| bit(half.slot))
    }

    fn half(&self, index: usize) -> Option<Half> {
        self.halves.get(index).copied().flatten()
    }
}

/// One group: the blocks that the file has in it, from its first.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    blocks: Vec<Block>,
    /// Blocks whose record on the store must be rewritten before anything builds on it, as bits.
    pub(super) to_mend: u64,
}

impl Group {
    pub(super) fn new(blocks: Vec<Block>, to_mend: u64) -> Self {
        Self { blocks, to_mend }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Everything written is durable.
    pub(super) fn synced(&mut self) {
        self.blocks.iter_mut().for_each(Block::synced);
    }

    /// Blocks that are as they were `then` are durable.
    pub(super) fn synced_as(&mut self, then: &Self) {
        for (block, then) in self.blocks.iter_mut().zip(&then.blocks) {
            if block == then || broken(Rule::BesideAll) {
                block.synced();
            }
        }
    }

    pub(super) fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }

    pub(super) fn block(&self, index: usize) -> Block {
        self.blocks.get(index).copied().unwrap_or(Block::ZERO)
    }

    /// Puts a block in place; blocks between the present end and it become zeros.
    pub(super) fn put(&mut self, index: usize, block: Block) {
        if index >= self.blocks.len() {
            self.blocks.resize(index + 1, Block::ZERO);
        }
        if let Some(place) = self.blocks.get_mut(index) {
            *place = block;
        }
    }

    /// Makes the group this long; new blocks are zeros.
    pub(super) fn resize(&mut self, len: usize) {
        self.blocks.resize(len, Block::ZERO);
    }

    /// Slots that are not free, as bits.
    pub(super) fn used(&self) -> u128 {
        self.blocks
            .iter()
            .fold(0, |used, block| used | block.slots())
    }

    /// Slots that are not free after a sync, as bits.
    pub(super) fn used_when_synced(&self) -> u128 {
        self.blocks
            .iter()
            .fold(0, |used, block| used | block.current_slot())
    }

    /// Whether a sync would free slots or lift a ban.
    pub(super) fn is_unsynced(&self) -> bool {
        self.blocks.iter().any(Block::is_unsynced)
    }

    /// Whether any block of the sector with this block has a record.
    pub(super) fn sector_is_written(&self, index: usize) -> bool {
        let first = sector_start(index);
        self.blocks
            .iter()
            .skip(first)
            .take(RECORDS_PER_SECTOR)
            .any(|block| block.current != Current::Zero)
    }
}

/// The index of the first block whose record shares a sector with this one's.
pub(super) const fn sector_start(index: usize) -> usize {
    index - index % RECORDS_PER_SECTOR
}

/// A slot as a bit.
pub(super) fn bit(slot: u8) -> u128 {
    1u128.checked_shl(slot.into()).unwrap_or(0)
}

/// A free slot below `limit`: the block's own place if it can be, else the lowest.
pub(super) fn free_slot(used: u128, index: usize, limit: u8) -> Option<u8> {
    let is_free = |slot: &u8| used & bit(*slot) == 0;
    let own = u8::try_from(index)
        .ok()
        .filter(|slot| *slot < limit)
        .filter(is_free);
    own.or_else(|| (0..limit).find(is_free))
}

/// The index of a block within its group.
pub(super) fn index_in_group(block: u64) -> usize {
    (block - layout::first_block(layout::group_of(block))) as usize
}
