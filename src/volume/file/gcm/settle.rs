//! Settling (FORMAT.md section 4, rule 9): superseded halves go, so that the file is strict from then on. The syncs
//! between the steps are the caller's.
//!
//! Invariant: a step is taken only while nothing changed since the sync before it.

use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::header::STATES_AT;
use crate::format::layout;
use crate::format::state::{STATE_LEN, State};
use crate::volume::error::Result;
use crate::volume::file::body::{Mark, Names};
use crate::volume::redo::FOUND;

use super::block::{Block, Group};
use super::{GcmBody, Turn};

/// Groups of a file in doubt that one pass or sync mends, 1 GiB; a larger file stays in doubt for another.
const MENDED_AT_ONCE: u32 = 4096;

impl GcmBody {
    /// Whether settling has nothing to do. A file in doubt of which all is mended has its settled epoch to come.
    pub(super) fn nothing_to_settle(&self) -> bool {
        let groups = self.group_count();
        let memory = self.memory();
        let settled = !memory.head.state().flags.unsettled && memory.head.other().is_none();
        let out_of_doubt = memory.doubt.in_doubt && memory.doubt.mended_groups >= groups;
        settled
            && !out_of_doubt
            && memory.table.superseded().is_empty()
            && !memory.ledger.to_cut
            && !memory.ledger.to_mend
            && !memory.ledger.failed
    }

    /// Step 2: zeroes superseded record halves and writes the settled state. `None`: something changed meanwhile.
    pub(super) fn drop_superseded(
        &self,
        turn: &Turn<'_>,
        mark: Mark,
        names: &Names,
    ) -> Result<Option<Mark>> {
        if !self.is_unchanged(mark) {
            return Ok(None);
        }
        self.finish_mending(turn)?;
        if !self.is_unchanged(mark) {
            return Ok(None);
        }
        let numbers: Vec<u32> = self.memory().table.superseded().iter().copied().collect();
        for number in numbers {
            self.drop_superseded_in(turn, number)?;
        }
        self.write_settled_state(turn, names)?;
        Ok(Some(Mark(self.memory().ledger.changes)))
    }

    /// Step 4: zeroes the older state half.
    pub(super) fn drop_older_state(&self, _turn: &Turn<'_>, mark: Mark) -> Result<Option<Mark>> {
        let (at, settled, other) = {
            let memory = self.memory();
            let settled = !memory.head.state().flags.unsettled && !memory.head.is_unsynced();
            (1 - memory.head.at(), settled, memory.head.other().is_some())
        };
        if !self.is_unchanged(mark) || !settled {
            return Ok(None);
        }
        if other {
            self.put(
                &[0; STATE_LEN],
                STATES_AT.get(at).copied().unwrap_or_default() as u64,
            )?;
            self.memory().head.dropped_other();
        }
        Ok(Some(Mark(self.memory().ledger.changes)))
    }

    fn is_unchanged(&self, mark: Mark) -> bool {
        let ledger = &self.memory().ledger;
        broken(Rule::MarkIgnored)
            || ledger.changes == mark.0 && ledger.synced == mark.0 && !ledger.failed
    }

    /// What is left to mend of a file in doubt, up to a number of groups.
    pub(super) fn finish_mending(&self, turn: &Turn<'_>) -> Result<()> {
        if self.memory().ledger.to_mend {
            self.mend(turn)?;
        }
        if self.memory().ledger.to_cut {
            self.finish_cut(turn)?;
        }
        let doubt = self.memory().doubt;
        if doubt.in_doubt && layout::first_block(doubt.mended_groups) < self.blocks() {
            let until = doubt.mended_groups.saturating_add(MENDED_AT_ONCE);
            let end = layout::first_block(until).min(self.blocks());
            self.mend_groups(turn, doubt.mended_groups, end)?;
            self.memory().doubt.mended_groups = until;
        }
        Ok(())
    }

    fn drop_superseded_in(&self, turn: &Turn<'_>, number: u32) -> Result<()> {
        let mut group = Group::clone(&*self.group(number)?);
        let indexes: Vec<usize> = group
            .blocks()
            .iter()
            .enumerate()
            .filter(|(_, block)| block.has_other())
            .map(|(index, _)| index)
            .collect();
        if !indexes.is_empty() {
            for index in &indexes {
                let alone = Block::alone(&group.block(*index));
                group.put(*index, alone);
            }
            self.put_records(turn, number, &group, &indexes)?;
            self.memory().table.wrote(number, Arc::new(group));
        }
        self.memory().table.note_settled(number);
        Ok(())
    }

    fn group_count(&self) -> u32 {
        layout::group_of(self.blocks().saturating_sub(1)) + 1
    }

    fn write_settled_state(&self, turn: &Turn<'_>, names: &Names) -> Result<()> {
        let groups = self.group_count();
        let (before, mended) = {
            let memory = self.memory();
            let mended = !memory.doubt.in_doubt || memory.doubt.mended_groups >= groups;
            (memory.head.state().clone(), mended)
        };
        let settle = |state: &mut State| {
            state.flags.unsettled = false;
            self.settle_tags(state, names);
            if mended {
                state.settled_epoch = self.env.epochs.running;
            }
        };
        let mut after = before.clone();
        settle(&mut after);
        if after != before {
            self.write_state(turn, settle)?;
        }
        if mended {
            let was_in_doubt = std::mem::take(&mut self.memory().doubt.in_doubt);
            if was_in_doubt {
                self.env.redo.let_go(&self.file, FOUND);
            }
        }
        Ok(())
    }
}
