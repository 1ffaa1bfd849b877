//! One file on its way through a settling pass (FORMAT.md section 4, rule 9): what it knew of itself before the first sync,
//! and each step with the file kept alone. Invariant: a step is taken only if nothing changed since the mark of the last.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use crate::store::File;
use crate::volume::error::Result;
use crate::volume::file::backing::{put_mtime_back, restore_mtime};
use crate::volume::file::body::{Body, Mark};
use crate::volume::file::names::Captured;
use crate::volume::file::owed::OwedMark;
use crate::volume::file::shell::{Content, FileState};

/// A file in a pass.
pub(in crate::volume) struct Settling {
    pub(in crate::volume) state: Arc<FileState>,
    body: Option<(Arc<dyn Body>, Mark)>,
    owed: OwedMark,
    /// Names that it had.
    links: u64,
    /// `None`: it can become durable but not settle, because names are changing or nobody wants it.
    names: Option<Captured>,
}

/// Which of the two writing steps of rule 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Step {
    /// Step 2: other record halves, settled state.
    Halves,
    /// Step 4: older state half.
    State,
}

impl Settling {
    /// Settles one file that nobody uses meanwhile, also one without a name, which a pass would let go as it is. False: it
    /// changed all the same.
    pub(in crate::volume) fn alone(state: &Arc<FileState>) -> Result<bool> {
        let mut file = Self::begin(Arc::clone(state), true)?;
        state.sync(true)?;
        for step in [Step::Halves, Step::State] {
            if !file.synced() || !file.step(step)? {
                return Ok(false);
            }
            state.sync(true)?;
        }
        Ok(file.synced() && state.is_at_rest())
    }

    /// Before the first sync. Without `settles` it shall only become durable.
    pub(in crate::volume) fn begin(state: Arc<FileState>, settles: bool) -> Result<Self> {
        let owed = state.lock_owed().mark();
        let body = match &*state.content_shared() {
            Content::Body(body) => Some((body.clone(), body.mark())),
            _ => None,
        };
        // Names locked: with none moving, these are all that the links are.
        let known = state.lock_names();
        let links = state.backing.stat()?.nlink;
        let names = settles.then(|| known.capture(links)).flatten();
        drop(known);
        Ok(Self {
            state,
            body,
            owed,
            links,
            names,
        })
    }

    /// Whether it has no name any more, for good.
    pub(in crate::volume) fn is_deleted(&self) -> bool {
        self.links == 0
    }

    /// After a sync that began after `begin` or the last step and ended well: whether it covered the whole file.
    pub(in crate::volume) fn synced(&self) -> bool {
        if self.state.backing.has_failed() {
            return false;
        }
        let mut owed = self.state.lock_owed();
        if !owed.store_synced(self.owed) {
            return false;
        }
        let owes_nothing = owed.is_durable();
        drop(owed);
        self.body
            .as_ref()
            .is_none_or(|(body, mark)| body.synced(*mark))
            && owes_nothing
    }

    /// Of a file that a sync did not cover: whether only a sync of its own can, since one of it failed before.
    pub(in crate::volume) fn needs_own_sync(&self) -> bool {
        let body_failed = self
            .body
            .as_ref()
            .is_some_and(|(body, mark)| body.mark() == *mark && !body.is_durable());
        body_failed || self.state.backing.has_failed() || self.state.lock_owed().distrusts_store()
    }

    /// Takes a step. False: the file changed meanwhile and waits for another pass.
    pub(in crate::volume) fn step(&mut self, step: Step) -> Result<bool> {
        let Some((body, mark)) = &mut self.body else {
            return Ok(true);
        };
        let Some(names) = &self.names else {
            return Ok(false);
        };
        let _quiet = self.state.lock_quiet();
        if !self.state.lock_names().still(names) {
            return Ok(false);
        }
        let stepped = self.state.settle_quietly(body, *mark, |body| match step {
            Step::Halves => body.settle_halves(*mark, &names.names),
            Step::State => body.settle_state(*mark),
        })?;
        if step == Step::State && stepped.is_some() {
            self.state.lock_names().dropped(names);
        }
        Ok(stepped.map(|stepped| *mark = stepped).is_some())
    }
}

impl FileState {
    /// Runs a step of settling on this body, if it is still the file's; readers and writers go on meanwhile. The mtime is
    /// put back unless a user's change came in between. `before`: the body's mark, as the step wants it. The caller holds
    /// `quiet`.
    fn settle_quietly(
        &self,
        body: &Arc<dyn Body>,
        before: Mark,
        step: impl FnOnce(&dyn Body) -> Result<Option<Mark>>,
    ) -> Result<Option<Mark>> {
        let content = self.content_shared();
        if !matches!(&*content, Content::Body(now) if Arc::ptr_eq(now, body)) {
            return Ok(None);
        }
        let changes = self.user_changes.load(Ordering::Acquire);
        let mtime = self.backing.stat()?.mtime;
        let stepped = step(body.as_ref());
        drop(content);
        let _alone = self.content_alone();
        if self.user_changes.load(Ordering::Acquire) == changes {
            match &stepped {
                // It wrote, no need to look.
                Ok(Some(after)) if *after != before => {
                    put_mtime_back(self.backing.as_ref(), mtime);
                }
                _ => restore_mtime(self.backing.as_ref(), mtime),
            }
        }
        stepped
    }

    /// Takes it off the settler's list if nothing of it waits: durable and settled, or `deleted`.
    pub(in crate::volume) fn leave(&self, deleted: bool) -> Result<bool> {
        // A file in use does not leave, nor do its users wait for this.
        let mut content = match self.content.try_write() {
            Ok(content) => content,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        if matches!(*content, Content::Unmade) {
            self.take_back(&mut content)?;
        }
        let leaves = deleted || self.owes_nothing(&content);
        if leaves {
            self.listed.store(false, Ordering::Release);
        }
        Ok(leaves)
    }

    /// Whether nothing of it waits: durable and settled.
    pub(in crate::volume) fn is_at_rest(&self) -> bool {
        self.owes_nothing(&self.content_shared())
    }

    pub(super) fn owes_nothing(&self, content: &Content) -> bool {
        let settled = match content {
            Content::Body(body) => body.is_durable() && body.is_settled(),
            Content::Unmade => false,
            Content::Unread | Content::Empty | Content::Remains => true,
        };
        settled && self.lock_owed().is_durable()
    }

    /// A sync of the whole store failed: only a sync of this file tells whether it is durable.
    pub(in crate::volume) fn distrust_store(&self) {
        self.lock_owed().sync_failed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::suite::Suite;
    use crate::store::{MemoryStore, SetTimes, Time, TimeSpec};
    use crate::volume::error::Error;
    use crate::volume::fixture::Fixture;

    const OLD: Time = Time { sec: 77, nsec: 7 };

    /// Whether a file has its old mtime after a step that does this.
    fn is_put_back(step: impl FnOnce(&FileState, Mark) -> Result<Option<Mark>>) -> bool {
        let mounted = Fixture::new(Suite::Gcm).mount(Arc::new(MemoryStore::new()), 1, &[]);
        let file = mounted.file("f");
        file.write(0, b"data").unwrap();
        let times = SetTimes {
            atime: None,
            mtime: Some(TimeSpec::At(OLD)),
        };
        file.set_times(times).unwrap();
        let body = match &*file.content_shared() {
            Content::Body(body) => Arc::clone(body),
            _ => panic!("it is empty"),
        };
        let before = body.mark();
        let _ = file.settle_quietly(&body, before, |_| step(&file, before));
        file.backing().stat().unwrap().mtime == OLD
    }

    fn write(file: &FileState) {
        file.backing.write_at(b"x", 100_000).unwrap();
    }

    #[test]
    fn the_mtime_is_put_back_however_a_step_ends_but_not_past_a_user() {
        let other = |mark: Mark| Ok(Some(Mark(mark.0 + 1)));
        assert!(is_put_back(|_, mark| Ok(Some(mark))));
        assert!(is_put_back(|file, mark| {
            write(file);
            other(mark)
        }));
        assert!(is_put_back(|file, mark| {
            write(file);
            Ok(Some(mark))
        }));
        assert!(is_put_back(|file, _| {
            write(file);
            Ok(None)
        }));
        assert!(is_put_back(|file, _| {
            write(file);
            Err(Error::errno(libc::EIO))
        }));
        assert!(!is_put_back(|file, mark| {
            write(file);
            file.write(0, b"user").unwrap();
            other(mark)
        }));
    }
}
