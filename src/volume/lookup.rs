//! From names to nodes.

use std::sync::Arc;

use crate::store::Kind;
use crate::volume::attr::{self, Attr};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::files;
use crate::volume::node::Node;
use crate::volume::spot::{Found, Spot};

/// The object named so in a directory.
pub(crate) fn lookup(
    volume: &Volume,
    parent: &Arc<Node>,
    name: &[u8],
) -> Result<(Arc<Node>, Attr)> {
    let spot = Spot::new(volume, parent, name)?;
    let found = spot.find(volume)?;
    check_further_name(volume, &spot, &found)?;
    let attr = attr::of_stat(volume, &found.node, &found.stat);
    Ok((found.node, attr))
}

/// The directory above; the root's is itself.
pub(crate) fn parent(node: &Arc<Node>) -> Result<Arc<Node>> {
    if node.is_root() {
        Ok(Arc::clone(node))
    } else {
        Ok(node.location()?.parent)
    }
}

/// A file is checked against its first name when it is opened. What is open (or was, by another name) would not be opened
/// again, so a further name is checked as soon as it shows: two names of one file may be another's doing.
fn check_further_name(volume: &Volume, spot: &Spot, found: &Found) -> Result<()> {
    if !files::is_bound(&volume.env, &found.stat) {
        return Ok(());
    }
    let names = found.node.locations();
    if names.len() < 2 || names.iter().all(|name| name.checked) {
        return Ok(());
    }
    let checked = files::open(volume, &found.node, false);
    if let Err(Error::Damaged(_)) = &checked {
        found.node.gone_from(&spot.node, spot.entry(), None);
    }
    checked.map(drop)
}

/// Whether an object is a directory; ENOTDIR if not.
pub(crate) fn require_dir(kind: Kind) -> Result<()> {
    if kind == Kind::Dir {
        Ok(())
    } else {
        Err(Error::errno(libc::ENOTDIR))
    }
}
