//! A node as another process has to know it, and one made again from that.

use std::sync::Arc;

use super::{MADE_UP, Node, NodeTable, Whereabouts};
use crate::store::{Kind, Stat};
use crate::volume::error::{Error, Result};
use crate::volume::sync::locked;

/// What a node is, without its names.
pub(in crate::volume) struct Identity {
    /// Its number.
    pub(in crate::volume) id: u64,
    /// The inode that it stands for; of a dead one, that it stood for.
    pub(in crate::volume) ino: u64,
    /// What it is.
    pub(in crate::volume) kind: Kind,
    /// Whether its last name went.
    pub(in crate::volume) dead: bool,
    /// Attributes as of the last time a name went.
    pub(in crate::volume) last: Option<Stat>,
}

impl Node {
    pub(in crate::volume) fn identity(&self) -> Identity {
        let whereabouts = locked(&self.whereabouts);
        Identity {
            id: self.id,
            ino: self.ino(),
            kind: self.kind,
            dead: whereabouts.dead,
            last: whereabouts.last,
        }
    }
}

impl NodeTable {
    /// The node with this identity, which the table does not know yet. Damaged where its number or inode is another's.
    pub(in crate::volume) fn again(self: &Arc<Self>, identity: &Identity) -> Result<Arc<Node>> {
        let Identity { id, ino, kind, .. } = *identity;
        let taken = |what: &str| Error::Damaged(format!("two objects have {what}"));
        let mut known = locked(&self.known);
        if known.ids.contains_key(&id) {
            return Err(taken(&format!("the number {id}")));
        }
        if !identity.dead && known.by_ino.contains_key(&ino) {
            return Err(taken(&format!("the inode {ino}")));
        }
        let node = Arc::new(self.node(id, ino, kind));
        known.ids.insert(id, 1);
        if id & MADE_UP != 0 {
            known.made_up = known.made_up.max(id & !MADE_UP);
        }
        if !identity.dead {
            known.by_ino.insert(ino, (Arc::downgrade(&node), id));
        }
        drop(known);
        *locked(&node.whereabouts) = Whereabouts {
            locations: Vec::new(),
            dead: identity.dead,
            last: identity.last,
        };
        Ok(node)
    }
}
