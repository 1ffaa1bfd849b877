//! A node as another process has to know it, and one made again from that.

use std::sync::Arc;

use super::{Node, NodeTable};
use crate::store::{Kind, Stat};
use crate::volume::error::Result;
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
    /// Whether the inode number stands for it: not while its last name is about to go, nor afterwards.
    pub(in crate::volume) found: bool,
    /// Attributes as of the last time a name went.
    pub(in crate::volume) last: Option<Stat>,
}

impl Node {
    pub(in crate::volume) fn identity(&self) -> Identity {
        let ino = self.ino(); // looks into the memory, too
        let found = self.is_found();
        let memory = locked(&self.memory);
        Identity {
            id: self.id,
            ino,
            kind: self.kind,
            dead: memory.dead,
            found,
            last: memory.rare().and_then(|rare| rare.last),
        }
    }
}

impl NodeTable {
    /// The node with this identity, which the table does not know yet. Damaged where its number or inode is another's.
    pub(in crate::volume) fn again(self: &Arc<Self>, identity: &Identity) -> Result<Arc<Node>> {
        let node = self.enter_again(identity)?;
        let mut memory = locked(&node.memory);
        memory.dead = identity.dead;
        if identity.last.is_some() {
            memory.change(|rare| rare.last = identity.last);
        }
        drop(memory);
        Ok(node)
    }
}
