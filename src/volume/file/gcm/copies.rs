//! Overwriting in place with a copy beside (FORMAT.md section 4, rule 10): where the store is full and does not write pages
//! whole, what a block gets is durable elsewhere before the block is touched.
//!
//! Invariant: from the first byte that is written over a slot until a sync of the file went well, the slot's new content is
//! in the redo file, too, durable.

use crate::broken::{Rule, broken};
use crate::format::layout::{self, PAGE};
use crate::format::record::Half;
use crate::format::redo::Entry;
use crate::volume::error::{Error, Result};
use crate::volume::redo::{RedoTurn, Sealed};
use crate::volume::replace::is_no_room;

use super::choose::{Job, Piece};
use super::in_place::Over;
use super::{GcmBody, Turn};

/// Blocks that are written over with one sync each of copies, records and data. A crash may leave as many copies that the next
/// mount has to keep.
const TOGETHER: usize = 8;

/// A copy that opened.
pub(super) struct Copied {
    pub(super) sealed: Sealed,
    pub(super) plain: Sealed,
}

impl GcmBody {
    /// The copy of a slot's content that opens as this version.
    pub(super) fn copy_of(&self, block: u64, half: &Half) -> Option<Copied> {
        let file = self.file;
        let mut copies = self.env.redo.copies(Entry { file, block }).into_iter();
        copies.find_map(|sealed| {
            let mut plain = sealed;
            self.open(block, half, &mut plain).ok()?;
            Some(Copied { sealed, plain })
        })
    }

    /// Fills `page` with the plaintext of such a copy; false if there is none.
    pub(super) fn read_copy(&self, block: u64, half: &Half, page: &mut [u8]) -> bool {
        let copied = self.copy_of(block, half);
        if let (Some(copied), Some(page)) = (&copied, page.first_chunk_mut()) {
            *page = copied.plain;
        }
        copied.is_some()
    }

    /// Everything is durable without the copies up to this stamp (0: there are none).
    pub(super) fn drop_copies(&self, stamp: u64) {
        if stamp > 0 {
            let from = u64::from(!broken(Rule::RedoDropped));
            self.env.redo.let_go(&self.file, from..=stamp);
        }
    }

    /// Blocks that have slots, all durable, are written over, some at a time; `full` where no copies can be made.
    pub(super) fn place_with_copies(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &mut [Piece],
        sealed: &[u8],
        full: Error,
    ) -> Result<()> {
        let Some(redo) = self.env.redo.turn() else {
            return Err(full);
        };
        if self.memory().ledger.failed {
            self.settle_job(turn, job)?;
        }
        let mut rest = pieces;
        while !rest.is_empty() {
            let many = rest.len().min(TOGETHER).min(redo.room());
            if many == 0 {
                return Err(full);
            }
            let (now, after) = std::mem::take(&mut rest).split_at_mut(many);
            match self.place_copied(turn, &redo, job, now, sealed) {
                Err(Error::Store(error)) if is_no_room(&error) => return Err(full),
                placed => placed?,
            }
            job.written_over(now);
            rest = after;
        }
        Ok(())
    }

    fn place_copied(
        &self,
        turn: &Turn<'_>,
        redo: &RedoTurn<'_>,
        job: &Job,
        pieces: &[Piece],
        sealed: &[u8],
    ) -> Result<()> {
        let over = Over::new(job, pieces, sealed)?;
        let first = layout::first_block(job.number);
        let entry = |index: usize| Entry {
            file: self.file,
            block: first + index as u64,
        };
        let written_over = over.written_over();
        let copies: Vec<_> = written_over
            .map(|(index, sealed)| (entry(index), sealed))
            .collect();
        let stamp = self.env.redo.next_stamp();
        {
            // A pass that syncs meanwhile counts for nothing, from before the copies are made on.
            let mut memory = self.memory();
            memory.ledger.changes += 1;
            memory.ledger.copied = stamp;
        }
        redo.keep(&copies, stamp)?;
        self.place_over(turn, &[over])?;
        if broken(Rule::RedoEarly) {
            self.env.redo.let_go(&self.file, 1..=stamp);
            return Ok(());
        }
        self.barrier(turn)
    }
}

const _: () = assert!(size_of::<Sealed>() == PAGE as usize);
