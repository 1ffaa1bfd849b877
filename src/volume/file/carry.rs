//! What of an open file another process cannot find out by itself: its descriptor and the name by which it is known.

use std::sync::Arc;

use crate::store::File;
use crate::volume::file::body::Place;
use crate::volume::file::shell::FileState;

impl FileState {
    /// The name by which it was known last, and whether it still has that.
    pub(in crate::volume) fn last_place(&self) -> (Place, bool) {
        let names = self.lock_names();
        (names.here().clone(), names.knows(names.here()))
    }

    /// The descriptor in use, and whether it can write.
    pub(in crate::volume) fn descriptor_in_use(&self) -> (Arc<dyn File>, bool) {
        (self.backing(), self.backing.is_writable())
    }
}
