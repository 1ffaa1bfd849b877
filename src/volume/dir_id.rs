//! Which directory is which: ids derived from the place, `strongroom.dir` for those that moved, markers where a derived
//! id must not be given again (FORMAT.md section 5).
//!
//! Invariant: no two directories share an id, through any crash; a directory's id never changes.

use std::io;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::crypto::random_bytes;
use crate::format::dir_file::{DirFile, place_tag};
use crate::format::ids::DirId;
use crate::format::names::{DIR_FILE, child_dir_id, gone_marker};
use crate::store::{Dir, SetTimes, TimeSpec};
use crate::volume::access::with_owner_bits;
use crate::volume::dir;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::node::Node;
use crate::volume::replace::{read_small, replace};
use crate::volume::spot::Spot;
use crate::volume::sync::{locked, reading};

/// More than any `strongroom.dir`.
const DIR_FILE_MAX: usize = 256;

/// The id of the directory `child` that stands as `stored` in the directory `parent`, and its `strongroom.dir` if it has
/// one. Damaged if that does not fit where it stands.
pub(crate) fn identify(
    env: &Env,
    parent: &DirId,
    stored: &[u8],
    child: &Arc<dyn Dir>,
) -> Result<(DirId, Option<DirFile>)> {
    let Some(bytes) = read_small(child, DIR_FILE, DIR_FILE_MAX)? else {
        return Ok((child_dir_id(&env.keys()?.dir, parent, stored), None));
    };
    let file = DirFile::parse(&bytes)?;
    file.fits(&env.keys()?.dir, parent, stored)?;
    Ok((file.id, Some(file)))
}

/// A fresh id for a directory made where a marker stands.
pub(crate) fn random_id() -> DirId {
    let mut id = [0; 16];
    random_bytes(&mut id);
    DirId(id)
}

/// Writes the `strongroom.dir` of a directory with these places, durable; its modification time stays.
pub(crate) fn write_dir_file(
    child: &Arc<dyn Dir>,
    id: DirId,
    places: Vec<[u8; 16]>,
) -> io::Result<()> {
    let mtime = child.stat()?.mtime;
    let bytes = DirFile { id, places }.encode();
    if broken(Rule::NoDirFile) {
        return Ok(());
    }
    if broken(Rule::DirFileUnsynced) {
        let _ = child.remove(DIR_FILE);
        child.create(DIR_FILE, 0o600)?.write_at(&bytes, 0)?;
    } else {
        replace(child, DIR_FILE, &bytes)?;
    }
    child.set_times(SetTimes {
        atime: None,
        mtime: Some(TimeSpec::At(mtime)),
    })
}

/// Whether a marker for this stored name stands in the directory.
pub(crate) fn is_marked(node: &Arc<Node>, dir: &Arc<dyn Dir>, stored: &[u8]) -> Result<bool> {
    if node.dir()?.markers.none() || broken(Rule::MarkerIgnored) {
        return Ok(false);
    }
    match dir.stat_at(&gone_marker(stored)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Leaves a marker for this stored name, durable.
pub(crate) fn mark(node: &Arc<Node>, dir: &Arc<dyn Dir>, stored: &[u8]) -> Result<()> {
    node.dir()?.markers.put();
    match dir.create(&gone_marker(stored), 0o600) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    Ok(dir.sync()?)
}

fn tag(env: &Env, spot: &Spot, id: &DirId) -> Result<[u8; 16]> {
    Ok(place_tag(&env.keys()?.dir, id, &spot.id, spot.entry()))
}

/// Before the directory `moved` goes from one place to another: gives it a `strongroom.dir` that fits at both, and leaves a
/// marker where its derived id could be given again. All durable. The names of both parents are locked.
pub(crate) fn before_rename(
    volume: &Volume,
    moved: &Arc<Node>,
    from: &Spot,
    to: &Spot,
) -> Result<()> {
    let env = &volume.env;
    let (dir, entry) = (&from.dir, from.entry());
    let child = with_owner_bits(dir, entry, 0o700, || dir.open_dir(entry))?;
    let (id, file) = identify(env, &from.id, entry, &child)?;
    if file.is_some_and(|file| file.places.len() > 1) {
        make_last_move_durable(volume, moved, dir)?;
    }
    let places = vec![tag(env, from, &id)?, tag(env, to, &id)?];
    with_owner_bits(dir, entry, 0o700, || {
        write_dir_file(&child, id, places.clone())
    })?;
    let _ = moved.dir()?.id.set(id);
    if broken(Rule::NoMarker) {
        return Ok(());
    }
    mark(&from.node, dir, entry)
}

/// After it moved: what its directory file still says of the old place goes once the move is durable.
pub(crate) fn after_rename(volume: &Volume, moved: &Arc<Node>, from: &Arc<Node>) -> Result<()> {
    *locked(&moved.dir()?.moved_from) = Some(Arc::clone(from));
    locked(&volume.moved).push(Arc::clone(moved));
    Ok(())
}

/// Both parents of the last rename of `moved`; a sync of the whole store where the old one is not known any more (the
/// rename happened in an earlier mount).
fn make_last_move_durable(volume: &Volume, moved: &Arc<Node>, here: &Arc<dyn Dir>) -> Result<()> {
    let old = locked(&moved.dir()?.moved_from).clone();
    let old = old.and_then(|node| {
        locked(&node.dir().ok()?.open)
            .clone()
            .or_else(|| node.is_root().then(|| Arc::clone(&volume.env.root)))
    });
    match old {
        Some(old) => {
            here.sync()?;
            Ok(old.sync()?)
        }
        None => volume.settler.sync_store(),
    }
}

/// Drops the older places of directories that moved, once their moves are durable. What fails or moved again meanwhile
/// stays for the next time.
pub(crate) fn settle_moves(volume: &Volume) -> Result<()> {
    let moved = std::mem::take(&mut *locked(&volume.moved));
    let mut outcome = Ok(());
    for node in moved {
        if node.is_dead() || locked(&node.dir()?.moved_from).is_none() {
            continue;
        }
        if let Err(error) = settle_move(volume, &node) {
            locked(&volume.moved).push(node);
            outcome = Err(error);
        }
    }
    outcome
}

fn settle_move(volume: &Volume, node: &Arc<Node>) -> Result<()> {
    let child = dir::open(volume, node)?;
    let place = node.location()?;
    let parent = dir::open(volume, &place.parent)?;
    let parent_id = dir::id(volume, &place.parent)?;
    let part = node.dir()?;
    let old = locked(&part.moved_from).clone();
    let old_dir = match &old {
        Some(old) if !old.is_dead() => Some(dir::open(volume, old)?),
        _ => None,
    };
    let _names = reading(&place.parent.dir()?.names);
    if !node.is_at(&place.parent, &place.stored) {
        return Err(Error::errno(libc::EAGAIN));
    }
    parent.sync()?;
    match old_dir {
        Some(dir) => dir.sync()?,
        None => volume.settler.sync_store()?,
    }
    let id = dir::id(volume, node)?;
    let here = place_tag(&volume.env.keys()?.dir, &id, &parent_id, &place.stored);
    with_owner_bits(&parent, &place.stored, 0o700, || {
        write_dir_file(&child, id, vec![here])
    })?;
    *locked(&part.moved_from) = None;
    Ok(())
}
