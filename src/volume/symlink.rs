//! Symlink targets, sealed.

use std::sync::Arc;

use crate::format::texts::{SYMLINK_MAX, open_symlink, seal_symlink};
use crate::store::Kind;
use crate::volume::dir;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::node::{Node, Replaced};

/// What is stored for a target. ENAMETOOLONG over 3,039 bytes, ENOENT for an empty one, as Linux has it.
pub(crate) fn seal(env: &Env, target: &[u8]) -> Result<Vec<u8>> {
    match target.len() {
        0 => Err(Error::errno(libc::ENOENT)),
        1..=SYMLINK_MAX => Ok(seal_symlink(&env.keys()?.symlink, target)),
        _ => Err(Error::errno(libc::ENAMETOOLONG)),
    }
}

/// The target of a symlink; EINVAL for anything else.
pub(crate) fn read_link(volume: &Volume, node: &Arc<Node>) -> Result<Vec<u8>> {
    if node.kind() != Kind::Symlink {
        return Err(Error::errno(libc::EINVAL));
    }
    let sealed = match node.replaced() {
        Some(Replaced::Symlink(sealed)) => sealed,
        _ => dir::at_name(volume, node, |name| Ok(name.dir.read_link(name.stored)?))?,
    };
    Ok(open_symlink(&volume.env.keys()?.symlink, &sealed)?)
}
