//! The files that are not durable or not settled, kept open until they are, and the passes that settle them
//! (FORMAT.md section 4, rule 9), many files to a sync. Knows no directory. Owns no thread: the volume calls `pass`, and
//! whoever hears the bell `pass_ahead`, so that room is there before a caller has to make it.
//!
//! Lock order: `passes` < `syncs` < a file's locks < `files`, `ahead` and the bell, one at a time; `files` is never held over a
//! call of the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::broken::{Rule, broken};
use crate::format::suite::Suite;
use crate::store::{Kind, Stat};
use crate::volume::bell::Bell;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::{FileState, Settling, Step};

/// Rounds of `settle_all` without an error before it gives up on files that keep changing.
const ROUNDS: usize = 8;
/// Files kept open where the process has no limit of descriptors.
const NO_LIMIT: usize = 1 << 19;

/// Files of several names remembered one by one.
const MOVED_MAX: usize = 4096;

/// The files that wait to become durable and settled.
pub(crate) struct Settler {
    env: Arc<Env>,
    /// By the order in which they were first opened.
    files: Mutex<BTreeMap<u64, Arc<FileState>>>,
    /// One pass at a time.
    passes: Mutex<()>,
    /// One sync of the store at a time: who is told of a failure tells all files before another can end well.
    syncs: Mutex<()>,
    moved: Mutex<Moved>,
    /// Files that may wait before whoever brings another has to settle them. Changed by tests alone.
    room: AtomicUsize,
    ahead: Mutex<Ahead>,
    bell: Arc<Bell>,
}

/// When to have files settled ahead of need.
#[derive(Debug, Default)]
struct Ahead {
    /// Files that came for the first time since the last pass ahead began.
    new: usize,
    /// The bell was rung, and no such pass began yet.
    rung: bool,
    /// Passes ahead that began.
    #[cfg(test)]
    begun: usize,
}

impl Ahead {
    /// A file came, `first` for the first time, and so many wait now: whether to ring. Once half of the room is used, and
    /// a quarter of it by files that the last pass did not see: those that are in use all the while, and stay or come
    /// again, do not make a pass, three syncs of the store, follow another.
    fn came(&mut self, first: bool, waiting: usize, room: usize) -> bool {
        self.new += usize::from(first);
        let ring = !self.rung && waiting >= room / 2 && self.new >= (room / 4).max(1);
        self.rung |= ring;
        ring
    }

    fn begin(&mut self) {
        self.new = 0;
        self.rung = false;
        #[cfg(test)]
        {
            self.begun += 1;
        }
    }
}

/// Names of bound files that may be as they were before, after a power cut.
#[derive(Debug, Default)]
struct Moved {
    /// Counts the changes of names of all bound files.
    changes: u64,
    /// The count that a sync of the store covered.
    durable: u64,
    /// Files of several names, by inode, and the count when these changed; no older than `durable`.
    inodes: HashMap<u64, u64>,
    /// Up to this count any file may be one: there were too many to remember, or an earlier mount knew them.
    any: Option<u64>,
}

impl Moved {
    fn changed(&mut self, several: Option<u64>) {
        self.changes += 1;
        self.inodes.extend(several.map(|ino| (ino, self.changes)));
        if self.inodes.len() > MOVED_MAX {
            self.inodes = HashMap::new();
            self.any = Some(self.changes);
        }
    }

    /// A sync of the store that began at this count ended well.
    fn synced(&mut self, count: u64) {
        self.durable = self.durable.max(count);
        self.inodes.retain(|_, at| *at > count);
        self.any = self.any.filter(|at| *at > count);
    }
}

/// A change of a file's names under way. Noted before, so that a header made meanwhile knows of it, and after, so that no
/// sync that ended before counts for it.
#[must_use]
pub(crate) struct Moving(Option<(Arc<Settler>, Option<u64>)>);

impl Drop for Moving {
    fn drop(&mut self) {
        if let Some((settler, several)) = &self.0 {
            lock(&settler.moved).changed(*several);
        }
    }
}

/// How a pass ended.
#[derive(Debug)]
pub(crate) struct Pass {
    /// Files that still wait.
    pub(crate) left: usize,
    /// The first error; the files concerned still wait, others went on.
    pub(crate) error: Option<Error>,
}

impl Settler {
    /// An empty list, and the bell of who settles ahead. A file holds its own descriptor and up to two of its directory:
    /// half of RLIMIT_NOFILE, as it is now, is filled by a quarter as many files.
    pub(crate) fn new(env: Arc<Env>, bell: Arc<Bell>) -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile).current;
        let room = limit
            .and_then(|limit| usize::try_from(limit / 4).ok())
            .unwrap_or(NO_LIMIT);
        // What was not durable when the mount before was killed may still not be.
        let moved = Moved {
            any: env.epochs.any_listed().then_some(1),
            changes: 1,
            ..Moved::default()
        };
        Arc::new(Self {
            env,
            files: Mutex::default(),
            passes: Mutex::default(),
            syncs: Mutex::default(),
            moved: Mutex::new(moved),
            room: AtomicUsize::new(room.clamp(1, NO_LIMIT)),
            ahead: Mutex::default(),
            bell,
        })
    }

    /// Keeps a file until it is durable and settled. Called before it changes, its content lock held.
    pub(crate) fn note(&self, state: &Arc<FileState>) {
        let mut files = self.lock_files();
        if state.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        files.insert(state.number, state.clone());
        let waiting = files.len();
        drop(files);
        let first = !state.came_before.swap(true, Ordering::Relaxed);
        if lock(&self.ahead).came(first, waiting, self.room()) {
            self.bell.ring();
        }
    }

    /// A name of the object with these attributes is about to appear or to go; held until that is done or failed.
    pub(crate) fn moving(self: &Arc<Self>, stat: &Stat) -> Moving {
        let bound = self.env.suite == Suite::Gcm && self.env.bind_names;
        if !bound || stat.kind != Kind::File {
            return Moving(None);
        }
        let several = (stat.nlink > 1).then_some(stat.ino);
        lock(&self.moved).changed(several);
        Moving(Some((Arc::clone(self), several)))
    }

    /// Whether several names of this file, others than it has now, may be back after a power cut.
    pub(crate) fn may_have_had_others(&self, ino: u64) -> bool {
        let moved = lock(&self.moved);
        moved.any.is_some() || moved.inodes.contains_key(&ino)
    }

    /// How many files wait.
    pub(crate) fn len(&self) -> usize {
        self.lock_files().len()
    }

    /// Settles the files that did not change for `idle`.
    pub(crate) fn pass(&self, idle: Duration) -> Pass {
        let one = lock(&self.passes);
        self.pass_alone(&one, idle)
    }

    /// As `pass`, for who heard the bell; nothing is done if there is room again.
    pub(crate) fn pass_ahead(&self, idle: Duration) -> Pass {
        let one = lock(&self.passes);
        lock(&self.ahead).begin();
        match self.len() {
            left if left < self.room() / 2 => Pass { left, error: None },
            _ => self.pass_alone(&one, idle),
        }
    }

    fn pass_alone(&self, _one: &MutexGuard<'_, ()>, idle: Duration) -> Pass {
        let mut run = Run {
            settler: self,
            error: None,
        };
        let files: Vec<_> = self
            .lock_files()
            .values()
            .filter(|state| state.idle() >= idle)
            .cloned()
            .collect();
        if !files.is_empty() {
            run.settle(files);
        }
        Pass {
            left: self.len(),
            error: run.error,
        }
    }

    /// Settles every file, for unmounting: nothing else uses the volume. An error, and no clean end, if one fails.
    pub(crate) fn settle_all(&self) -> Result<()> {
        let mut waiting = self.len();
        for _ in 0..ROUNDS {
            let pass = self.pass(Duration::ZERO);
            if pass.left == 0 {
                return Ok(());
            }
            if let Some(error) = pass.error.filter(|_| pass.left >= waiting) {
                self.env.mark_unclean();
                return Err(error);
            }
            waiting = pass.left;
        }
        self.env.mark_unclean();
        tracing::warn!("{} files kept changing and are not settled", self.len());
        Err(Error::errno(libc::EBUSY))
    }

    /// Settles what can be settled when so many files wait that descriptors run short: where nobody did it ahead, or not
    /// fast enough. The caller holds no lock of a file.
    pub(crate) fn make_room(&self) {
        if self.len() < self.room() {
            return;
        }
        let one = lock(&self.passes);
        // The pass that this one waited for may have made room.
        if self.len() >= self.room()
            && let Some(error) = self.pass_alone(&one, Duration::ZERO).error
        {
            tracing::warn!("settling to free descriptors: {error}");
        }
    }

    fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn passes_ahead(&self) -> usize {
        lock(&self.ahead).begun
    }

    /// Syncs the whole store, and with it every file that waits.
    ///
    /// # Errors
    /// The first one. Each file knows then whether it is durable; none is taken for durable whose own sync failed.
    pub(crate) fn sync_store(&self) -> Result<()> {
        let files: Vec<_> = self.lock_files().values().cloned().collect();
        let mut run = Run {
            settler: self,
            error: None,
        };
        let mut begun = run.begin(files, false);
        run.sync(&begun, true);
        begun.retain(Settling::synced);
        begun.retain(|file| !run.left(&file.state, false));
        run.error.map_or(Ok(()), Err)
    }

    /// Lets every file go, for a volume that nobody uses any more: they hold this list, and keys with it.
    pub(crate) fn let_go(&self) {
        let files = std::mem::take(&mut *self.lock_files());
        drop(files); // closes them, with no lock held
    }

    /// Takes a file off the list that is not listed any more.
    pub(in crate::volume) fn remove(&self, state: &Arc<FileState>) {
        let mut files = self.lock_files();
        if !state.listed.load(Ordering::Acquire) {
            files.remove(&state.number);
        }
    }

    fn lock_files(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<FileState>>> {
        lock(&self.files)
    }
}

/// A pass under way; remembers its first error.
struct Run<'a> {
    settler: &'a Settler,
    error: Option<Error>,
}

impl Run<'_> {
    fn settle(&mut self, files: Vec<Arc<FileState>>) {
        let mut moving = self.begin(files, true);
        if moving.is_empty() {
            return;
        }
        // Settling drops the tags of names that went, and leaves a new header without those that went before it.
        let directories = {
            let moved = lock(&self.settler.moved);
            moved.changes != moved.durable && !broken(Rule::NamesUnsynced)
        };
        let synced = broken(Rule::SettleUnsynced) || self.sync(&moving, directories);
        self.keep_synced(&mut moving);
        if !synced {
            return;
        }
        for step in [Step::Halves, Step::State] {
            moving.retain(|file| !self.left(&file.state, false));
            if moving.is_empty() {
                return;
            }
            moving.retain_mut(|file| file.step(step).unwrap_or_else(|error| self.failed(error)));
            if !(step == Step::Halves && broken(Rule::StateUnsynced)) {
                self.sync(&moving, false);
            }
            self.keep_synced(&mut moving);
        }
        moving.retain(|file| !self.left(&file.state, false));
    }

    fn begin(&mut self, mut files: Vec<Arc<FileState>>, settle: bool) -> Vec<Settling> {
        files.retain(|state| !self.left(state, false));
        let mut begun: Vec<_> = files
            .into_iter()
            .map(|file| Settling::begin(file, settle))
            .filter_map(|file| file.map_err(|error| self.failed(error)).ok())
            .collect();
        begun.retain(|file| !(file.is_deleted() && self.left(&file.state, true)));
        begun
    }

    /// A sync that covers these files: one of the store where that reports errors and goes well, else one for each.
    /// `directories`: of the names, too. Whether these are durable, if that was asked for.
    fn sync(&mut self, files: &[Settling], directories: bool) -> bool {
        let reports = self.settler.env.store.traits().syncfs_reports;
        let whole = (reports || directories) && self.sync_whole();
        if whole && reports {
            return true;
        }
        for file in files {
            if let Err(error) = file.state.sync(false) {
                self.failed(error);
            }
        }
        // A file system tells of what a file lost once; of names it tells again.
        !directories || whole || self.sync_whole()
    }

    /// A sync of the whole store; whether it went well.
    fn sync_whole(&mut self) -> bool {
        let settler = self.settler;
        let _one = lock(&settler.syncs);
        let count = lock(&settler.moved).changes;
        match settler.env.store.sync() {
            Ok(()) => lock(&settler.moved).synced(count),
            Err(error) => {
                settler.env.distrust("a sync of the store failed");
                settler.env.note_store_failed(&error);
                let files = settler.lock_files();
                files.values().for_each(|state| state.distrust_store());
                drop(files);
                self.failed(error.into());
                return false;
            }
        }
        true
    }

    /// Keeps the files that the last sync covered. One that it did not cover is synced by itself, for the next pass, where
    /// that can help: an earlier sync of it failed.
    fn keep_synced(&mut self, files: &mut Vec<Settling>) {
        files.retain(|file| {
            let synced = file.synced();
            if !synced
                && file.needs_own_sync()
                && let Err(error) = file.state.sync(false)
            {
                self.failed(error);
            }
            synced
        });
    }

    /// Whether the file needs nothing more and left the list; `deleted`: because it has no name.
    fn left(&mut self, state: &Arc<FileState>, deleted: bool) -> bool {
        let leaves = state
            .leave(deleted)
            .unwrap_or_else(|error| self.failed(error));
        if leaves {
            self.settler.remove(state);
        }
        leaves
    }

    fn failed(&mut self, error: Error) -> bool {
        self.error.get_or_insert(error);
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_so_many_files_of_several_names_and_then_takes_any_for_one() {
        let mut moved = Moved::default();
        (0..MOVED_MAX as u64).for_each(|ino| moved.changed(Some(ino)));
        let count = moved.changes;
        moved.changed(None);
        moved.changed(Some(7));
        assert!(moved.any.is_none() && moved.inodes.len() == MOVED_MAX);
        moved.synced(count);
        assert_eq!(moved.inodes.keys().collect::<Vec<_>>(), [&7]);
        assert!(
            moved.durable < moved.changes,
            "a change during the sync is not covered"
        );
        (0..=MOVED_MAX as u64).for_each(|ino| moved.changed(Some(ino)));
        assert!(moved.any.is_some() && moved.inodes.is_empty());
        moved.synced(moved.changes);
        assert!(moved.any.is_none() && moved.durable == moved.changes);
    }
}
