//! The inodes that the kernel knows: node number to node. A node counts itself the lookups that the kernel will give back by
//! FORGET, so that there is nothing beside it for each.
//!
//! Invariant: a node stays, and its number its own, from the first reply that names it until the kernel forgot it as often
//! as it was told. No lock here is held over a call of the volume.

use std::sync::Arc;

use fuser::INodeNo;

use crate::volume::{Error, Node, NodeTable, Result};

/// All inodes that the kernel knows.
pub(super) struct Inodes {
    root: Arc<Node>,
    nodes: Arc<NodeTable>,
}

impl Inodes {
    /// Those of a volume; the root is never forgotten.
    pub(super) fn new(root: Arc<Node>, nodes: Arc<NodeTable>) -> Self {
        Self { root, nodes }
    }

    /// The node of a number; ESTALE for one that the kernel was never told or has forgotten.
    pub(super) fn find(&self, number: INodeNo) -> Result<Arc<Node>> {
        self.known(number.0)
            .ok_or_else(|| Error::errno(libc::ESTALE))
    }

    /// The node of a number, if the kernel knows it.
    pub(super) fn known(&self, number: u64) -> Option<Arc<Node>> {
        if number == INodeNo::ROOT.0 {
            return Some(Arc::clone(&self.root));
        }
        self.nodes.numbered(number).filter(|node| node.holds() > 0)
    }

    /// Counts one lookup; to be called before the reply that names the node.
    pub(super) fn remember(&self, node: &Arc<Node>) {
        if node.id() != INodeNo::ROOT.0 {
            node.hold(1);
        }
    }

    /// Puts a node back that the kernel looked up so often.
    pub(super) fn put_back(&self, node: &Arc<Node>, lookups: u64) {
        node.hold(lookups);
    }

    /// Every node but the root, with the lookups that the kernel has of it.
    pub(super) fn all(&self) -> Vec<(Arc<Node>, u64)> {
        let held = self.nodes.held().into_iter();
        held.map(|node| (Arc::clone(&node), node.holds().into()))
            .collect()
    }

    /// Takes back `lookups` of them; with the last the node may go.
    pub(super) fn forget(&self, number: u64, lookups: u64) -> Option<Arc<Node>> {
        let node = self.nodes.numbered(number)?;
        node.let_go(lookups);
        Some(node)
    }

    /// Every number that the kernel knows now.
    pub(super) fn numbers(&self) -> Vec<INodeNo> {
        let held = self.nodes.held();
        let numbers = held.iter().map(|node| INodeNo(node.id()));
        [INodeNo::ROOT].into_iter().chain(numbers).collect()
    }
}

impl Drop for Inodes {
    /// A kernel that is gone forgets nothing one by one.
    fn drop(&mut self) {
        for node in self.nodes.held() {
            node.let_go(u64::MAX);
        }
    }
}
