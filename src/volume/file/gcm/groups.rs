//! Groups between store and memory: reading records, writing records, sealing and opening blocks.
//!
//! Invariant: in a file in doubt, a version that an unclean end may have left without its data is opened before it counts;
//! in any other, the newer half counts and nothing else.

use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::crypto::Message;
use crate::format::layout::{self, PAGE};
use crate::format::record::{
    HALF_LEN, Half, Kind, RECORD_LEN, RECORDS_PER_SECTOR, Record, block_aad,
};
use crate::volume::error::{Error, Result};

use super::block::{Block, Current, Group, sector_start};
use super::{Doubt, GcmBody, Turn};

/// Bytes of the records of a full group.
const RECORDS: usize = layout::BLOCKS as usize * RECORD_LEN;

impl GcmBody {
    /// A group as it is now, read from the store if it must be.
    pub(super) fn group(&self, number: u32) -> Result<Arc<Group>> {
        loop {
            let drops = {
                let mut memory = self.memory();
                if let Some(group) = memory.table.group(number) {
                    return Ok(Arc::clone(group));
                }
                memory.table.drops()
            };
            self.missed(number);
            let mut bytes = [0; RECORDS];
            let records = self.read_records(number, &mut bytes)?;
            self.take_in(number, records, drops)?;
        }
    }

    /// Adds a group whose records were read while `drops` was the table's count, if it is not there and they still hold.
    pub(super) fn take_in(&self, number: u32, records: &[u8], drops: u64) -> Result<()> {
        let blocks = self.blocks();
        let group = self.parse_group(number, records, blocks)?;
        let mut memory = self.memory();
        let same = layout::blocks_in(number, blocks) == layout::blocks_in(number, self.blocks());
        if memory.table.drops() != drops || !same || memory.table.has(number) {
            return Ok(());
        }
        if group.blocks().iter().any(Block::has_other) && memory.doubt.in_doubt {
            memory.table.note_superseded(number);
        }
        memory.table.insert(number, group);
        Ok(())
    }

    /// Reads a group's records; what lies past the end of the file is zero.
    pub(super) fn read_records<'a>(
        &self,
        number: u32,
        bytes: &'a mut [u8; RECORDS],
    ) -> Result<&'a [u8]> {
        let len = layout::capacity(number) as usize * RECORD_LEN;
        let records = bytes.get_mut(..len).unwrap_or_default();
        self.backing
            .read_at(records, layout::record_offset(layout::first_block(number)))?;
        Ok(records)
    }

    /// Opens a block in place.
    pub(super) fn open(&self, block: u64, half: &Half, content: &mut [u8]) -> Result<()> {
        let aad = block_aad(half.kind, block, &self.file);
        let opened = self.cipher.open(&half.nonce, &aad, content, &half.tag);
        opened.map_err(|error| Error::Damaged(format!("block {block}: {error}")))
    }

    /// Opens blocks that follow each other, each with what the record says of it, its content, and where that is read if not in
    /// place; the indexes of those that do not open, whose content is their ciphertext.
    pub(super) fn open_all<'a>(
        &self,
        first: u64,
        blocks: impl Iterator<Item = (&'a Half, &'a mut [u8], Option<&'a [u8]>)>,
    ) -> Vec<usize> {
        let mut messages: Vec<_> = (first..)
            .zip(blocks)
            .map(|(block, (half, content, from))| Message {
                nonce: half.nonce,
                aad: block_aad(half.kind, block, &self.file),
                text: content,
                from,
                tag: half.tag,
            })
            .collect();
        self.cipher.open_all(&mut messages)
    }

    /// Seals a block in place under this nonce; the sequence is for `Block::successor`.
    pub(super) fn seal(
        &self,
        block: u64,
        kind: Kind,
        slot: u8,
        nonce: [u8; 12],
        content: &mut [u8],
    ) -> Half {
        let tag = self
            .cipher
            .seal(&nonce, &block_aad(kind, block, &self.file), content);
        Half {
            nonce,
            tag,
            slot,
            kind,
            sequence: 0,
        }
    }

    /// Writes the records of these blocks (ascending) as `group` has them: neighbours with one call, a half alone where
    /// only that one changes from what memory has and both are known.
    pub(super) fn put_records(
        &self,
        _turn: &Turn<'_>,
        number: u32,
        group: &Group,
        indexes: &[usize],
    ) -> Result<()> {
        let first = layout::first_block(number);
        if let [index] = indexes {
            let before = self
                .memory()
                .table
                .group(number)
                .filter(|group| group.to_mend == 0)
                .map(|group| group.block(*index));
            let before = before.filter(|block| matches!(block.current(), Current::Half(_)));
            let block = group.block(*index);
            let half = before
                .and_then(|before| before.changed_half(&block))
                .unwrap_or(2);
            let offset = layout::record_offset(first + *index as u64);
            return match block.encode().as_chunks::<HALF_LEN>().0.get(half) {
                Some(bytes) => self.put(bytes, offset + (half * HALF_LEN) as u64),
                None => self.put(&block.encode(), offset),
            };
        }
        for run in indexes.chunk_by(|a, b| a + 1 == *b) {
            let Some(start) = run.first() else { continue };
            let bytes: Vec<u8> = run
                .iter()
                .flat_map(|index| group.block(*index).encode())
                .collect();
            self.put(&bytes, layout::record_offset(first + *start as u64))?;
        }
        Ok(())
    }

    fn parse_group(&self, number: u32, records: &[u8], blocks: u64) -> Result<Group> {
        let (sparse, doubt) = {
            let memory = self.memory();
            (memory.head.state().sparse, memory.doubt)
        };
        let reading = Reading {
            body: self,
            number,
            sparse: (sparse.0..sparse.1).contains(&number),
            doubt,
        };
        let len = layout::blocks_in(number, blocks) as usize;
        let (records, _) = records.as_chunks::<RECORD_LEN>();
        let mut found = Vec::with_capacity(len);
        let mut to_mend = 0;
        for (index, bytes) in records.iter().enumerate().take(len) {
            let sector = records.get(sector_start(index)..).unwrap_or_default();
            let zero_sector = sector
                .iter()
                .take(RECORDS_PER_SECTOR)
                .all(|record| record.iter().all(|byte| *byte == 0));
            let (block, mend) = if doubt.in_doubt {
                reading.in_doubt(index, bytes, zero_sector)?
            } else {
                (reading.strict(bytes, zero_sector), false)
            };
            found.push(block);
            to_mend |= u64::from(mend) << (index as u32 % u64::BITS);
        }
        Ok(Group::new(found, to_mend))
    }
}

/// How the records of one group are to be understood.
struct Reading<'a> {
    body: &'a GcmBody,
    number: u32,
    /// Sectors of zero records are holes.
    sparse: bool,
    doubt: Doubt,
}

impl Reading<'_> {
    fn strict(&self, bytes: &[u8; RECORD_LEN], zero_sector: bool) -> Block {
        let Ok(record) = Record::parse(bytes) else {
            return Block::found([None, None], Current::Damaged);
        };
        let current = match record.newest() {
            Some(index) if self.has_slot(record, index, self.slots_there()) => Current::Half(index),
            None if self.sparse && zero_sector => Current::Zero,
            _ => Current::Damaged,
        };
        Block::found(record.halves, current)
    }

    /// A block, and whether it must be mended: a version that may not be durable, whatever a sync says (the one before may
    /// have failed), is written again before anything builds on it.
    fn in_doubt(
        &self,
        index: usize,
        bytes: &[u8; RECORD_LEN],
        zero_sector: bool,
    ) -> Result<(Block, bool)> {
        let record = Record::parse_in_doubt(bytes);
        let torn = record.encode() != *bytes;
        let block = layout::first_block(self.number) + index as u64;
        let grown = (self.doubt.between.0..self.doubt.between.1).contains(&block);
        let may_be_zero = grown && self.doubt.lenient && !broken(Rule::NoZeros) || self.sparse;
        let both = record.halves.iter().flatten().count() == 2;
        if zero_sector && self.sparse {
            return Ok((Block::ZERO, false));
        }
        if let Some(newest) = record.newest() {
            if !both && !grown && !self.sparse && self.has_slot(record, newest, self.slots_there())
            {
                return Ok((Block::found(record.halves, Current::Half(newest)), torn));
            }
            let older = if broken(Rule::NoOlderHalf) {
                newest
            } else {
                1 - newest
            };
            for half in [newest, older] {
                if self.opens(block, record, half)? {
                    let found = Block::found(record.halves, Current::Half(half));
                    return Ok((
                        if half == newest {
                            found
                        } else {
                            found.alone_as_found()
                        },
                        true,
                    ));
                }
            }
        }
        let current = if may_be_zero {
            Current::Zero
        } else {
            Current::Damaged
        };
        Ok((Block::found([None, None], current), may_be_zero))
    }

    /// By the file's length on the store: a file that is about to be cut has its size already.
    fn slots_there(&self) -> u8 {
        layout::slots_physical(self.number, self.doubt.physical_len)
    }

    fn has_slot(&self, record: Record, index: usize, slots: u8) -> bool {
        let half = record.halves.get(index).copied().flatten();
        half.is_some_and(|half| half.kind == Kind::Hole || half.slot < slots)
    }

    fn opens(&self, block: u64, record: Record, index: usize) -> Result<bool> {
        let Some(half) = record.halves.get(index).copied().flatten() else {
            return Ok(false);
        };
        if half.kind == Kind::Hole {
            return Ok(self.body.open(block, &half, &mut []).is_ok());
        }
        if half.slot >= self.slots_there() {
            return Ok(false);
        }
        let mut content = [0; PAGE as usize];
        self.body
            .backing
            .read_at(&mut content, layout::slot_offset(self.number, half.slot))?;
        let opens = self.body.open(block, &half, &mut content).is_ok();
        Ok(opens || self.body.copy_of(block, &half).is_some())
    }
}
