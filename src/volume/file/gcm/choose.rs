//! What a change does to one group, before anything is written: which blocks get which kind of version, and which free
//! slots take them (FORMAT.md section 4, rules 1 and 2). No I/O.

use std::ops::Range;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::layout::{self, PAGE};
use crate::format::record::{Half, Kind, RECORDS_PER_SECTOR};

use super::block::{Current, Group, Version, bit, free_slot, sector_start};

/// A change of blocks of one group.
pub(super) struct Job {
    pub(super) number: u32,
    /// The group as memory has it.
    pub(super) group: Arc<Group>,
    /// Blocks that the file had in the group before.
    pub(super) old_len: usize,
    /// Slots for blocks that were there before: those of the shorter file, so that a growth can be taken back.
    old_slots: u8,
    /// Slots for new blocks.
    new_slots: u8,
}

/// A new version of a block: sealed, but for its slot.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    /// Index in the group.
    pub(super) index: usize,
    /// Nonce, tag, kind, slot.
    pub(super) half: Half,
    /// Where its ciphertext begins in the job's buffer; data only.
    pub(super) at: usize,
}

impl Job {
    pub(super) fn new(number: u32, group: Arc<Group>, old_blocks: u64, new_blocks: u64) -> Self {
        let old_len = layout::blocks_in(number, old_blocks) as usize;
        let old_slots = layout::slots(number, old_blocks);
        Self {
            number,
            group,
            old_len,
            old_slots,
            new_slots: layout::slots(number, new_blocks),
        }
    }

    /// Everything that the group had is durable.
    pub(super) fn synced(&mut self) {
        Arc::make_mut(&mut self.group).synced();
    }

    /// Slots that a block may use.
    pub(super) fn slots(&self, index: usize) -> u8 {
        if index < self.old_len {
            self.old_slots
        } else {
            self.new_slots
        }
    }

    /// Gives each piece of data a free slot; false where there are too few.
    pub(super) fn choose(&self, pieces: &mut [Piece]) -> bool {
        let mut used = self.group.used();
        pieces
            .iter_mut()
            .filter(|piece| piece.half.kind == Kind::Data)
            .all(|piece| {
                let Some(slot) = free_slot(used, piece.index, self.slots(piece.index)) else {
                    return false;
                };
                used |= bit(slot);
                piece.half.slot = slot;
                true
            })
    }

    /// Whether less than a quarter of the spare slots is free.
    pub(super) fn is_scarce(&self) -> bool {
        let slots = u32::from(self.old_slots);
        let (blocks, used) = (self.group.len() as u32, self.group.used().count_ones());
        4 * slots.saturating_sub(used) < slots.saturating_sub(blocks)
    }

    /// How many of the first pieces free slots suffice for.
    pub(super) fn fitting(&self, pieces: &[Piece]) -> usize {
        self.fitting_beside(self.group.used(), pieces)
    }

    /// Whether a sync would free slots for all of them.
    pub(super) fn fit_after_sync(&self, pieces: &[Piece]) -> bool {
        self.fitting_beside(self.group.used_when_synced(), pieces) == pieces.len()
    }

    fn fitting_beside(&self, mut used: u128, pieces: &[Piece]) -> usize {
        let fits = pieces.iter().take_while(|piece| {
            piece.half.kind == Kind::Hole
                || free_slot(used, piece.index, self.slots(piece.index)).is_some_and(|slot| {
                    used |= bit(slot);
                    true
                })
        });
        fits.count()
    }

    /// Whether the version that counts of any of these blocks is not known durable.
    pub(super) fn any_unsynced(&self, pieces: &[Piece]) -> bool {
        let mut blocks = pieces.iter().map(|piece| self.group.block(piece.index));
        blocks.any(|block| block.is_unsynced())
    }

    /// The pieces for a write in place: those that keep their slots, and others, in free ones. `None`: there are too few.
    pub(super) fn split_over(&self, pieces: &[Piece]) -> Option<(Vec<Piece>, Vec<Piece>)> {
        let (mut over, mut fresh): (Vec<Piece>, Vec<Piece>) = (Vec::new(), Vec::new());
        for piece in pieces {
            match self.kept_slot(piece.index) {
                Some(slot) if piece.half.kind == Kind::Data => {
                    let mut piece = *piece;
                    piece.half.slot = slot;
                    over.push(piece);
                }
                _ => fresh.push(*piece),
            }
        }
        self.choose(&mut fresh).then_some((over, fresh))
    }

    /// These pieces stand in the slots that their blocks kept, durably.
    pub(super) fn written_over(&mut self, pieces: &mut [Piece]) {
        for piece in pieces
            .iter_mut()
            .filter(|piece| piece.half.kind == Kind::Data)
        {
            piece.half.slot = self.kept_slot(piece.index).unwrap_or(piece.half.slot);
        }
        self.group = Arc::new(self.after(pieces));
        self.synced();
    }

    /// The slot that a block's data stands in now, if it may stay there: not one that the file is about to lose.
    pub(super) fn kept_slot(&self, index: usize) -> Option<u8> {
        let stays = |slot: &u8| *slot < self.slots(index) || broken(Rule::LostSlotKept);
        self.own_slot(index).filter(stays)
    }

    /// The slot that a block's data stands in now.
    pub(super) fn own_slot(&self, index: usize) -> Option<u8> {
        match self.group.block(index).version() {
            Version::Sealed(half) if half.kind == Kind::Data => Some(half.slot),
            _ => None,
        }
    }

    /// The group with new versions of these blocks.
    pub(super) fn after(&self, pieces: &[Piece]) -> Group {
        let mut group = Group::clone(&self.group);
        for piece in pieces {
            let block = group.block(piece.index).successor(piece.half);
            group.put(piece.index, block);
        }
        group
    }
}

/// Which blocks of a group get a record: those with data, new ones, and the rest of each sector that is touched. Zero
/// sectors of a sparse group stay.
pub(super) fn kinds(
    group: &Group,
    data: &Range<usize>,
    old_len: usize,
    new_len: usize,
    sparse: bool,
) -> Vec<(usize, Kind)> {
    let has_data = |index: usize| {
        let first = sector_start(index);
        !data.is_empty() && data.start < first + RECORDS_PER_SECTOR && first < data.end
    };
    let fills = |index: usize| !sparse || has_data(index) || group.sector_is_written(index);
    let kind = |index: usize| {
        if data.contains(&index) {
            return Some((index, Kind::Data));
        }
        let missing = index >= old_len || group.block(index).current() == Current::Zero;
        (missing && fills(index)).then_some((index, Kind::Hole))
    };
    (0..new_len).filter_map(kind).collect()
}

/// Runs of pieces of data whose slots follow each other; their ciphertext does too.
pub(super) fn runs(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    let follows = |a: &Piece, b: &Piece| {
        b.half.kind == a.half.kind
            && b.half.slot == a.half.slot.wrapping_add(1)
            && b.at == a.at + PAGE as usize
    };
    pieces.chunk_by(follows).filter(|run| {
        run.first()
            .is_some_and(|piece| piece.half.kind == Kind::Data)
    })
}
