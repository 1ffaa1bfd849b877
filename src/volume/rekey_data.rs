//! Files encrypted anew: under a new file id and a new data key, as new ciphertext in the place of the old.
//!
//! Invariant: at every instant the name leads to the old file or to the new one, whole and durable; and no handle is left
//! on the old one. A file in use, and one with several names, is refused.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broken::{Rule, broken};
use crate::format::names::{TMP_PREFIX, random_tmp};
use crate::keys::KeyError;
use crate::store::{Dir, File, Kind, RenameMode, SetTimes, Stat, TimeSpec};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::file::body::Place;
use crate::volume::node::{Location, Node, lock_names};
use crate::volume::path::{at, join, resolve, shown};
use crate::volume::sync::locked;
use crate::volume::{dir, files, xattr};

/// Bytes copied in one step.
const STEP: usize = 1 << 20;
/// How often a file is tried that changes meanwhile, or that somebody looks at.
const TRIES: usize = 16;
/// How many refused files a report names.
const NAMED: usize = 1000;

/// What `rekey_data` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RekeyData {
    /// Files encrypted anew.
    pub files: u64,
    /// Their sizes together, bytes.
    pub bytes: u64,
    /// Files without a byte, which have no data key.
    pub empty: u64,
    /// Files that were refused; the report names the first thousand.
    pub refused: u64,
    /// Which, and why.
    pub reasons: Vec<RefusedFile>,
}

/// A file that was not encrypted anew: it is as it was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefusedFile {
    /// Its path from the top of the volume, as far as it is UTF-8.
    pub path: String,
    /// A sentence.
    pub why: String,
}

/// How far it is, after each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RekeyDataProgress {
    /// Files encrypted anew so far.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Volume {
    /// Encrypts the files at these paths (from the top of the volume; of directories, all files below) under new data keys.
    /// Goes on past files that it refuses. Not while the master key rotates (InvalidState).
    pub fn rekey_data(
        &self,
        paths: &[Vec<u8>],
        progress: &mut dyn FnMut(RekeyDataProgress),
    ) -> Result<RekeyData> {
        self.require_writable()?;
        // A header made now under a hidden name would slip past a rotation's walk.
        let _one = self.rotating.try_lock().map_err(|_| {
            Error::Key(KeyError::InvalidState(
                "the volume's master key is being rotated, or files are being encrypted anew: wait for it".to_owned(),
            ))
        })?;
        let mut run = Run {
            volume: self,
            report: RekeyData::default(),
            progress,
        };
        for path in paths {
            run.walk(path)?;
        }
        Ok(run.report)
    }
}

struct Run<'a> {
    volume: &'a Volume,
    report: RekeyData,
    progress: &'a mut dyn FnMut(RekeyDataProgress),
}

impl Run<'_> {
    fn walk(&mut self, path: &[u8]) -> Result<()> {
        let top = resolve(self.volume, path)?;
        let mut left = Vec::new();
        match top.kind() {
            Kind::File => {
                let above = self.volume.parent(&top)?;
                sweep(self.volume, &above).map_err(at(path))?;
                self.file(path, &top)?;
            }
            Kind::Dir => left.push((path.to_vec(), top)),
            _ => {}
        }
        while let Some((path, node)) = left.pop() {
            sweep(self.volume, &node).map_err(at(&path))?;
            for name in self.names(&path, &node)? {
                let below = join(&path, &name);
                match self.volume.lookup(&node, &name) {
                    Ok((child, _)) if child.kind() == Kind::File => self.file(&below, &child)?,
                    Ok((child, _)) if child.kind() == Kind::Dir => left.push((below, child)),
                    Ok(_) => {}
                    Err(error) if error.code() == libc::ENOENT => {} // removed meanwhile
                    Err(error) => return Err(at(&below)(error)),
                }
            }
        }
        Ok(())
    }

    /// All at once, since replaced files may show again in a listing under way.
    fn names(&self, path: &[u8], node: &Arc<Node>) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut position = 0;
        loop {
            let batch = self.volume.read_dir(node, position).map_err(at(path))?;
            let Some(last) = batch.last() else {
                return Ok(names);
            };
            position = last.next;
            names.extend(batch.into_iter().map(|entry| entry.name));
        }
    }

    fn file(&mut self, path: &[u8], node: &Arc<Node>) -> Result<()> {
        match rekey(self.volume, node) {
            Ok(0) => self.report.empty += 1,
            Ok(bytes) => {
                self.report.files += 1;
                self.report.bytes += bytes;
            }
            Err(Error::Refused(libc::ENOENT)) => {} // removed meanwhile
            Err(error) if is_this_files_own(&error) => {
                self.report.refused += 1;
                if self.report.reasons.len() < NAMED {
                    self.report.reasons.push(RefusedFile {
                        path: shown(path),
                        why: sentence(&error),
                    });
                }
            }
            Err(error) => return Err(at(path)(error)),
        }
        (self.progress)(RekeyDataProgress {
            files: self.report.files,
            bytes: self.report.bytes,
        });
        Ok(())
    }
}

/// Whether other files may well go.
fn is_this_files_own(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused(libc::EBUSY | libc::EMLINK) | Error::Damaged(_)
    )
}

fn sentence(error: &Error) -> String {
    match error {
        Error::Refused(libc::EBUSY) => {
            "it is in use: close what has it open, and run this again".to_owned()
        }
        Error::Refused(libc::EMLINK) => {
            "it has several names (hard links), which cannot all be moved to new ciphertext at one instant: copy it, or \
             remove its other names first"
                .to_owned()
        }
        error => error.to_string(),
    }
}

/// Encrypts one file anew; its size. 0: it has no byte, and no key.
///
/// # Errors
/// EBUSY for a file in use, EMLINK for one with several names.
fn rekey(volume: &Volume, node: &Arc<Node>) -> Result<u64> {
    for _ in 0..TRIES {
        volume.held.close(node.id()); // who needs it opens what it is by then
        let old = files::open(volume, node, true)?;
        if old.backing().stat()?.nlink > 1 {
            return Err(Error::errno(libc::EMLINK));
        }
        if old.size()? == 0 {
            return Ok(0);
        }
        if !is_ours_alone(&old, 0) {
            std::thread::yield_now(); // perhaps somebody only looks at it
            continue;
        }
        let known = node.location()?;
        let directory = dir::open(volume, &known.parent)?;
        let made = match Anew::make(volume, &known, &directory, &old) {
            Err(Error::Refused(libc::EAGAIN)) => continue, // it was cut meanwhile
            made => made?,
        };
        if let Some(size) = made.take_its_place(volume, node, old)? {
            return Ok(size);
        }
    }
    Err(Error::errno(libc::EBUSY))
}

/// Whether nobody but the caller, the settler and `more` others hold the state.
fn is_ours_alone(state: &Arc<FileState>, more: usize) -> bool {
    let listed = usize::from(state.listed.load(Ordering::Acquire));
    Arc::strong_count(state) <= 1 + listed + more
}

/// The new file, under a hidden name beside the old one.
struct Anew {
    hidden: Vec<u8>,
    known: Location,
    directory: Arc<dyn Dir>,
    state: Arc<FileState>,
    size: u64,
    /// Changes of the old file when its contents were read.
    seen: u64,
    placed: bool,
}

impl Anew {
    /// Contents that are durable, under the name that the file has.
    fn make(
        volume: &Volume,
        known: &Location,
        directory: &Arc<dyn Dir>,
        old: &Arc<FileState>,
    ) -> Result<Self> {
        let here = Place {
            dir: dir::id(volume, &known.parent)?,
            stored: known.stored.clone(),
        };
        let hidden = random_tmp();
        let backing = {
            let _names = lock_names(&[&known.parent]);
            keeping_mtime(directory, || directory.create(&hidden, 0o600))?
        };
        let state = FileState::new(
            &volume.env,
            &volume.settler,
            backing,
            true,
            here,
            Arc::clone(directory),
        );
        let made = Self {
            hidden,
            known: known.clone(),
            directory: Arc::clone(directory),
            state,
            seen: old.user_changes(),
            size: old.size()?,
            placed: false,
        };
        copy_contents(old, &made.state, made.size)?;
        if !broken(Rule::AnewUnsynced) {
            made.state.sync(true)?;
        }
        Ok(made)
    }

    /// Puts it in the place of the old file; its size, or `None` if that changed, moved or was looked at meanwhile.
    fn take_its_place(
        mut self,
        volume: &Volume,
        node: &Arc<Node>,
        old: Arc<FileState>,
    ) -> Result<Option<u64>> {
        let parent = Arc::clone(&self.known.parent);
        let _names = lock_names(&[&parent]);
        let _opening = locked(&node.opening);
        let entry = &self.known.stored;
        let still = node.is_at(&self.known.parent, entry)
            && self.directory.stat_at(entry)?.ino == node.ino();
        // From here on nobody gets at the old state, nor at the file by any other way.
        if !still || !volume.files.take_out(node.ino(), is_ours_alone) {
            return Ok(None);
        }
        let placed = self.replace(&old);
        if !matches!(placed, Ok(Some(_))) {
            volume.files.insert(node, node.ino(), &old, true);
        }
        let Some(ino) = placed? else {
            return Ok(None);
        };
        self.placed = true;
        volume.files.insert(node, ino, &self.state, true);
        node.moved_to_inode(ino);
        node.checked_at(&self.known.parent, &self.known.stored);
        old.last_name_gone();
        if !broken(Rule::AnewNameUnsynced) {
            self.directory.sync()?;
        }
        Ok(Some(self.size))
    }

    /// With everybody kept out of the old file: the inode number of the one that replaced it, or `None` if it changed.
    fn replace(&self, old: &FileState) -> Result<Option<u64>> {
        let before = old.backing().stat()?;
        if old.user_changes() != self.seen || before.nlink != 1 {
            return Ok(None);
        }
        self.take_attributes(&*old.backing(), &before)?;
        let ino = self.state.backing().stat()?.ino;
        let (from, entry) = (&self.directory, &self.known.stored);
        keeping_mtime(from, || {
            from.rename(&self.hidden, &**from, entry, RenameMode::Replace)
        })?;
        Ok(Some(ino))
    }

    /// Owner, mode, extended attributes and times, as the store has them, durable.
    fn take_attributes(&self, old: &dyn File, before: &Stat) -> Result<()> {
        let new = self.state.backing();
        let made = new.stat()?;
        if (made.uid, made.gid) != (before.uid, before.gid) {
            new.set_owner(Some(before.uid), Some(before.gid))?;
        }
        for name in old.xattr_names()? {
            if xattr::is_kept(&name) {
                new.set_xattr(&name, &old.xattr(&name)?, false, false)?;
            }
        }
        new.set_mode(before.mode)?;
        self.state.set_times(SetTimes {
            atime: Some(TimeSpec::At(before.atime)),
            mtime: Some(TimeSpec::At(before.mtime)),
        })?;
        if broken(Rule::AnewUnsynced) {
            return Ok(());
        }
        self.state.sync(true)
    }
}

impl Drop for Anew {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        let _names = lock_names(&[&self.known.parent]);
        let removed = keeping_mtime(&self.directory, || self.directory.remove(&self.hidden));
        if let Err(error) = removed {
            tracing::warn!("a file that was not put in its place stays hidden: {error}");
        }
        self.state.last_name_gone();
    }
}

/// Changes the entries of a directory, whose names are locked, and puts its mtime back.
fn keeping_mtime<T>(dir: &Arc<dyn Dir>, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mtime = dir.stat()?.mtime;
    let done = change()?;
    let times = SetTimes {
        atime: None,
        mtime: Some(TimeSpec::At(mtime)),
    };
    if let Err(error) = dir.set_times(times) {
        tracing::debug!("a directory's mtime was not put back: {error}"); // the change itself is made
    }
    Ok(done)
}

/// Copies `size` bytes; holes stay holes where the volume has them.
pub(crate) fn copy_contents(from: &FileState, to: &FileState, size: u64) -> Result<()> {
    let mut buffer = vec![0; STEP];
    let mut position = 0;
    while let Some(data) = from.next_data(position)?.filter(|data| *data < size) {
        let end = from.next_hole(data)?.min(size).max(data + 1);
        position = data;
        while position < end {
            let step = usize::try_from(end - position).map_or(STEP, |left| left.min(STEP));
            let room = buffer.get_mut(..step).unwrap_or_default();
            let read = from.read(position, room)?;
            let bytes = room.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                return Err(Error::errno(libc::EAGAIN)); // it was cut meanwhile
            }
            to.write(position, bytes)?;
            position += read as u64;
        }
    }
    to.grow(size)
}

/// Removes what an interrupted run left in a directory: files under hidden names. With the names of the directory and of
/// the one above it locked nobody else is making any, and one run goes at a time.
fn sweep(volume: &Volume, node: &Arc<Node>) -> Result<()> {
    let directory = dir::open(volume, node)?;
    let mut left = Vec::new();
    let mut position = 0;
    loop {
        let batch = directory.entries(position)?;
        let Some(last) = batch.last() else {
            break;
        };
        position = last.next;
        let hidden = batch.into_iter().map(|entry| entry.name);
        left.extend(hidden.filter(|name| name.starts_with(TMP_PREFIX)));
    }
    if left.is_empty() {
        return Ok(());
    }
    let above = volume.parent(node)?;
    let _names = lock_names(&[&above, node]);
    if !node.is_root()
        && node
            .location()
            .is_ok_and(|now| !Arc::ptr_eq(&now.parent, &above))
    {
        return Ok(()); // it moved just now; the next run sweeps
    }
    for name in left {
        match directory.stat_at(&name) {
            Ok(stat) if stat.kind == Kind::File => {
                keeping_mtime(&directory, || directory.remove(&name))?;
            }
            _ => {}
        }
    }
    Ok(())
}
