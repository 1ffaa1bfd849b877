//! What the shell itself changed in a file (cut to nothing, re-wrapped) and still owes the store, and whether a sync of the
//! store may be believed. Memory only. Invariant: as `body::Body::synced` has it: a change is durable once a sync that
//! began after it ended well.

#[derive(Debug, Default)]
pub(super) struct Owed {
    changes: u64,
    durable: u64,
    /// Key areas were written since the last sync.
    areas: bool,
    /// Syncs that failed, and how many of these a good one of the file itself came after.
    failures: u64,
    failures_past: u64,
    /// A re-wrap whose old key area is still there.
    pub(super) rewrapped: Option<Rewrapped>,
}

/// What a re-wrap wrote.
#[derive(Debug)]
pub(super) struct Rewrapped {
    /// Core and key areas, as they are then.
    pub(super) keys: Box<[u8]>,
    /// The area that is to go.
    pub(super) superseded: usize,
}

/// What a sync will cover.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwedMark {
    changes: u64,
    failures: u64,
}

impl Owed {
    /// Notes a change, after it was made or tried.
    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    /// Notes that key areas were written.
    pub(super) fn wrote_areas(&mut self) {
        self.changes += 1;
        self.areas = true;
    }

    /// Before a sync.
    pub(super) fn mark(&self) -> OwedMark {
        OwedMark {
            changes: self.changes,
            failures: self.failures,
        }
    }

    /// A sync of the store that began after `mark` was taken ended well. False: it is not to be believed.
    pub(super) fn store_synced(&mut self, mark: OwedMark) -> bool {
        let believed = !self.distrusts_store();
        if believed {
            self.covered(mark);
        }
        believed
    }

    /// A sync of the file itself that began after `mark` was taken ended well.
    pub(super) fn synced(&mut self, mark: OwedMark) {
        self.failures_past = self.failures_past.max(mark.failures);
        self.covered(mark);
    }

    /// A sync of the store or of the file failed: only a later one of the file itself tells whether it is durable.
    pub(super) fn sync_failed(&mut self) {
        self.failures += 1;
    }

    pub(super) fn distrusts_store(&self) -> bool {
        self.failures != self.failures_past
    }

    /// Whether key areas must be written again before a sync of the file tells of them: an earlier one, also of the body
    /// alone, may have failed.
    pub(super) fn areas_wait(&self) -> bool {
        self.areas
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable == self.changes && !self.distrusts_store()
    }

    fn covered(&mut self, mark: OwedMark) {
        self.durable = self.durable.max(mark.changes);
        self.areas &= self.durable != self.changes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_what_came_before_it() {
        let mut owed = Owed::default();
        owed.wrote_areas();
        let mark = owed.mark();
        owed.changed();
        owed.synced(mark);
        assert!(!owed.is_durable() && owed.areas_wait());
        let mark = owed.mark();
        assert!(owed.store_synced(mark));
        assert!(owed.is_durable() && !owed.areas_wait());
    }

    #[test]
    fn believes_the_store_again_only_after_a_sync_that_began_after_the_failure() {
        let mut owed = Owed::default();
        owed.changed();
        let before = owed.mark();
        owed.sync_failed();
        owed.synced(before);
        let mark = owed.mark();
        assert!(!owed.store_synced(mark) && !owed.is_durable());
        owed.synced(mark);
        assert!(owed.is_durable());
    }
}
