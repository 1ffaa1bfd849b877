//! The files that are not durable or not settled, kept open until they are, and the passes that settle them
//! (FORMAT.md section 4, rule 9), many files to a sync. Knows no directory. Owns no thread: the volume calls `pass`.
//!
//! Lock order: `passes` < `syncs` < a file's locks < `files`; `files` is never held over a call of the store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::broken::{Rule, broken};
use crate::format::suite::Suite;
use crate::store::{Kind, Stat};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::{FileState, Settling, Step};

/// Rounds of `settle_all` without an error before it gives up on files that keep changing.
const ROUNDS: usize = 8;
/// Files kept open where the process has no limit of descriptors.
const NO_LIMIT: usize = 1 << 19;

/// The files that wait to become durable and settled.
pub(crate) struct Settler {
    env: Arc<Env>,
    files: Mutex<HashMap<usize, Arc<FileState>>>,
    /// One pass at a time.
    passes: Mutex<()>,
    /// One sync of the store at a time: who is told of a failure tells all files before another can end well.
    syncs: Mutex<()>,
    /// Empty files whose names changed since the last sync of the store, by inode.
    moved_empty: Mutex<HashSet<u64>>,
    room: usize,
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
    /// An empty list. A file holds its own descriptor and up to two of its directory: half of RLIMIT_NOFILE, as it is
    /// now, is filled by a quarter as many files.
    pub(crate) fn new(env: Arc<Env>) -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile).current;
        let room = limit
            .and_then(|limit| usize::try_from(limit / 4).ok())
            .unwrap_or(NO_LIMIT);
        Arc::new(Self {
            env,
            files: Mutex::default(),
            passes: Mutex::default(),
            syncs: Mutex::default(),
            moved_empty: Mutex::default(),
            room: room.clamp(1, NO_LIMIT),
        })
    }

    /// Keeps a file until it is durable and settled. Called before it changes, its content lock held.
    pub(crate) fn note(&self, state: &Arc<FileState>) {
        let mut files = self.lock_files();
        if !state.listed.swap(true, Ordering::AcqRel) {
            files.insert(key(state), state.clone());
        }
    }

    /// The names of an empty file are about to change: it has no header yet to say so in.
    pub(crate) fn moves_empty(&self, stat: &Stat) {
        let bound = self.env.suite == Suite::Gcm && self.env.bind_names;
        if bound && stat.kind == Kind::File && stat.size == 0 {
            lock(&self.moved_empty).insert(stat.ino);
        }
    }

    /// Whether names of this file that changed while it was empty may come back after a power cut.
    pub(crate) fn moved_empty(&self, ino: u64) -> bool {
        lock(&self.moved_empty).contains(&ino)
    }

    /// How many files wait.
    pub(crate) fn len(&self) -> usize {
        self.lock_files().len()
    }

    /// Settles the files that did not change for `idle`.
    pub(crate) fn pass(&self, idle: Duration) -> Pass {
        let _one = lock(&self.passes);
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

    /// Settles what can be settled when so many files wait that descriptors run short. The caller holds no lock of a file.
    pub(crate) fn make_room(&self) {
        if self.len() >= self.room
            && let Some(error) = self.pass(Duration::ZERO).error
        {
            tracing::warn!("settling to free descriptors: {error}");
        }
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
        let mut begun = run.begin(files);
        run.sync(&begun, true);
        begun.retain(Settling::synced);
        run.error.map_or(Ok(()), Err)
    }

    /// Takes a file off the list that is not listed any more.
    pub(in crate::volume) fn remove(&self, state: &Arc<FileState>) {
        let mut files = self.lock_files();
        if !state.listed.load(Ordering::Acquire) {
            files.remove(&key(state));
        }
    }

    fn lock_files(&self) -> MutexGuard<'_, HashMap<usize, Arc<FileState>>> {
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
        let mut moving = self.begin(files);
        if moving.is_empty() {
            return;
        }
        let moved = !lock(&self.settler.moved_empty).is_empty();
        let directories = moved || moving.iter().any(Settling::lost_names);
        if !broken(Rule::SettleUnsynced) {
            self.sync(&moving, directories);
        }
        self.keep_synced(&mut moving);
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

    fn begin(&mut self, mut files: Vec<Arc<FileState>>) -> Vec<Settling> {
        files.retain(|state| !self.left(state, true));
        let begun = files.into_iter().map(Settling::begin);
        begun
            .filter_map(|file| file.map_err(|error| self.failed(error)).ok())
            .collect()
    }

    /// A sync that covers these files: one of the store where that reports errors and goes well, else one for each.
    fn sync(&mut self, files: &[Settling], directories: bool) {
        let store = &self.settler.env.store;
        if store.traits().syncfs_reports || directories {
            let _one = lock(&self.settler.syncs);
            let moved = lock(&self.settler.moved_empty).clone();
            let synced = store.sync();
            if synced.is_ok() {
                lock(&self.settler.moved_empty).retain(|ino| !moved.contains(ino));
            }
            if let Err(error) = synced {
                self.settler
                    .lock_files()
                    .values()
                    .for_each(|state| state.distrust_store());
                self.failed(error.into());
            } else if store.traits().syncfs_reports {
                return;
            }
        }
        for file in files {
            if let Err(error) = file.state.sync(false) {
                self.failed(error);
            }
        }
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

    /// Whether the file needs nothing more and left the list; `look`: the store is asked whether it has a name left.
    fn left(&mut self, state: &Arc<FileState>, look: bool) -> bool {
        let leaves = state.leave(look).unwrap_or_else(|error| self.failed(error));
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

fn key(state: &Arc<FileState>) -> usize {
    Arc::as_ptr(state) as usize
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
