//! Rotation of the master key: a new version, every header re-wrapped, and the proof that none is left on an older one.
//! Data is never touched.
//!
//! Invariant: a header names a new version only after the volume file that allows it is durable, and the volume file
//! forgets an old version only after every header was read and named none but the new one.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};

use crate::broken::{Rule, broken};
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::suite::Envelope;
use crate::keys::KeyError;
use crate::store::Kind;
use crate::volume::Volume;
use crate::volume::chain::Chain;
use crate::volume::error::{Error, Result};
use crate::volume::file::FileState;
use crate::volume::listing;
use crate::volume::node::Node;
use crate::volume::parallel;
use crate::volume::rotate_gate::Moves;
use crate::volume::spot::Found;
use crate::volume::sync::locked;

/// Files of one batch at the most: so many descriptors are held, and one sync of the store serves them.
const BATCH: u64 = 4096;

/// Walks over the tree before a rotation gives up on files that appear on older versions again and again.
const ROUNDS: usize = 8;

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Headers seen so far in this phase.
    pub done: u64,
    /// What is being done.
    pub phase: Phase,
}

/// The two halves of a rotation's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Headers are re-wrapped.
    Rewrap,
    /// Headers are read again and counted: the proof.
    Verify,
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rotation {
    /// The oldest version that headers could name before; of a volume key under the volume envelope.
    pub from_version: u32,
    /// The version that every header names now.
    pub to_version: u32,
    /// The master key (hex) that headers could name before: another one than `to_key` when the volume moved.
    pub from_key: String,
    /// The master key (hex) that every header names now.
    pub to_key: String,
    /// What wraps data keys now.
    pub envelope: Envelope,
    /// Headers seen by the proof (an empty file has none).
    pub headers: u64,
    /// Headers that this run re-wrapped.
    pub rewrapped: u64,
    /// Headers that still name an older version; 0 is the proof.
    pub remaining: u64,
    /// Headers that could not be read or re-wrapped, and directories that could not be listed; the old version stays allowed
    /// while there are any.
    pub damaged: u64,
    /// How long it took, seconds.
    pub seconds: f64,
}

#[derive(Default)]
struct Count {
    headers: u64,
    older: u64,
    damaged: u64,
}

impl Volume {
    /// Rotates the master key, online: files in use go on. One rotation at a time (InvalidState else). What was killed before
    /// it was finished, a rotation or a move to another key, is finished instead. Where the provider goes away on the way, it
    /// ends with its error, and goes on when it is run again.
    pub fn rotate(&self, progress: &mut dyn FnMut(Progress)) -> Result<Rotation> {
        self.rewrap_to(progress, &mut || {
            if self.env.ring.chain().is_unfinished() {
                return Ok(());
            }
            self.master.new_version(&self.env)
        })
    }

    /// Has `begin` change what wraps new headers, re-wraps all others, proves it, and forgets what no header names.
    pub(crate) fn rewrap_to(
        &self,
        progress: &mut dyn FnMut(Progress),
        begin: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Rotation> {
        self.require_writable()?;
        let started = Instant::now();
        let _one = self.only_rotation()?;
        let moves = Arc::new(Running {
            moved: Mutex::default(),
        });
        let _gate = self.rotation.enter(moves.clone());
        let before = self.env.ring.chain();
        begin()?;
        let after = self.env.ring.chain();
        self.env.ring.wait_for_headers();
        let mut rewrapped = 0;
        let mut count = Count::default();
        for _ in 0..ROUNDS {
            let (changed, unfinished) = self.rewrap_all(&moves, progress)?;
            rewrapped += changed;
            count = self.count_all(&moves, progress)?;
            count.older += unfinished;
            if count.older == 0 {
                break;
            }
        }
        if count.older == 0 && count.damaged == 0 {
            // A file that was removed or cut to nothing has no header to re-wrap, but may have its old one back after a
            // power cut, until that is durable.
            self.settler.sync_store()?;
            self.master.forget_others(&self.env)?;
        }
        let (from, to) = (oldest(&before), &after.current().stored);
        Ok(Rotation {
            from_version: from.1.0,
            to_version: to.wraps_with.0,
            from_key: from.0.to_string(),
            to_key: to.key.to_string(),
            envelope: to.envelope,
            headers: count.headers,
            rewrapped,
            remaining: count.older,
            damaged: count.damaged,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Held by what changes the keys of the volume; InvalidState if that runs already.
    pub(crate) fn only_rotation(&self) -> Result<MutexGuard<'_, ()>> {
        self.rotating.try_lock().map_err(|_| {
            Error::Key(KeyError::InvalidState(
                "a rotation of this volume is running already".to_owned(),
            ))
        })
    }

    /// Re-wraps every header on an older version; how many that were, and how many of them are not known to be durable.
    fn rewrap_all(
        &self,
        moves: &Running,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(u64, u64)> {
        let (mut rewrapped, mut unfinished) = (0, 0);
        let mut done = 0;
        self.each_batch(moves, &mut |batch| {
            let mut changed = Vec::new();
            let rewraps = self.at_once(batch, |file| file.rewrap())?;
            for (file, rewrap) in batch.iter().zip(rewraps) {
                match rewrap {
                    Ok(true) => changed.push(Arc::clone(file)),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!("a header could not be re-wrapped: {error}");
                        // It may look re-wrapped from an earlier run, and not be durable. (Others, the proof counts.)
                        unfinished += u64::from(matches!(error, Error::Store(_)));
                    }
                }
            }
            if !changed.is_empty() && !broken(Rule::RewrapUnsynced) {
                self.settler.sync_store()?;
            }
            // Where someone changed the header since the sync, by a sync of its own.
            let finish = |file: &FileState| match file.rewrap_finish()? {
                true => Ok(()),
                false => file.rewrap_now(),
            };
            for finished in self.at_once(&changed, finish)? {
                if let Err(error) = finished {
                    tracing::warn!("an old key area stays for now: {error}");
                    unfinished += 1;
                }
            }
            rewrapped += changed.len() as u64;
            done += batch.len() as u64;
            progress(Progress {
                done,
                phase: Phase::Rewrap,
            });
            Ok(())
        })?;
        Ok((rewrapped, unfinished))
    }

    /// Does this to each file, several at a time.
    ///
    /// # Errors
    /// Where the provider is away: no further file is tried, since each would wait for it in vain.
    fn at_once<R: Send>(
        &self,
        files: &[Arc<FileState>],
        work: impl Fn(&FileState) -> Result<R> + Sync,
    ) -> Result<Vec<Result<R>>> {
        let away = AtomicBool::new(false);
        let mut results = parallel::each(self.threads(files.len()), files, |file| {
            if away.load(Ordering::Relaxed) {
                return Err(Error::errno(libc::EAGAIN));
            }
            let result = work(file);
            if result.as_ref().is_err_and(is_outage) {
                away.store(true, Ordering::Relaxed);
            }
            result
        });
        let outage = |result: &Result<R>| result.as_ref().is_err_and(is_outage);
        match results.iter().position(outage) {
            Some(at) => Err(results
                .swap_remove(at)
                .err()
                .unwrap_or(Error::errno(libc::EIO))),
            None => Ok(results),
        }
    }

    /// Reads every header and counts those on older versions.
    fn count_all(&self, moves: &Running, progress: &mut dyn FnMut(Progress)) -> Result<Count> {
        let mut count = Count::default();
        count.damaged += self.each_batch(moves, &mut |batch| {
            for version in self.at_once(batch, |file| file.header_version())? {
                match version {
                    Ok(None) => {}
                    Ok(Some(current)) => {
                        count.headers += 1;
                        count.older += u64::from(!current);
                    }
                    Err(_) => {
                        count.headers += 1;
                        count.damaged += 1;
                    }
                }
            }
            progress(Progress {
                done: count.headers,
                phase: Phase::Verify,
            });
            Ok(())
        })?;
        Ok(count)
    }

    /// Hands every file of a volume that nobody else uses to `visit`, each once, some at a time; how many directories are
    /// damaged, whose files it did not see.
    pub(crate) fn each_file(
        &self,
        visit: &mut dyn FnMut(&[Arc<FileState>]) -> Result<()>,
    ) -> Result<u64> {
        let moves = Running {
            moved: Mutex::default(),
        };
        self.each_batch(&moves, visit)
    }

    /// Hands every file of the volume to `visit`, each once, some at a time; directories that move meanwhile are walked again.
    /// How many directories are damaged: what is below them is not seen. The walk goes on while a batch is visited, up to the
    /// next batch. Holds a part of each directory between the root and where it is, whatever their sizes.
    fn each_batch(
        &self,
        moves: &Running,
        visit: &mut dyn FnMut(&[Arc<FileState>]) -> Result<()>,
    ) -> Result<u64> {
        let seen = Mutex::default();
        let (give, batches) = sync_channel::<Vec<Arc<Node>>>(0);
        thread::scope(|scope| {
            let walk = scope.spawn(|| self.walk(moves, &seen, give));
            let visited = batches
                .iter()
                .try_for_each(|batch| visit(&self.states(&batch, &seen)?));
            drop(batches); // the walk ends
            let walked = walk.join().unwrap_or_else(|panic| resume_unwind(panic));
            visited.and(walked)
        })
    }

    /// Gives away every file, each once, in batches, until nobody takes them; how many directories are damaged.
    fn walk(
        &self,
        moves: &Running,
        seen: &Mutex<HashSet<u64>>,
        give: SyncSender<Vec<Arc<Node>>>,
    ) -> Result<u64> {
        let limit = batch_limit();
        let mut left = vec![Walk::of(self.root())];
        let mut batch = Vec::new();
        let mut damaged = 0;
        while let Some(mut at) = left.pop().or_else(|| moves.take().map(Walk::of)) {
            let found = match absent_is_empty(at.next(self)) {
                Err(Error::Damaged(what)) => {
                    tracing::warn!("the files of a directory are left as they are: {what}");
                    damaged += 1;
                    continue;
                }
                found => found?,
            };
            let Some(Found { node, stat }) = found else {
                continue;
            };
            left.push(at);
            match stat.kind {
                Kind::File if stat.nlink <= 1 || locked(seen).insert(node.id()) => batch.push(node),
                Kind::Dir => left.push(Walk::of(node)),
                _ => {} // seen, or no contents, hence no header
            }
            if batch.len() == limit && give.send(std::mem::take(&mut batch)).is_err() {
                return Ok(damaged);
            }
        }
        let _ = give.send(batch); // whoever does not take it has an error of its own
        Ok(damaged)
    }

    /// As many as the provider serves, or as are worth it for so many files.
    fn threads(&self, files: usize) -> usize {
        let served = self.env.ring.parallel();
        served.unwrap_or_else(|| parallel::threads_for(files))
    }

    /// The files that these nodes stand for. One whose name was removed meanwhile is not opened, and not `seen`: it may have
    /// names that come yet.
    pub(in crate::volume) fn states(
        &self,
        nodes: &[Arc<Node>],
        seen: &Mutex<HashSet<u64>>,
    ) -> Result<Vec<Arc<FileState>>> {
        let threads = parallel::threads_for(nodes.len()); // no provider is asked for it
        let opened = parallel::each(threads, nodes, |node| self.file_state(node));
        let mut files = Vec::with_capacity(nodes.len());
        for (node, file) in nodes.iter().zip(opened) {
            match file {
                Err(error) if error.code() == libc::ENOENT => {
                    locked(seen).remove(&node.id());
                }
                file => files.push(file?),
            }
        }
        Ok(files)
    }
}

/// Files of a batch here: each has its own descriptor and up to two of its directory, and two batches are held.
pub(crate) fn batch_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(BATCH, |limit| BATCH.min(limit / 8)).max(1) as usize
}

/// A directory, and how far a walk is in it.
struct Walk {
    dir: Arc<Node>,
    position: u64,
    batch: std::vec::IntoIter<Found>,
}

impl Walk {
    fn of(dir: Arc<Node>) -> Self {
        Self {
            dir,
            position: 0,
            batch: Vec::new().into_iter(),
        }
    }

    fn next(&mut self, volume: &Volume) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.batch.next() {
                return Ok(Some(found));
            }
            let Some(batch) = listing::raw_batch(volume, &self.dir, self.position)? else {
                return Ok(None);
            };
            self.position = batch.next;
            self.batch = batch.found.into_iter();
        }
    }
}

/// The key and version that a rotation comes from: of another key where there is one, else the oldest.
fn oldest(before: &Chain) -> (KeyId, KeyVersion) {
    let others = before.entries().iter();
    let from = others
        .map(|entry| &entry.stored)
        .find(|stored| !stored.current)
        .unwrap_or(&before.current().stored);
    let oldest = from.versions.iter().min();
    (from.key, oldest.copied().unwrap_or(from.wraps_with))
}

/// Whether an error says nothing of the file, only that its key cannot be asked for now.
fn is_outage(error: &Error) -> bool {
    matches!(
        error,
        Error::Key(KeyError::Unavailable(_) | KeyError::AccessDenied(_))
    )
}

/// A directory that was removed since it was listed has no files.
fn absent_is_empty<T>(listed: Result<Option<T>>) -> Result<Option<T>> {
    match listed {
        Err(error) if error.code() == libc::ENOENT => Ok(None),
        listed => listed,
    }
}

/// A running rotation, as changes of names see it.
struct Running {
    moved: Mutex<Vec<Arc<Node>>>,
}

impl Running {
    fn take(&self) -> Option<Arc<Node>> {
        self.moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }
}

impl Moves for Running {
    fn before_move(
        &self,
        _node: &Arc<Node>,
        file: &mut dyn FnMut() -> Result<Arc<FileState>>,
    ) -> Result<()> {
        file()?.rewrap_now()
    }

    fn moved_dir(&self, dir: &Arc<Node>) {
        self.moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(dir.clone());
    }
}
