//! The one `FileState` of each inode in use, and the backing file under it.
//!
//! Invariant: never two states of one inode at a time. A state holds its backing file open, so an inode number cannot be
//! given to another object while its state lives.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use crate::format::suite::Suite;
use crate::store::{Access, Dir, File, Kind, Stat};
use crate::volume::access::with_owner_bits;
use crate::volume::dir;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::file::body::Place;
use crate::volume::held::is_out_of_descriptors;
use crate::volume::node::{Location, Node, Replaced};
use crate::volume::spot::{Found, Spot};
use crate::volume::sync::locked;

/// States by inode number.
#[derive(Default)]
pub(crate) struct FileTable(Mutex<Table>);

#[derive(Default)]
struct Table {
    states: HashMap<u64, Held>,
    /// Size at which the dead entries are swept out next.
    sweep_at: usize,
}

struct Held {
    state: Weak<FileState>,
    /// The number of the node that had it last. One whose name went may stand for an inode that another object has by now.
    node: u64,
    writable: bool,
}

impl FileTable {
    /// The state of a file, if it is in use.
    pub(crate) fn live(&self, node: &Node) -> Option<Arc<FileState>> {
        self.live_for(node, false).map(|(state, _)| state)
    }

    /// As `live`, and whether it can be used so.
    fn live_for(&self, node: &Node, write: bool) -> Option<(Arc<FileState>, bool)> {
        loop {
            let ino = node.ino();
            let found = {
                let mut table = locked(&self.0);
                let held = table.states.get_mut(&ino);
                let held = held.filter(|held| node.is_found() || held.node == node.id());
                held.and_then(|held| {
                    held.node = node.id();
                    Some((held.state.upgrade()?, held.writable || !write))
                })
            };
            // A file that was encrypted anew meanwhile is another inode, and its old number may be another file's by now.
            if node.ino() == ino {
                return found;
            }
        }
    }

    /// The state of the inode with this number, which `node` stands for.
    pub(crate) fn insert(&self, node: &Node, ino: u64, state: &Arc<FileState>, writable: bool) {
        let mut table = locked(&self.0);
        if table.states.len() >= table.sweep_at {
            table.states.retain(|_, held| held.state.strong_count() > 0);
            table.sweep_at = 2 * table.states.len() + 64;
        }
        table.states.insert(
            ino,
            Held {
                state: Arc::downgrade(state),
                node: node.id(),
                writable,
            },
        );
    }

    /// Takes the state of an inode out, if `alone` says that nobody else has it: nobody gets it from here any more. The
    /// caller keeps others from opening the file.
    pub(crate) fn take_out(
        &self,
        ino: u64,
        alone: impl FnOnce(&Arc<FileState>, usize) -> bool,
    ) -> bool {
        let mut table = locked(&self.0);
        let state = table.states.get(&ino).and_then(|held| held.state.upgrade());
        // The upgrade above is one holder more.
        let taken = state.is_none_or(|state| alone(&state, 1));
        if taken {
            table.states.remove(&ino);
        }
        taken
    }

    /// Unloads every state in use, its keys with it; how many of them were not at rest.
    pub(crate) fn unload(&self) -> usize {
        self.all_live()
            .iter()
            .filter(|state| !state.unload())
            .count()
    }

    /// Every state in use.
    pub(crate) fn all_live(&self) -> Vec<Arc<FileState>> {
        let table = locked(&self.0);
        let held = table.states.values();
        held.filter_map(|held| held.state.upgrade()).collect()
    }

    fn now_writable(&self, ino: u64) {
        if let Some(held) = locked(&self.0).states.get_mut(&ino) {
            held.writable = true;
        }
    }
}

/// The entry by which a file is opened; its directory's names are locked.
pub(crate) struct Entry<'a> {
    /// The open directory.
    pub(crate) dir: &'a Arc<dyn Dir>,
    /// The name, as name tags bind it.
    pub(crate) place: Place,
}

/// The state of a file, found bound to every name by which this mount knows it. `write`: it can be written through.
pub(crate) fn open(volume: &Volume, node: &Arc<Node>, write: bool) -> Result<Arc<FileState>> {
    let state = open_unchecked(volume, node, write)?;
    if node.locations().is_empty() && state.loaded_size().is_none() {
        state.check_last_name()?;
    }
    check_names(volume, node, &state)?;
    Ok(state)
}

/// Before a name of a file goes: if it is the last one known, and nobody says who has files open, it stays to be opened
/// until the node is let go. Where the store does not let it be opened, who has it open gets ESTALE.
///
/// # Errors
/// EMFILE, ENFILE: there is no descriptor for it, so that the name must not go.
pub(crate) fn keep_removed(volume: &Volume, spot: &Spot, found: &Found) -> Result<()> {
    let node = &found.node;
    if node.kind() == Kind::File && may_be_needed(volume, spot, node) {
        node.keep_replaced(kept(volume, spot, node)?);
    }
    Ok(())
}

/// Before another object takes the last name of this one: what it holds is kept until the node is forgotten. As on any
/// file system, who looked the name up before that may still open it. Where it cannot be had, such an open is ESTALE.
///
/// # Errors
/// As `keep_removed`.
pub(crate) fn keep_replaced(volume: &Volume, spot: &Spot, found: &Found) -> Result<()> {
    let (node, stat) = (&found.node, &found.stat);
    let is_last = stat.nlink == 1;
    let replaced = match stat.kind {
        Kind::File if may_be_needed(volume, spot, node) => kept(volume, spot, node)?,
        Kind::File if is_last => open_at(volume, node, false, &spot.file())
            .ok()
            .map(|state| Replaced::File(state, None)),
        Kind::Symlink if is_last => {
            let sealed = spot.dir.read_link(spot.entry());
            sealed.ok().map(Replaced::Symlink)
        }
        _ => None,
    };
    node.keep_replaced(replaced);
    Ok(())
}

/// Whether a caller may have a file open without a word, that no other name leads to.
fn may_be_needed(volume: &Volume, spot: &Spot, node: &Node) -> bool {
    let leads_on = |name: &Location| !name.is(&spot.node, spot.entry());
    volume.held.is_used() && node.holds() > 0 && !node.locations().iter().any(leads_on)
}

fn kept(volume: &Volume, spot: &Spot, node: &Arc<Node>) -> Result<Option<Replaced>> {
    let pin = volume.held.pin()?;
    let write = !volume.env.read_only;
    let open = || open_at(volume, node, write, &spot.file());
    match volume.held.with_descriptors(open) {
        Err(error) if is_out_of_descriptors(&error) => Err(error),
        state => Ok(state.ok().map(|state| Replaced::File(state, Some(pin)))),
    }
}

/// As `open`, for a file whose content is about to go: nothing is read.
pub(crate) fn open_unchecked(
    volume: &Volume,
    node: &Arc<Node>,
    write: bool,
) -> Result<Arc<FileState>> {
    require_file(node)?;
    if let Some((state, true)) = volume.files.live_for(node, write) {
        return Ok(state);
    }
    volume.settler.make_room();
    let opened = dir::at_name(volume, node, |name| {
        let place = Place {
            dir: name.dir_id,
            stored: name.stored.to_vec(),
        };
        open_at(
            volume,
            node,
            write,
            &Entry {
                dir: name.dir,
                place,
            },
        )
    });
    // Its last name may have gone meanwhile, and what it was been kept.
    opened.or_else(|error| match volume.files.live_for(node, write) {
        Some((state, true)) => Ok(state),
        _ => Err(error),
    })
}

/// The state of a file by an entry whose directory's names are locked; no name is checked.
pub(crate) fn open_at(
    volume: &Volume,
    node: &Arc<Node>,
    write: bool,
    entry: &Entry,
) -> Result<Arc<FileState>> {
    require_file(node)?;
    let _one = locked(&node.opening);
    match volume.files.live_for(node, write) {
        Some((state, true)) => Ok(state),
        Some((state, false)) => {
            let opened = open_backing(&volume.env, node, entry, true)?;
            state.make_writable(opened.file);
            volume.files.now_writable(node.ino());
            Ok(state)
        }
        None => {
            let opened = open_backing(&volume.env, node, entry, write)?;
            Ok(adopt(volume, node, opened, entry, false))
        }
    }
}

/// The state of a file just made, through the creator's descriptor. Since then the names of its directory are locked: nobody
/// else has it yet, and whoever gives it another name finds this state.
pub(crate) fn created(
    volume: &Volume,
    node: &Arc<Node>,
    backing: Arc<dyn File>,
    entry: &Entry,
) -> Arc<FileState> {
    let _one = locked(&node.opening);
    let opened = Opened {
        file: backing,
        writable: true,
        len: 0,
    };
    adopt(volume, node, opened, entry, true)
}

fn adopt(
    volume: &Volume,
    node: &Arc<Node>,
    opened: Opened,
    entry: &Entry,
    made: bool,
) -> Arc<FileState> {
    let (here, directory) = (entry.place.clone(), Arc::clone(entry.dir));
    let state = FileState::new(
        &volume.env,
        &volume.settler,
        opened.file,
        opened.writable,
        here,
        directory,
    );
    // All before it is in the table, where others find it: the length would be an old one to who had it by then.
    state.opened_with(opened.len);
    if made {
        state.was_made_as(node.ino());
    }
    node.nothing_checked();
    let writable = opened.writable;
    volume.files.insert(node, node.ino(), &state, writable);
    state
}

/// Checks every name of the file that was not checked since it was loaded.
fn check_names(volume: &Volume, node: &Arc<Node>, state: &Arc<FileState>) -> Result<()> {
    for name in node.locations().into_iter().filter(|name| !name.checked) {
        let loaded = dir::id(volume, &name.parent).and_then(|dir| {
            let stored = name.stored.clone();
            state.load(&Place { dir, stored })
        });
        match loaded {
            Ok(()) => node.checked_at(&name.parent, &name.stored),
            // A name that went meanwhile, and its directory with it, needs no tag.
            Err(_) if !node.is_at(&name.parent, &name.stored) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn require_file(node: &Node) -> Result<()> {
    match node.kind() {
        Kind::File => Ok(()),
        Kind::Dir => Err(Error::errno(libc::EISDIR)),
        _ => Err(Error::errno(libc::EINVAL)),
    }
}

/// A file opened in the store.
struct Opened {
    file: Arc<dyn File>,
    writable: bool,
    /// Physical length, bytes.
    len: u64,
}

/// Opens for writing where that is possible, so that re-wrap, settling and mending can; where only reading is asked for,
/// a file that cannot be written is opened for reading.
fn open_backing(env: &Env, node: &Node, entry: &Entry, write: bool) -> Result<Opened> {
    let (directory, stored) = (entry.dir, &entry.place.stored);
    let open = |access| directory.open(stored, access);
    let (file, writable) = if env.read_only {
        (open(Access::Read)?, false) // no mode is touched
    } else if write {
        (
            with_owner_bits(directory, stored, 0o600, || open(Access::ReadWrite))?,
            true,
        )
    } else {
        match open(Access::ReadWrite) {
            Ok(file) => (file, true),
            Err(error) if forbids_writing(&error) => (
                with_owner_bits(directory, stored, 0o400, || open(Access::Read))?,
                false,
            ),
            Err(error) => return Err(error.into()),
        }
    };
    let stat = file.stat_as_opened()?;
    if stat.ino != node.ino() {
        return Err(Error::errno(libc::ESTALE));
    }
    Ok(Opened {
        file,
        writable,
        len: stat.size,
    })
}

fn forbids_writing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY)
    )
}

/// Whether names of a file with this stat are bound, so that its header must learn of a new name.
pub(crate) fn is_bound(env: &Env, stat: &Stat) -> bool {
    env.suite == Suite::Gcm && env.bind_names && stat.kind == Kind::File && stat.size > 0
}
