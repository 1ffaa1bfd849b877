//! What the shell itself changed in a file (cut to nothing, re-wrapped) and still owes the store. Memory only.
//! Invariant: as `body::Body::synced` has it: a change is durable once a sync that began after it ended well.

#[derive(Debug, Default)]
pub(super) struct Owed {
    changes: u64,
    durable: u64,
    failed: bool,
}

impl Owed {
    /// Notes a change, after it was made or tried.
    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    pub(super) fn mark(&self) -> u64 {
        self.changes
    }

    /// A sync that began after `mark` was taken ended well.
    pub(super) fn synced(&mut self, mark: u64) {
        self.durable = self.durable.max(mark);
        self.failed = false;
    }

    /// One that should have covered changes did not.
    pub(super) fn not_synced(&mut self) {
        if !self.is_durable() {
            self.failed = true;
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable == self.changes && !self.failed
    }
}
