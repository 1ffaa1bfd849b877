//! The objects that this mount knows: one `Node` for each inode, with the names by which it was reached. Calls no store,
//! and holds a descriptor only of a file that another one replaced.
//!
//! Invariants: at most one living node stands for an inode; a node whose last name goes through us is no longer found by its
//! inode number from before that name goes (the store may give it away at once), is dead afterwards, and its `id` is not
//! given again while it lives.
//!
//! There may be millions of them, hence what a node has by itself is small: docs/PERFORMANCE.md has the bytes.
//!
//! Lock order of the tree: `DirPart::names` of several directories by ascending id < `Node::opening` < `NodeTable::known` <
//! `Node::memory` (memory only). A directory's handle is resolved before any `names` lock is taken. Under the last two no
//! hold on a node is dropped: its end takes them.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::store::{Kind, Stat};
use crate::volume::error::{Error, Result};
use crate::volume::file::FileState;
use crate::volume::held::Pin;
use crate::volume::sync::locked;

pub(in crate::volume) mod carry;
mod changes;
mod dir_part;
mod names;
mod numbers;
mod privileges;
mod table;

pub(crate) use dir_part::{DirPart, Inherit, lock_names};
pub(crate) use names::Location;
pub use privileges::Privileges;
pub(crate) use table::Going;
pub use table::NodeTable;

use names::Memory;

/// The number of the root, as FUSE has it.
pub(in crate::volume) const ROOT: u64 = 1;

/// One object of the volume known to this mount. Kept alive by whoever holds it; forgotten when dropped.
pub struct Node {
    id: u64,
    table: Weak<NodeTable>,
    dir: Option<Box<DirPart>>,
    /// Held while the one `FileState` of this inode is made.
    pub(crate) opening: Mutex<()>,
    memory: Mutex<Memory>,
    kind: Kind,
    by_ino: AtomicU8,
    set_id: Privileges,
    capability: Privileges,
}

/// A million of them, with their names and their place in the table, shall fit into 200 MiB.
const _: () = assert!(size_of::<Node>() <= 88);

/// How a node is found by its inode number. Changed with the table locked.
mod by_ino {
    /// By its own number, which is that of the inode.
    pub(super) const ID: u8 = 0;
    /// By a number that is not its own.
    pub(super) const OTHER: u8 = 1;
    /// Not any more: the number may stand for another object.
    pub(super) const NONE: u8 = 2;
}

/// What an object holds whose last name another one took.
#[derive(Clone)]
pub(crate) enum Replaced {
    /// A file, kept open, and what counts it.
    File(
        #[allow(dead_code)] Arc<FileState>,
        #[allow(dead_code)] Option<Arc<Pin>>,
    ),
    /// A symlink as it was stored.
    Symlink(Vec<u8>),
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

    /// Whether it may have set-id bits.
    pub fn set_id(&self) -> &Privileges {
        &self.set_id
    }

    /// Whether it may have file capabilities.
    pub fn capability(&self) -> &Privileges {
        &self.capability
    }

    /// The inode number in the store. Changes when the file's contents move to another inode.
    pub(crate) fn ino(&self) -> u64 {
        if self.by_ino.load(Ordering::Acquire) == by_ino::ID {
            return self.id;
        }
        let memory = locked(&self.memory);
        memory.rare().and_then(|rare| rare.ino).unwrap_or(self.id)
    }

    /// Whether its inode number stands for it: not from when its last name goes.
    pub(crate) fn is_found(&self) -> bool {
        self.by_ino.load(Ordering::Acquire) != by_ino::NONE
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
        locked(&self.memory).dead
    }

    /// All names known.
    pub(crate) fn locations(&self) -> Vec<Location> {
        locked(&self.memory).locations()
    }

    /// The name that became known last; ENOENT if none is known.
    pub(crate) fn location(&self) -> Result<Location> {
        let location = locked(&self.memory).location();
        location.ok_or_else(|| Error::errno(libc::ENOENT))
    }

    /// Whether this name is (still) known.
    pub(crate) fn is_at(&self, parent: &Arc<Node>, stored: &[u8]) -> bool {
        locked(&self.memory).is_at(parent, stored, false)
    }

    /// Keeps what it holds until it is forgotten, or gives that up.
    pub(crate) fn keep_replaced(&self, replaced: Option<Replaced>) {
        let before = {
            let mut memory = locked(&self.memory);
            memory.change(|rare| std::mem::replace(&mut rare.replaced, replaced))
        };
        self.changed();
        drop(before); // closes it, with no lock held
    }

    /// What it held when another object took its last name.
    pub(crate) fn replaced(&self) -> Option<Replaced> {
        let memory = locked(&self.memory);
        memory.rare().and_then(|rare| rare.replaced.clone())
    }

    /// Attributes as of the last time a name went.
    pub(crate) fn last_stat(&self) -> Option<Stat> {
        let memory = locked(&self.memory);
        memory.rare().and_then(|rare| rare.last)
    }

    /// Notes a name. `alone`: the object has no other (a directory, or one link).
    pub(crate) fn found_at(&self, parent: &Arc<Node>, stored: &[u8], alone: bool) {
        let mut memory = locked(&self.memory);
        if memory.first_name(parent, stored) {
            drop(memory);
            return self.changed();
        }
        if memory.is_at(parent, stored, alone) {
            return;
        }
        let gone = memory.change(|rare| {
            let gone = rare.keep(|known| !alone || known.is(parent, stored));
            if !rare.locations.iter().any(|known| known.is(parent, stored)) {
                rare.locations.push(Location {
                    parent: Arc::clone(parent),
                    stored: stored.to_vec(),
                    checked: false,
                });
            }
            gone
        });
        drop(memory);
        self.changed();
        drop(gone);
    }

    /// Notes that a name went; `last`: the attributes to show while none is known.
    pub(crate) fn gone_from(&self, parent: &Arc<Node>, stored: &[u8], last: Option<Stat>) {
        let mut memory = locked(&self.memory);
        let gone = memory.change(|rare| {
            rare.last = last.or(rare.last);
            rare.keep(|known| !known.is(parent, stored))
        });
        drop(memory);
        self.changed();
        drop(gone);
    }

    /// Notes that the file was found bound to this name.
    pub(crate) fn checked_at(&self, parent: &Arc<Node>, stored: &[u8]) {
        locked(&self.memory).check_at(parent, stored);
    }

    /// Notes that the file was not loaded yet: every name is to be checked again.
    pub(crate) fn nothing_checked(&self) {
        locked(&self.memory).uncheck();
    }
}

impl Node {
    /// Keeps the node, so many times, for someone who knows it by its number alone. To be called before that one is told.
    pub fn hold(self: &Arc<Self>, times: u64) {
        let mut memory = locked(&self.memory);
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        memory.holds = memory.holds.saturating_add(times);
        if memory.holds > 0 && memory.held.is_none() {
            memory.held = Some(Arc::clone(self));
        }
        drop(memory);
        self.changed();
    }

    /// Takes back so many holds. One that was held more often than can be counted stays.
    pub fn let_go(&self, holds: u64) {
        let released = {
            let mut memory = locked(&self.memory);
            if memory.holds < u32::MAX {
                let holds = u32::try_from(holds).unwrap_or(u32::MAX);
                memory.holds = memory.holds.saturating_sub(holds);
            }
            match memory.holds {
                0 => memory.held.take(),
                _ => None,
            }
        };
        self.changed();
        drop(released);
    }

    /// How often it is held by its number.
    pub fn holds(&self) -> u32 {
        locked(&self.memory).holds
    }

    /// The object continues as another inode, its names being locked and nobody having it open; its number stays.
    pub(crate) fn moved_to_inode(self: &Arc<Self>, ino: u64) {
        if let Some(table) = self.table.upgrade() {
            table.moved_to_inode(self, ino);
        }
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
        let memory = self
            .memory
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let mut parents = memory.take_parents();
        if let Some(dir) = &mut self.dir {
            let from = dir
                .moved_from
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            parents.extend(from.take());
        }
        parents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::DirId;

    const MADE_UP: u64 = 1 << 63;

    pub(super) fn stat(ino: u64, kind: Kind) -> Stat {
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

    pub(super) fn table() -> (Arc<NodeTable>, Arc<Node>) {
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
        assert_eq!(table.len(), 0, "all forgotten, the root too");
    }

    #[test]
    fn a_node_held_by_its_number_lives_until_it_was_let_go_of_as_often() {
        let (table, root) = table();
        let file = table.found(&stat(5, Kind::File), &root, b"a").unwrap();
        file.hold(1);
        file.hold(1);
        drop(file);
        let file = table.numbered(5).unwrap();
        assert_eq!((file.holds(), table.held().len()), (2, 1));
        file.let_go(1);
        drop(file);
        table.numbered(5).unwrap().let_go(7);
        assert!(table.numbered(5).is_none() && table.held().is_empty());
    }

    #[test]
    fn a_file_that_moved_to_another_inode_is_found_by_that_one_alone() {
        let (table, root) = table();
        let file = table.found(&stat(5, Kind::File), &root, b"a").unwrap();
        file.moved_to_inode(6);
        assert_eq!((file.id(), file.ino()), (5, 6));
        assert!(table.living(5).is_none());
        assert!(Arc::ptr_eq(&table.living(6).unwrap(), &file));
        let new = table.found(&stat(5, Kind::File), &root, b"b").unwrap();
        assert!(new.id() & MADE_UP != 0 && new.ino() == 5);
        file.moved_to_inode(7);
        assert!(table.living(6).is_none());
        table.bury(&file);
        assert_eq!((file.ino(), file.id()), (7, 5));
        assert!(table.living(7).is_none() && table.numbered(5).is_some());
        drop((file, new));
        assert!(table.numbered(5).is_none() && table.living(5).is_none());
        assert_eq!(table.len(), 1, "the root alone");
    }

    #[test]
    fn names_come_and_go() {
        let (table, root) = table();
        let dir = table.found(&stat(3, Kind::Dir), &root, b"dir").unwrap();
        let two = Stat {
            nlink: 2,
            ..stat(5, Kind::File)
        };
        let spelled = b"AAAAAAAAAAAAAAAAAAAAAA"; // base64url, as names are
        let file = table.found(&two, &root, spelled).unwrap();
        file.checked_at(&root, spelled);
        table.found(&two, &dir, b"strongroom.long.x").unwrap();
        let names = |file: &Node| {
            let names = file.locations().into_iter();
            names
                .map(|name| (name.parent.id(), name.stored, name.checked))
                .collect::<Vec<_>>()
        };
        let (first, second) = (spelled.to_vec(), b"strongroom.long.x".to_vec());
        assert_eq!(
            names(&file),
            [(1, first.clone(), true), (3, second.clone(), false)]
        );
        assert!(file.is_at(&root, spelled) && !file.is_at(&dir, spelled));
        file.gone_from(&dir, &second, None);
        assert_eq!(names(&file), [(1, first, true)]);
        table.found(&stat(5, Kind::File), &dir, &second).unwrap();
        assert_eq!(
            names(&file),
            [(3, second.clone(), false)],
            "it has one link"
        );
        file.checked_at(&dir, &second);
        file.nothing_checked();
        assert!(!file.location().unwrap().checked);
        file.gone_from(&dir, &second, Some(two));
        assert!(file.location().is_err() && file.last_stat().unwrap().nlink == 2);
        file.keep_replaced(Some(Replaced::Symlink(vec![7])));
        assert!(matches!(file.replaced(), Some(Replaced::Symlink(held)) if held == [7]));
    }
}
