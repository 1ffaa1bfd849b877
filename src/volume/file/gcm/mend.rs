//! What an unclean end left, made good on the store before the file changes (FORMAT.md section 4, rules 7 and 8): length,
//! blocks that a growth left without data, records caught in the middle, slots, tail, name tag.
//!
//! Invariant: a file that is not in doubt is never mended; nothing builds on what was mended before that is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::crypto::fresh_nonce;
use crate::format::header::MAX_TAGS;
use crate::format::layout;
use crate::format::record::Kind;
use crate::volume::error::Result;

use super::block::{Block, Current, Group, Version};
use super::{GcmBody, Turn};

impl GcmBody {
    /// Before the first change of a file that was loaded with what may not be durable.
    pub(super) fn mend(&self, turn: &Turn<'_>) -> Result<()> {
        self.barrier(turn)?;
        let doubt = self.memory().doubt;
        if doubt.in_doubt {
            let len = layout::gcm_physical_len(self.size.load(Ordering::Acquire));
            if doubt.physical_len < len {
                self.put_len(len)?;
            }
            self.mend_groups(turn, layout::group_of(doubt.between.0), doubt.between.1)?;
            if self.memory().head.other().is_some() {
                self.write_header_again()?;
            }
            self.tidy_end(turn)?;
            self.barrier(turn)?;
            self.zero_records_past_end(turn)?;
            if doubt.physical_len > len {
                self.put_len(len)?;
            }
            self.mend_tag(turn, doubt.lenient.then_some(doubt.via))?;
            self.barrier(turn)?;
        }
        let mut memory = self.memory();
        memory.doubt.lenient = false;
        memory.doubt.between = (0, 0);
        memory.ledger.to_mend = false;
        Ok(())
    }

    /// Mends the groups from `number` to the one before block `end`; they are not durable yet.
    pub(super) fn mend_groups(&self, turn: &Turn<'_>, number: u32, end: u64) -> Result<()> {
        let mut number = self.next_touched(number)?;
        while layout::first_block(number) < end {
            if self.group(number)?.to_mend != 0 {
                self.mend_group(turn, number)?;
            }
            number = self.next_touched(number + 1)?;
        }
        Ok(())
    }

    /// Writes a group again as it counts: what did not open is gone, what was never written is a hole.
    pub(super) fn mend_group(&self, turn: &Turn<'_>, number: u32) -> Result<()> {
        let mut group = Group::clone(&*self.group(number)?);
        let first = layout::first_block(number);
        let to_mend = group.to_mend;
        let indexes: Vec<usize> = (0..group.len())
            .filter(|index| to_mend >> index & 1 == 1)
            .collect();
        for index in &indexes {
            let block = group.block(*index);
            let mended = match block.current() {
                Current::Zero => Block::ZERO.successor(self.seal(
                    first + *index as u64,
                    Kind::Hole,
                    0,
                    fresh_nonce(),
                    &mut [],
                )),
                Current::Half(_) => {
                    if let Version::Sealed(half) = block.version() {
                        self.write_slot_again(number, first + *index as u64, &half)?;
                    }
                    block.written_again()
                }
                Current::Damaged => continue,
            };
            group.put(*index, mended);
        }
        self.put_records(turn, number, &group, &indexes)?;
        group.to_mend = 0;
        self.memory().table.wrote(number, Arc::new(group));
        Ok(())
    }

    /// The first group from `number` on of which the store holds anything: others, of a sparse file, are zeros.
    pub(super) fn next_touched(&self, number: u32) -> Result<u32> {
        let (lo, hi) = self.memory().head.state().sparse;
        if !(lo..hi).contains(&number) {
            return Ok(number);
        }
        match self.backing.next_data(layout::tag_page_offset(number)) {
            Ok(Some(offset)) => Ok(group_at(offset).clamp(number, hi)),
            Ok(None) => Ok(hi),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(number),
            Err(error) => Err(error.into()),
        }
    }

    /// The name by which the file was reached gets the tag that an unclean end kept from it.
    fn mend_tag(&self, turn: &Turn<'_>, via: Option<[u8; 16]>) -> Result<()> {
        let Some(tag) = via.filter(|_| self.env.bind_names) else {
            return Ok(());
        };
        let known = {
            let memory = self.memory();
            memory.head.state().flags.unbound || memory.head.state().tags.contains(&tag)
        };
        if known {
            return Ok(());
        }
        self.write_state(turn, |state| match state.tags.len() {
            MAX_TAGS.. => state.flags.unbound = true,
            _ => state.tags.push(tag),
        })
    }
}

/// The group that holds this offset of the store's file.
fn group_at(offset: u64) -> u32 {
    let first = layout::tag_page_offset(1);
    match offset.checked_sub(first) {
        None => 0,
        Some(after) => {
            u32::try_from(1 + after / (layout::tag_page_offset(2) - first)).unwrap_or(u32::MAX)
        }
    }
}
