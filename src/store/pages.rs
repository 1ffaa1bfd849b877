//! Memory that a device can write to directly.

use std::io;
use std::ops::{Deref, DerefMut, Range};

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
}
