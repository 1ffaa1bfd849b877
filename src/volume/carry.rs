//! A volume that goes from one process to another while its mount stays: what the first one leaves, and how the other makes
//! of it what the first one had.
//!
//! Invariants: what is carried is at rest, durable and settled, so that a file is loaded from the store as one that was closed;
//! the process that comes writes nothing before `take_over`; the one that goes writes nothing after `leave`. Names are
//! carried as they are stored, and no key is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::format::ids::DirId;
use crate::store::{File, Host, Kind, Stat};
use crate::volume::dir;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::file::body::Place;
use crate::volume::handle::{OpenFile, OpenFlags};
use crate::volume::node::carry::Identity;
use crate::volume::node::{Node, Replaced};
use crate::volume::open::Predecessor;
use crate::volume::sync::locked;

/// How often a file that is busy is tried.
const TRIES: usize = 8;

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CarriedNode {
    /// Its number.
    pub id: u64,
    /// The inode that it stands for.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Whether its last name went.
    pub dead: bool,
    /// Whether the inode number stands for it.
    pub found: bool,
    /// Attributes as of the last time a name went.
    pub last: Option<Stat>,
    /// Its names: the number of the directory, the stored name.
    pub names: Vec<(u64, String)>,
    /// What it held when another object took its last name.
    pub replaced: Option<CarriedReplaced>,
}

/// What another object took the name of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum CarriedReplaced {
    /// A file: which of those carried.
    File(usize),
    /// A symlink as it was stored.
    Symlink(Vec<u8>),
}

/// A file that is open; its descriptor goes beside this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CarriedFile {
    /// The number of its node.
    pub node: u64,
    /// Whether the descriptor can write.
    pub writable: bool,
    /// The directory of the name by which it was known last.
    pub dir: [u8; 16],
    /// That name, as it was stored.
    pub stored: String,
    /// Whether it still has that name.
    pub named: bool,
}

/// What is carried of a volume at rest.
#[derive(Default)]
pub struct Carried {
    /// Every node.
    pub nodes: Vec<CarriedNode>,
    /// Every open file.
    pub files: Vec<CarriedFile>,
    /// The files' descriptors, in the same order.
    pub descriptors: Vec<Arc<dyn File>>,
    known: HashSet<u64>,
    at: HashMap<usize, usize>,
}

impl Volume {
    /// Brings everything to rest: durable, settled, and nothing done on the volume's own account from here on. Nobody may watch
    /// the key any more, and no call be under way or follow, until `go_on`, or `leave` and the drop.
    ///
    /// # Errors
    /// What could not be made durable or settled; the volume goes on.
    pub fn rest(self: &Arc<Self>) -> Result<()> {
        self.require_unlocked()?;
        self.housekeeping.stop();
        let rested = self.bring_to_rest();
        if rested.is_err() {
            self.go_on()?;
        }
        rested
    }

    fn bring_to_rest(&self) -> Result<()> {
        if self.env.read_only {
            return Ok(());
        }
        // One that only reads changed nothing, whatever an unclean end before may have left of it.
        let mut live = self.files.all_live();
        live.retain(|state| state.descriptor_in_use().1);
        live.iter().for_each(|state| self.settler.note(state));
        self.settle_some()?;
        self.settle_moved();
        self.settler.sync_store()?; // names and attributes of whatever had nothing to settle
        live.iter().try_for_each(settle_alone)
    }

    /// Settles what is idle now, while programs go on, so that `rest` finds little.
    pub fn settle_some(&self) -> Result<()> {
        self.settler.pass(Duration::ZERO).error.map_or(Ok(()), Err)
    }

    /// Takes up its work again after `rest`.
    pub fn go_on(self: &Arc<Self>) -> Result<()> {
        self.housekeeping.start(self)
    }

    /// What the process that goes on has to be given first.
    pub fn predecessor(&self) -> Predecessor {
        let closer = locked(&self.closer);
        Predecessor {
            lock: closer.as_ref().and_then(|closer| closer.lock()),
            unclean: !self.env.may_end_clean(),
        }
    }

    /// Leaves the volume to another process, or gives up to have taken it: `close` does nothing any more, and the lock's
    /// record stays.
    pub fn leave(&self) {
        let closer = locked(&self.closer).take();
        if let Some(mut closer) = closer {
            closer.leave();
        }
    }

    /// Says that the volume is this process's, which `open_after` opened. The one before must have let it go.
    pub fn take_over(&self, host: &Host) -> Result<()> {
        match &mut *locked(&self.closer) {
            Some(closer) => closer.take_over(host),
            None => Err(Error::errno(libc::EBADF)),
        }
    }
}

/// A file without a name, or one that could not be had alone, is settled by itself.
fn settle_alone(state: &Arc<FileState>) -> Result<()> {
    for _ in 0..TRIES {
        if state.is_at_rest() || crate::volume::file::Settling::alone(state)? {
            return Ok(());
        }
    }
    Err(Error::errno(libc::EBUSY))
}

impl Carried {
    /// Adds an open file; its place among the files.
    ///
    /// # Errors
    /// Where its stored name is not text, as every name that we stored is.
    pub fn add_open(&mut self, file: &OpenFile) -> Result<usize> {
        self.add_node(file.node())?;
        self.add_file(file.node(), file.state())
    }

    /// Adds a node, and those above it.
    pub fn add_node(&mut self, node: &Arc<Node>) -> Result<()> {
        let mut waiting = vec![Arc::clone(node)];
        while let Some(node) = waiting.pop() {
            if node.is_root() || !self.known.insert(node.id()) {
                continue;
            }
            let names = names_of(&node)?;
            waiting.extend(node.locations().into_iter().map(|at| at.parent));
            let replaced = match node.replaced() {
                Some(Replaced::File(state, _)) => {
                    Some(CarriedReplaced::File(self.add_file(&node, &state)?))
                }
                Some(Replaced::Symlink(sealed)) => Some(CarriedReplaced::Symlink(sealed)),
                None => None,
            };
            self.nodes.push(CarriedNode::of(&node, names, replaced));
        }
        Ok(())
    }

    fn add_file(&mut self, node: &Arc<Node>, state: &Arc<FileState>) -> Result<usize> {
        let key = Arc::as_ptr(state) as usize;
        if let Some(at) = self.at.get(&key) {
            return Ok(*at);
        }
        let (place, named) = state.last_place();
        let (descriptor, writable) = state.descriptor_in_use();
        let at = self.files.len();
        self.files.push(CarriedFile {
            node: node.id(),
            writable,
            dir: place.dir.0,
            stored: text(&place.stored)?,
            named,
        });
        self.descriptors.push(descriptor);
        self.at.insert(key, at);
        Ok(at)
    }
}

impl CarriedNode {
    pub(in crate::volume) fn of(
        node: &Node,
        names: Vec<(u64, String)>,
        replaced: Option<CarriedReplaced>,
    ) -> Self {
        let Identity {
            id,
            ino,
            kind,
            dead,
            found,
            last,
        } = node.identity();
        Self {
            id,
            ino,
            kind,
            dead,
            found,
            last,
            names,
            replaced,
        }
    }

    pub(in crate::volume) fn identity(&self) -> Identity {
        Identity {
            id: self.id,
            ino: self.ino,
            kind: self.kind,
            dead: self.dead,
            found: self.found,
            last: self.last,
        }
    }
}

/// The names of a node, each with its directory's number.
pub(in crate::volume) fn names_of(node: &Node) -> Result<Vec<(u64, String)>> {
    let names = node.locations().into_iter();
    names
        .map(|at| Ok((at.parent.id(), text(&at.stored)?)))
        .collect()
}

pub(in crate::volume) fn text(stored: &[u8]) -> Result<String> {
    String::from_utf8(stored.to_vec())
        .map_err(|_| Error::Damaged("a stored name is no text".to_owned()))
}

/// What was carried, living again.
pub struct Restored {
    nodes: HashMap<u64, Arc<Node>>,
    files: Vec<Arc<FileState>>,
}

impl Restored {
    /// Makes nodes and files again in a volume that `open_after` opened and nothing was looked up in. Reads no file.
    pub fn of(
        volume: &Volume,
        nodes: Vec<CarriedNode>,
        files: Vec<(CarriedFile, Arc<dyn File>)>,
    ) -> Result<Self> {
        let root = volume.root();
        let mut restored = Self::nodes_of(volume, root, &nodes)?;
        for (file, descriptor) in files {
            restored.add_file(volume, file, descriptor)?;
        }
        for carried in nodes {
            let replaced = match carried.replaced {
                Some(CarriedReplaced::File(at)) => Replaced::File(restored.state(at)?, None),
                Some(CarriedReplaced::Symlink(sealed)) => Replaced::Symlink(sealed),
                None => continue,
            };
            restored.node(carried.id)?.keep_replaced(Some(replaced));
        }
        Ok(restored)
    }

    /// Makes the nodes again.
    pub(in crate::volume) fn nodes_of(
        volume: &Volume,
        root: Arc<Node>,
        nodes: &[CarriedNode],
    ) -> Result<Self> {
        let mut restored = Self {
            nodes: HashMap::from([(root.id(), root)]),
            files: Vec::new(),
        };
        for carried in nodes {
            let node = volume.nodes.again(&carried.identity())?;
            restored.nodes.insert(carried.id, node);
        }
        for carried in nodes {
            let node = restored.node(carried.id)?;
            for (parent, stored) in &carried.names {
                let parent = restored.node(*parent)?;
                parent.dir()?;
                node.found_at(&parent, stored.as_bytes(), false);
            }
        }
        Ok(restored)
    }

    /// Gives nodes the symlinks back whose names other objects took.
    pub(in crate::volume) fn replaced_symlinks(&self, nodes: &[CarriedNode]) -> Result<()> {
        for carried in nodes {
            if let Some(CarriedReplaced::Symlink(sealed)) = &carried.replaced {
                let replaced = Replaced::Symlink(sealed.clone());
                self.node(carried.id)?.keep_replaced(Some(replaced));
            }
        }
        Ok(())
    }

    /// Makes the state of a file again from its descriptor.
    pub(in crate::volume) fn add_file(
        &mut self,
        volume: &Volume,
        file: CarriedFile,
        descriptor: Arc<dyn File>,
    ) -> Result<()> {
        let state = self.file(volume, file, descriptor)?;
        self.files.push(state);
        Ok(())
    }

    /// The node of a number.
    pub fn node(&self, id: u64) -> Result<Arc<Node>> {
        let node = self.nodes.get(&id).cloned();
        node.ok_or_else(|| missing("a node"))
    }

    /// An open file, by its place among those carried.
    pub fn open(&self, node: u64, file: usize, flags: OpenFlags) -> Result<OpenFile> {
        Ok(OpenFile::new(self.node(node)?, self.state(file)?, flags))
    }

    fn state(&self, at: usize) -> Result<Arc<FileState>> {
        let state = self.files.get(at).cloned();
        state.ok_or_else(|| missing("an open file"))
    }

    fn file(
        &self,
        volume: &Volume,
        carried: CarriedFile,
        backing: Arc<dyn File>,
    ) -> Result<Arc<FileState>> {
        let node = self.node(carried.node)?;
        if backing.stat()?.ino != node.ino() {
            return Err(Error::errno(libc::ESTALE));
        }
        let here = Place {
            dir: DirId(carried.dir),
            stored: carried.stored.into_bytes(),
        };
        // Only for what is put beside the file where its header never arrived.
        let beside = node.location().and_then(|at| dir::open(volume, &at.parent));
        let beside = beside.unwrap_or_else(|_| Arc::clone(&volume.env.root));
        let state = FileState::new(
            &volume.env,
            &volume.settler,
            backing,
            carried.writable,
            here.clone(),
            beside,
        );
        if !carried.named {
            state.name_gone(&here);
        }
        if node.is_dead() {
            state.last_name_gone();
        }
        volume
            .files
            .insert(&node, node.ino(), &state, carried.writable);
        Ok(state)
    }
}

fn missing(what: &str) -> Error {
    Error::Damaged(format!("{what} was not carried over"))
}
