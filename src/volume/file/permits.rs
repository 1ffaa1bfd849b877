//! How many threads of a kind this process has at a time, whatever files ask for them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many more may begin.
pub(super) struct Permits(AtomicUsize);

/// One of them, until it is dropped.
pub(super) struct Permit(&'static Permits);

impl Permits {
    pub(super) const fn new(most: usize) -> Self {
        Self(AtomicUsize::new(most))
    }

    /// So many in a process; its many tests at once do not wait for each other.
    pub(super) const fn of_process(most: usize) -> Self {
        Self::new(if cfg!(test) { 1000 } else { most })
    }

    pub(super) fn take(&'static self) -> Option<Permit> {
        let fewer = |left: usize| left.checked_sub(1);
        let left = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        left.ok().map(|_| Permit(self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}
