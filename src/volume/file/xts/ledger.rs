//! What an XTS file still owes the store: pages written since the last sync that went well, and whether a sync failed.
//! Memory only. Invariant: a page leaves it only through a sync that began after the page was written and ended well.

use crate::volume::file::body::Mark;
use crate::volume::file::xts::ranges::PageRanges;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    unsynced: PageRanges,
    in_flight: PageRanges,
    changes: u64,
    durable: u64,
    failed: bool,
    /// The count of changes when the file was last cut or its end mended: growing waits until that is durable, else a
    /// power cut could keep the new length and bring old bytes back.
    cut: Option<u64>,
    /// Whether the header may be in the page cache only.
    pub(super) header_in_doubt: bool,
    /// Whether everything past the end is known to be zero: the last block's tail and the bytes after the last block.
    pub(super) end_is_zero: bool,
}

impl Ledger {
    /// Notes pages as written, after the write.
    pub(super) fn wrote(&mut self, pages: std::ops::Range<u64>) {
        self.changes += 1;
        self.unsynced.add(pages);
    }

    /// Notes that old bytes past the end were given up, after that.
    pub(super) fn cut(&mut self) {
        self.changes += 1;
        self.cut = Some(self.changes);
    }

    pub(super) fn growing_waits(&self) -> bool {
        self.cut.is_some()
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.changes)
    }

    pub(super) fn is_durable(&self) -> bool {
        !self.failed && self.durable == self.changes
    }

    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Before a sync: what it will cover.
    pub(super) fn begin(&mut self) -> Mark {
        let pages = std::mem::take(&mut self.unsynced);
        self.in_flight.add_all(pages);
        self.mark()
    }

    /// After that sync, if it went well.
    pub(super) fn ended_well(&mut self, mark: Mark) {
        self.in_flight = PageRanges::default();
        self.failed = false;
        self.covered(mark);
    }

    /// After that sync, if not: nothing that it should have covered is durable, whatever a later sync says.
    pub(super) fn ended_badly(&mut self) {
        let pages = std::mem::take(&mut self.in_flight);
        self.unsynced.add_all(pages);
        self.failed = true;
        self.changes += 1;
    }

    /// After a sync of the whole store that began after `mark` was taken.
    pub(super) fn synced(&mut self, mark: Mark) -> bool {
        let all = !self.failed && mark == self.mark();
        if all {
            self.unsynced = PageRanges::default();
            self.covered(mark);
        }
        all
    }

    /// The pages that a failed sync left behind, and those written since.
    pub(super) fn unsynced(&self) -> Vec<std::ops::Range<u64>> {
        self.unsynced.iter().collect()
    }

    fn covered(&mut self, mark: Mark) {
        self.durable = self.durable.max(mark.0);
        self.cut = self.cut.filter(|cut| *cut > mark.0);
    }
}
