//! New objects: files, directories, special files, symlinks; whose they are and what mode they get.

use std::sync::Arc;

use crate::format::dir_file::place_tag;
use crate::format::names::{DIR_FILE, child_dir_id, random_tmp};
use crate::store::{Dir, Kind, Stat};
use crate::volume::attr::{self, Attr};
use crate::volume::carry::text;
use crate::volume::dir_id::{is_marked, random_id, write_dir_file};
use crate::volume::error::{Error, Result};
use crate::volume::files;
use crate::volume::handle::{OpenFile, OpenFlags};
use crate::volume::log::Intent;
use crate::volume::names::drop_side;
use crate::volume::node::{Inherit, Node};

use crate::volume::facade::Volume;
use crate::volume::spot::{Spot, rename_to_free};
use crate::volume::symlink;
use crate::volume::sync::locked;
use crate::volume::xattr::DEFAULT_ACL;

/// Who makes an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bits taken from the mode, unless the parent has a default ACL.
    pub umask: u32,
}

/// The owner and mode that a new object shall have.
struct Wanted {
    uid: u32,
    gid: u32,
    /// Permission bits after the umask.
    mode: u32,
}

/// Makes a file and opens it. EEXIST if the name is taken.
pub(crate) fn create(
    volume: &Volume,
    parent: &Arc<Node>,
    name: &[u8],
    mode: u32,
    caller: &Caller,
    flags: OpenFlags,
) -> Result<(Arc<Node>, Attr, OpenFile)> {
    volume.require_writable()?;
    volume.settler.make_room();
    let spot = Spot::new(volume, parent, name)?;
    let wanted = Wanted::of_entry(&spot, mode, caller, false)?;
    let made = |dir: &Arc<dyn Dir>, entry: &[u8]| {
        let file = dir.create(entry, wanted.mode & 0o777)?;
        Ok((file.stat()?, file))
    };
    let (node, attr, state) = make_with(volume, &spot, &wanted, made, |node, backing| {
        files::created(volume, node, backing, &spot.file())
    })?;
    node.checked_at(&spot.node, spot.entry());
    Ok((Arc::clone(&node), attr, OpenFile::new(node, state, flags)))
}

/// Makes a directory.
pub(crate) fn make_dir(
    volume: &Volume,
    parent: &Arc<Node>,
    name: &[u8],
    mode: u32,
    caller: &Caller,
) -> Result<(Arc<Node>, Attr)> {
    volume.require_writable()?;
    let spot = Spot::new(volume, parent, name)?;
    let wanted = Wanted::of_entry(&spot, mode, caller, true)?;
    let mut id = child_dir_id(&volume.env.keys()?.dir, &spot.id, spot.entry());
    let (node, attr) = make(volume, &spot, &wanted, |dir, entry| {
        if is_marked(&spot.node, dir, entry)? {
            id = random_id();
            let tag = place_tag(&volume.env.keys()?.dir, &id, &spot.id, entry);
            build_hidden(dir, entry, wanted.mode & 0o777, |child| {
                Ok(write_dir_file(child, id, vec![tag])?)
            })?;
        } else {
            dir.make_dir(entry, wanted.mode & 0o777)?;
        }
        Ok(dir.stat_at(entry)?)
    })?;
    let part = node.dir()?;
    let _ = part.id.set(id);
    part.markers.just_made();
    Ok((node, attr))
}

/// Makes a fifo, socket, device or (Kind::File) an empty file.
pub(crate) fn make_node(
    volume: &Volume,
    parent: &Arc<Node>,
    name: &[u8],
    kind: Kind,
    mode: u32,
    rdev: u64,
    caller: &Caller,
) -> Result<(Arc<Node>, Attr)> {
    volume.require_writable()?;
    if matches!(kind, Kind::Dir | Kind::Symlink) {
        return Err(Error::errno(libc::EINVAL));
    }
    let spot = Spot::new(volume, parent, name)?;
    let wanted = Wanted::of_entry(&spot, mode, caller, false)?;
    make(volume, &spot, &wanted, |dir, entry| {
        dir.make_node(entry, kind, wanted.mode & 0o777, rdev)?;
        Ok(dir.stat_at(entry)?)
    })
}

/// Makes a symlink.
pub(crate) fn make_symlink(
    volume: &Volume,
    parent: &Arc<Node>,
    name: &[u8],
    target: &[u8],
    caller: &Caller,
) -> Result<(Arc<Node>, Attr)> {
    volume.require_writable()?;
    let sealed = symlink::seal(&volume.env, target)?;
    let spot = Spot::new(volume, parent, name)?;
    let wanted = Wanted::of_entry(&spot, 0o777, caller, false)?;
    make(volume, &spot, &wanted, |dir, entry| {
        dir.make_symlink(entry, &sealed)?;
        Ok(dir.stat_at(entry)?)
    })
}

/// Makes an entry by `call` and gives it to its owner; what cannot be given away is removed again.
fn make(
    volume: &Volume,
    spot: &Spot,
    wanted: &Wanted,
    call: impl FnOnce(&Arc<dyn Dir>, &[u8]) -> Result<Stat>,
) -> Result<(Arc<Node>, Attr)> {
    let call = |dir: &Arc<dyn Dir>, entry: &[u8]| Ok((call(dir, entry)?, ()));
    let (node, attr, ()) = make_with(volume, spot, wanted, call, |_, ()| ())?;
    Ok((node, attr))
}

/// As `make`; `begin` has what `call` brought besides, before anyone else sees the object.
fn make_with<T, U>(
    volume: &Volume,
    spot: &Spot,
    wanted: &Wanted,
    call: impl FnOnce(&Arc<dyn Dir>, &[u8]) -> Result<(Stat, T)>,
    begin: impl FnOnce(&Arc<Node>, T) -> U,
) -> Result<(Arc<Node>, Attr, U)> {
    let _names = spot.lock()?;
    if volume.intends() {
        intend(volume, spot)?;
    }
    spot.prepare()?;
    let made = call(&spot.dir, spot.entry()).and_then(|(stat, brought)| {
        let given = give(volume, spot, &stat, wanted).inspect_err(|_| {
            let _ = match stat.kind {
                Kind::Dir => spot.dir.remove_dir(spot.entry()),
                _ => spot.dir.remove(spot.entry()),
            };
        });
        Ok((given?, brought))
    });
    let (stat, brought) = made.inspect_err(|_| drop_side(&spot.dir, spot.entry()))?;
    let found = spot.found(volume, &stat)?;
    let attr = attr::of_stat(volume, &found.node, &stat);
    let begun = begin(&found.node, brought);
    Ok((found.node, attr, begun))
}

/// Before an entry is made that is to be taken back if this process dies before it said so: EEXIST if there is one.
pub(crate) fn intend(volume: &Volume, spot: &Spot) -> Result<()> {
    if spot.stat()?.is_some() {
        return Err(Error::errno(libc::EEXIST));
    }
    volume.intend(|| {
        Ok(Intent::Make {
            dir: spot.node.id(),
            stored: text(spot.entry())?,
        })
    })
}

/// Gives a new entry its owner and, after that, the bits that a change of owner would clear. Returns its attributes.
fn give(volume: &Volume, spot: &Spot, made: &Stat, wanted: &Wanted) -> Result<Stat> {
    let (dir, entry) = (&spot.dir, spot.entry());
    let mut changed = false;
    if made.uid != wanted.uid || made.gid != wanted.gid {
        match dir.set_owner_at(entry, Some(wanted.uid), Some(wanted.gid)) {
            // A daemon that is not root can own things only itself, and then everything in the volume is its own.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && !volume.privileged => {}
            done => {
                done?;
                changed = true;
            }
        }
    }
    let mode = made.mode & 0o777 | wanted.mode & 0o7000;
    if made.kind != Kind::Symlink && (mode != made.mode || changed && mode & 0o6000 != 0) {
        dir.set_mode_at(entry, mode)?;
        changed = true;
    }
    if changed {
        Ok(dir.stat_at(entry)?)
    } else {
        Ok(*made)
    }
}

/// Builds a directory under a hidden name and puts it in its place when it is whole and durable.
fn build_hidden(
    dir: &Arc<dyn Dir>,
    entry: &[u8],
    mode: u32,
    fill: impl FnOnce(&Arc<dyn Dir>) -> Result<()>,
) -> Result<()> {
    let hidden = random_tmp();
    dir.make_dir(&hidden, 0o700)?;
    let built = dir
        .open_dir(&hidden)
        .map_err(Error::from)
        .and_then(|child| {
            fill(&child)?;
            if dir.stat_at(entry).is_ok() {
                return Err(Error::errno(libc::EEXIST));
            }
            dir.set_mode_at(&hidden, mode)?;
            Ok(rename_to_free(dir, &hidden, dir, entry)?)
        });
    built.inspect_err(|_| {
        // What cannot be removed is clutter under a hidden name.
        if let Ok(child) = dir.open_dir(&hidden) {
            let _ = child.remove(DIR_FILE);
        }
        let _ = dir.remove_dir(&hidden);
    })
}

impl Wanted {
    fn of_entry(spot: &Spot, mode: u32, caller: &Caller, is_dir: bool) -> Result<Self> {
        let inherit = inherited(spot)?;
        let umask = if inherit.default_acl { 0 } else { caller.umask };
        let setgid = if is_dir && inherit.group.is_some() {
            0o2000
        } else {
            0
        };
        let gid = inherit.group.unwrap_or(caller.gid);
        Ok(Self {
            uid: caller.uid,
            gid,
            mode: mode & 0o7777 & !umask | setgid,
        })
    }
}

/// What the directory hands down; read once, and again after its attributes changed through us.
fn inherited(spot: &Spot) -> Result<Inherit> {
    let part = spot.node.dir()?;
    if let Some(known) = *locked(&part.inherit) {
        return Ok(known);
    }
    let stat = spot.dir.stat()?;
    let group = (stat.mode & 0o2000 != 0).then_some(stat.gid);
    let default_acl = spot.dir.xattr(DEFAULT_ACL).is_ok();
    let inherit = Inherit { group, default_acl };
    *locked(&part.inherit) = Some(inherit);
    Ok(inherit)
}
