//! Where rotation stands in the way of names: a file is re-wrapped before it gets a new name, and a directory that moved is
//! walked again, so that nothing slips past the walk. Empty while no rotation runs.

use std::sync::{Arc, RwLock, RwLockReadGuard};

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
    /// Held shared while a name changes.
    changing: RwLock<()>,
}

impl RotationGate {
    /// Puts a rotation in place, until the guard is dropped. Waits for changes of names that began before and did not ask
    /// it: one whose new name appears behind the walk would hide an older header from the proof.
    pub(crate) fn enter(&self, rotation: Arc<dyn Moves>) -> Entered<'_> {
        *writing(&self.running) = Some(rotation);
        drop(writing(&self.changing));
        Entered(self)
    }

    /// To be held over a rename or link, from before the file is told until the name is there.
    pub(crate) fn changing(&self) -> RwLockReadGuard<'_, ()> {
        reading(&self.changing)
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    struct Nothing;

    impl Moves for Nothing {
        fn before_move(
            &self,
            _: &Arc<Node>,
            _: &mut dyn FnMut() -> Result<Arc<FileState>>,
        ) -> Result<()> {
            Ok(())
        }

        fn moved_dir(&self, _: &Arc<Node>) {}
    }

    #[test]
    fn a_rotation_begins_after_the_changes_of_names_that_it_was_not_asked_for() {
        let gate = RotationGate::default();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let changing = gate.changing();
            scope.spawn(|| {
                let _entered = gate.enter(Arc::new(Nothing));
                order.lock().unwrap().push("rotation");
            });
            std::thread::sleep(Duration::from_millis(50));
            order.lock().unwrap().push("rename");
            drop(changing);
        });
        assert_eq!(*order.lock().unwrap(), ["rename", "rotation"]);
    }
}
