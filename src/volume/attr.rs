//! Attributes: those of the store, with plaintext sizes.

use std::io;
use std::sync::Arc;

use crate::format::layout::{gcm_size, xts_size};
use crate::format::suite::Suite;
use crate::format::texts::symlink_len;
use crate::store::{Dir, Kind, SetTimes, Stat, Time, TimeSpec, Xattrs};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::handle::OpenFile;
use crate::volume::node::Node;
use crate::volume::sync::locked;
use crate::volume::{dir, files, xattr};

/// Attributes of an object, as a program sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attr {
    /// st_ino.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Plaintext bytes of a file, bytes of a symlink's target; of a directory what the store says.
    pub size: u64,
    /// Units of 512 bytes that the store has allocated.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
}

/// What `set_attr` changes; `None` leaves one alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Plaintext size.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeSpec>,
    /// Modification time.
    pub mtime: Option<TimeSpec>,
    /// Also clear setuid, setgid (of what its group may execute) and file capabilities, as a write by an ordinary user
    /// does.
    pub kill_suid: bool,
    /// It is known to have none of these, so that nobody need look.
    pub unprivileged: bool,
}

/// The attributes of a node.
pub(crate) fn attr(volume: &Volume, node: &Arc<Node>) -> Result<Attr> {
    let stat = stat(volume, node)?;
    Ok(of_stat(volume, node, &stat))
}

/// Attributes from a stat just taken.
pub(crate) fn of_stat(volume: &Volume, node: &Arc<Node>, stat: &Stat) -> Attr {
    Attr {
        id: node.id(),
        kind: stat.kind,
        mode: stat.mode,
        nlink: u32::try_from(stat.nlink).unwrap_or(u32::MAX),
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        size: size(volume, node, stat),
        blocks: stat.blocks,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
    }
}

/// Where the length fits no layout or the state cannot be loaded, the object must still be seen, to be removed: then it
/// shows its physical length, and opening it is what fails.
fn size(volume: &Volume, node: &Arc<Node>, stat: &Stat) -> u64 {
    let env = &volume.env;
    match stat.kind {
        Kind::File => {
            if let Some(size) = volume
                .files
                .live(node)
                .and_then(|state| state.loaded_size())
            {
                return size;
            }
            let in_doubt = env.epochs.any_listed() && stat.size > 0 && !node.is_dead();
            if in_doubt
                && let Ok(size) = files::open(volume, node, false).and_then(|state| state.size())
            {
                return size;
            }
            match env.suite {
                Suite::Gcm => gcm_size(stat.size).unwrap_or(stat.size),
                Suite::Xts => xts_size(stat.size).unwrap_or(stat.size),
            }
        }
        Kind::Symlink => symlink_len(stat.size).unwrap_or(stat.size),
        _ => stat.size,
    }
}

/// The store's attributes of a node, by whatever leads to it.
pub(crate) fn stat(volume: &Volume, node: &Arc<Node>) -> Result<Stat> {
    if node.is_dead() && node.kind() == Kind::Dir {
        return node.last_stat().ok_or_else(|| Error::errno(libc::ENOENT));
    }
    match with_target(volume, node, |target| target.stat_of(node)) {
        Err(error) if error.code() == libc::ENOENT => node.last_stat().ok_or(error),
        stat => stat,
    }
}

/// Changes attributes, in an order in which one change does not undo another.
pub(crate) fn set_attr(
    volume: &Volume,
    node: &Arc<Node>,
    set: &SetAttr,
    handle: Option<&OpenFile>,
) -> Result<Attr> {
    volume.require_writable()?;
    if let Some(size) = set.size {
        set_size(volume, node, size, handle)?;
    }
    let stat = with_target(volume, node, |target| change(volume, node, set, target))?;
    if let Ok(part) = node.dir() {
        *locked(&part.inherit) = None;
    }
    Ok(of_stat(volume, node, &stat))
}

fn change(volume: &Volume, node: &Arc<Node>, set: &SetAttr, target: &Target) -> Result<Stat> {
    let chown = set.uid.is_some() || set.gid.is_some();
    let privileged = (chown || set.kill_suid) && !set.unprivileged;
    let before = match target {
        // A name may lead elsewhere by now, what is open does not.
        Target::File(_) | Target::Root(_) if !privileged => None,
        _ => Some(target.stat_of(node)?),
    };
    if chown {
        target.set_owner(set.uid, set.gid)?;
    }
    if let Some(mode) = set.mode.filter(|_| node.kind() != Kind::Symlink) {
        target.set_mode(mode & 0o7777)?;
    } else if let Some(before) = before.filter(|_| privileged && set.mode.is_none()) {
        drop_set_id(&before, target)?;
    }
    if node.kind() == Kind::File && privileged {
        xattr::drop_capability(volume, target)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        target.set_times(SetTimes {
            atime: set.atime,
            mtime: set.mtime,
        })?;
    }
    target.stat_of(node)
}

/// Takes setuid and setgid away where a store that changed the owner did not.
fn drop_set_id(before: &Stat, target: &Target) -> Result<()> {
    let left = without_suid(before.mode);
    let none = before.mode & 0o6000 == 0;
    if none || matches!(before.kind, Kind::Dir | Kind::Symlink) {
        return Ok(());
    }
    if target.stat()?.mode & 0o7777 != left {
        target.set_mode(left)?;
    }
    Ok(())
}

/// Without setuid, and without setgid where the group may execute (elsewhere it means mandatory locking).
fn without_suid(mode: u32) -> u32 {
    let setgid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | setgid)
}

fn set_size(volume: &Volume, node: &Arc<Node>, size: u64, handle: Option<&OpenFile>) -> Result<()> {
    let state = match handle {
        Some(handle) if handle.flags().write => Arc::clone(handle.state()),
        _ if size == 0 => files::open_unchecked(volume, node, true)?,
        _ => files::open(volume, node, true)?,
    };
    let unchanged = state.size().is_ok_and(|before| before == size);
    state.set_size(size)?;
    if unchanged && handle.is_some() {
        // ftruncate counts as a change even where nothing changes.
        state.set_times(SetTimes {
            atime: None,
            mtime: Some(TimeSpec::Now),
        })?;
    }
    Ok(())
}

/// The way to an object in the store.
pub(crate) enum Target<'a> {
    /// A file in use.
    File(Arc<FileState>),
    /// The root.
    Root(&'a Arc<dyn Dir>),
    /// An entry; the names of its directory are locked.
    Entry(&'a Arc<dyn Dir>, &'a [u8]),
}

/// The way to a node: its open file, or a name by which it is known, held still. ENOENT if it has none. `work` must not
/// open anything.
pub(crate) fn with_target<T>(
    volume: &Volume,
    node: &Arc<Node>,
    work: impl FnOnce(&Target) -> Result<T>,
) -> Result<T> {
    if node.is_root() {
        return work(&Target::Root(&volume.env.root));
    }
    match volume.files.live(node) {
        Some(state) => work(&Target::File(state)),
        None => dir::at_name(volume, node, |name| {
            work(&Target::Entry(name.dir, name.stored))
        }),
    }
}

impl Target<'_> {
    /// Its attributes; ESTALE if it is not this node's object any more.
    pub(crate) fn stat_of(&self, node: &Node) -> Result<Stat> {
        let stat = self.stat()?;
        if stat.ino == node.ino() {
            Ok(stat)
        } else {
            Err(Error::errno(libc::ESTALE))
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        match self {
            Self::File(state) => state.backing().stat(),
            Self::Root(dir) => dir.stat(),
            Self::Entry(dir, stored) => dir.stat_at(stored),
        }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self {
            Self::File(state) => state.backing().set_mode(mode),
            Self::Root(dir) => dir.set_mode(mode),
            Self::Entry(dir, stored) => dir.set_mode_at(stored, mode),
        }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match self {
            Self::File(state) => state.backing().set_owner(uid, gid),
            Self::Root(dir) => dir.set_owner(uid, gid),
            Self::Entry(dir, stored) => dir.set_owner_at(stored, uid, gid),
        }
    }

    fn set_times(&self, times: SetTimes) -> Result<()> {
        match self {
            // Settling restores the times that it knows of.
            Self::File(state) => state.set_times(times),
            Self::Root(dir) => Ok(dir.set_times(times)?),
            Self::Entry(dir, stored) => Ok(dir.set_times_at(stored, times)?),
        }
    }

    /// Runs `work` on its extended attributes.
    pub(crate) fn with_xattrs<T>(
        &self,
        work: impl FnOnce(&dyn Xattrs) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::File(state) => work(&*state.backing() as &dyn Xattrs),
            Self::Root(dir) => work(&***dir as &dyn Xattrs),
            Self::Entry(dir, stored) => work(&*dir.xattrs_at(stored)?),
        }
    }
}
