//! Removing files and directories.

use std::io;
use std::sync::Arc;

use crate::broken::{Rule, broken};
use crate::format::names::{DIR_FILE, EntryClass, classify, is_gone_marker, random_tmp};
use crate::store::{Dir, Kind, RenameMode, Stat};
use crate::volume::access::with_owner_bits;
use crate::volume::carry::text;
use crate::volume::dir_id::mark;
use crate::volume::error::{Error, Result};
use crate::volume::files;
use crate::volume::listing::{Contents, contents};
use crate::volume::log::{Gone, Intent};
use crate::volume::names::drop_side;
use crate::volume::node::{Going, Node, lock_names};

use crate::volume::facade::Volume;
use crate::volume::spot::{Found, Spot};
use crate::volume::sync::locked;

/// How often an entry that keeps changing is looked at.
const TRIES: usize = 64;

/// Removes a name of a file, symlink or special file. EISDIR for a directory.
pub(crate) fn unlink(volume: &Volume, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
    volume.require_writable()?;
    unlink_at(volume, &Spot::new(volume, parent, name)?)
}

/// As `unlink`, by the stored name.
pub(crate) fn unlink_at(volume: &Volume, spot: &Spot) -> Result<()> {
    let _names = spot.lock()?;
    let mut found = spot.find_locked(volume)?;
    if found.stat.kind == Kind::Dir {
        return Err(Error::errno(libc::EISDIR));
    }
    volume.intend(|| going_from(spot, &found))?;
    files::keep_removed(volume, spot, &found)?;
    let taken = take_name(volume, spot, &mut found, || spot.dir.remove(spot.entry()));
    taken.inspect_err(|_| found.node.keep_replaced(None))?;
    drop_side(&spot.dir, spot.entry());
    removed(volume, spot, &found);
    Ok(())
}

fn going_from(spot: &Spot, found: &Found) -> Result<Intent> {
    Ok(Intent::Remove(Gone {
        dir: spot.node.id(),
        stored: text(spot.entry())?,
        node: found.node.id(),
        stat: found.stat,
    }))
}

/// Runs `work`, which takes a name from the object, with the number of its links as of then in `found`: two names of one
/// object that go at once must not both be taken for the last but one. A file in use knows of it before and, if it fails,
/// after.
pub(crate) fn take_name(
    volume: &Volume,
    spot: &Spot,
    found: &mut Found,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let node = Arc::clone(&found.node);
    let _one = locked(&node.opening);
    if found.stat.nlink > 1 {
        found.stat = spot.dir.stat_at(spot.entry())?;
    }
    // A file whose last name goes is never settled again, so that no tag of it is dropped.
    let _moving = (found.stat.nlink > 1).then(|| volume.settler.moving(&found.stat));
    let state = volume.files.live(&node);
    if let Some(state) = &state {
        state.name_going(&spot.place());
    }
    let is_last = found.stat.kind == Kind::Dir || found.stat.nlink <= 1;
    let going = is_last.then(|| volume.nodes.going(&node));
    match work() {
        Ok(()) => {
            going.into_iter().for_each(Going::gone);
            Ok(())
        }
        Err(error) => {
            drop(going);
            if let Some(state) = &state {
                state.name_is(&spot.place());
            }
            Err(error)
        }
    }
}

/// After the name of an object went; `found` as it was just before.
pub(crate) fn removed(volume: &Volume, spot: &Spot, found: &Found) {
    let (node, stat) = (&found.node, &found.stat);
    let nlink = if stat.kind == Kind::Dir {
        0
    } else {
        stat.nlink.saturating_sub(1)
    };
    node.gone_from(&spot.node, spot.entry(), Some(Stat { nlink, ..*stat }));
    if let Some(state) = volume.files.live(node) {
        state.name_gone(&spot.place());
        if nlink == 0 {
            state.last_name_gone();
        }
    }
    if nlink == 0 {
        volume.nodes.bury(node);
    }
    if let Ok(part) = node.dir() {
        drop(locked(&part.open).take());
    }
}

/// Removes an empty directory. ENOTDIR for anything else, ENOTEMPTY if it holds an entry.
pub(crate) fn remove_dir(volume: &Volume, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
    volume.require_writable()?;
    remove_dir_at(volume, &Spot::new(volume, parent, name)?)
}

/// As `remove_dir`, by the stored name.
pub(crate) fn remove_dir_at(volume: &Volume, spot: &Spot) -> Result<()> {
    for _ in 0..TRIES {
        let mut found = spot.find(volume)?;
        let node = Arc::clone(&found.node);
        let _names = lock_names(&[&spot.node, &node]);
        spot.require_living()?;
        if !spot.still(Some(&mut found))? {
            continue;
        }
        if found.stat.kind != Kind::Dir {
            return Err(Error::errno(libc::ENOTDIR));
        }
        volume.intend(|| going_from(spot, &found))?;
        let going = volume.nodes.going(&node);
        match spot.dir.remove_dir(spot.entry()) {
            Err(error) if is_not_empty(&error) => hide(spot)?.purge(),
            done => done?,
        }
        going.gone();
        drop_side(&spot.dir, spot.entry());
        removed(volume, spot, &found);
        return Ok(());
    }
    Err(Error::errno(libc::ESTALE))
}

/// What stores say of a directory that is not empty.
pub(crate) fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST))
}

/// A directory without entries of the user's, out of sight under a hidden name beside its own.
pub(crate) struct Hidden<'a> {
    spot: &'a Spot,
    name: Vec<u8>,
    mode: u32,
    child: Arc<dyn Dir>,
    ours: Contents,
}

/// Takes a directory that holds nothing but our own files out of sight; ENOTEMPTY if it holds anything else. If it holds
/// markers, it leaves one for its own name, so that its id cannot come back with theirs below it.
pub(crate) fn hide(spot: &Spot) -> Result<Hidden<'_>> {
    let (dir, entry) = (&spot.dir, spot.entry());
    let child = with_owner_bits(dir, entry, 0o500, || dir.open_dir(entry))?;
    let seen = only_ours(&child)?;
    if seen.ours.iter().any(|entry| is_gone_marker(&entry.name)) {
        mark(&spot.node, dir, entry)?;
    }
    // A power cut may keep the new name and bring back an entry that was removed before: a directory that nobody sees and
    // that is not empty.
    child.sync()?;
    let mode = child.stat()?.mode;
    let name = random_tmp();
    dir.rename(entry, &**dir, &name, RenameMode::Replace)?;
    let mut hidden = Hidden {
        spot,
        name,
        mode,
        child,
        ours: seen,
    };
    match hidden.look_again() {
        Ok(()) => Ok(hidden),
        Err(error) => {
            hidden.restore();
            Err(error)
        }
    }
}

impl Hidden<'_> {
    /// Nothing can be put into it any more: what is there now is all there is.
    fn look_again(&mut self) -> Result<()> {
        self.ours = only_ours(&self.child)?;
        self.spot.dir.set_mode_at(&self.name, self.mode | 0o700)?;
        // One that a crash left hidden goes, too; if it holds anything else than our files it is kept, and so is this one.
        for entry in self
            .ours
            .ours
            .iter()
            .filter(|entry| entry.kind == Some(Kind::Dir))
        {
            remove_hidden(&self.child, &entry.name, NESTED_MAX)?;
        }
        self.ours.ours.retain(|entry| entry.kind != Some(Kind::Dir));
        Ok(())
    }

    /// Puts it back under its name.
    pub(crate) fn restore(&self) {
        let dir = &self.spot.dir;
        let restored = dir
            .set_mode_at(&self.name, self.mode)
            .and_then(|()| dir.rename(&self.name, &**dir, self.spot.entry(), RenameMode::Replace));
        if let Err(error) = restored {
            tracing::error!("an empty directory stays hidden in the backing directory: {error}");
        }
    }

    /// Removes it, once it is durably hidden: it must not come back under its name without the files that say which
    /// directory it is. What cannot be removed stays hidden, without a name that anyone sees, and is shown by `check`.
    pub(crate) fn purge(self) {
        let last = self.ours.ours.iter().filter(|entry| entry.name == DIR_FILE);
        let first = self.ours.ours.iter().filter(|entry| entry.name != DIR_FILE);
        let hidden = match broken(Rule::PurgeUnsynced) {
            true => Ok(()),
            false => self.spot.dir.sync(),
        };
        let purged = hidden.and_then(|()| {
            let mut ours = first.chain(last);
            ours.try_for_each(|entry| self.child.remove(&entry.name))
        });
        if let Err(error) = purged.and_then(|()| self.spot.dir.remove_dir(&self.name)) {
            tracing::warn!("a removed directory stays hidden in the backing directory: {error}");
        }
    }
}

/// Hidden directories within each other that a removal goes down: a crash leaves one, an enemy at the store any number.
const NESTED_MAX: usize = 16;

/// Removes a hidden directory that holds nothing but our own files; ENOTEMPTY if it holds anything else, or more of its kind
/// within each other than `levels`.
fn remove_hidden(parent: &Arc<dyn Dir>, name: &[u8], levels: usize) -> Result<()> {
    let below = levels.checked_sub(1).ok_or(Error::errno(libc::ENOTEMPTY))?;
    let child = with_owner_bits(parent, name, 0o700, || parent.open_dir(name))?;
    let (dirs, files): (Vec<_>, Vec<_>) = only_ours(&child)?
        .ours
        .into_iter()
        .partition(|entry| entry.kind == Some(Kind::Dir));
    for dir in dirs {
        remove_hidden(&child, &dir.name, below)?;
    }
    with_owner_bits(parent, name, 0o700, || {
        files.iter().try_for_each(|file| child.remove(&file.name))
    })?;
    Ok(parent.remove_dir(name)?)
}

/// Removes the directories that stand hidden in this one, of removals that were cut off after they took the name.
pub(crate) fn purge_hidden(dir: &Arc<dyn Dir>) -> Result<()> {
    let mut hidden = Vec::new();
    let mut position = 0;
    loop {
        let batch = dir.entries(position)?;
        let Some(last) = batch.last() else { break };
        position = last.next;
        hidden.extend(batch.into_iter().filter(|entry| {
            classify(&entry.name) == EntryClass::Internal && entry.kind == Some(Kind::Dir)
        }));
    }
    if hidden.is_empty() {
        return Ok(());
    }
    dir.sync()?; // as in `purge`
    for entry in hidden {
        if let Err(error) = remove_hidden(dir, &entry.name, NESTED_MAX) {
            tracing::warn!("a removed directory stays hidden in the backing directory: {error}");
        }
    }
    Ok(())
}

fn only_ours(child: &Arc<dyn Dir>) -> Result<Contents> {
    let seen = contents(child)?;
    if seen.foreign {
        Err(Error::errno(libc::ENOTEMPTY))
    } else {
        Ok(seen)
    }
}
