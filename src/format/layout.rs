//! Where blocks, tag pages and slots stand in a file, and what a file's length says about its size. Only arithmetic.
//!
//! Every number here follows from the constants at the top; spares are counted in [`spares`] alone.

use super::error::{FormatError, Result};

/// Bytes of a page, and of a block.
pub const PAGE: u64 = 4096;
/// Blocks of group 0, whose records stand in the header page.
pub const BLOCKS_0: u64 = 32;
/// Blocks of every later group.
pub const BLOCKS: u64 = 64;
/// A group has one spare slot, and one more for each of so many blocks begun.
const BLOCKS_PER_SPARE: u64 = 8;
/// Where the records of group 0 begin in page 0; a later group's begin at 0 of its tag page.
pub const RECORDS_0: u64 = 2048;
/// Bytes of a record.
pub const RECORD: u64 = 64;
/// The largest file, 384 KiB under 2^50 bytes: its last group has number 2^32 − 2, so that an exclusive bound fits u32.
pub const MAX_SIZE: u64 = (BLOCKS_0 + (u32::MAX as u64 - 1) * BLOCKS) * PAGE;

const PAGES_0: u64 = pages_of(BLOCKS_0);
const PAGES: u64 = pages_of(BLOCKS);

/// Spare slots of a group with `blocks` blocks; none where there is no block.
pub const fn spares(blocks: u64) -> u64 {
    if blocks == 0 {
        0
    } else {
        1 + blocks.div_ceil(BLOCKS_PER_SPARE)
    }
}

/// Blocks of a file of `size` bytes.
pub const fn blocks_of(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

/// The group of a block below [`MAX_SIZE`].
///
/// Beyond it the answer is `u32::MAX`, a group that no file has.
pub const fn group_of(block: u64) -> u32 {
    if block < BLOCKS_0 {
        return 0;
    }
    let group = 1 + (block - BLOCKS_0) / BLOCKS;
    if group < u32::MAX as u64 {
        group as u32
    } else {
        u32::MAX
    }
}

/// The first block of a group.
pub const fn first_block(group: u32) -> u64 {
    match group {
        0 => 0,
        later => BLOCKS_0 + (later as u64 - 1) * BLOCKS,
    }
}

/// Blocks that a full group has.
pub const fn capacity(group: u32) -> u64 {
    if group == 0 { BLOCKS_0 } else { BLOCKS }
}

/// Blocks that a group has in a file of `blocks` blocks.
pub const fn blocks_in(group: u32, blocks: u64) -> u64 {
    let left = blocks.saturating_sub(first_block(group));
    if left < capacity(group) {
        left
    } else {
        capacity(group)
    }
}

/// Offset of the page that holds a group's records: page 0 for group 0.
pub const fn tag_page_offset(group: u32) -> u64 {
    PAGE * match group {
        0 => 0,
        later => PAGES_0 + (later as u64 - 1) * PAGES,
    }
}

/// Offset of the record of a block.
pub const fn record_offset(block: u64) -> u64 {
    let group = group_of(block);
    let first = if group == 0 {
        RECORDS_0
    } else {
        tag_page_offset(group)
    };
    first + RECORD * block.saturating_sub(first_block(group))
}

/// Offset of a slot of a group.
pub const fn slot_offset(group: u32, slot: u8) -> u64 {
    tag_page_offset(group) + PAGE * (1 + slot as u64)
}

/// Slots of a group in a file of `blocks` blocks; at most 73.
pub const fn slots(group: u32, blocks: u64) -> u8 {
    let blocks = blocks_in(group, blocks);
    (blocks + spares(blocks)) as u8
}

/// Slots of a group that a file of this length has room for; at most 73.
pub const fn slots_physical(group: u32, physical_len: u64) -> u8 {
    let pages = (physical_len / PAGE).saturating_sub(tag_page_offset(group) / PAGE + 1);
    let full = capacity(group) + spares(capacity(group));
    (if pages < full { pages } else { full }) as u8
}

/// Length on the store of a GCM-SIV file of `size` bytes, at most [`MAX_SIZE`].
pub const fn gcm_physical_len(size: u64) -> u64 {
    if size == 0 {
        return 0;
    }
    let blocks = blocks_of(size);
    let last = group_of(blocks - 1);
    tag_page_offset(last) + PAGE * pages_of(blocks_in(last, blocks)) + size % PAGE
}

/// The size of a GCM-SIV file of this length on the store: exactly one for every length that [`gcm_physical_len`] gives.
pub fn gcm_size(physical_len: u64) -> Result<u64> {
    if physical_len == 0 {
        return Ok(0);
    }
    let pages = physical_len / PAGE;
    let blocks = if pages <= PAGES_0 {
        blocks_for_pages(pages)?
    } else {
        let later = pages - PAGES_0;
        let rest = match later % PAGES {
            0 => 0,
            pages => blocks_for_pages(pages)?,
        };
        BLOCKS_0 + later / PAGES * BLOCKS + rest
    };
    size_from(blocks, physical_len % PAGE)
}

/// Length on the store of an XTS file of `size` bytes.
pub const fn xts_physical_len(size: u64) -> u64 {
    if size == 0 {
        0
    } else {
        PAGE * (1 + blocks_of(size)) + size % PAGE
    }
}

/// The size of an XTS file of this length on the store.
pub fn xts_size(physical_len: u64) -> Result<u64> {
    match physical_len / PAGE {
        0 if physical_len == 0 => Ok(0),
        0 | 1 => Err(FormatError::Length("a file")),
        pages => size_from(pages - 1, physical_len % PAGE),
    }
}

/// Pages of a group with `blocks` blocks: records, blocks, spares.
const fn pages_of(blocks: u64) -> u64 {
    1 + blocks + spares(blocks)
}

/// The inverse of [`pages_of`] for the last group of a file: pages − 2 = m + ⌈m / 8⌉ has at most this solution.
fn blocks_for_pages(pages: u64) -> Result<u64> {
    let blocks = pages.saturating_sub(2) * BLOCKS_PER_SPARE / (BLOCKS_PER_SPARE + 1);
    let fits = blocks > 0 && pages_of(blocks) == pages;
    fits.then_some(blocks).ok_or(FormatError::Length("a file"))
}

fn size_from(blocks: u64, tail: u64) -> Result<u64> {
    let size = match tail {
        0 => blocks * PAGE,
        tail => (blocks - 1) * PAGE + tail,
    };
    (size <= MAX_SIZE)
        .then_some(size)
        .ok_or(FormatError::Length("a file"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_groups_have_the_documented_pages() {
        assert_eq!((PAGES_0, PAGES), (38, 74));
        assert_eq!((slots(0, 1 << 30), slots(1, 1 << 30)), (37, 73));
        assert_eq!(gcm_physical_len(4096), 4 * 4096);
        assert_eq!(gcm_physical_len(1), 4 * 4096 + 1);
        assert_eq!(MAX_SIZE, (1 << 50) - 384 * 1024);
    }

    #[test]
    fn every_length_of_small_files_gives_one_size_or_none() {
        let step = [1, 2, 511, 4095, 4096];
        let sizes = (0..300u64).flat_map(|block| step.map(|tail| block * 4096 + tail));
        let lengths: HashMap<u64, u64> = sizes.map(|size| (gcm_physical_len(size), size)).collect();
        assert_eq!(lengths.len(), 300 * step.len(), "two sizes share a length");
        for (length, size) in &lengths {
            assert_eq!(gcm_size(*length), Ok(*size));
        }
        // Page counts that no number of blocks has.
        let valid: Vec<u64> = lengths.keys().map(|length| length / 4096).collect();
        let refused = (1..300).filter(|pages| !valid.contains(pages));
        for pages in refused {
            assert!(gcm_size(pages * 4096).is_err(), "{pages} pages");
            assert!(
                gcm_size(pages * 4096 + 77).is_err(),
                "{pages} pages and a tail"
            );
        }
        assert!(gcm_size(1).is_err());
        assert!(gcm_size(4095).is_err());
    }

    #[test]
    fn group_edges_meet_without_gap_or_overlap() {
        for group in (0..2000).chain([u32::MAX / 2, u32::MAX - 3]) {
            let full = u64::from(slots(group, u64::MAX / 2));
            assert_eq!(slot_offset(group, full as u8), tag_page_offset(group + 1));
            assert_eq!(first_block(group) + capacity(group), first_block(group + 1));
            assert_eq!(group_of(first_block(group)), group);
            assert_eq!(group_of(first_block(group + 1) - 1), group);
        }
        assert_eq!(group_of(MAX_SIZE / PAGE - 1), u32::MAX - 1);
        assert_eq!(gcm_size(gcm_physical_len(MAX_SIZE)), Ok(MAX_SIZE));
        assert!(gcm_size(gcm_physical_len(MAX_SIZE) + 4 * PAGE).is_err());
    }

    #[test]
    fn records_stand_in_their_pages() {
        assert_eq!(record_offset(0), 2048);
        assert_eq!(record_offset(31), 4096 - 64);
        assert_eq!(record_offset(32), 38 * 4096);
        assert_eq!(record_offset(95), 38 * 4096 + 63 * 64);
        assert_eq!(record_offset(96), (38 + 74) * 4096);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn any_size_survives_its_length(size in 0..=MAX_SIZE) {
            prop_assert_eq!(gcm_size(gcm_physical_len(size)), Ok(size));
            prop_assert_eq!(xts_size(xts_physical_len(size)), Ok(size));
        }

        #[test]
        fn any_length_that_decodes_is_the_one_of_its_size(length: u64) {
            for length in [length, length % (1 << 52), length % (1 << 24), length / 4096 % 4096 * 4096] {
                if let Ok(size) = gcm_size(length) {
                    prop_assert_eq!(gcm_physical_len(size), length);
                }
                if let Ok(size) = xts_size(length) {
                    prop_assert_eq!(xts_physical_len(size), length);
                }
            }
        }

        #[test]
        fn the_store_has_the_slots_that_the_size_needs(size in 1..=MAX_SIZE) {
            let blocks = blocks_of(size);
            let last = group_of(blocks - 1);
            prop_assert_eq!(slots_physical(last, gcm_physical_len(size)), slots(last, blocks));
            prop_assert_eq!(slots_physical(last + 1, gcm_physical_len(size)), 0);
        }
    }
}
