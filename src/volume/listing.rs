//! Listings: entries deciphered in batches, at the store's own positions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::format::ids::DirId;
use crate::format::names::{EntryClass, classify};
use crate::store::{Dir, Entry, Kind};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::node::Node;
use crate::volume::spot::Found;
use crate::volume::sync::{locked, reading};
use crate::volume::{dir, names};

/// What mkfs leaves at the top of some file systems; no one else's entry is expected in a volume.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// How many damaged entries are remembered as logged.
const LOGGED_MAX: usize = 10_000;

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, 1 to 255 bytes.
    pub name: Vec<u8>,
    /// The number that its node has or will have.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Position after it: where the next batch goes on.
    pub next: u64,
}

/// Damaged entries that were logged already.
#[derive(Default)]
pub(crate) struct Logged(Mutex<HashSet<(u64, Vec<u8>)>>);

impl Logged {
    fn first_time(&self, dir: u64, entry: &[u8]) -> bool {
        let mut logged = locked(&self.0);
        logged.len() < LOGGED_MAX && logged.insert((dir, entry.to_vec()))
    }
}

/// Entries from position `from` (0: the start); empty at the end. Entries that are damaged are logged once and left out;
/// a directory with nothing but such entries is damaged itself.
pub(crate) fn read_dir(volume: &Volume, node: &Arc<Node>, from: u64) -> Result<Vec<DirEntry>> {
    list(volume, node, from, false)
}

/// As `read_dir`, for who must not miss any: the first damaged entry is an error.
pub(crate) fn read_dir_whole(
    volume: &Volume,
    node: &Arc<Node>,
    from: u64,
) -> Result<Vec<DirEntry>> {
    list(volume, node, from, true)
}

fn list(volume: &Volume, node: &Arc<Node>, from: u64, whole: bool) -> Result<Vec<DirEntry>> {
    if node.is_dead() {
        node.dir()?;
        return Ok(Vec::new());
    }
    let listed = dir::open(volume, node)?;
    let id = dir::id(volume, node)?;
    let mut position = from;
    let mut damaged = 0;
    loop {
        let batch = listed.entries(position)?;
        let Some(last) = batch.last() else { break };
        position = last.next;
        let mut entries = Vec::with_capacity(batch.len());
        for entry in batch {
            if is_not_ours(node, &entry) {
                continue;
            }
            match decipher(volume, &listed, &id, entry.clone()) {
                Ok(found) => entries.extend(found),
                Err(error) if is_gone(&error) => {}
                Err(error) if whole => {
                    let stored = String::from_utf8_lossy(&entry.name);
                    return Err(Error::Damaged(format!(
                        "entry {stored} of the backing directory: {error}"
                    )));
                }
                Err(error) => {
                    damaged += 1;
                    log(volume, node, &entry, &error);
                }
            }
        }
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    if damaged > 0 && from == 0 {
        return Err(Error::Damaged(
            "no entry of a directory can be deciphered".to_owned(),
        ));
    }
    Ok(Vec::new())
}

fn decipher(
    volume: &Volume,
    dir: &Arc<dyn Dir>,
    id: &DirId,
    entry: Entry,
) -> Result<Option<DirEntry>> {
    let Some(name) = names::open(&volume.env, dir, id, &entry.name)? else {
        return Ok(None);
    };
    let kind = match entry.kind {
        Some(kind) => kind,
        None => dir.stat_at(&entry.name)?.kind,
    };
    let id = volume
        .nodes
        .living(entry.ino)
        .map_or(entry.ino, |node| node.id());
    Ok(Some(DirEntry {
        name,
        id,
        kind,
        next: entry.next,
    }))
}

/// An entry that went while the listing ran.
fn is_gone(error: &Error) -> bool {
    error.code() == libc::ENOENT
}

fn log(volume: &Volume, node: &Arc<Node>, entry: &Entry, error: &Error) {
    if volume.logged.first_time(node.ino(), &entry.name) {
        let stored = String::from_utf8_lossy(&entry.name);
        tracing::warn!(
            "an entry of directory {} is left out of its listing ({error}): {stored}",
            node.ino()
        );
    }
}

/// What a directory holds, as stored.
#[derive(Default)]
pub(crate) struct Contents {
    /// Whether anything is there that is not ours.
    pub(crate) foreign: bool,
    /// Our own entries.
    pub(crate) ours: Vec<Entry>,
}

/// Looks at the raw listing of a directory, up to the first entry that is not ours.
pub(crate) fn contents(dir: &Arc<dyn Dir>) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut position = 0;
    loop {
        let batch = dir.entries(position)?;
        let Some(last) = batch.last() else {
            return Ok(contents);
        };
        position = last.next;
        for entry in batch {
            match classify(&entry.name) {
                EntryClass::SideFile | EntryClass::Internal => contents.ours.push(entry),
                EntryClass::Name | EntryClass::Long => {
                    contents.foreign = true;
                    return Ok(contents);
                }
            }
        }
    }
}

/// Entries of a directory that may be the user's, deciphered or not.
pub(crate) struct RawBatch {
    /// What they stand for.
    pub(crate) found: Vec<Found>,
    /// Position after them.
    pub(crate) next: u64,
}

/// Some of them from position `from` (0: the start), maybe none; `None` at the end.
pub(crate) fn raw_batch(volume: &Volume, node: &Arc<Node>, from: u64) -> Result<Option<RawBatch>> {
    let listed = dir::open(volume, node)?;
    let batch = listed.entries(from)?;
    let Some(last) = batch.last() else {
        return Ok(None);
    };
    let next = last.next;
    let mut found = Vec::new();
    for entry in batch {
        if is_not_ours(node, &entry) || !is_stored_name(&entry) {
            continue;
        }
        let _names = reading(&node.dir()?.names);
        match listed.stat_at(&entry.name) {
            Ok(stat) => found.push(Found {
                node: volume.nodes.found(&stat, node, &entry.name)?,
                stat,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(RawBatch { found, next }))
}

fn is_stored_name(entry: &Entry) -> bool {
    matches!(classify(&entry.name), EntryClass::Name | EntryClass::Long)
}

fn is_not_ours(node: &Node, entry: &Entry) -> bool {
    node.is_root() && entry.name == LOST_AND_FOUND
}
