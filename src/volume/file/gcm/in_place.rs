//! Overwriting a group in place (FORMAT.md section 4, rule 3): records that name the same slot twice, a sync, the data.
//!
//! Invariant: only blocks whose current version is durable are overwritten (others of their group need not be); until the
//! data is written, memory has the version before; readers are kept out while the data is written.

use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::layout::{self, PAGE};
use crate::volume::error::{Error, Result};
use crate::volume::redo::Sealed;

use super::block::{Group, Version};
use super::choose::{Job, Piece};
use super::{GcmBody, Turn};

/// A change of one group in place.
pub(super) struct Over<'a> {
    job: &'a Job,
    /// Blocks that stand in a slot, which they keep.
    over: Vec<Piece>,
    /// Others, with free slots.
    fresh: Vec<Piece>,
    sealed: &'a [u8],
}

impl<'a> Over<'a> {
    /// # Errors
    /// Damaged if one of the blocks is not durable, or the group's records leave no slot for a block that has none.
    pub(super) fn new(job: &'a Job, pieces: &[Piece], sealed: &'a [u8]) -> Result<Self> {
        if job.any_unsynced(pieces) {
            return Err(Error::Damaged(format!(
                "group {}: not durable where it must be",
                job.number
            )));
        }
        let Some((over, fresh)) = job.split_over(pieces) else {
            return Err(Error::Damaged(format!(
                "group {}: its records leave no free slot",
                job.number
            )));
        };
        Ok(Self {
            job,
            over,
            fresh,
            sealed,
        })
    }

    /// A group with the new versions.
    fn onto(&self, mut group: Group) -> Group {
        for piece in self.over.iter().chain(&self.fresh) {
            let block = group.block(piece.index).successor(piece.half);
            group.put(piece.index, block);
        }
        group
    }

    /// What blocks get in the slots that they keep, by their index.
    pub(super) fn written_over(&self) -> impl Iterator<Item = (usize, &Sealed)> {
        self.over.iter().filter_map(|piece| {
            let bytes = self.sealed.get(piece.at..)?.first_chunk()?;
            Some((piece.index, bytes))
        })
    }

    /// The blocks that change, in order.
    fn indexes(&self) -> Vec<usize> {
        let pieces = self.over.iter().chain(&self.fresh);
        let mut indexes: Vec<usize> = pieces.map(|piece| piece.index).collect();
        indexes.sort_unstable();
        indexes
    }
}

impl GcmBody {
    /// One sync for all of them.
    pub(super) fn place_over(&self, turn: &Turn<'_>, groups: &[Over<'_>]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        self.wait_beside(turn);
        if self.memory().ledger.failed {
            self.barrier(turn)?; // repairs, which must not fall between records and data
        }
        for group in groups {
            self.write_runs(group.job.number, &group.fresh, group.sealed)?;
        }
        let mut begun = 0;
        let announced = groups.iter().try_for_each(|group| {
            begun += 1;
            self.memory().table.pin(group.job.number, &group.job.group);
            let after = group.onto(Group::clone(&group.job.group));
            self.put_records(turn, group.job.number, &after, &group.indexes())
        });
        let synced = announced.and_then(|()| match broken(Rule::InPlaceUnsynced) {
            true => Ok(()),
            false => self.sync_records(),
        });
        if let Err(error) = synced {
            self.put_back(turn, groups.get(..begun).unwrap_or_default());
            return Err(error);
        }
        for (index, group) in groups.iter().enumerate() {
            if let Err(error) = self.write_over(turn, group) {
                self.put_back(turn, groups.get(index + 1..).unwrap_or_default());
                return Err(error);
            }
        }
        self.begin_write_back(groups);
        Ok(())
    }

    /// The next write in place must wait for this one's data: it goes to the device while that one comes in.
    fn begin_write_back(&self, groups: &[Over<'_>]) {
        if let (Some(first), Some(last)) = (groups.first(), groups.last()) {
            let start = layout::tag_page_offset(first.job.number);
            let end = layout::tag_page_offset(last.job.number + 1);
            let begun = self.backing.write_back(start, end.saturating_sub(start));
            begun.unwrap_or_else(|error| tracing::debug!("writeback: {error}")); // kept for the next sync
        }
    }

    /// A pinned group as memory has it: a sync may have changed what it knows of blocks that are not the job's.
    fn present(&self, job: &Job) -> Group {
        match self.memory().table.group(job.number) {
            Some(group) => Group::clone(group),
            None => Group::clone(&job.group),
        }
    }

    /// The records as they were: the data was not touched.
    fn put_back(&self, turn: &Turn<'_>, groups: &[Over<'_>]) {
        for over in groups {
            let mut group = self.present(over.job);
            let indexes = over.indexes();
            for index in &indexes {
                if let Some(block) = group.blocks_mut().get_mut(*index) {
                    block.record_unsynced = true;
                }
            }
            self.rewrite_records(turn, over.job.number, group, &indexes);
        }
    }

    /// After a write that failed: records as memory is to have them. Where that fails, too, the next sync writes them again before
    /// it may end well.
    fn rewrite_records(&self, turn: &Turn<'_>, number: u32, group: Group, indexes: &[usize]) {
        let put = self.put_records(turn, number, &group, indexes);
        let mut memory = self.memory();
        memory.table.wrote(number, Arc::new(group));
        if let Err(error) = put {
            tracing::warn!("records not put back after a failed write in place: {error}");
            memory.ledger.failed = true;
        }
    }

    fn write_over(&self, turn: &Turn<'_>, over: &Over<'_>) -> Result<()> {
        let job = over.job;
        let mut group = over.onto(self.present(job));
        for piece in &over.over {
            if let Some(block) = group.blocks_mut().get_mut(piece.index) {
                block.in_place = true;
            }
        }
        let _alone = self.io_alone();
        let written = self.write_runs(job.number, &over.over, over.sealed);
        if written.is_err() {
            for piece in &over.over {
                if self.still_old(job, piece).unwrap_or(false) {
                    let mut block = job.group.block(piece.index);
                    block.record_unsynced = true;
                    group.put(piece.index, block);
                }
            }
            self.rewrite_records(turn, job.number, group, &over.indexes());
            return written;
        }
        self.memory().table.wrote(job.number, Arc::new(group));
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
