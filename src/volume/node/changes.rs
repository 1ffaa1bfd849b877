//! Which nodes changed, for who keeps a log of them outside of this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{Node, NodeTable};
use crate::volume::sync::{locked, reading};

/// Whether any table of this process is watched: without it a change costs one look here.
static WATCHED: AtomicBool = AtomicBool::new(false);

impl NodeTable {
    /// From now on remembers the number of each node that changed, until `take_changed`.
    pub(in crate::volume) fn watch_changes(&self) {
        let _ = self.changed.set(Mutex::default());
        WATCHED.store(true, Ordering::Release);
    }

    /// The numbers of the nodes that changed, came or went since the last time. A change that is made while this runs is
    /// there now or the next time.
    pub(in crate::volume) fn take_changed(&self) -> Vec<u64> {
        let changed = self.changed.get();
        let mut numbers = changed.map_or_else(Vec::new, |all| std::mem::take(&mut *locked(all)));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Every node that lives.
    pub(in crate::volume) fn all(&self) -> Vec<Arc<Node>> {
        reading(&self.known).by_id.living().collect()
    }

    pub(super) fn note(&self, id: u64) {
        if let Some(changed) = self.changed.get() {
            locked(changed).push(id);
        }
    }

    /// A node that stood for no inode just now, because its last name was about to go, stands for it again.
    pub(in crate::volume) fn back(&self, node: &Arc<Node>) {
        self.stays(node);
    }
}

impl Node {
    /// After it changed, with none of its locks held.
    pub(super) fn changed(&self) {
        if WATCHED.load(Ordering::Acquire)
            && let Some(table) = self.table.upgrade()
        {
            table.note(self.id);
        }
    }
}
