//! Paths inside a volume, from its top: for what is told to people, and for what they name.

use std::sync::Arc;

use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::node::Node;

/// A name below a path.
pub(crate) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() {
        name.to_vec()
    } else {
        [above, b"/", name].concat()
    }
}

/// Adds to an error where it came up.
pub(crate) fn at(path: &[u8]) -> impl FnOnce(Error) -> Error + '_ {
    move |error| match error {
        Error::At { .. } => error,
        error => Error::At {
            path: shown(path),
            error: Box::new(error),
        },
    }
}

/// As it is shown; the top is `/`.
pub(crate) fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        "/".to_owned()
    } else {
        String::from_utf8_lossy(path).into_owned()
    }
}

/// The object at a path from the top, whose components are joined by `/`; empty ones and `.` are passed over, symlinks are
/// not followed. EINVAL for `..`.
pub(crate) fn resolve(volume: &Volume, path: &[u8]) -> Result<Arc<Node>> {
    let mut node = volume.root();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(at(path)(Error::errno(libc::EINVAL))),
            name => node = volume.lookup(&node, name).map_err(at(path))?.0,
        }
    }
    Ok(node)
}
