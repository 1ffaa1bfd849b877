//! All living nodes of a mount, by number and by inode number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};

use super::carry::Identity;
use super::names::Memory;
use super::numbers::Numbers;
use super::{Node, Privileges, ROOT, by_ino};
use crate::format::ids::DirId;
use crate::store::{Kind, Stat};
use crate::volume::error::{Error, Result};
use crate::volume::sync::{locked, reading, writing};

/// Set in numbers that are not inode numbers of the store.
const MADE_UP: u64 = 1 << 63;

/// All living nodes of a mount.
pub struct NodeTable {
    device: u64,
    pub(super) known: RwLock<Known>,
    /// How many nodes came to their end.
    forgotten: AtomicU64,
    /// Numbers of nodes that changed, where that is watched.
    pub(super) changed: OnceLock<Mutex<Vec<u64>>>,
}

/// Invariant: an inode number stands for the node in `others`, or, where that has none, for the one whose own number it is, if that
/// is found by it (`by_ino::ID`).
#[derive(Default)]
pub(super) struct Known {
    pub(super) by_id: Numbers,
    /// By inode number: nodes whose own number is another, with that.
    others: HashMap<u64, (Weak<Node>, u64)>,
    made_up: u64,
}

/// What an inode number stands for.
enum AtIno {
    Nothing,
    Living(Arc<Node>),
    /// A node whose end has not come to `forget` yet, with its number.
    Gone(u64),
    /// Nothing; its number is that of a node which is not found by it.
    Taken(#[allow(dead_code)] Arc<Node>),
}

impl NodeTable {
    /// A table that knows the root alone.
    pub(crate) fn new(root: &Stat, root_id: DirId) -> (Arc<Self>, Arc<Node>) {
        let table = Arc::new(Self {
            device: root.dev,
            known: RwLock::default(),
            forgotten: AtomicU64::new(0),
            changed: OnceLock::new(),
        });
        let node = Arc::new(table.node(ROOT, root.kind));
        if let Some(dir) = &node.dir {
            let _ = dir.id.set(root_id);
        }
        writing(&table.known).enter(&node, root.ino);
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
        let at = reading(&self.known).at_ino(ino);
        match at {
            AtIno::Living(node) => Some(node),
            _ => None,
        }
    }

    /// The living node that has this number.
    pub fn numbered(&self, id: u64) -> Option<Arc<Node>> {
        reading(&self.known).by_id.get(id).and_then(Weak::upgrade)
    }

    /// All nodes that are held by their numbers.
    pub fn held(&self) -> Vec<Arc<Node>> {
        let mut nodes: Vec<_> = reading(&self.known).by_id.living().collect();
        nodes.retain(|node| node.holds() > 0);
        nodes
    }

    /// Takes a node out of the table: its inode number may stand for another object from now on.
    pub(crate) fn bury(&self, node: &Arc<Node>) {
        locked(&node.memory).dead = true;
        writing(&self.known).leave(node);
        self.note(node.id);
    }

    /// Takes a node out whose last name is about to go: as soon as that is gone the store may give its inode number to
    /// another object. The node comes back when this is dropped, unless the name went.
    pub(crate) fn going<'a>(&'a self, node: &'a Arc<Node>) -> Going<'a> {
        writing(&self.known).leave(node);
        self.note(node.id);
        Going {
            table: self,
            node,
            gone: false,
        }
    }

    /// The last name of a node that was taken out did not go.
    pub(super) fn stays(&self, node: &Arc<Node>) {
        let ino = node.ino();
        let mut known = writing(&self.known);
        let at = known.at_ino(ino);
        let taken = matches!(at, AtIno::Living(_));
        if !taken {
            known.enter(node, ino);
        }
        drop(known);
        drop(at);
        if taken {
            locked(&node.memory).dead = true;
        }
        self.note(node.id);
    }

    fn of_inode(self: &Arc<Self>, stat: &Stat) -> Arc<Node> {
        let seen = reading(&self.known).at_ino(stat.ino);
        match seen {
            AtIno::Living(node) if node.kind == stat.kind => return node,
            _ => drop(seen), // with no lock held, as below
        }
        let mut known = writing(&self.known);
        let at = known.at_ino(stat.ino);
        if let AtIno::Living(node) = &at {
            if node.kind == stat.kind {
                return Arc::clone(node);
            }
            known.leave(node);
        }
        let id = match at {
            AtIno::Gone(id) if !known.in_use(id) => id,
            _ => known.new_id(stat.ino),
        };
        let node = Arc::new(self.node(id, stat.kind));
        known.enter(&node, stat.ino);
        drop(known);
        if let AtIno::Living(other) = at {
            locked(&other.memory).dead = true;
            self.note(other.id);
        }
        node
    }

    fn node(self: &Arc<Self>, id: u64, kind: Kind) -> Node {
        Node {
            id,
            table: Arc::downgrade(self),
            dir: (kind == Kind::Dir).then(Box::default),
            opening: Mutex::default(),
            memory: Mutex::<Memory>::default(),
            kind,
            by_ino: AtomicU8::new(by_ino::ID),
            set_id: Privileges::default(),
            capability: Privileges::default(),
        }
    }

    /// A new node with the number of one that another process knew, of which this table knows nothing. Damaged where its number
    /// or inode is another's.
    pub(super) fn enter_again(self: &Arc<Self>, identity: &Identity) -> Result<Arc<Node>> {
        let Identity { id, ino, kind, .. } = *identity;
        let taken = |what: &str| Err(Error::Damaged(format!("two objects have {what}")));
        let node = Arc::new(self.node(id, kind));
        let mut known = writing(&self.known);
        let at = known.at_ino(ino);
        if known.in_use(id) {
            drop(known); // before the node, whose end takes it
            return taken(&format!("the number {id}"));
        }
        if identity.found && matches!(at, AtIno::Living(_)) {
            drop(known);
            return taken(&format!("the inode {ino}"));
        }
        if id & MADE_UP != 0 {
            known.made_up = known.made_up.max(id & !MADE_UP);
        }
        match identity.found {
            true => known.enter(&node, ino),
            false => known.enter_dead(&node, ino),
        }
        drop(known);
        Ok(node)
    }

    pub(super) fn moved_to_inode(&self, node: &Arc<Node>, ino: u64) {
        let mut known = writing(&self.known);
        known.leave(node);
        let before = known.at_ino(ino);
        known.enter(node, ino);
        drop(known);
        self.note(node.id);
        // A number that was free until just now stands for nothing that lives.
        debug_assert!(!matches!(before, AtIno::Living(_)));
    }

    /// `node` is being dropped; it may have been moved, so it is not known by its address.
    pub(super) fn forget(&self, node: &Node) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        let ino = node.ino();
        let mut known = writing(&self.known);
        let is_gone =
            |entry: Option<&Weak<Node>>| entry.is_some_and(|weak| weak.strong_count() == 0);
        if is_gone(known.by_id.get(node.id)) {
            known.by_id.remove(node.id);
        }
        if is_gone(known.others.get(&ino).map(|(weak, _)| weak)) {
            known.others.remove(&ino);
            if known.others.capacity() > 64.max(4 * known.others.len()) {
                known.others.shrink_to_fit();
            }
        }
        drop(known);
        self.note(node.id);
    }

    /// How many nodes were forgotten so far.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// How many numbers are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        reading(&self.known).by_id.len()
    }
}

/// A node whose last name is about to go.
#[must_use]
pub(crate) struct Going<'a> {
    table: &'a NodeTable,
    node: &'a Arc<Node>,
    gone: bool,
}

impl Going<'_> {
    /// The name went.
    pub(crate) fn gone(mut self) {
        self.gone = true;
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if !self.gone {
            self.table.stays(self.node);
        }
    }
}

impl Known {
    /// What is returned may be the last hold on a node: it is to be dropped after the lock.
    fn at_ino(&self, ino: u64) -> AtIno {
        let (weak, id) = match (self.others.get(&ino), self.by_id.get(ino)) {
            (Some((weak, id)), _) => (weak, *id),
            (None, Some(weak)) => (weak, ino),
            (None, None) => return AtIno::Nothing,
        };
        match weak.upgrade() {
            None => AtIno::Gone(id),
            Some(node) if node.id == ino && node.by_ino.load(Ordering::Acquire) != by_ino::ID => {
                AtIno::Taken(node)
            }
            Some(node) => AtIno::Living(node),
        }
    }

    /// A new node, or one that moved, from now on stands for this inode number.
    fn enter(&mut self, node: &Arc<Node>, ino: u64) {
        let weak = Arc::downgrade(node);
        let other = (ino != node.id).then_some(ino);
        if other.is_some() || locked(&node.memory).rare().is_some() {
            locked(&node.memory).change(|rare| rare.ino = other);
        }
        let how = if other.is_some() {
            self.others.insert(ino, (weak.clone(), node.id));
            by_ino::OTHER
        } else {
            self.others.remove(&ino); // one that is gone, and has not come to `forget` yet
            by_ino::ID
        };
        node.by_ino.store(how, Ordering::Release);
        self.by_id.insert(node.id, weak);
    }

    /// A node that stood for this inode number.
    fn enter_dead(&mut self, node: &Arc<Node>, ino: u64) {
        if ino != node.id {
            locked(&node.memory).change(|rare| rare.ino = Some(ino));
        }
        node.by_ino.store(by_ino::NONE, Ordering::Release);
        self.by_id.insert(node.id, Arc::downgrade(node));
    }

    /// A node stands for its inode number no longer.
    fn leave(&mut self, node: &Arc<Node>) {
        let ino = node.ino();
        let is_it = |(weak, _): &(Weak<Node>, u64)| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(node));
        if self.others.get(&ino).is_some_and(is_it) {
            self.others.remove(&ino);
        }
        node.by_ino.store(by_ino::NONE, Ordering::Release);
    }

    fn new_id(&mut self, ino: u64) -> u64 {
        let mut id = ino;
        while id <= ROOT || self.in_use(id) {
            self.made_up += 1;
            id = MADE_UP | self.made_up;
        }
        id
    }

    fn in_use(&self, id: u64) -> bool {
        let node = self.by_id.get(id);
        node.is_some_and(|weak| weak.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{stat, table};
    use super::*;

    #[test]
    fn a_number_whose_node_is_gone_is_taken_over_once() {
        let (table, root) = table();
        {
            // A node that moved to another inode, at its end: `forget` has not come yet.
            let mut known = writing(&table.known);
            known.by_id.insert(5, Weak::new());
            known.others.insert(100, (Weak::new(), 5));
        }
        let found = |ino| table.found(&stat(ino, Kind::File), &root, b"name").unwrap();
        let (five, hundred) = (found(5), found(100));
        assert_ne!(five.id(), hundred.id());
        assert!(Arc::ptr_eq(&found(5), &five) && Arc::ptr_eq(&found(100), &hundred));
        assert!(Arc::ptr_eq(&table.numbered(five.id()).unwrap(), &five));
    }
}
