//! A store in memory that behaves as a local Linux file system does, for tests: same errno, same life of unlinked
//! files, same positions in listings. Permissions are not enforced (as for root), access times not kept (as noatime).
//!
//! Invariant: one lock guards the whole tree, so every call is one step.

mod content;
mod dir;
mod file;
#[cfg(test)]
pub(crate) mod power;
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
    /// An empty store, with the traits of a good local file system. The number of an inode that went is given to the next
    /// object.
    pub fn new() -> Self {
        let store = Self::with_traits(Traits {
            syncfs_reports: true,
            atomic_page: true,
            unsafe_journal: false,
        });
        store.shared.lock().reuse_numbers();
        store
    }

    /// An empty store that says this of itself, and never gives an inode number twice.
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

#[cfg(test)]
mod tests {
    use super::super::{Access, RenameMode};
    use super::*;

    #[test]
    fn a_snapshot_keeps_what_is_stored_and_nothing_that_was_open() {
        let store = MemoryStore::new();
        let root = store.root();
        root.make_dir(b"d", 0o700).unwrap();
        let dir = root.open_dir(b"d").unwrap();
        let file = dir.create(b"f", 0o600).unwrap();
        file.write_at(b"before", 0).unwrap();
        assert!(file.try_lock(true).unwrap());
        let gone = root.create(b"gone", 0o600).unwrap();
        root.remove(b"gone").unwrap();

        let copy = store.snapshot();
        file.write_at(b"after!", 0).unwrap();
        drop(gone);
        let copied = copy
            .root()
            .open_dir(b"d")
            .unwrap()
            .open(b"f", Access::Read)
            .unwrap();
        let mut bytes = [0; 6];
        copied.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"before");
        assert!(copied.try_lock(true).unwrap());
        assert_eq!(copied.stat().unwrap().ino, file.stat().unwrap().ino);
        assert_eq!(copy.writes().total(), 0);
        assert_eq!(copy.shared.lock().inode_count(), 3);
    }

    #[test]
    fn inodes_go_with_the_last_name_and_handle_and_their_numbers_are_given_again() {
        let store = MemoryStore::new();
        let root = store.root();
        let file = root.create(b"f", 0o600).unwrap();
        root.create(b"g", 0o600).unwrap();
        let old = file.stat().unwrap().ino;
        root.rename(b"g", &*root, b"f", RenameMode::Replace)
            .unwrap();
        assert_eq!(store.shared.lock().inode_count(), 3);
        drop(file);
        assert_eq!(store.shared.lock().inode_count(), 2);
        assert_eq!(root.create(b"h", 0o600).unwrap().stat().unwrap().ino, old);
    }

    #[test]
    fn counts_a_vectored_write_as_one_call() {
        let store = MemoryStore::new();
        let file = store.root().create(b"f", 0o600).unwrap();
        let before = store.writes();
        file.write_vectored_at(&[io::IoSlice::new(b"a"), io::IoSlice::new(b"b")], 0)
            .unwrap();
        file.sync_data().unwrap();
        let after = store.writes().since(&before);
        assert_eq!(
            (after.of(Call::Write), after.total(), store.syncs()),
            (1, 1, 1)
        );
    }

    #[test]
    fn every_change_has_a_later_time() {
        let store = MemoryStore::new();
        let file = store.root().create(b"f", 0o600).unwrap();
        let mut last = file.stat().unwrap().mtime;
        for _ in 0..1000 {
            file.write_at(b"x", 0).unwrap();
            let now = file.stat().unwrap().mtime;
            assert!(now > last);
            last = now;
        }
    }

    #[test]
    fn a_file_of_a_pebibyte_costs_only_what_is_written() {
        let store = MemoryStore::new();
        let file = store.root().create(b"f", 0o600).unwrap();
        file.set_len(1 << 50).unwrap();
        file.write_at(b"end", (1 << 50) - 3).unwrap();
        assert_eq!(file.stat().unwrap().blocks, 8);
        assert_eq!(file.next_data(0).unwrap(), Some((1 << 50) - 4096));
    }

    #[test]
    fn an_edit_changes_bytes_unseen() {
        let store = MemoryStore::new();
        let root = store.root();
        root.make_dir(b"d", 0o700).unwrap();
        let file = root.open_dir(b"d").unwrap().create(b"f", 0o600).unwrap();
        file.write_at(b"abc", 8192).unwrap();
        let before = (file.stat().unwrap().mtime, store.writes());
        store
            .edit(&[b"d", b"f"], |bytes| bytes[8192] = b'A')
            .unwrap();
        let mut bytes = [0; 3];
        file.read_at(&mut bytes, 8192).unwrap();
        assert_eq!(&bytes, b"Abc");
        assert_eq!((file.stat().unwrap().mtime, store.writes()), before);
        assert_eq!(file.next_data(0).unwrap(), Some(8192));
        assert!(store.edit(&[b"d"], |_| {}).is_err());
        assert!(store.edit(&[b"d", b"x"], |_| {}).is_err());
    }
}
