//! A volume as a process had it that died: from its log, and from the files that the keeper had for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::decide;
use super::entry::{Answer, Entry, FileEntry, Generation, Intent, NodeEntry, Opened};
use crate::store::File;
use crate::volume::carry::{CarriedNode, Restored, text};
use crate::volume::dir;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::handle::{OpenFile, OpenFlags};
use crate::volume::node::Node;

/// What a log says.
#[derive(Default)]
pub struct Left {
    /// What the first entry was given.
    pub head: Value,
    /// Whose log it is.
    pub generation: Generation,
    nodes: HashMap<u64, NodeEntry>,
    files: HashMap<u64, FileEntry>,
    handles: BTreeMap<u64, Opened>,
    begun: HashMap<u64, Intent>,
    answers: HashMap<u64, Answer>,
    last_handle: u64,
}

/// What was made of it.
pub struct Rebuilt {
    /// The handles, each with its open file.
    pub handles: Vec<(Opened, OpenFile)>,
    /// Nodes, and how often the kernel looked each up.
    pub lookups: Vec<(Arc<Node>, u64)>,
    /// The numbers under which the keeper has files, by those of their states.
    pub(super) keys: HashMap<u64, u64>,
    /// What it has and nobody needs.
    pub(super) unneeded: Vec<u64>,
    /// No handle had a greater number.
    pub last_handle: u64,
    pub(super) begun: HashMap<u64, Intent>,
    pub(super) answers: HashMap<u64, Answer>,
}

impl Left {
    /// Reads a log.
    ///
    /// # Errors
    /// Damaged where it has no first entry, or one that this program does not understand.
    pub fn read(mut bytes: &[u8]) -> Result<Self> {
        let mut left = Self::default();
        let mut begins = false;
        while let Some((entry, rest)) = Entry::next(bytes)? {
            begins |= entry.head.is_some();
            left.take(entry);
            bytes = rest;
        }
        match begins {
            true => Ok(left),
            false => Err(Error::Damaged("the log of the mount is empty".to_owned())),
        }
    }

    fn take(&mut self, entry: Entry) {
        if let Some(head) = entry.head {
            (self.head, self.generation) = (head, entry.generation);
        }
        for gone in entry.gone {
            self.nodes.remove(&gone);
        }
        let nodes = entry.nodes.into_iter();
        self.nodes.extend(nodes.map(|node| (node.node.id, node)));
        let files = entry.files.into_iter();
        self.files.extend(files.map(|file| (file.file, file)));
        self.last_handle = self.last_handle.max(entry.last_handle.unwrap_or_default());
        for opened in entry.opened {
            self.last_handle = self.last_handle.max(opened.number);
            self.handles.insert(opened.number, opened);
        }
        for closed in entry.closed {
            self.handles.remove(&closed);
        }
        self.begun.extend(entry.begun);
        for (request, answer) in entry.done {
            self.begun.remove(&request);
            self.answers.insert(request, answer);
        }
    }

    /// Makes everything again in a volume that was just opened and in which nothing was looked up, `kept` being the files that
    /// the keeper has, by their numbers; and decides what was under way.
    pub fn rebuild(self, volume: &Volume, kept: &HashMap<u64, Arc<dyn File>>) -> Result<Rebuilt> {
        let nodes = self.wanted_nodes()?;
        let mut restored = Restored::nodes_of(volume, volume.root(), &nodes)?;
        restored.replaced_symlinks(&nodes)?;
        let mut answers = self.answers;
        let mut begun = HashMap::new();
        decide::all(volume, &restored, self.begun, &mut begun, &mut answers)?;
        let mut places = HashMap::new();
        let mut unneeded: HashSet<u64> = kept.keys().copied().collect();
        for opened in self.handles.values() {
            if places.contains_key(&opened.file) {
                continue;
            }
            let file = self.files.get(&opened.file).ok_or_else(|| lost("a file"))?;
            let backing = kept.get(&file.key).ok_or_else(|| lost("a descriptor"))?;
            unneeded.remove(&file.key);
            let node = restored.node(file.carried.node)?;
            let mut carried = file.carried.clone();
            carried.named = false;
            if let Ok(at) = node.location() {
                carried.dir = dir::id(volume, &at.parent)?.0;
                carried.stored = text(&at.stored)?;
                carried.named = true;
            }
            let place = places.len();
            restored.add_file(volume, carried, Arc::clone(backing))?;
            places.insert(opened.file, (place, file.key));
        }
        let mut keys = HashMap::new();
        let mut handles = Vec::with_capacity(self.handles.len());
        for opened in self.handles.into_values() {
            let flags = OpenFlags {
                read: opened.read,
                write: opened.write,
                ..OpenFlags::default()
            };
            let (place, key) = places.get(&opened.file).ok_or_else(|| lost("a file"))?;
            let file = restored.open(opened.node, *place, flags)?;
            keys.insert(file.state().number, *key);
            handles.push((opened, file));
        }
        let mut lookups = Vec::new();
        for entry in self.nodes.values().filter(|entry| entry.lookups > 0) {
            lookups.push((restored.node(entry.node.id)?, entry.lookups.into()));
        }
        Ok(Rebuilt {
            handles,
            lookups,
            keys,
            unneeded: unneeded.into_iter().collect(),
            last_handle: self.last_handle,
            begun,
            answers,
        })
    }

    /// The nodes that somebody holds, and those above them.
    fn wanted_nodes(&self) -> Result<Vec<CarriedNode>> {
        let held = self.nodes.values().filter(|entry| entry.lookups > 0);
        let mut waiting: Vec<u64> = held.map(|entry| entry.node.id).collect();
        waiting.extend(self.handles.values().map(|opened| opened.node));
        for intent in self.begun.values() {
            waiting.extend(intent.nodes());
        }
        let mut wanted = HashSet::new();
        let mut nodes = Vec::new();
        while let Some(number) = waiting.pop() {
            if number == crate::volume::node::ROOT || !wanted.insert(number) {
                continue;
            }
            let entry = self.nodes.get(&number).ok_or_else(|| lost("a node"))?;
            waiting.extend(entry.node.names.iter().map(|(parent, _)| *parent));
            nodes.push(entry.node.clone());
        }
        Ok(nodes)
    }
}

fn lost(what: &str) -> Error {
    Error::Damaged(format!("{what} is not in the log of the mount"))
}
