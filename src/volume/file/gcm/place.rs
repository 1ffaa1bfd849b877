//! Putting new versions of a group's blocks into the store: data into free slots, then the records (FORMAT.md section 4,
//! rules 1 to 3).
//!
//! Invariant: memory takes a version in only after its record was written; after an error the blocks whose record was not
//! written are as they were.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::crypto::{Message, fresh_nonce};
use crate::format::layout::{self, PAGE};
use crate::format::record::{Half, Kind, RECORD_LEN, block_aad};
use crate::volume::error::{Error, Result};
use crate::volume::replace::is_no_room;

use super::block::bit;
use super::choose::{Job, Piece, runs};
use super::in_place::Over;
use super::{GcmBody, Turn};

/// A change of one group, sealed; its slots are chosen later.
pub(super) struct Change {
    job: Job,
    pieces: Vec<Piece>,
    /// `Ledger::synced` when the job was made: once that is another, the job's group is durable.
    synced: u64,
}

impl Change {
    /// Chooses free slots; false where there are too few, or a block must not be written again before a sync.
    fn choose(&mut self) -> bool {
        !self.is_banned() && self.job.choose(&mut self.pieces)
    }

    /// Whether to write in place without a sync before: what is overwritten is durable, and a sync would free too few slots.
    fn goes_over_at_once(&self) -> bool {
        !self.job.any_unsynced(&self.pieces)
            && !self.job.fit_after_sync(&self.pieces)
            && self.job.split_over(&self.pieces).is_some()
    }

    fn is_banned(&self) -> bool {
        let blocks = self.pieces.iter();
        let mut blocks = blocks.map(|piece| self.job.group.block(piece.index));
        blocks.any(|block| block.in_place) && !broken(Rule::InPlaceTwice)
    }
}

impl GcmBody {
    /// Seals these blocks: the plaintext of those with data is in `plain` in turn, or in `text`, which gets the ciphertext.
    pub(super) fn seal_change(
        &self,
        job: Job,
        kinds: &[(usize, Kind)],
        text: &mut [u8],
        plain: &[Option<&[u8]>],
        synced: u64,
    ) -> Change {
        let pieces = self.seal_pieces(&job, kinds, text, plain);
        Change {
            job,
            pieces,
            synced,
        }
    }

    /// Puts a change into free slots, or gives it back where that cannot be before a sync, or at all.
    pub(super) fn place_at_once(
        &self,
        turn: &Turn<'_>,
        mut change: Change,
        sealed: &[u8],
    ) -> Result<Option<Change>> {
        if !change.choose() && !self.choose_after_beside(turn, &mut change) {
            return Ok(Some(change));
        }
        self.place_in_slots(turn, &mut change.job, &mut change.pieces, sealed)?;
        self.sync_beside(turn, &change.job);
        Ok(None)
    }

    /// Chooses once a sync that runs beside has ended; false where there is none, or it did not free enough.
    fn choose_after_beside(&self, turn: &Turn<'_>, change: &mut Change) -> bool {
        if !self.wait_beside(turn) {
            return false;
        }
        let job = &mut change.job;
        let len = job.group.len();
        if let Some(group) = self.memory().table.group(job.number) {
            job.group = Arc::clone(group);
        }
        if job.group.len() != len {
            Arc::make_mut(&mut job.group).resize(len);
        }
        change.choose()
    }

    /// Puts a change in place.
    pub(super) fn place(&self, turn: &Turn<'_>, change: Change, sealed: &[u8]) -> Result<()> {
        let part = 0..sealed.len();
        self.place_together(turn, &mut [(change, part)], sealed)
    }

    /// Puts changes of several groups in place, each with its part of `sealed`: what free slots take there, the rest in
    /// place, with one sync for all of them.
    pub(super) fn place_together(
        &self,
        turn: &Turn<'_>,
        mut changes: &mut [(Change, Range<usize>)],
        sealed: &[u8],
    ) -> Result<()> {
        self.take_syncs_in(changes);
        // After a sync that failed, one that repairs comes first.
        let over = self.env.in_place && !self.memory().ledger.failed;
        let waits = |change: &mut Change| {
            !change.choose()
                && change.job.group.is_unsynced()
                && !(over && change.goes_over_at_once())
        };
        if changes.iter_mut().any(|(change, _)| waits(change)) {
            self.barrier(turn)?;
            self.take_syncs_in(changes);
        }
        let mut overs = Vec::new();
        while let Some((first, rest)) = std::mem::take(&mut changes).split_first_mut() {
            let (change, part) = first;
            let sealed = sealed.get(part.clone()).unwrap_or_default();
            let fits = change.choose();
            let Change { job, pieces, .. } = change;
            match fits {
                true => self.place_in_slots(turn, job, pieces, sealed)?,
                false if self.env.in_place => overs.push(Over::new(job, pieces, sealed)?),
                false => self.place_in_rounds(turn, job, pieces, sealed)?,
            }
            changes = rest;
            self.take_syncs_in(changes);
        }
        self.place_over(turn, &overs)
    }

    /// Syncs since the jobs were made: what their groups had is durable.
    fn take_syncs_in(&self, changes: &mut [(Change, Range<usize>)]) {
        let synced = self.memory().ledger.synced;
        for (change, _) in changes
            .iter_mut()
            .filter(|(change, _)| change.synced != synced)
        {
            change.job.synced();
            change.synced = synced;
        }
    }

    /// A sync, after which the job goes on with what is durable then.
    pub(super) fn settle_job(&self, turn: &Turn<'_>, job: &mut Job) -> Result<()> {
        self.barrier(turn)?;
        job.synced();
        Ok(())
    }

    /// As `seal_change`; the slots are chosen later.
    pub(super) fn seal_pieces<'a>(
        &self,
        job: &Job,
        kinds: &[(usize, Kind)],
        text: &'a mut [u8],
        plain: &[Option<&'a [u8]>],
    ) -> Vec<Piece> {
        let first = layout::first_block(job.number);
        let mut pages = text.chunks_exact_mut(PAGE as usize);
        let mut plain = plain.iter().copied();
        let mut messages: Vec<_> = kinds
            .iter()
            .map(|(index, kind)| {
                let (text, from) = match kind {
                    Kind::Data => (pages.next().unwrap_or_default(), plain.next().flatten()),
                    Kind::Hole => (<&mut [u8]>::default(), None),
                };
                Message {
                    nonce: fresh_nonce(),
                    aad: block_aad(*kind, first + *index as u64, &self.file),
                    text,
                    from,
                    tag: [0; 16],
                }
            })
            .collect();
        self.cipher.seal_all(&mut messages);
        let mut at = 0;
        let sealed = kinds.iter().zip(messages).map(|((index, kind), message)| {
            let start = at;
            at += message.text.len();
            let half = Half {
                nonce: message.nonce,
                tag: message.tag,
                slot: 0,
                kind: *kind,
                sequence: 0,
            };
            Piece {
                index: *index,
                half,
                at: start,
            }
        });
        sealed.collect()
    }

    /// Data into the chosen slots, then the records.
    pub(super) fn place_in_slots(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &mut [Piece],
        sealed: &[u8],
    ) -> Result<()> {
        if let Some(len) = whole_group(job, pieces) {
            return self.write_new_group(job, pieces, sealed.get(..len).unwrap_or_default());
        }
        let before = self.memory().ledger.changes;
        match self.write_runs(job.number, pieces, sealed) {
            Err(Error::Store(error)) if is_no_room(&error) => {
                return self.place_scarce(turn, job, pieces, sealed, error.into());
            }
            written => written?,
        }
        self.write_records(turn, job, pieces)?;
        let ledger = &mut self.memory().ledger;
        ledger.ordinary += ledger.changes - before;
        Ok(())
    }

    /// Ciphertext into the slots, neighbours with one call.
    pub(super) fn write_runs(&self, number: u32, pieces: &[Piece], sealed: &[u8]) -> Result<()> {
        for run in runs(pieces) {
            let Some(first) = run.first() else { continue };
            let bytes = sealed
                .get(first.at..first.at + run.len() * PAGE as usize)
                .unwrap_or_default();
            self.put(bytes, layout::slot_offset(number, first.half.slot))?;
        }
        Ok(())
    }

    /// The records, and what memory has of the group.
    pub(super) fn write_records(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &[Piece],
    ) -> Result<()> {
        let group = Arc::new(job.after(pieces));
        let indexes: Vec<usize> = pieces.iter().map(|piece| piece.index).collect();
        self.put_records(turn, job.number, &group, &indexes)?;
        job.group = Arc::clone(&group);
        self.memory().table.wrote(job.number, group);
        Ok(())
    }

    /// Tag page and slots of a group that was not there before, with one call.
    fn write_new_group(&self, job: &Job, pieces: &[Piece], sealed: &[u8]) -> Result<()> {
        let group = job.after(pieces);
        let mut page = [0; PAGE as usize];
        for (record, block) in page
            .as_chunks_mut::<RECORD_LEN>()
            .0
            .iter_mut()
            .zip(group.blocks())
        {
            *record = block.encode();
        }
        self.put_all(
            &[IoSlice::new(&page), IoSlice::new(sealed)],
            layout::tag_page_offset(job.number),
        )?;
        self.memory().table.wrote(job.number, Arc::new(group));
        Ok(())
    }

    /// The store is full: slots that it has room for already, else those that a sync frees, else in place, or where that is
    /// not allowed one block after the other, and in place with copies.
    fn place_scarce(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &mut [Piece],
        sealed: &[u8],
        full: Error,
    ) -> Result<()> {
        if self.write_where_room_comes(turn, job, pieces, sealed)? {
            return self.write_records(turn, job, pieces);
        }
        let all_have_slots = pieces
            .iter()
            .all(|piece| piece.half.kind == Kind::Hole || job.kept_slot(piece.index).is_some());
        match all_have_slots {
            false => Err(full),
            true if self.env.in_place => self.place_over(turn, &[Over::new(job, pieces, sealed)?]),
            true => self.place_one_by_one(turn, job, pieces, sealed, full),
        }
    }

    /// Each into a slot that the store has room for; a sync frees the one that the block before it left. A group of which
    /// one slot is spare and has its room can be overwritten so, however full the store is; others with copies.
    fn place_one_by_one(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &mut [Piece],
        sealed: &[u8],
        full: Error,
    ) -> Result<()> {
        for at in 0..pieces.len() {
            let rest = pieces.get_mut(at..).unwrap_or_default();
            let (piece, _) = rest.split_at_mut(rest.len().min(1));
            if !self.write_where_room_comes(turn, job, piece, sealed)? {
                return self.place_with_copies(turn, job, rest, sealed, full);
            }
            self.write_records(turn, job, piece)?;
        }
        Ok(())
    }

    /// Writes into slots that the store has room for, or has after a sync freed some; false where there are too few.
    fn write_where_room_comes(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &mut [Piece],
        sealed: &[u8],
    ) -> Result<bool> {
        if self.write_where_room_is(job, pieces, sealed)? {
            return Ok(true);
        }
        if !job.group.is_unsynced() {
            return Ok(false);
        }
        self.settle_job(turn, job)?;
        self.write_where_room_is(job, pieces, sealed)
    }

    /// Tries every free slot for each piece; false where the store has room for too few.
    fn write_where_room_is(&self, job: &Job, pieces: &mut [Piece], sealed: &[u8]) -> Result<bool> {
        let mut used = job.group.used();
        for piece in pieces
            .iter_mut()
            .filter(|piece| piece.half.kind == Kind::Data)
        {
            let bytes = sealed
                .get(piece.at..piece.at + PAGE as usize)
                .unwrap_or_default();
            let mut found = None;
            for slot in (0..job.slots(piece.index)).filter(|slot| used & bit(*slot) == 0) {
                match self.put(bytes, layout::slot_offset(job.number, slot)) {
                    Ok(()) => found = Some(slot),
                    Err(Error::Store(error)) if is_no_room(&error) => continue,
                    Err(error) => return Err(error),
                }
                break;
            }
            let Some(slot) = found else { return Ok(false) };
            used |= bit(slot);
            piece.half.slot = slot;
        }
        Ok(true)
    }

    /// Where nothing may be written in place: as many blocks as free slots take, a sync, the next.
    fn place_in_rounds(
        &self,
        turn: &Turn<'_>,
        job: &mut Job,
        pieces: &mut [Piece],
        sealed: &[u8],
    ) -> Result<()> {
        let mut rest = pieces;
        while !rest.is_empty() {
            let fitting = job.fitting(rest);
            if fitting == 0 {
                return Err(Error::Damaged(format!(
                    "group {}: its records leave no free slot",
                    job.number
                )));
            }
            let (round, after) = std::mem::take(&mut rest).split_at_mut(fitting);
            job.choose(round);
            self.place_in_slots(turn, job, round, sealed)?;
            rest = after;
            if !rest.is_empty() {
                self.settle_job(turn, job)?;
            }
        }
        Ok(())
    }
}

/// Bytes of data if the job makes a new group whose data stands in its first slots, in order.
fn whole_group(job: &Job, pieces: &[Piece]) -> Option<usize> {
    let data = pieces
        .iter()
        .filter(|piece| piece.half.kind == Kind::Data)
        .count();
    let in_order = runs(pieces).next().is_some_and(|run| {
        run.len() == data
            && run
                .first()
                .is_some_and(|piece| piece.half.slot == 0 && piece.at == 0)
    });
    (job.number > 0 && job.old_len == 0 && in_order).then_some(data * PAGE as usize)
}
