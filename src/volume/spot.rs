//! Where an entry is or shall be: a directory, open and identified, and a stored name in it.

use std::io;
use std::sync::{Arc, RwLockWriteGuard};

use crate::format::ids::DirId;
use crate::format::names::StoredName;
use crate::store::{Dir, RenameMode, Stat};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::body::Place;
use crate::volume::files;
use crate::volume::node::Node;
use crate::volume::sync::{reading, writing};
use crate::volume::{dir, names};

/// A place for an entry.
pub(crate) struct Spot {
    pub(crate) node: Arc<Node>,
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) id: DirId,
    pub(crate) name: StoredName,
}

/// An entry that was seen.
pub(crate) struct Found {
    pub(crate) node: Arc<Node>,
    pub(crate) stat: Stat,
}

impl Spot {
    /// The place of `name` in `parent`, whether or not anything is there.
    pub(crate) fn new(volume: &Volume, parent: &Arc<Node>, name: &[u8]) -> Result<Self> {
        let dir = dir::open(volume, parent)?;
        let id = dir::id(volume, parent)?;
        let name = names::seal(&volume.env, &id, name)?;
        Ok(Self {
            node: Arc::clone(parent),
            dir,
            id,
            name,
        })
    }

    /// The stored name of the entry.
    pub(crate) fn entry(&self) -> &[u8] {
        &self.name.entry
    }

    /// As name tags bind it.
    pub(crate) fn place(&self) -> Place {
        Place {
            dir: self.id,
            stored: self.name.entry.clone(),
        }
    }

    /// As a file is opened by it.
    pub(crate) fn file(&self) -> files::Entry<'_> {
        files::Entry {
            dir: &self.dir,
            place: self.place(),
        }
    }

    /// What is there; ENOENT if nothing is. Takes the directory's names for reading.
    pub(crate) fn find(&self, volume: &Volume) -> Result<Found> {
        let _names = reading(&self.node.dir()?.names);
        self.find_locked(volume)
    }

    /// As `find`, with the directory's names locked by the caller.
    pub(crate) fn find_locked(&self, volume: &Volume) -> Result<Found> {
        self.found(volume, &self.dir.stat_at(self.entry())?)
    }

    /// As `find`, for an entry just seen in the directory, whose names are locked.
    pub(crate) fn found(&self, volume: &Volume, stat: &Stat) -> Result<Found> {
        self.require_living()?;
        let node = volume.nodes.found(stat, &self.node, self.entry())?;
        Ok(Found { node, stat: *stat })
    }

    /// What the store says is there now.
    pub(crate) fn stat(&self) -> Result<Option<Stat>> {
        match self.dir.stat_at(self.entry()) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the same object (or still nothing) is there as was seen before; its attributes are refreshed.
    pub(crate) fn still(&self, seen: Option<&mut Found>) -> Result<bool> {
        Ok(match (self.stat()?, seen) {
            (Some(now), Some(seen)) if now.ino == seen.stat.ino && now.kind == seen.stat.kind => {
                seen.stat = now;
                true
            }
            (None, None) => true,
            _ => false,
        })
    }

    /// Locks the directory's names for change; ENOENT if it was removed.
    pub(crate) fn lock(&self) -> Result<RwLockWriteGuard<'_, ()>> {
        let names = writing(&self.node.dir()?.names);
        self.require_living()?;
        Ok(names)
    }

    /// ENOENT if the directory was removed.
    pub(crate) fn require_living(&self) -> Result<()> {
        if self.node.is_dead() {
            Err(Error::errno(libc::ENOENT))
        } else {
            Ok(())
        }
    }

    /// Before a new entry is made: EEXIST if there is one (where the store's own exclusive call would come too late), and
    /// the side file of a long name.
    pub(crate) fn prepare(&self) -> Result<()> {
        if self.name.long.is_none() {
            return Ok(());
        }
        if self.stat()?.is_some() {
            return Err(Error::errno(libc::EEXIST));
        }
        Ok(names::put_side(&self.dir, &self.name)?)
    }
}

/// Renames an entry to a name that is known to be free; where the store cannot insist on that, the names' lock does.
pub(crate) fn rename_to_free(
    from: &Arc<dyn Dir>,
    name: &[u8],
    to: &Arc<dyn Dir>,
    new: &[u8],
) -> io::Result<()> {
    match from.rename(name, &**to, new, RenameMode::NoReplace) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            from.rename(name, &**to, new, RenameMode::Replace)
        }
        done => done,
    }
}
