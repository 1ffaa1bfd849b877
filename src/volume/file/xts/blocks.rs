//! Pages of an XTS file: reading, writing and zeroing ranges of blocks. An all-zero page is a hole, and an all-zero sector
//! (one that the first write into a hole did not bring to the medium before a power cut) reads as zeros, too.
//! Invariant: a page is encrypted whole and written whole; the last block is zero past the end.

use std::cell::RefCell;
use std::io::IoSlice;
use std::ops::Range;

use crate::format::header::{PAGE0, SECTOR};
use crate::format::layout::PAGE;
use crate::store::Allocate;
use crate::volume::error::{Error, Result};
use crate::volume::file::xts::XtsBody;

const BLOCK: usize = PAGE as usize;
/// Blocks moved with one call of the store: 1 MiB that begins and ends within a block.
const BATCH: u64 = 257;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` on this thread's buffer of `len` bytes; what it holds at first is not defined.
fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFER.take();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let done = work(buffer.get_mut(..len).unwrap_or_default());
    BUFFER.set(buffer);
    done
}

fn blocks_in(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

fn is_hole(page: &[u8]) -> bool {
    page.first().is_none_or(|byte| *byte == 0) && page.iter().fold(0, |all, byte| all | byte) == 0
}

fn sector_of(pages: &mut [u8], number: usize) -> &mut [u8] {
    pages
        .get_mut(number * SECTOR..(number + 1) * SECTOR)
        .unwrap_or_default()
}

impl XtsBody {
    /// Reads within `size`; the caller holds `io`.
    pub(super) fn read_blocks(&self, offset: u64, out: &mut [u8], size: u64) -> Result<usize> {
        let len = size.saturating_sub(offset).min(out.len() as u64);
        let (mut at, end) = (offset, offset + len);
        let mut rest = out;
        while at < end {
            let first = at / PAGE;
            let last = blocks_in(end).min(first + BATCH);
            let bytes = (last - first) as usize * BLOCK;
            let stop = end.min(last * PAGE);
            if at.is_multiple_of(PAGE) && bytes <= rest.len() {
                let pages = rest.get_mut(..bytes).unwrap_or_default();
                self.read_pages(first, pages)?;
            } else {
                let skip = (at % PAGE) as usize;
                let to = rest.get_mut(..(stop - at) as usize).unwrap_or_default();
                with_buffer(bytes, |pages| {
                    self.read_pages(first, pages)?;
                    to.copy_from_slice(pages.get(skip..skip + to.len()).unwrap_or_default());
                    Ok::<(), Error>(())
                })?;
            }
            rest = std::mem::take(&mut rest)
                .get_mut((stop - at) as usize..)
                .unwrap_or_default();
            at = stop;
        }
        Ok(len as usize)
    }

    /// Writes `data` into a file that is (or is about to be) `size` bytes long; its length is set already. With `page0`
    /// also the header page before it. The caller has the writer's turn.
    pub(super) fn write_blocks(
        &self,
        page0: Option<&[u8; PAGE0]>,
        offset: u64,
        data: &[u8],
        size: u64,
    ) -> Result<()> {
        let mut page0 = page0;
        if offset >= PAGE
            && let Some(page) = page0.take()
        {
            self.put(0, &[IoSlice::new(page)])?;
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let first = at / PAGE;
            let last = blocks_in(at + rest.len() as u64).min(first + BATCH);
            let (part, after) = rest.split_at(rest.len().min((last * PAGE - at) as usize));
            with_buffer((last - first) as usize * BLOCK, |pages| {
                self.fill(first, pages, at, part, size)?;
                self.cipher.encrypt(first, pages);
                match page0.take() {
                    Some(page) => self.put(0, &[IoSlice::new(page), IoSlice::new(pages)]),
                    None => self.put(1 + first, &[IoSlice::new(pages)]),
                }
            })?;
            at += part.len() as u64;
            rest = after;
        }
        page0.map_or(Ok(()), |page| self.put(0, &[IoSlice::new(page)]))
    }

    /// Zeroes a range within the size; the caller has the writer's turn.
    pub(super) fn zero_blocks(&self, offset: u64, len: u64, punch: bool) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let size = self.size.load(std::sync::atomic::Ordering::Acquire);
        let end = offset + len;
        let first_whole = offset.div_ceil(PAGE);
        let end_whole = if end == size {
            blocks_in(size)
        } else {
            end / PAGE
        };
        if first_whole > end_whole {
            return self.zero_within(
                offset / PAGE,
                (offset % PAGE) as usize..(end % PAGE) as usize,
            );
        }
        if !offset.is_multiple_of(PAGE) {
            self.zero_within(offset / PAGE, (offset % PAGE) as usize..BLOCK)?;
        }
        if end_whole * PAGE < end {
            self.zero_within(end_whole, 0..(end % PAGE) as usize)?;
        }
        self.make_holes(first_whole..end_whole, punch)
    }

    /// Wipes what lies past the end of a file of `size` bytes, if that was not seen to be zero before: the last block's
    /// tail, and the bytes behind the last block that only carry the size.
    pub(super) fn zero_past_end(&self, size: u64) -> Result<()> {
        if self.lock_ledger().end_is_zero {
            return Ok(());
        }
        let tail = (size % PAGE) as usize;
        let mut mended = false;
        if tail != 0 {
            mended |= self.zero_filler(blocks_in(size), tail)?;
            mended |= self.zero_tail(size / PAGE, tail)?;
        }
        let mut ledger = self.lock_ledger();
        ledger.end_is_zero = true;
        if mended {
            ledger.cut();
        }
        Ok(())
    }

    /// Reads physical pages back and writes the same bytes again; the caller has the writer's turn.
    pub(super) fn rewrite(&self, pages: Range<u64>) -> Result<()> {
        let mut first = pages.start;
        while first < pages.end {
            let last = pages.end.min(first + BATCH);
            let read = with_buffer((last - first) as usize * BLOCK, |buffer| {
                let read = self.backing.read_at(buffer, first * PAGE)?;
                self.backing
                    .write_at(buffer.get(..read).unwrap_or_default(), first * PAGE)?;
                Ok::<usize, Error>(read)
            })?;
            if read == 0 {
                break;
            }
            first = last;
        }
        Ok(())
    }

    fn read_pages(&self, first: u64, pages: &mut [u8]) -> Result<()> {
        if self.backing.read_at(pages, (1 + first) * PAGE)? < pages.len() {
            return Err(Error::Damaged(format!(
                "block {first}: the file in the store became shorter"
            )));
        }
        self.open(first, pages);
        Ok(())
    }

    /// Decrypts pages in place, runs of them at once; holes and zero sectors stay zero.
    fn open(&self, first: u64, mut pages: &mut [u8]) {
        let mut block = first;
        while !pages.is_empty() {
            let hole = pages.get(..BLOCK).is_some_and(is_hole);
            let run = pages
                .chunks(BLOCK)
                .take_while(|page| is_hole(page) == hole)
                .count()
                .max(1);
            let (now, after) = std::mem::take(&mut pages).split_at_mut(run * BLOCK);
            if !hole {
                let torn: Vec<usize> = (0..now.len() / SECTOR)
                    .filter(|sector| is_hole(sector_of(now, *sector)))
                    .collect();
                self.cipher.decrypt(block, now);
                for sector in torn {
                    sector_of(now, sector).fill(0);
                }
            }
            block += run as u64;
            pages = after;
        }
    }

    /// The plaintext of whole blocks: `data` at `at`, and around it what the file has there.
    fn fill(&self, first: u64, pages: &mut [u8], at: u64, data: &[u8], size: u64) -> Result<()> {
        let before = (at % PAGE) as usize;
        let after = before + data.len();
        let last = after.saturating_sub(1) / BLOCK;
        if before != 0 {
            self.fill_block(first, pages.get_mut(..BLOCK).unwrap_or_default())?;
        }
        if !after.is_multiple_of(BLOCK) && (last != 0 || before == 0) {
            let page = pages.get_mut(last * BLOCK..).unwrap_or_default();
            if at + data.len() as u64 >= size {
                page.fill(0);
            } else {
                self.fill_block(first + last as u64, page)?;
            }
        }
        pages
            .get_mut(before..after)
            .unwrap_or_default()
            .copy_from_slice(data);
        if at + data.len() as u64 >= size {
            pages.get_mut(after..).unwrap_or_default().fill(0);
        }
        Ok(())
    }

    fn fill_block(&self, block: u64, page: &mut [u8]) -> Result<()> {
        if block < blocks_in(self.size.load(std::sync::atomic::Ordering::Acquire)) {
            return self.read_pages(block, page);
        }
        page.fill(0);
        Ok(())
    }

    /// Writes physical pages while no reader is between them.
    fn put(&self, first_page: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let written = {
            let _alone = self.io_alone();
            self.backing.write_vectored_at(parts, first_page * PAGE)
        };
        self.lock_ledger()
            .wrote(first_page..first_page + (bytes as u64).div_ceil(PAGE));
        Ok(written?)
    }

    fn zero_within(&self, block: u64, bytes: Range<usize>) -> Result<()> {
        with_buffer(BLOCK, |page| {
            self.read_pages(block, page)?;
            let range = page.get_mut(bytes).unwrap_or_default();
            if is_hole(range) {
                return Ok(());
            }
            range.fill(0);
            self.cipher.encrypt(block, page);
            self.put(1 + block, &[IoSlice::new(page)])
        })
    }

    fn make_holes(&self, blocks: Range<u64>, punch: bool) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        if punch {
            let _alone = self.io_alone();
            let punched = self.backing.allocate(
                Allocate::Punch,
                (1 + blocks.start) * PAGE,
                (blocks.end - blocks.start) * PAGE,
            );
            self.lock_ledger().wrote(1 + blocks.start..1 + blocks.end);
            match punched {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => return Ok(other?),
            }
        }
        let mut first = blocks.start;
        while first < blocks.end {
            let last = blocks.end.min(first + BATCH);
            with_buffer((last - first) as usize * BLOCK, |pages| {
                pages.fill(0);
                self.put(1 + first, &[IoSlice::new(pages)])
            })?;
            first = last;
        }
        Ok(())
    }

    fn zero_filler(&self, block: u64, len: usize) -> Result<bool> {
        with_buffer(len, |filler| {
            let offset = (1 + block) * PAGE;
            if self.backing.read_at(filler, offset)? < len {
                return Err(Error::Damaged(format!(
                    "block {block}: the file in the store became shorter"
                )));
            }
            if is_hole(filler) {
                return Ok(false);
            }
            filler.fill(0);
            self.put(1 + block, &[IoSlice::new(filler)])?;
            Ok(true)
        })
    }

    fn zero_tail(&self, block: u64, from: usize) -> Result<bool> {
        let before = self.lock_ledger().mark();
        self.zero_within(block, from..BLOCK)?;
        Ok(self.lock_ledger().mark() != before)
    }
}
