//! What of a file a write must clear: set-id bits and capabilities. Spares each write a look at them.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::volume::error::Result;

/// Whether a file may have bits or an attribute that a write must clear.
#[derive(Default)]
pub struct Privileges {
    /// Counts the changes that may have set some; starts at 0. One that has come to its end stays there: every write looks.
    changes: AtomicU8,
    /// One more than `changes` was when they were last seen cleared; 0: never.
    cleared: AtomicU8,
}

impl Privileges {
    /// To be called after a change that may have set some.
    pub fn may_be_set(&self) {
        let one_more = |changes: u8| changes.checked_add(1);
        let _ = self
            .changes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
    }

    /// Whether there are none.
    pub fn are_clear(&self) -> bool {
        let seen = self.changes.load(Ordering::SeqCst).checked_add(1);
        seen.is_some_and(|seen| self.cleared.load(Ordering::SeqCst) == seen)
    }

    /// Runs `clear` unless nothing was set since it last succeeded. What is set while it runs is not lost.
    pub fn clear(&self, clear: impl FnOnce() -> Result<()>) -> Result<()> {
        let look = || clear().map(|()| None::<()>);
        self.find(look).map(drop)
    }

    /// What `look` finds, `None` without a look where it is known that there is nothing; remembers that nothing was found.
    pub fn find<T>(&self, look: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
        let Some(seen) = self.changes.load(Ordering::SeqCst).checked_add(1) else {
            return look();
        };
        if self.cleared.load(Ordering::SeqCst) == seen {
            return Ok(None);
        }
        let found = look()?;
        if found.is_none() {
            self.cleared.store(seen, Ordering::SeqCst);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::volume::error::Error;

    #[test]
    fn clears_privileges_once_until_they_may_be_set_again() {
        let (privileges, cleared) = (Privileges::default(), Cell::new(0));
        let clear = || {
            cleared.set(cleared.get() + 1);
            Ok(())
        };
        for _ in 0..3 {
            privileges.clear(clear).unwrap();
        }
        assert_eq!(cleared.get(), 1);
        privileges.may_be_set();
        privileges.clear(clear).unwrap();
        assert_eq!(cleared.get(), 2);
    }

    #[test]
    fn clears_again_after_a_failure_and_after_a_change_meanwhile() {
        let privileges = Privileges::default();
        privileges
            .clear(|| Err(Error::errno(libc::EIO)))
            .unwrap_err();
        privileges
            .clear(|| {
                privileges.may_be_set();
                Ok(())
            })
            .unwrap();
        let ran = Cell::new(false);
        privileges
            .clear(|| {
                ran.set(true);
                Ok(())
            })
            .unwrap();
        assert!(ran.get());
    }

    #[test]
    fn clears_each_time_after_more_changes_than_it_counts() {
        let (privileges, cleared) = (Privileges::default(), Cell::new(0));
        let clear = || {
            cleared.set(cleared.get() + 1);
            Ok(())
        };
        privileges.clear(clear).unwrap();
        for changes in 1..=600 {
            privileges.may_be_set();
            privileges.clear(clear).unwrap();
            assert_eq!(cleared.get(), changes + 1, "one for each change at least");
        }
    }
}
