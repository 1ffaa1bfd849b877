//! Reading: runs of slots with one call each, opened in the caller's buffer. Takes no lock over I/O but `io`, shared.
//!
//! Invariant: what is handed out was opened under the entry that memory had when the read began or later.

use std::io::IoSliceMut;

use crate::format::layout::{self, PAGE};
use crate::format::record::{Half, Kind, RECORD_LEN};
use crate::volume::error::Result;

use super::GcmBody;
use super::block::{Block, Version, index_in_group};
use super::durable::damaged;

const PAGE_LEN: usize = PAGE as usize;

impl GcmBody {
    /// Reads plaintext; short only at the end of the file, where zeros may stand behind it.
    pub(super) fn read_blocks(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let left = self
            .size
            .load(std::sync::atomic::Ordering::Acquire)
            .saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let mut rest = with_last_block(offset, len, out);
        let mut at = offset;
        while !rest.is_empty() {
            let block = at / PAGE;
            let within = (at % PAGE) as usize;
            let left_in_group =
                layout::capacity(layout::group_of(block)) as usize - index_in_group(block);
            let whole = (rest.len() / PAGE_LEN).min(left_in_group);
            let taken = if within > 0 || whole == 0 {
                let n = rest.len().min(PAGE_LEN - within);
                let mut page = [0; PAGE_LEN];
                self.read_run(block, &mut page)?;
                if let (Some(to), Some(from)) = (rest.get_mut(..n), page.get(within..within + n)) {
                    to.copy_from_slice(from);
                }
                n
            } else {
                self.read_run(block, rest.get_mut(..whole * PAGE_LEN).unwrap_or_default())?;
                whole * PAGE_LEN
            };
            rest = rest.get_mut(taken..).unwrap_or_default();
            at += taken as u64;
        }
        let behind = usize::try_from(at - offset)
            .map_or(&mut [][..], |end| out.get_mut(len..end).unwrap_or_default());
        behind.fill(0);
        Ok(len)
    }

    /// Reads whole blocks of one group.
    pub(super) fn read_run(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let number = layout::group_of(first);
        let index = index_in_group(first);
        let count = out.len() / PAGE_LEN;
        let ahead = index == 0 && self.read_with_records(number, out)?;
        let versions = self.versions(number, index, count)?;
        let mut pages = out;
        let mut at = 0;
        for run in versions.chunk_by(follows) {
            let (these, after) = pages.split_at_mut(run.len() * PAGE_LEN);
            pages = after;
            self.read_versions(
                number,
                first + at as u64,
                run,
                these,
                ahead.then_some(index + at),
            )?;
            at += run.len();
        }
        Ok(())
    }

    /// What counts of some blocks of a group.
    fn versions(&self, number: u32, index: usize, count: usize) -> Result<Vec<Version>> {
        let some = |blocks: &[Block]| {
            let known = blocks.iter().skip(index).map(Block::version);
            known
                .chain(std::iter::repeat(Version::Damaged))
                .take(count)
                .collect::<Vec<_>>()
        };
        if let Some(group) = self.memory().table.group(number) {
            return Ok(some(group.blocks()));
        }
        if number != 0 && index != 0 {
            // Its slots are on their way while its records are read; as long as nothing was overwritten they are these.
            let first = u8::try_from(index).unwrap_or_default();
            let (from, len) = (layout::slot_offset(number, first), count as u64 * PAGE);
            self.backing.will_need(from, len);
        }
        Ok(some(self.group(number)?.blocks()))
    }

    /// Reads one run: zeros, holes, or slots that follow each other. `ahead`: if the first slot is this one, the content is
    /// in `out` already.
    fn read_versions(
        &self,
        number: u32,
        first: u64,
        run: &[Version],
        out: &mut [u8],
        ahead: Option<usize>,
    ) -> Result<()> {
        let mut fetched = None;
        match run.first() {
            Some(Version::Sealed(half)) if half.kind == Kind::Data => {
                if ahead != Some(half.slot.into()) {
                    let offset = layout::slot_offset(number, half.slot);
                    fetched = self.backing.fetched(offset, out.len());
                    if fetched.is_none() {
                        let read = self.backing.read_at(out, offset)?;
                        out.get_mut(read..).unwrap_or_default().fill(0);
                    }
                }
            }
            Some(Version::Damaged) => return Err(damaged(first, "its record is damaged")),
            _ => out.fill(0),
        }
        let sealed = run.iter().filter_map(|version| match version {
            Version::Sealed(half) => Some(half),
            Version::Zero | Version::Damaged => None,
        });
        let contents = out.chunks_exact_mut(PAGE_LEN).enumerate();
        let failed = self.open_all(
            first,
            sealed
                .zip(contents)
                .map(|(half, (index, page))| match half.kind {
                    Kind::Data => (
                        half,
                        page,
                        fetched.as_ref().and_then(|lent| lent.page(index)),
                    ),
                    Kind::Hole => (half, &mut [][..], None),
                }),
        );
        for index in failed {
            let page = out.get_mut(index * PAGE_LEN..(index + 1) * PAGE_LEN);
            if let (Some(version), Some(page)) = (run.get(index), page) {
                self.read_changed(first + index as u64, *version, page)?;
            }
        }
        Ok(())
    }

    /// A block that did not open: again for as long as its entry changes meanwhile.
    fn read_changed(&self, block: u64, tried: Version, page: &mut [u8]) -> Result<()> {
        let number = layout::group_of(block);
        let mut tried = tried;
        loop {
            let versions = self.versions(number, index_in_group(block), 1)?;
            let now = versions.first().copied().unwrap_or(Version::Damaged);
            let read_ahead_at_fault = same_version(now, tried);
            tried = now;
            let opened = match now {
                Version::Sealed(half) => self.read_one(number, block, &half, page)?,
                Version::Zero => {
                    page.fill(0);
                    true
                }
                Version::Damaged => false,
            };
            if opened {
                return Ok(());
            }
            if read_ahead_at_fault {
                return Err(damaged(block, "its content is not authentic"));
            }
        }
    }

    fn read_one(&self, number: u32, block: u64, half: &Half, page: &mut [u8]) -> Result<bool> {
        if half.kind == Kind::Hole {
            page.fill(0);
            return Ok(self.open(block, half, &mut []).is_ok());
        }
        let read = self
            .backing
            .read_at(page, layout::slot_offset(number, half.slot))?;
        page.get_mut(read..).unwrap_or_default().fill(0);
        Ok(self.open(block, half, page).is_ok() || self.read_copy(block, half, page))
    }

    /// Reads the records of a group that is not in memory, and with the same call what stands in its first slots. False:
    /// it is in memory, or its records stand elsewhere.
    fn read_with_records(&self, number: u32, out: &mut [u8]) -> Result<bool> {
        let drops = {
            let memory = self.memory();
            if number == 0 || memory.table.has(number) {
                return Ok(false);
            }
            memory.table.drops()
        };
        let offset = layout::tag_page_offset(number);
        if let Some(lent) = self.backing.fetched(offset, PAGE_LEN)
            && let Some(records) = lent.page(0)
        {
            self.take_in(number, records, drops)?;
            return Ok(false);
        }
        let mut records = [0; layout::BLOCKS as usize * RECORD_LEN];
        let mut pieces = [IoSliceMut::new(&mut records), IoSliceMut::new(out)];
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let read = self.backing.read_vectored_at(&mut pieces, offset)?;
        self.take_in(number, &records, drops)?;
        Ok(read == len)
    }
}

/// The first `len` bytes, up to the end of the last block where there is room for the whole of it: it is read as one among
/// others then.
fn with_last_block(offset: u64, len: usize, out: &mut [u8]) -> &mut [u8] {
    let after = (offset % PAGE) as usize + len;
    let whole = len + (after.next_multiple_of(PAGE_LEN) - after);
    let fits = len > 0 && whole <= out.len();
    out.get_mut(..if fits { whole } else { len })
        .unwrap_or_default()
}

/// Whether two versions can be read with one call.
fn follows(a: &Version, b: &Version) -> bool {
    match (a, b) {
        (Version::Sealed(a), Version::Sealed(b)) => {
            a.kind == b.kind && (a.kind == Kind::Hole || b.slot == a.slot.wrapping_add(1))
        }
        (Version::Zero, Version::Zero) => true,
        _ => false,
    }
}

fn same_version(a: Version, b: Version) -> bool {
    match (a, b) {
        (Version::Sealed(a), Version::Sealed(b)) => (a.nonce, a.tag) == (b.nonce, b.tag),
        _ => a == b,
    }
}
