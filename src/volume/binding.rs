//! Files learn of a new name before it appears, and of what became of it.

use std::sync::Arc;

use crate::store::Kind;
use crate::volume::error::Result;
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::file::body::Place;
use crate::volume::files::{self, Entry};
use crate::volume::settle::Moving;
use crate::volume::spot::Found;

/// A name that a file was told of and that did not appear yet. One of `appeared` and `failed` must be called.
#[must_use]
pub(crate) struct Announced {
    told: Option<(Arc<FileState>, Place)>,
    moving: Option<Moving>,
}

/// Tells a file of the name `new`; `via` is a name that it has, whose directory's names are locked. `link`: it stays.
/// Files that are not bound to their names and not in use need not be told; other objects have no headers.
pub(crate) fn announce(
    volume: &Volume,
    file: &Found,
    via: &Entry,
    new: Place,
    link: bool,
) -> Result<Announced> {
    if file.stat.kind != Kind::File {
        return Ok(Announced::nothing());
    }
    let mut open = || files::open_at(volume, &file.node, true, via);
    volume.rotation.before_move(&file.node, &mut open)?;
    let bound = files::is_bound(&volume.env, &file.stat);
    let moving = Some(volume.settler.moving(&file.stat));
    let state = match volume.files.live(&file.node) {
        _ if bound => open()?,
        Some(state) => state,
        None => return Ok(Announced { told: None, moving }),
    };
    if bound {
        state.load(&via.place)?;
    }
    state.add_name(&via.place, &new, file.stat.nlink, link)?;
    let told = Some((state, new));
    Ok(Announced { told, moving })
}

impl Announced {
    /// For an object that needs no announcement.
    pub(crate) fn nothing() -> Self {
        Self {
            told: None,
            moving: None,
        }
    }

    /// The name is there; `gone`: the one that went for it. Whether the file has a header that knows it.
    pub(crate) fn appeared(self, gone: Option<&Place>) -> bool {
        drop(self.moving);
        let Some((state, new)) = self.told else {
            return false;
        };
        state.name_is(&new);
        if let Some(gone) = gone {
            state.name_gone(gone);
        }
        true
    }

    /// The directory did not change.
    pub(crate) fn failed(self) {
        if let Some((state, new)) = self.told {
            state.name_gone(&new);
        }
    }
}
