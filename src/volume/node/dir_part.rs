//! What only directories have: the lock over their names, and what is cached of them.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockWriteGuard};

use super::Node;
use crate::format::ids::DirId;
use crate::store::Dir;
use crate::volume::sync::writing;

/// What only directories have.
#[derive(Default)]
pub(crate) struct DirPart {
    /// Held for reading while an entry is looked at and acted on by its name, for writing while names change.
    pub(crate) names: RwLock<()>,
    /// The directory's identity, once known; it never changes.
    pub(crate) id: OnceLock<DirId>,
    /// The open directory, while it is among those kept open.
    pub(crate) open: Mutex<Option<Arc<dyn Dir>>>,
    /// Used since the cache of open directories last looked.
    pub(crate) used: AtomicBool,
    /// What is known of markers of directories renamed away.
    pub(crate) markers: Markers,
    /// What new entries inherit; `None`: to be read.
    pub(crate) inherit: Mutex<Option<Inherit>>,
    /// The other directory of the last rename of this one, while that is not known to be durable.
    pub(crate) moved_from: Mutex<Option<Arc<Node>>>,
}

/// Whether a directory may hold markers; once it may, it always may.
#[derive(Default)]
pub(crate) struct Markers(AtomicU8);

impl Markers {
    const NONE: u8 = 1;
    const SOME: u8 = 2;

    /// It was just made: it has none, unless one was put since.
    pub(crate) fn just_made(&self) {
        let _ = self
            .0
            .compare_exchange(0, Self::NONE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// One is about to be put.
    pub(crate) fn put(&self) {
        self.0.store(Self::SOME, Ordering::Release);
    }

    /// Whether it is known that there are none.
    pub(crate) fn none(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::NONE
    }
}

/// What a directory hands down to entries made in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherit {
    /// Its group, where the setgid bit is set.
    pub(crate) group: Option<u32>,
    /// Whether it has a default ACL, which takes the place of the umask.
    pub(crate) default_acl: bool,
}

/// Locks the names of several directories for change, in the order of their ids; what is no directory is passed over.
pub(crate) fn lock_names<'a>(nodes: &[&'a Arc<Node>]) -> Vec<RwLockWriteGuard<'a, ()>> {
    let mut parts: Vec<(u64, &'a DirPart)> = nodes
        .iter()
        .filter_map(|node| node.dir.as_deref().map(|dir| (node.id, dir)))
        .collect();
    parts.sort_by_key(|(id, _)| *id);
    parts.dedup_by_key(|(id, _)| *id);
    parts
        .into_iter()
        .map(|(_, dir)| writing(&dir.names))
        .collect()
}

impl DirPart {
    /// Whether it was used since the last call.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}
