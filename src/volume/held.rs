//! Files kept open for callers that name them by their nodes and say neither when they open one nor when they close it (the
//! kernel, where it opens files by itself).
//!
//! Files whose last name went are counted here, too: a descriptor each, which nobody can close. They take no more than half of
//! those that this process may have, so that the others can be opened.
//!
//! Each is open from the first call that needs it until none did for a while, too many others were needed since, or the caller
//! forgot the node. Invariant: closing one here loses nothing, since the next call opens it again: by a name, or by what
//! the node keeps from when its last name went (`files::keep_removed`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::process::{Resource, getrlimit};

use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::handle::{self, OpenFile, OpenFlags};
use crate::volume::node::Node;
use crate::volume::sync::locked;

/// Locks among which the files are divided.
const SHARDS: usize = 16;
/// Files of one lock at most: 4,096 in all, and no more than an eighth of the descriptors that this process may have.
const MOST: usize = if cfg!(test) { 64 } else { 256 };
const PART: usize = 8;

/// The files.
#[derive(Default)]
pub(crate) struct Held {
    /// Once callers name files by their nodes.
    bounds: OnceLock<Bounds>,
    /// Files whose last name went.
    pinned: Arc<AtomicUsize>,
    shards: [Mutex<HashMap<u64, Kept>>; SHARDS],
}

/// How many files there may be.
struct Bounds {
    /// Of one lock.
    kept: usize,
    /// Whose last name went.
    pinned: usize,
}

/// A file that counts as one that nobody can close, until this is dropped.
pub(crate) struct Pin(Arc<AtomicUsize>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Kept {
    file: Arc<OpenFile>,
    /// Since the last look.
    was_needed: bool,
}

impl Held {
    /// From now on, callers name files by their nodes. The limit of descriptors counts as it is now.
    pub(crate) fn use_it(&self) {
        self.bounds.get_or_init(|| {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok());
            let limit = limit.unwrap_or(usize::MAX);
            Bounds {
                kept: (limit / PART / SHARDS).clamp(1, MOST),
                pinned: limit / 2,
            }
        });
    }

    /// Whether they do: a file whose last name goes may be needed again then.
    pub(crate) fn is_used(&self) -> bool {
        self.bounds.get().is_some()
    }

    /// The file of a node, opened if it is not open; to `write`, also where it is open for reading.
    pub(crate) fn file(
        &self,
        volume: &Volume,
        node: &Arc<Node>,
        write: bool,
    ) -> Result<Arc<OpenFile>> {
        if let Some(kept) = self.shard(node.id()).get_mut(&node.id())
            && (kept.file.flags().write || !write)
        {
            kept.was_needed = true;
            return Ok(Arc::clone(&kept.file));
        }
        let flags = OpenFlags {
            read: true,
            write,
            ..OpenFlags::default()
        };
        let opened = self.with_descriptors(|| handle::open(volume, node, flags));
        opened.map(|file| self.keep(file))
    }

    /// Counts a file that is to stay open; EMFILE where there are too many.
    pub(crate) fn pin(&self) -> Result<Arc<Pin>> {
        let most = self.bounds.get().map_or(usize::MAX, |bounds| bounds.pinned);
        let more = |pinned| (pinned < most).then_some(pinned + 1);
        let counted = self
            .pinned
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        match counted {
            Ok(_) => Ok(Arc::new(Pin(Arc::clone(&self.pinned)))),
            Err(_) => Err(Error::errno(libc::EMFILE)),
        }
    }

    /// Opens something; once more without all that are held, where there was no descriptor.
    pub(crate) fn with_descriptors<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        match open() {
            Err(error) if is_out_of_descriptors(&error) => {
                self.close_all();
                open()
            }
            done => done,
        }
    }

    /// Keeps an open file for later calls.
    pub(crate) fn keep(&self, file: OpenFile) -> Arc<OpenFile> {
        let id = file.node().id();
        let file = Arc::new(file);
        let kept = Kept {
            file: Arc::clone(&file),
            was_needed: true,
        };
        let mut shard = self.shard(id);
        let most = self.bounds.get().map_or(MOST, |bounds| bounds.kept);
        let room = shard.len() < most || shard.contains_key(&id);
        let gone = (!room).then(|| take_one(&mut shard));
        let before = shard.insert(id, kept);
        drop(shard);
        drop((gone, before)); // closing may call the store
        file
    }

    /// Closes the file of a node, if it is kept.
    pub(crate) fn close(&self, node: u64) {
        let gone = self.shard(node).remove(&node);
        drop(gone);
    }

    /// Closes what was not needed since the last look.
    pub(crate) fn close_idle(&self) {
        self.close_those(|kept| !std::mem::take(&mut kept.was_needed));
    }

    /// Closes all.
    pub(crate) fn close_all(&self) {
        self.close_those(|_| true);
    }

    fn close_those(&self, mut which: impl FnMut(&mut Kept) -> bool) {
        for shard in &self.shards {
            let gone: Vec<_> = locked(shard).extract_if(|_, kept| which(kept)).collect();
            drop(gone);
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Kept>> {
        let [first, ..] = &self.shards;
        locked(self.shards.get(id as usize % SHARDS).unwrap_or(first))
    }
}

/// Whether there was no descriptor for it.
pub(crate) fn is_out_of_descriptors(error: &Error) -> bool {
    matches!(error.code(), libc::EMFILE | libc::ENFILE)
}

/// Takes out one that was not needed for some time, or any.
fn take_one(shard: &mut HashMap<u64, Kept>) -> Option<Kept> {
    let idle = |kept: &Kept| !kept.was_needed;
    let mut ids = shard
        .iter()
        .filter(|(_, kept)| idle(kept))
        .map(|(id, _)| *id);
    let id = ids.next().or_else(|| {
        shard.values_mut().for_each(|kept| kept.was_needed = false);
        shard.keys().next().copied()
    })?;
    shard.remove(&id)
}
