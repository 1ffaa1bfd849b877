//! Where rotation stands in the way of names: a file is re-wrapped before it gets a new name, and a directory that moved is
//! walked again, so that nothing slips past the walk. Empty while no rotation runs.

use std::sync::{Arc, RwLock};

use crate::volume::error::Result;
use crate::volume::file::FileState;
use crate::volume::node::Node;
use crate::volume::sync::{reading, writing};

/// What a running rotation does when names change. Called with the names of the directories locked: it may work on the
/// file handed to it, and must not look anything up.
pub(crate) trait Moves: Send + Sync {
    /// Before a file gets another name; `file` opens it.
    fn before_move(
        &self,
        node: &Arc<Node>,
        file: &mut dyn FnMut() -> Result<Arc<FileState>>,
    ) -> Result<()>;
    /// After a directory moved.
    fn moved_dir(&self, dir: &Arc<Node>);
}

/// The place where a rotation puts itself while it runs.
#[derive(Default)]
pub(crate) struct RotationGate {
    running: RwLock<Option<Arc<dyn Moves>>>,
}

impl RotationGate {
    /// Puts a rotation in place, until the guard is dropped.
    pub(crate) fn enter(&self, rotation: Arc<dyn Moves>) -> Entered<'_> {
        *writing(&self.running) = Some(rotation);
        Entered(self)
    }

    /// Before a file gets another name.
    pub(crate) fn before_move(
        &self,
        node: &Arc<Node>,
        file: &mut dyn FnMut() -> Result<Arc<FileState>>,
    ) -> Result<()> {
        match self.running() {
            Some(rotation) => rotation.before_move(node, file),
            None => Ok(()),
        }
    }

    /// After a directory moved.
    pub(crate) fn moved_dir(&self, dir: &Arc<Node>) {
        if let Some(rotation) = self.running() {
            rotation.moved_dir(dir);
        }
    }

    fn running(&self) -> Option<Arc<dyn Moves>> {
        reading(&self.running).clone()
    }
}

/// A rotation in place.
pub(crate) struct Entered<'a>(&'a RotationGate);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *writing(&self.0.running) = None;
    }
}
