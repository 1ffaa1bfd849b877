//! Overwriting a group in place (FORMAT.md section 4, rule 3): records that name the same slot twice, a sync, the data.
//!
//! Invariant: only blocks whose current version is durable are overwritten; until the data is written, memory has the
//! version before; readers are kept out while the data is written.

use crate::broken::{Rule, broken};
use crate::format::layout::{self, PAGE};
use crate::format::record::Kind;
use crate::volume::error::{Error, Result};

use super::block::Version;
use super::choose::{Job, Piece};
use super::{GcmBody, Turn};

impl GcmBody {
    /// Blocks that stand in a slot keep it; others get free ones. Everything in the group is durable.
    pub(super) fn place_over(
        &self,
        turn: &Turn<'_>,
        job: &Job,
        pieces: &mut [Piece],
        sealed: &[u8],
    ) -> Result<()> {
        if job.group.is_unsynced() {
            return Err(Error::Damaged(format!(
                "group {}: not durable where it must be",
                job.number
            )));
        }
        let (mut over, mut fresh): (Vec<Piece>, Vec<Piece>) = (Vec::new(), Vec::new());
        for piece in pieces.iter() {
            match job.own_slot(piece.index) {
                Some(slot) if piece.half.kind == Kind::Data => {
                    let mut piece = *piece;
                    piece.half.slot = slot;
                    over.push(piece);
                }
                _ => fresh.push(*piece),
            }
        }
        if !job.choose(&mut fresh) {
            return Err(Error::Damaged(format!(
                "group {}: its records leave no free slot",
                job.number
            )));
        }
        self.write_runs(job.number, &fresh, sealed)?;
        let announced = self.announce(turn, job, &over, &fresh).and_then(|()| {
            match broken(Rule::InPlaceUnsynced) {
                true => Ok(()),
                false => self.sync_only(turn),
            }
        });
        if let Err(error) = announced {
            self.put_back(turn, job, &over, &fresh);
            return Err(error);
        }
        self.write_over(turn, job, &over, &fresh, sealed)
    }

    /// Records with both versions.
    fn announce(&self, turn: &Turn<'_>, job: &Job, over: &[Piece], fresh: &[Piece]) -> Result<()> {
        let group = job.after(&[over, fresh].concat());
        self.put_records(turn, job.number, &group, &sorted_indexes(over, fresh))
    }

    /// The records as they were: the data was not touched.
    fn put_back(&self, turn: &Turn<'_>, job: &Job, over: &[Piece], fresh: &[Piece]) {
        let mut group = job.group.clone();
        let indexes = sorted_indexes(over, fresh);
        for index in &indexes {
            if let Some(block) = group.blocks_mut().get_mut(*index) {
                block.record_unsynced = true;
            }
        }
        let put = self.put_records(turn, job.number, &group, &indexes);
        let mut memory = self.memory();
        memory.table.wrote(job.number, group);
        if let Err(error) = put {
            // The next sync writes them again before it may end well.
            tracing::warn!("records not put back after a failed write in place: {error}");
            memory.ledger.failed = true;
        }
    }

    fn write_over(
        &self,
        turn: &Turn<'_>,
        job: &Job,
        over: &[Piece],
        fresh: &[Piece],
        sealed: &[u8],
    ) -> Result<()> {
        let mut group = job.after(&[over, fresh].concat());
        for piece in over {
            if let Some(block) = group.blocks_mut().get_mut(piece.index) {
                block.in_place = true;
            }
        }
        let _alone = self.io_alone();
        let written = self.write_runs(job.number, over, sealed);
        if written.is_err() {
            for piece in over {
                if self.still_old(job, piece).unwrap_or(false) {
                    let mut block = job.group.block(piece.index);
                    block.record_unsynced = true;
                    group.put(piece.index, block);
                }
            }
            let indexes = sorted_indexes(over, fresh);
            self.memory().table.wrote(job.number, group.clone());
            self.put_records(turn, job.number, &group, &indexes)?;
            return written;
        }
        self.memory().table.wrote(job.number, group);
        Ok(())
    }

    /// Whether a slot still holds the version before, after a write over it failed.
    fn still_old(&self, job: &Job, piece: &Piece) -> Result<bool> {
        let Version::Sealed(old) = job.group.block(piece.index).version() else {
            return Ok(false);
        };
        let mut content = [0; PAGE as usize];
        self.backing
            .read_at(&mut content, layout::slot_offset(job.number, old.slot))?;
        Ok(self
            .open(
                layout::first_block(job.number) + piece.index as u64,
                &old,
                &mut content,
            )
            .is_ok())
    }
}

fn sorted_indexes(over: &[Piece], fresh: &[Piece]) -> Vec<usize> {
    let mut indexes: Vec<usize> = over.iter().chain(fresh).map(|piece| piece.index).collect();
    indexes.sort_unstable();
    indexes
}
