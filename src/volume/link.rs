//! Hard links.

use std::sync::Arc;

use crate::store::Kind;
use crate::volume::attr::{self, Attr};
use crate::volume::binding::announce;
use crate::volume::dir;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::body::Place;
use crate::volume::files::Entry;
use crate::volume::make;
use crate::volume::names::{drop_side, put_side};
use crate::volume::node::{Location, Node, lock_names};
use crate::volume::spot::{Found, Spot};
use crate::volume::sync::locked;

/// How often a file that keeps moving is followed.
const TRIES: usize = 64;

/// Gives an object another name. EPERM for a directory, EEXIST if the name is taken, ENOENT if it has no name any more.
pub(crate) fn link(
    volume: &Volume,
    node: &Arc<Node>,
    parent: &Arc<Node>,
    name: &[u8],
) -> Result<Attr> {
    volume.require_writable()?;
    let _changing = volume.rotation.changing();
    if node.kind() == Kind::Dir {
        return Err(Error::errno(libc::EPERM));
    }
    let spot = Spot::new(volume, parent, name)?;
    volume.settler.make_room();
    for _ in 0..TRIES {
        let known = node.location()?;
        let (dir, id) = (
            dir::open(volume, &known.parent)?,
            dir::id(volume, &known.parent)?,
        );
        let names = lock_names(&[&known.parent, parent]);
        if !node.is_at(&known.parent, &known.stored) {
            continue;
        }
        spot.require_living()?;
        let via = Entry {
            dir: &dir,
            place: Place {
                dir: id,
                stored: known.stored.clone(),
            },
        };
        let stat = link_locked(volume, node, &known, &via, &spot)?;
        drop(names);
        return Ok(attr::of_stat(volume, node, &stat));
    }
    Err(Error::errno(libc::ESTALE))
}

fn link_locked(
    volume: &Volume,
    node: &Arc<Node>,
    known: &Location,
    via: &Entry,
    spot: &Spot,
) -> Result<crate::store::Stat> {
    if spot.stat()?.is_some() {
        return Err(Error::errno(libc::EEXIST));
    }
    let stat = via.dir.stat_at(&known.stored)?;
    if stat.ino != node.ino() {
        return Err(Error::errno(libc::ESTALE));
    }
    let found = Found {
        node: Arc::clone(node),
        stat,
    };
    if volume.intends() {
        make::intend(volume, spot)?;
    }
    let announced = announce(volume, &found, via, spot.place(), true)?;
    let linked = put_side(&spot.dir, &spot.name).and_then(|()| {
        let _one = locked(&node.opening);
        via.dir.link(&known.stored, &*spot.dir, spot.entry())
    });
    if let Err(error) = linked {
        announced.failed();
        drop_side(&spot.dir, spot.entry());
        return Err(error.into());
    }
    node.found_at(&spot.node, spot.entry(), false);
    if announced.appeared(None) {
        node.checked_at(&spot.node, spot.entry());
    }
    Ok(spot.dir.stat_at(spot.entry())?)
}
