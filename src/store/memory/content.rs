//! The bytes of a file in memory: pages where something was written, holes elsewhere, so that a file of 2^50 bytes with
//! nothing in it takes no room.
//!
//! Invariant: every byte at or after `len` reads as zero, also within the last page, so that growing shows zeros.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const PAGE: u64 = 4096;
pub(super) type Page = [u8; PAGE as usize];

/// Cloning shares the pages until one of the two writes to them.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Allocated pages.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Bytes read: less than `buf` only at the end.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let wanted = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut at = offset;
        let mut rest = buf.split_at_mut(wanted).0;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let n = rest.len().min(PAGE as usize - within);
            let (piece, after) = rest.split_at_mut(n);
            match self
                .pages
                .get(&(at / PAGE))
                .and_then(|page| page.get(within..within + n))
            {
                Some(bytes) => piece.copy_from_slice(bytes),
                None => piece.fill(0),
            }
            rest = after;
            at += n as u64;
        }
        wanted
    }

    /// Writes, growing the file. The caller has checked that the end is at most i64::MAX.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let (piece, after) = rest.split_at(rest.len().min(PAGE as usize - within));
            let page = Arc::make_mut(
                self.pages
                    .entry(at / PAGE)
                    .or_insert_with(|| Arc::new([0; PAGE as usize])),
            );
            if let Some(place) = page.get_mut(within..within + piece.len()) {
                place.copy_from_slice(piece);
            }
            rest = after;
            at += piece.len() as u64;
        }
        if !bytes.is_empty() {
            self.len = self.len.max(at);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let first_whole = len.div_ceil(PAGE);
            self.pages.split_off(&first_whole);
            self.zero_within_page(len, first_whole * PAGE);
        }
        self.len = len;
    }

    /// Makes a hole; the length stays.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        if first > last {
            return self.zero_within_page(offset, end);
        }
        self.zero_within_page(offset, first * PAGE);
        self.zero_within_page(last * PAGE, end);
        let tail = self.pages.split_off(&last.max(first));
        self.pages.split_off(&first);
        self.pages.extend(tail);
    }

    /// Start of the next allocated byte at or after `offset`, before the end.
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let (&page, _) = self.pages.range(offset / PAGE..).next()?;
        Some(offset.max(page * PAGE)).filter(|&data| data < self.len)
    }

    /// Start of the next hole at or after `offset`; the end counts as one.
    pub(super) fn next_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let mut page = offset / PAGE;
        for (&allocated, _) in self.pages.range(page..) {
            if allocated != page {
                break;
            }
            page += 1;
        }
        Some(offset.max(page * PAGE).min(self.len))
    }

    /// A page as it is; `None` for a hole.
    #[cfg(test)]
    pub(super) fn page(&self, number: u64) -> Option<Arc<Page>> {
        self.pages.get(&number).cloned()
    }

    /// Puts a page in place; the length stays, and what lies past it is zeroed.
    #[cfg(test)]
    pub(super) fn put_page(&mut self, number: u64, page: Option<Arc<Page>>) {
        let start = number * PAGE;
        match page.filter(|_| start < self.len) {
            Some(page) => drop(self.pages.insert(number, page)),
            None => drop(self.pages.remove(&number)),
        }
        if self.len.saturating_sub(start) < PAGE {
            self.zero_within_page(self.len.max(start), start + PAGE);
        }
    }

    /// The numbers of the pages from this one on that are no holes.
    #[cfg(test)]
    pub(super) fn pages_from(&self, number: u64) -> Vec<u64> {
        self.pages.range(number..).map(|(&page, _)| page).collect()
    }

    /// All bytes, holes as zeros.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Takes `bytes` as the whole content; a page that was a hole and is still zero stays one.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        self.set_len(bytes.len() as u64);
        for (number, piece) in bytes.chunks(PAGE as usize).enumerate() {
            if self.pages.contains_key(&(number as u64)) || piece.iter().any(|&b| b != 0) {
                self.write(piece, number as u64 * PAGE);
            }
        }
    }

    /// Zeros `from..to`, which lie in one page, where that page is allocated.
    fn zero_within_page(&mut self, from: u64, to: u64) {
        if let Some(page) = self.pages.get_mut(&(from / PAGE)) {
            let start = (from % PAGE) as usize;
            let end = start + (to - from) as usize;
            if page
                .get(start..end)
                .is_some_and(|range| range.iter().any(|byte| *byte != 0))
                && let Some(range) = Arc::make_mut(page).get_mut(start..end)
            {
                range.fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_plain_vector() {
        let mut content = Content::default();
        let mut plain = Vec::new();
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..3000 {
            let (offset, len) = (next(40_000) as usize, next(9_000) as usize);
            match next(4) {
                0 | 1 if len > 0 => {
                    let bytes = vec![next(255) as u8 + 1; len];
                    content.write(&bytes, offset as u64);
                    plain.resize(plain.len().max(offset + len), 0);
                    plain[offset..offset + len].copy_from_slice(&bytes);
                }
                2 => {
                    content.punch(offset as u64, len as u64);
                    let end = (offset + len).min(plain.len());
                    plain[offset.min(end)..end].fill(0);
                }
                _ => {
                    content.set_len(offset as u64);
                    plain.resize(offset, 0);
                }
            }
            assert_eq!(content.to_vec(), plain);
            let data = content.next_data(offset as u64);
            let first = plain
                .iter()
                .skip(offset)
                .position(|&b| b != 0)
                .map(|n| (offset + n) as u64);
            assert!(
                first.is_none() || data <= first,
                "SEEK_DATA passed over {first:?}: {data:?}"
            );
            let hole = content.next_hole(offset as u64);
            assert_eq!(hole.is_none(), offset >= plain.len());
            if let Some(hole) = hole {
                assert!(
                    content.next_data(hole).is_none_or(|data| data > hole),
                    "no hole at {hole}"
                );
                assert!(
                    (offset as u64..hole).all(|at| content.next_data(at) == Some(at)),
                    "a hole before {hole}"
                );
            }
        }
    }
}
