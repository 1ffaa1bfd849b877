//! Memory that a device can write to directly.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use memmap2::{Advice, MmapMut};

/// What direct reads want aligned: their memory, length and offset, bytes.
pub const ALIGNED: usize = 4096;
/// A huge page on the architectures that have 4 KiB pages, bytes. One of them is handed to the device as one piece.
const HUGE: usize = 2 << 20;

/// Zeroed memory of its own mapping, which begins with a huge page and consists of them where the system has any.
pub struct Pages {
    map: MmapMut,
    inside: Range<usize>,
}

impl Pages {
    /// Room for `len` bytes, a multiple of `ALIGNED`. ENOMEM.
    pub fn new(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len + HUGE)?;
        let start = map.as_ptr().align_offset(HUGE).min(HUGE);
        if let Err(error) = map.advise_range(Advice::HugePage, start, len) {
            tracing::debug!("no huge pages: {error}");
        }
        let inside = start..start + len;
        Ok(Self { map, inside })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.get(self.inside.clone()).unwrap_or_default()
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.get_mut(self.inside.clone()).unwrap_or_default()
    }
}

/// Bytes of a file that are in memory, in at most two pieces that meet between two pages.
pub struct Lent {
    first: (Arc<Pages>, Range<usize>),
    second: Option<(Arc<Pages>, Range<usize>)>,
}

impl Lent {
    /// All of it in one piece.
    pub fn new(pages: Arc<Pages>, range: Range<usize>) -> Self {
        Self {
            first: (pages, range),
            second: None,
        }
    }

    /// With another piece after it.
    pub fn with(self, pages: Arc<Pages>, range: Range<usize>) -> Self {
        Self {
            second: Some((pages, range)),
            ..self
        }
    }

    /// A page of it, by its number; `None` past the end, and for one that is not whole.
    pub fn page(&self, number: usize) -> Option<&[u8]> {
        let (pages, range) = &self.first;
        let at = number.checked_mul(ALIGNED)?;
        match at.checked_sub(range.len()) {
            None => whole(pages, range, at),
            Some(at) => {
                let (pages, range) = self.second.as_ref()?;
                whole(pages, range, at)
            }
        }
    }
}

fn whole<'a>(pages: &'a Pages, range: &Range<usize>, at: usize) -> Option<&'a [u8]> {
    pages.get(range.clone())?.get(at..at.checked_add(ALIGNED)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_where_a_huge_page_begins_and_can_be_written_to_its_end() {
        let mut pages = Pages::new(HUGE + ALIGNED).unwrap();
        assert_eq!(pages.as_ptr().align_offset(HUGE), 0);
        assert_eq!(pages.len(), HUGE + ALIGNED);
        assert!(pages.iter().all(|&byte| byte == 0));
        pages.fill(7);
        assert!(pages.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn pages_are_lent_from_two_pieces() {
        let mut pages = Pages::new(8 * ALIGNED).unwrap();
        for (number, page) in (0..).zip(pages.chunks_mut(ALIGNED)) {
            page.fill(number);
        }
        let pages = Arc::new(pages);
        let lent = Lent::new(Arc::clone(&pages), 2 * ALIGNED..4 * ALIGNED);
        let fills = |lent: &Lent| -> Vec<u8> {
            let pages = (0..9).map_while(|number| lent.page(number));
            pages.map(|page| page[ALIGNED - 1]).collect()
        };
        assert_eq!(fills(&lent), [2, 3]);
        let lent = lent.with(pages, 6 * ALIGNED..7 * ALIGNED + 100);
        assert_eq!(fills(&lent), [2, 3, 6]);
        assert!(lent.page(usize::MAX).is_none());
    }
}
