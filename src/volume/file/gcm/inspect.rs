//! Records and blocks as `check` looks at them: every record parsed, every version that counts opened, nothing logged and
//! nothing written. Invariant: what is reported as sound is what a reader would get.

use std::ops::Range;

use crate::format::layout::{self, PAGE};
use crate::format::record::{Half, Kind, RECORD_LEN, RECORDS_PER_SECTOR, Record};
use crate::volume::check::{Note, Part};
use crate::volume::error::Result;
use crate::volume::file::examine::Tally;

use super::GcmBody;
use super::block::{Block, Version, bit, sector_start};
use super::names::tag;
use crate::volume::file::body::{Body, Place};

const PAGE_LEN: usize = PAGE as usize;
const BAD_CONTENT: &str = "its content is not authentic";
const BAD_RECORD: &str = "its record is damaged";

impl GcmBody {
    /// Whether the file may stand under this name; without a log line.
    pub(crate) fn may_have_name(&self, place: &Place) -> bool {
        let tag = tag(&self.header_key, &self.file, place);
        let memory = self.memory();
        let state = memory.head.state();
        !self.env.bind_names
            || state.flags.unbound
            || memory.doubt.lenient
            || state.tags.contains(&tag)
    }

    /// Looks at the groups that begin in this range of blocks; `deep`: every block is opened.
    pub(crate) fn inspect(&self, range: Range<u64>, deep: bool, tally: &mut Tally) -> Result<()> {
        let end = range.end.min(self.blocks());
        let mut from = layout::group_of(range.start);
        if layout::first_block(from) < range.start {
            from += 1;
        }
        let mut number = self.next_touched(from)?;
        tally.holes += layout::first_block(number)
            .min(end)
            .saturating_sub(layout::first_block(from));
        while layout::first_block(number) < end {
            if deep {
                self.inspect_blocks(number, tally)?;
            } else {
                self.inspect_records(number, tally)?;
            }
            let next = self.next_touched(number + 1)?;
            tally.holes += layout::first_block(next)
                .min(end)
                .saturating_sub(layout::first_block(number + 1));
            number = next;
        }
        Ok(())
    }

    fn inspect_blocks(&self, number: u32, tally: &mut Tally) -> Result<()> {
        let group = self.group(number)?;
        tally.bytes_read += if number == 0 { 0 } else { PAGE };
        self.inspect_end(number, group.len(), tally)?;
        let superseded = group
            .blocks()
            .iter()
            .filter(|block| block.has_other())
            .count();
        if superseded > 0 && !self.memory().doubt.in_doubt {
            tally.notes.push(Note::left(
                Part::Record,
                format!(
                    "{superseded} superseded versions of blocks of group {number} were not dropped"
                ),
            ));
        }
        let versions: Vec<Version> = group.blocks().iter().map(Block::version).collect();
        let slots = self.read_slots(number, &versions)?;
        tally.bytes_read += slots.len() as u64;
        let mut page = [0; PAGE_LEN];
        for (block, version) in (layout::first_block(number)..).zip(versions) {
            match version {
                Version::Damaged => tally.bad_block(block, BAD_RECORD),
                Version::Zero => tally.holes += 1,
                Version::Sealed(half) if half.kind == Kind::Hole => {
                    tally.holes += 1;
                    if self.open(block, &half, &mut []).is_err() {
                        tally.bad_block(block, "its record of a hole is not authentic");
                    }
                }
                Version::Sealed(half) => {
                    tally.blocks += 1;
                    fill(&mut page, &slots, half.slot);
                    let opened = self.open(block, &half, &mut page).is_ok();
                    match opened || self.read_copy(block, &half, &mut page) {
                        false => tally.bad_block(block, BAD_CONTENT),
                        true => self.inspect_tail(block, &page, tally),
                    }
                }
            }
        }
        Ok(())
    }

    /// The slots of a group, up to the last one that a version names.
    fn read_slots(&self, number: u32, versions: &[Version]) -> Result<Vec<u8>> {
        let data = versions.iter().filter_map(|version| match version {
            Version::Sealed(half) if half.kind == Kind::Data => Some(usize::from(half.slot) + 1),
            _ => None,
        });
        let mut bytes = vec![0; data.max().unwrap_or(0) * PAGE_LEN];
        if !bytes.is_empty() {
            let read = self
                .backing
                .read_at(&mut bytes, layout::slot_offset(number, 0))?;
            bytes.get_mut(read..).unwrap_or_default().fill(0);
        }
        Ok(bytes)
    }

    /// The last block is zero past the end.
    fn inspect_tail(&self, block: u64, page: &[u8; PAGE_LEN], tally: &mut Tally) {
        let tail = (self.size() % PAGE) as usize;
        let past = page.get(tail..).unwrap_or_default();
        if tail > 0
            && block + 1 == self.blocks()
            && past.iter().any(|byte| *byte != 0)
            && !self.memory().doubt.in_doubt
        {
            tally.notes.push(Note::damaged(
                Part::Block,
                format!("block {block}: bytes past the end of the file are not zero"),
            ));
        }
    }

    /// Records past the end of the file are zero.
    fn inspect_end(&self, number: u32, len: usize, tally: &mut Tally) -> Result<()> {
        if len as u64 == layout::capacity(number) || self.memory().doubt.in_doubt {
            return Ok(());
        }
        let mut bytes = [0; layout::BLOCKS as usize * RECORD_LEN];
        let records = self.read_records(number, &mut bytes)?;
        let past = records.get(len * RECORD_LEN..).unwrap_or_default();
        if past.iter().any(|byte| *byte != 0) {
            tally.notes.push(Note::damaged(
                Part::Record,
                format!("records past the end of the file, in group {number}, are not zero"),
            ));
        }
        Ok(())
    }

    /// What can be said of a group without its slots.
    fn inspect_records(&self, number: u32, tally: &mut Tally) -> Result<()> {
        let mut bytes = [0; layout::BLOCKS as usize * RECORD_LEN];
        let records = self.read_records(number, &mut bytes)?.to_vec();
        tally.bytes_read += if number == 0 { 0 } else { PAGE };
        let len = layout::blocks_in(number, self.blocks()) as usize;
        self.inspect_end(number, len, tally)?;
        let (sparse, doubt) = {
            let memory = self.memory();
            (memory.head.state().sparse, memory.doubt)
        };
        let sparse = (sparse.0..sparse.1).contains(&number);
        let slots = if doubt.in_doubt {
            layout::slots_physical(number, doubt.physical_len)
        } else {
            layout::slots(number, self.blocks())
        };
        let (records, _) = records.as_chunks::<RECORD_LEN>();
        let mut used = 0;
        for (index, bytes) in records.iter().enumerate().take(len) {
            let block = layout::first_block(number) + index as u64;
            let sector = records.get(sector_start(index)..).unwrap_or_default();
            let zero_sector = sector
                .iter()
                .take(RECORDS_PER_SECTOR)
                .all(|record| record.iter().all(|byte| *byte == 0));
            let grown = doubt.lenient && (doubt.between.0..doubt.between.1).contains(&block);
            let may_be_zero = grown || sparse && (zero_sector || doubt.in_doubt);
            let newest = if doubt.in_doubt {
                let record = Record::parse_in_doubt(bytes);
                record
                    .newest()
                    .and_then(|newest| record.halves.get(newest).copied().flatten())
            } else {
                let Ok(record) = Record::parse(bytes) else {
                    tally.bad_block(block, BAD_RECORD);
                    continue;
                };
                record
                    .newest()
                    .and_then(|newest| record.halves.get(newest).copied().flatten())
            };
            match newest {
                None if may_be_zero => tally.holes += 1,
                None => tally.bad_block(block, BAD_RECORD),
                Some(half) => {
                    self.inspect_half(block, &half, slots, &mut used, doubt.in_doubt, tally)
                }
            }
        }
        Ok(())
    }

    fn inspect_half(
        &self,
        block: u64,
        half: &Half,
        slots: u8,
        used: &mut u128,
        in_doubt: bool,
        tally: &mut Tally,
    ) {
        if half.kind == Kind::Hole {
            tally.holes += 1;
            if !in_doubt && self.open(block, half, &mut []).is_err() {
                tally.bad_block(block, "its record of a hole is not authentic");
            }
            return;
        }
        tally.blocks += 1;
        if half.slot >= slots {
            tally.bad_block(block, "its record names a slot that the file does not have");
        } else if !in_doubt && *used & bit(half.slot) != 0 {
            tally.bad_block(block, "its record names the slot of another block");
        }
        *used |= bit(half.slot);
    }
}

fn fill(page: &mut [u8; PAGE_LEN], slots: &[u8], slot: u8) {
    let at = usize::from(slot) * PAGE_LEN;
    match slots.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(stored) => *page = *stored,
        None => page.fill(0),
    }
}
