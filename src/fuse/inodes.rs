//! The inodes that the kernel knows: node number to node, with the lookups that the kernel will give back by FORGET.
//!
//! Invariant: a node stays here, and its number its own, from the first reply that names it until the kernel forgot it as
//! often as it was told. No lock here is held over a call of the volume.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::INodeNo;

use crate::volume::{Error, Node, Result};

/// Locks among which the table is divided; a power of two.
const SHARDS: usize = 16;

/// An inode as the kernel knows it.
pub(super) struct Inode {
    /// The object.
    pub(super) node: Arc<Node>,
    /// Whether it may have set-id bits.
    pub(super) set_id: Privileges,
    /// Whether it may have file capabilities.
    pub(super) capability: Privileges,
}

impl Inode {
    fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self {
            node,
            set_id: Privileges::default(),
            capability: Privileges::default(),
        })
    }
}

/// Whether a file may have bits or an attribute that a write must clear: spares each write a look at them.
#[derive(Default)]
pub(super) struct Privileges {
    /// Counts the changes that may have set some; starts at 0.
    changes: AtomicU64,
    /// One more than `changes` was when they were last seen cleared.
    cleared: AtomicU64,
}

impl Privileges {
    /// To be called after a change that may have set some.
    pub(super) fn may_be_set(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether there are none.
    pub(super) fn are_clear(&self) -> bool {
        self.cleared.load(Ordering::SeqCst) == self.changes.load(Ordering::SeqCst) + 1
    }

    /// Runs `clear` unless nothing was set since it last succeeded. What is set while it runs is not lost.
    pub(super) fn clear(&self, clear: impl FnOnce() -> Result<()>) -> Result<()> {
        let look = || clear().map(|()| None::<()>);
        self.find(look).map(drop)
    }

    /// What `look` finds, `None` without a look where it is known that there is nothing; remembers that nothing was found.
    pub(super) fn find<T>(&self, look: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
        let seen = self.changes.load(Ordering::SeqCst) + 1;
        if self.cleared.load(Ordering::SeqCst) == seen {
            return Ok(None);
        }
        let found = look()?;
        if found.is_none() {
            self.cleared.store(seen, Ordering::SeqCst);
        }
        Ok(found)
    }
}

/// All inodes that the kernel knows.
pub(super) struct Inodes {
    root: Arc<Inode>,
    shards: [Mutex<HashMap<u64, Known>>; SHARDS],
}

struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Inodes {
    /// A table that knows the root, which is never forgotten.
    pub(super) fn new(root: Arc<Node>) -> Self {
        Self {
            root: Inode::new(root),
            shards: Default::default(),
        }
    }

    /// The inode of a number; ESTALE for one that the kernel was never told or has forgotten.
    pub(super) fn find(&self, number: INodeNo) -> Result<Arc<Inode>> {
        self.known(number.0)
            .ok_or_else(|| Error::errno(libc::ESTALE))
    }

    /// The inode of a number, if it is known.
    pub(super) fn known(&self, number: u64) -> Option<Arc<Inode>> {
        if number == INodeNo::ROOT.0 {
            return Some(Arc::clone(&self.root));
        }
        self.shard(number)
            .get(&number)
            .map(|known| Arc::clone(&known.inode))
    }

    /// Counts one lookup; to be called before the reply that names the node.
    pub(super) fn remember(&self, node: &Arc<Node>) -> Result<Arc<Inode>> {
        if node.id() == INodeNo::ROOT.0 {
            return Ok(Arc::clone(&self.root));
        }
        let mut shard = self.shard(node.id());
        let known = shard.entry(node.id()).or_insert_with(|| Known {
            inode: Inode::new(Arc::clone(node)),
            lookups: 0,
        });
        if !Arc::ptr_eq(&known.inode.node, node) {
            return Err(Error::Damaged(format!(
                "two objects have the number {}",
                node.id()
            )));
        }
        known.lookups += 1;
        Ok(Arc::clone(&known.inode))
    }

    /// Puts a node back that the kernel looked up so often.
    pub(super) fn put_back(&self, node: &Arc<Node>, lookups: u64) {
        let known = Known {
            inode: Inode::new(Arc::clone(node)),
            lookups,
        };
        self.shard(node.id()).insert(node.id(), known);
    }

    /// Every node but the root, with the lookups that the kernel has of it.
    pub(super) fn all(&self) -> Vec<(Arc<Node>, u64)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let known = shard.values();
            all.extend(known.map(|known| (Arc::clone(&known.inode.node), known.lookups)));
        }
        all
    }

    /// Takes back `lookups` of them; the last takes the node away.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let forgotten = {
            let mut shard = self.shard(number);
            let Some(known) = shard.get_mut(&number) else {
                return;
            };
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups > 0 {
                None
            } else {
                shard.remove(&number)
            }
        };
        drop(forgotten); // after the lock: this may be the last hold on the node
    }

    /// Every number that the kernel knows now.
    pub(super) fn numbers(&self) -> Vec<INodeNo> {
        let mut numbers = vec![INodeNo::ROOT];
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            numbers.extend(shard.keys().copied().map(INodeNo));
        }
        numbers
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Known>> {
        let [first, ..] = &self.shards;
        let shard = self.shards.get(number as usize % SHARDS).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn clears_privileges_once_until_they_may_be_set_again() {
        let (privileges, cleared) = (Privileges::default(), Cell::new(0));
        let clear = || {
            cleared.set(cleared.get() + 1);
            Ok(())
        };
        for _ in 0..3 {
            privileges.clear(clear).unwrap();
        }
        assert_eq!(cleared.get(), 1);
        privileges.may_be_set();
        privileges.clear(clear).unwrap();
        assert_eq!(cleared.get(), 2);
    }

    #[test]
    fn clears_again_after_a_failure_and_after_a_change_meanwhile() {
        let privileges = Privileges::default();
        privileges
            .clear(|| Err(Error::errno(libc::EIO)))
            .unwrap_err();
        privileges
            .clear(|| {
                privileges.may_be_set();
                Ok(())
            })
            .unwrap();
        let ran = Cell::new(false);
        privileges
            .clear(|| {
                ran.set(true);
                Ok(())
            })
            .unwrap();
        assert!(ran.get());
    }
}
