//! A set of pages as ranges: what was written since the last sync that went well. Invariant: it never forgets a page; when
//! it grows over its limit it remembers more pages than were given, not fewer.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges kept before they are merged into one.
const LIMIT: usize = 4096;

/// Pages of a file, as disjoint ranges that do not touch.
#[derive(Debug, Default)]
pub(super) struct PageRanges(BTreeMap<u64, u64>);

impl PageRanges {
    /// Adds pages.
    pub(super) fn add(&mut self, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        let (mut start, mut end) = (pages.start, pages.end);
        while let Some((&other, &other_end)) = self
            .0
            .range(..=end)
            .next_back()
            .filter(|(_, other_end)| **other_end >= start)
        {
            self.0.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
        if self.0.len() > LIMIT {
            self.merge_all();
        }
    }

    /// Adds all pages of another set.
    pub(super) fn add_all(&mut self, other: Self) {
        for (start, end) in other.0 {
            self.add(start..end);
        }
    }

    /// The ranges, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    fn merge_all(&mut self) {
        if let (Some((&start, _)), Some((_, &end))) =
            (self.0.first_key_value(), self.0.last_key_value())
        {
            self.0 = BTreeMap::from([(start, end)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_ranges_that_touch_or_overlap() {
        let mut set = PageRanges::default();
        for range in [5..7, 1..2, 9..12, 2..3, 6..10] {
            set.add(range);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [1..3, 5..12]);
        set.add(0..20);
        assert!(set.iter().eq(std::iter::once(0..20)));
    }

    #[test]
    fn forgets_no_page_when_it_grows_over_its_limit() {
        let mut set = PageRanges::default();
        for page in 0..=LIMIT as u64 {
            set.add(3 * page..3 * page + 1);
        }
        assert!(set.iter().eq(std::iter::once(0..3 * LIMIT as u64 + 1)));
    }
}
