//! The objects that this mount knows: one `Node` for each inode, with the names by which it was reached. Calls no store,
//! and holds a descriptor only of a file that another one replaced.
//!
//! Invariants: at most one living node stands for an inode; a node whose last name went through us is dead, is no longer
//! found by its inode number, and its `id` is not given again while it lives.
//!
//! Lock order of the tree: `DirPart::names` of several directories by ascending id < `Node::opening` < everything else
//! here (memory only, one at a time). A directory's handle is resolved before any `names` lock is taken.

pub(in crate::volume) mod carry;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockWriteGuard, Weak};

use crate::format::ids::DirId;
use crate::store::{Dir, Kind, Stat};
use crate::volume::error::{Error, Result};
use crate::volume::file::FileState;
use crate::volume::sync::{locked, writing};

/// The number of the root, as FUSE has it.
const ROOT: u64 = 1;
/// Set in numbers that are not inode numbers of the store.
const MADE_UP: u64 = 1 << 63;

/// One object of the volume known to this mount. Kept alive by whoever holds it; forgotten when dropped.
pub struct Node {
    id: u64,
    /// Changes when the file's contents move to another inode.
    ino: AtomicU64,
    kind: Kind,
    table: Weak<NodeTable>,
    whereabouts: Mutex<Whereabouts>,
    dir: Option<Box<DirPart>>,
    /// Held while the one `FileState` of this inode is made.
    pub(crate) opening: Mutex<()>,
    /// What another object took the name of: whoever had looked it up before still gets what it holds.
    replaced: Mutex<Option<Replaced>>,
}

/// What an object holds whose last name another one took.
#[derive(Clone)]
pub(crate) enum Replaced {
    /// A file, kept open.
    File(#[allow(dead_code)] Arc<FileState>),
    /// A symlink as it was stored.
    Symlink(Vec<u8>),
}

/// Where a node is found.
#[derive(Default)]
struct Whereabouts {
    locations: Vec<Location>,
    dead: bool,
    /// Attributes as of the last time a name went, for objects without any name known.
    last: Option<Stat>,
}

/// A name of a node.
#[derive(Clone)]
pub(crate) struct Location {
    /// The directory that holds the entry.
    pub(crate) parent: Arc<Node>,
    /// The entry's stored name.
    pub(crate) stored: Vec<u8>,
    /// Whether the file, as it is loaded now, was found bound to this name.
    pub(crate) checked: bool,
}

impl Location {
    fn is(&self, parent: &Arc<Node>, stored: &[u8]) -> bool {
        Arc::ptr_eq(&self.parent, parent) && self.stored == stored
    }
}

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

impl Node {
    /// The number shown as st_ino: 1 for the root, else the inode number in the store, or one with bit 63 set where that
    /// is still held by a removed object.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The inode number in the store.
    pub(crate) fn ino(&self) -> u64 {
        self.ino.load(Ordering::Acquire)
    }

    /// Whether this is the top directory.
    pub(crate) fn is_root(&self) -> bool {
        self.id == ROOT
    }

    /// The directory part; ENOTDIR for anything else.
    pub(crate) fn dir(&self) -> Result<&DirPart> {
        self.dir
            .as_deref()
            .ok_or_else(|| Error::errno(libc::ENOTDIR))
    }

    /// Whether its last name went.
    pub(crate) fn is_dead(&self) -> bool {
        locked(&self.whereabouts).dead
    }

    /// All names known.
    pub(crate) fn locations(&self) -> Vec<Location> {
        locked(&self.whereabouts).locations.clone()
    }

    /// The name that became known last; ENOENT if none is known.
    pub(crate) fn location(&self) -> Result<Location> {
        let whereabouts = locked(&self.whereabouts);
        whereabouts
            .locations
            .last()
            .cloned()
            .ok_or_else(|| Error::errno(libc::ENOENT))
    }

    /// Whether this name is (still) known.
    pub(crate) fn is_at(&self, parent: &Arc<Node>, stored: &[u8]) -> bool {
        locked(&self.whereabouts)
            .locations
            .iter()
            .any(|known| known.is(parent, stored))
    }

    /// Keeps what it holds until it is forgotten, or gives that up.
    pub(crate) fn keep_replaced(&self, replaced: Option<Replaced>) {
        let before = std::mem::replace(&mut *locked(&self.replaced), replaced);
        drop(before); // closes it, with no lock held
    }

    /// What it held when another object took its last name.
    pub(crate) fn replaced(&self) -> Option<Replaced> {
        locked(&self.replaced).clone()
    }

    /// Attributes as of the last time a name went.
    pub(crate) fn last_stat(&self) -> Option<Stat> {
        locked(&self.whereabouts).last
    }

    /// Notes a name. `alone`: the object has no other (a directory, or one link).
    pub(crate) fn found_at(&self, parent: &Arc<Node>, stored: &[u8], alone: bool) {
        let mut whereabouts = locked(&self.whereabouts);
        if alone {
            whereabouts
                .locations
                .retain(|known| known.is(parent, stored));
        }
        if !whereabouts
            .locations
            .iter()
            .any(|known| known.is(parent, stored))
        {
            let parent = Arc::clone(parent);
            whereabouts.locations.push(Location {
                parent,
                stored: stored.to_vec(),
                checked: false,
            });
        }
    }

    /// Notes that a name went; `last`: the attributes to show while none is known.
    pub(crate) fn gone_from(&self, parent: &Arc<Node>, stored: &[u8], last: Option<Stat>) {
        let mut whereabouts = locked(&self.whereabouts);
        whereabouts.last = last.or(whereabouts.last);
        whereabouts
            .locations
            .retain(|known| !known.is(parent, stored));
    }

    /// Notes that the file was found bound to this name.
    pub(crate) fn checked_at(&self, parent: &Arc<Node>, stored: &[u8]) {
        for known in &mut locked(&self.whereabouts).locations {
            known.checked |= known.is(parent, stored);
        }
    }

    /// Notes that the file was not loaded yet: every name is to be checked again.
    pub(crate) fn nothing_checked(&self) {
        for known in &mut locked(&self.whereabouts).locations {
            known.checked = false;
        }
    }
}

impl Node {
    /// The object continues as another inode, its names being locked and nobody having it open; its number stays.
    pub(crate) fn moved_to_inode(self: &Arc<Self>, ino: u64) {
        let Some(table) = self.table.upgrade() else {
            return;
        };
        let mut known = locked(&table.known);
        if known.is_current(self) {
            known.by_ino.remove(&self.ino());
        }
        let taken = known.by_ino.insert(ino, (Arc::downgrade(self), self.id));
        self.ino.store(ino, Ordering::Release);
        drop(known);
        // A number that was free until just now stands for nothing that lives.
        debug_assert!(taken.is_none_or(|(node, _)| node.strong_count() == 0));
    }
}

impl Drop for Node {
    /// Drops a chain of parents in a loop, not by recursion: trees can be deeper than the stack.
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.forget(self);
        }
        let mut orphans = self.take_parents();
        while let Some(parent) = orphans.pop() {
            if let Some(mut node) = Arc::into_inner(parent) {
                orphans.append(&mut node.take_parents());
            }
        }
    }
}

impl Node {
    fn take_parents(&mut self) -> Vec<Arc<Node>> {
        let mut parents = Vec::new();
        let whereabouts = self
            .whereabouts
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        parents.extend(
            whereabouts
                .locations
                .drain(..)
                .map(|location| location.parent),
        );
        if let Some(dir) = &mut self.dir {
            let from = dir
                .moved_from
                .get_mut()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            parents.extend(from.take());
        }
        parents
    }
}

/// All living nodes of a mount.
pub(crate) struct NodeTable {
    device: u64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_ino: HashMap<u64, (Weak<Node>, u64)>,
    /// Numbers in use, each with how many nodes have it: two while one that took it over waits for the other's drop.
    ids: HashMap<u64, u32>,
    made_up: u64,
}

impl NodeTable {
    /// A table that knows the root alone.
    pub(crate) fn new(root: &Stat, root_id: DirId) -> (Arc<Self>, Arc<Node>) {
        let table = Arc::new(Self {
            device: root.dev,
            known: Mutex::default(),
        });
        let node = Arc::new(table.node(ROOT, root.ino, Kind::Dir));
        if let Some(dir) = &node.dir {
            let _ = dir.id.set(root_id);
        }
        let mut known = locked(&table.known);
        known.ids.insert(ROOT, 1);
        known.by_ino.insert(root.ino, (Arc::downgrade(&node), ROOT));
        drop(known);
        (table, node)
    }

    /// The node of an object just seen under this name, whose directory's names are locked. EXDEV for an object on another
    /// file system than the root's.
    pub(crate) fn found(
        self: &Arc<Self>,
        stat: &Stat,
        parent: &Arc<Node>,
        stored: &[u8],
    ) -> Result<Arc<Node>> {
        if stat.dev != self.device {
            tracing::warn!(
                "an entry of the backing directory lies on another file system and is refused"
            );
            return Err(Error::errno(libc::EXDEV));
        }
        let node = self.of_inode(stat);
        if node.is_root() {
            return Err(Error::Damaged(
                "the backing directory contains itself".to_owned(),
            ));
        }
        node.found_at(parent, stored, stat.kind == Kind::Dir || stat.nlink <= 1);
        Ok(node)
    }

    /// The living node of an inode, if there is one.
    pub(crate) fn living(&self, ino: u64) -> Option<Arc<Node>> {
        locked(&self.known)
            .by_ino
            .get(&ino)
            .and_then(|(node, _)| node.upgrade())
    }

    /// Takes a node out of the table: its inode number may stand for another object from now on.
    pub(crate) fn bury(&self, node: &Arc<Node>) {
        locked(&node.whereabouts).dead = true;
        let mut known = locked(&self.known);
        if known.is_current(node) {
            known.by_ino.remove(&node.ino());
        }
    }

    fn of_inode(self: &Arc<Self>, stat: &Stat) -> Arc<Node> {
        let mut replaced = None; // dropped after the lock: its own drop takes it
        let mut known = locked(&self.known);
        let mut taken_over = None;
        if let Some((weak, id)) = known.by_ino.get(&stat.ino) {
            match weak.upgrade() {
                Some(node) if node.kind == stat.kind => return node,
                Some(other) => replaced = Some(other),
                None => taken_over = Some(*id), // its drop has not come to `forget` yet
            }
        }
        let id = taken_over.unwrap_or_else(|| known.new_id(stat.ino));
        *known.ids.entry(id).or_insert(0) += 1;
        let node = Arc::new(self.node(id, stat.ino, stat.kind));
        known.by_ino.insert(stat.ino, (Arc::downgrade(&node), id));
        drop(known);
        if let Some(other) = replaced {
            locked(&other.whereabouts).dead = true;
        }
        node
    }

    fn node(self: &Arc<Self>, id: u64, ino: u64, kind: Kind) -> Node {
        Node {
            id,
            ino: AtomicU64::new(ino),
            kind,
            table: Arc::downgrade(self),
            whereabouts: Mutex::default(),
            dir: (kind == Kind::Dir).then(Box::default),
            opening: Mutex::default(),
            replaced: Mutex::default(),
        }
    }

    /// `node` is being dropped; it may have been moved, so it is not known by its address.
    fn forget(&self, node: &Node) {
        let mut known = locked(&self.known);
        known.release(node.id);
        let entry = known.by_ino.get(&node.ino());
        if entry.is_some_and(|(weak, _)| weak.strong_count() == 0) {
            known.by_ino.remove(&node.ino());
        }
    }
}

impl Known {
    fn is_current(&self, node: &Arc<Node>) -> bool {
        self.by_ino
            .get(&node.ino())
            .is_some_and(|(weak, _)| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(node)))
    }

    fn new_id(&mut self, ino: u64) -> u64 {
        let mut id = ino;
        while id <= ROOT || self.ids.contains_key(&id) {
            self.made_up += 1;
            id = MADE_UP | self.made_up;
        }
        id
    }

    fn release(&mut self, id: u64) {
        match self.ids.get_mut(&id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.ids.remove(&id);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ino: u64, kind: Kind) -> Stat {
        let time = Default::default();
        Stat {
            dev: 9,
            ino,
            kind,
            mode: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    fn table() -> (Arc<NodeTable>, Arc<Node>) {
        NodeTable::new(&stat(2, Kind::Dir), DirId([0; 16]))
    }

    #[test]
    fn an_inode_number_given_again_gets_a_node_and_number_of_its_own() {
        let (table, root) = table();
        let old = table.found(&stat(5, Kind::File), &root, b"a").unwrap();
        assert_eq!(old.id(), 5);
        table.bury(&old);
        let new = table.found(&stat(5, Kind::File), &root, b"b").unwrap();
        assert!(!Arc::ptr_eq(&old, &new) && new.id() & MADE_UP != 0);
        drop(old);
        let same = table.found(&stat(5, Kind::File), &root, b"b").unwrap();
        assert!(Arc::ptr_eq(&new, &same));
        drop((new, same));
        assert_eq!(
            table.found(&stat(5, Kind::File), &root, b"c").unwrap().id(),
            5,
            "free again"
        );
    }

    #[test]
    fn an_object_of_another_kind_or_device_is_not_the_one_known() {
        let (table, root) = table();
        let file = table.found(&stat(5, Kind::File), &root, b"a").unwrap();
        let dir = table.found(&stat(5, Kind::Dir), &root, b"a").unwrap();
        assert!(file.is_dead() && dir.kind() == Kind::Dir && dir.id() != file.id());
        let elsewhere = Stat {
            dev: 10,
            ..stat(6, Kind::File)
        };
        assert_eq!(
            table.found(&elsewhere, &root, b"x").err().unwrap().code(),
            libc::EXDEV
        );
        assert!(table.found(&stat(2, Kind::Dir), &root, b"loop").is_err());
        assert!(
            table
                .found(&stat(1, Kind::File), &root, b"one")
                .unwrap()
                .id()
                & MADE_UP
                != 0
        );
    }

    #[test]
    fn a_chain_deeper_than_the_stack_is_dropped_without_recursion() {
        let (table, root) = table();
        let mut at = root;
        for ino in 3..500_000 {
            at = table.found(&stat(ino, Kind::Dir), &at, b"d").unwrap();
        }
        drop(at);
        assert_eq!(
            locked(&table.known).ids.len(),
            0,
            "all forgotten, the root too"
        );
    }
}
