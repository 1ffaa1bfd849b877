//! A store in memory that behaves as a local Linux file system does, for tests: same errno, same life of unlinked
//! files, same positions in listings. Permissions are not enforced (as for root), access times not kept (as noatime).
//!
//! Invariant: one lock guards the whole tree, so every call is one step; an inode number is never used twice.

mod content;
mod dir;
mod file;
mod tree;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::{Call, Counts};
use super::name::errno;
use super::{Dir, Kind, Store, Traits, Usage};
use dir::MemoryDir;
use tree::{ROOT, Tree};

/// Size that `usage` shows, in pages: 1 PiB.
const PAGES: u64 = 1 << 38;
const INODES: u64 = 1 << 32;

/// The tree, shared by the store and every handle.
#[derive(Clone)]
struct Shared(Arc<Mutex<Tree>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree, with one call counted.
    fn call(&self, call: Call) -> MutexGuard<'_, Tree> {
        let mut tree = self.lock();
        tree.count(call);
        tree
    }
}

/// A backing store in memory. Dropping it does not end open handles.
pub struct MemoryStore {
    shared: Shared,
    traits: Traits,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store, with the traits of a good local file system.
    pub fn new() -> Self {
        Self::with_traits(Traits {
            syncfs_reports: true,
            atomic_page: true,
            unsafe_journal: false,
        })
    }

    /// An empty store that says this of itself.
    pub fn with_traits(traits: Traits) -> Self {
        static DEVICES: AtomicU64 = AtomicU64::new(1 << 20);
        let tree = Tree::new(DEVICES.fetch_add(1, Ordering::Relaxed));
        Self {
            shared: Shared(Arc::new(Mutex::new(tree))),
            traits,
        }
    }

    /// A copy of what is stored now, without handles, locks and counts: what a killed process leaves behind. Device and
    /// inode numbers are the same. Pages are shared until written.
    pub fn snapshot(&self) -> Self {
        let tree = self.shared.lock().without_handles();
        Self {
            shared: Shared(Arc::new(Mutex::new(tree))),
            traits: self.traits,
        }
    }

    /// Calls that changed something or tried to, by kind; a vectored write is one.
    pub fn writes(&self) -> Counts {
        self.shared.lock().counts.only(Call::is_write)
    }

    /// Syncs of files, directories and the store.
    pub fn syncs(&self) -> u64 {
        self.shared.lock().counts.only(Call::is_sync).total()
    }

    /// All calls, by kind.
    pub fn calls(&self) -> Counts {
        self.shared.lock().counts.clone()
    }

    /// Changes the bytes of a file behind everyone's back: no call is counted, no time changes. `path` is the names from
    /// the top directory down. EINVAL for what is not a regular file.
    pub fn edit(&self, path: &[&[u8]], change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut tree = self.shared.lock();
        let mut ino = ROOT;
        for name in path {
            ino = tree.lookup(ino, name)?;
        }
        let inode = tree.inode(ino)?;
        if inode.kind != Kind::File {
            return Err(errno(libc::EINVAL));
        }
        let mut bytes = inode.content.to_vec();
        change(&mut bytes);
        inode.content.replace(&bytes);
        Ok(())
    }
}

impl Store for MemoryStore {
    fn root(&self) -> Arc<dyn Dir> {
        // The root has a link of its own, so this cannot fail; a handle on a missing inode would answer ESTALE.
        let handle = self.shared.lock().open(ROOT).unwrap_or_default();
        Arc::new(MemoryDir::new(self.shared.clone(), ROOT, handle))
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.shared.call(Call::SyncStore));
        Ok(())
    }

    fn usage(&self) -> io::Result<Usage> {
        let tree = self.shared.call(Call::Usage);
        let free = PAGES.saturating_sub(tree.allocated());
        Ok(Usage {
            block_size: content::PAGE,
            blocks: PAGES,
            free,
            available: free,
            files: INODES,
            files_free: INODES.saturating_sub(tree.inode_count()),
            name_max: super::name::NAME_MAX as u64,
        })
    }

    fn traits(&self) -> Traits {
        self.traits
    }
}
