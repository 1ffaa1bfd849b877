//! Open directories: a bounded number of descriptors for any number of known directories, reopened through their parents.
//!
//! Invariant: what is handed out is the directory (by device and inode number) that the node stands for. No `names` lock
//! may be held by a caller of `open`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use crate::format::ids::DirId;
use crate::store::Dir;
use crate::volume::access::with_owner_bits;
use crate::volume::dir_id::identify;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::lookup;
use crate::volume::node::{Location, Node};
use crate::volume::sync::{locked, reading};

/// How often a directory that keeps moving is followed.
const TRIES: usize = 64;

/// What a directory leaves when it is closed; dropped where no lock is held.
type Evicted = (Arc<Node>, Option<Arc<dyn Dir>>);

/// The directories kept open.
pub(crate) struct OpenDirs {
    capacity: usize,
    queue: Mutex<VecDeque<Weak<Node>>>,
}

impl OpenDirs {
    /// Room for an eighth of the descriptors this process may have; each can take two.
    pub(crate) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(1 << 20);
        let capacity = usize::try_from(limit / 8)
            .unwrap_or(usize::MAX)
            .clamp(8, 4096);
        Self {
            capacity,
            queue: Mutex::default(),
        }
    }

    fn keep(&self, node: &Arc<Node>, dir: Arc<dyn Dir>) -> Result<Arc<dyn Dir>> {
        let part = node.dir()?;
        part.used.store(true, Ordering::Relaxed);
        {
            let mut open = locked(&part.open);
            if let Some(already) = &*open {
                return Ok(Arc::clone(already));
            }
            *open = Some(Arc::clone(&dir));
        }
        drop(self.make_room(node)); // closes what it evicts, with no lock held
        Ok(dir)
    }

    /// Adds a node to the queue and takes the directories out that were not used for longest.
    fn make_room(&self, node: &Arc<Node>) -> Vec<Evicted> {
        let mut evicted = Vec::new();
        let mut queue = locked(&self.queue);
        queue.push_back(Arc::downgrade(node));
        let mut looks = 2 * queue.len();
        while queue.len() > self.capacity && looks > 0 {
            looks -= 1;
            let Some(oldest) = queue.pop_front().and_then(|weak| weak.upgrade()) else {
                continue;
            };
            let Some(part) = oldest.dir().ok() else {
                continue;
            };
            if part.take_used() {
                queue.push_back(Arc::downgrade(&oldest));
            } else {
                let dir = locked(&part.open).take();
                evicted.push((oldest, dir));
            }
        }
        evicted
    }
}

/// The open directory of a node; ENOENT if it was removed, ENOTDIR if it is none.
pub(crate) fn open(volume: &Volume, node: &Arc<Node>) -> Result<Arc<dyn Dir>> {
    for _ in 0..TRIES {
        if let Some(dir) = descend(volume, node)? {
            return Ok(dir);
        }
    }
    Err(Error::errno(libc::ESTALE))
}

/// The identity of a directory.
pub(crate) fn id(volume: &Volume, node: &Arc<Node>) -> Result<DirId> {
    let part = node.dir()?;
    if part.id.get().is_none() {
        open(volume, node)?;
    }
    part.id
        .get()
        .copied()
        .ok_or_else(|| Error::errno(libc::ESTALE))
}

/// One attempt; `None` if something on the way moved meanwhile.
fn descend(volume: &Volume, node: &Arc<Node>) -> Result<Option<Arc<dyn Dir>>> {
    let mut closed = Vec::new();
    let mut parent = Arc::clone(node);
    let mut dir = loop {
        if let Some(dir) = already_open(volume, &parent)? {
            break dir;
        }
        let above = parent.location()?.parent;
        closed.push(std::mem::replace(&mut parent, above));
    };
    while let Some(child) = closed.pop() {
        match open_child(volume, &parent, &dir, &child)? {
            Some(opened) => dir = opened,
            None => return Ok(None),
        }
        parent = child;
    }
    Ok(Some(dir))
}

fn already_open(volume: &Volume, node: &Arc<Node>) -> Result<Option<Arc<dyn Dir>>> {
    let part = node.dir()?;
    if node.is_root() {
        return Ok(Some(Arc::clone(&volume.env.root)));
    }
    part.used.store(true, Ordering::Relaxed);
    Ok(locked(&part.open).clone())
}

fn open_child(
    volume: &Volume,
    parent: &Arc<Node>,
    dir: &Arc<dyn Dir>,
    child: &Arc<Node>,
) -> Result<Option<Arc<dyn Dir>>> {
    let above = parent.dir()?;
    let _names = reading(&above.names);
    let place = child.location()?;
    if !Arc::ptr_eq(&place.parent, parent) {
        return Ok(None);
    }
    let opened = with_owner_bits(dir, &place.stored, 0o500, || dir.open_dir(&place.stored))?;
    let stat = opened.stat()?;
    if stat.ino != child.ino() {
        return Err(Error::errno(libc::ESTALE));
    }
    let part = child.dir()?;
    if part.id.get().is_none() {
        let parent_id = above.id.get().ok_or_else(|| Error::errno(libc::ESTALE))?;
        let (id, _) = identify(&volume.env, parent_id, &place.stored, &opened)?;
        let _ = part.id.set(id);
    }
    volume.dirs.keep(child, opened).map(Some)
}

/// A name by which a node is known, while it cannot change.
pub(crate) struct Name<'a> {
    /// The open directory that holds the entry.
    pub(crate) dir: &'a Arc<dyn Dir>,
    /// That directory's identity.
    pub(crate) dir_id: DirId,
    /// The stored name.
    pub(crate) stored: &'a [u8],
}

/// Runs `work` on a name of the node, with the names of its directory locked for reading; ENOENT if none is known.
pub(crate) fn at_name<T>(
    volume: &Volume,
    node: &Arc<Node>,
    work: impl FnOnce(Name) -> Result<T>,
) -> Result<T> {
    for _ in 0..TRIES {
        let Location { parent, stored, .. } = node.location()?;
        let (dir, dir_id) = (open(volume, &parent)?, id(volume, &parent)?);
        let _names = reading(&parent.dir()?.names);
        if node.is_at(&parent, &stored) {
            return work(Name {
                dir: &dir,
                dir_id,
                stored: &stored,
            });
        }
    }
    Err(Error::errno(libc::ESTALE))
}

/// Makes the entries of a directory durable. A removed one has none.
pub(crate) fn sync(volume: &Volume, node: &Arc<Node>) -> Result<()> {
    lookup::require_dir(node.kind())?;
    if volume.env.read_only || node.is_dead() {
        return Ok(());
    }
    Ok(open(volume, node)?.sync()?)
}
