//! The names by which a node is known, kept small: nearly every object has one name and nothing else to remember.

use std::sync::Arc;

use super::{Node, Replaced};
use crate::format::names::{packed_name, unpacked_name};
use crate::store::Stat;

/// A name of a node.
#[derive(Clone)]
pub(crate) struct Location {
    /// The directory that holds the entry.
    pub(crate) parent: Arc<Node>,
    /// The entry's stored name.
    pub(crate) stored: Vec<u8>,
    /// Whether the file, as it is loaded now, was found bound to this name.
    pub(crate) checked: bool,
}

impl Location {
    /// Whether it is this name.
    pub(crate) fn is(&self, parent: &Arc<Node>, stored: &[u8]) -> bool {
        Arc::ptr_eq(&self.parent, parent) && self.stored == stored
    }
}

/// What is remembered of an object beside its number. Memory only.
#[derive(Default)]
pub(super) struct Memory {
    names: Names,
    /// Of the one name: whether it was checked.
    checked: bool,
    /// Whether its last name went.
    pub(super) dead: bool,
    /// How often it was held by number, and not let go of.
    pub(super) holds: u32,
    /// Itself, while it is held by number.
    pub(super) held: Option<Arc<Node>>,
}

enum Names {
    One {
        parent: Arc<Node>,
        packed: Box<[u8]>,
    },
    Other(Option<Box<Rare>>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Other(None)
    }
}

/// What few objects have.
#[derive(Default)]
pub(super) struct Rare {
    pub(super) locations: Vec<Location>,
    /// Attributes as of the last time a name went, for objects without any name known.
    pub(super) last: Option<Stat>,
    /// What another object took the name of.
    pub(super) replaced: Option<Replaced>,
    /// Its inode number, where that is not its own number.
    pub(super) ino: Option<u64>,
}

impl Rare {
    fn is_plain(&self) -> bool {
        self.locations.len() <= 1
            && self.last.is_none()
            && self.replaced.is_none()
            && self.ino.is_none()
    }

    /// Keeps the names for which `stays` says so; the others, to be dropped after the lock.
    pub(super) fn keep(&mut self, stays: impl Fn(&Location) -> bool) -> Vec<Location> {
        let (kept, gone) = std::mem::take(&mut self.locations)
            .into_iter()
            .partition(|known| stays(known));
        self.locations = kept;
        gone
    }
}

impl Memory {
    /// All names known.
    pub(super) fn locations(&self) -> Vec<Location> {
        match &self.names {
            Names::One { parent, packed } => vec![self.only(parent, packed)],
            Names::Other(rare) => rare
                .as_ref()
                .map_or_else(Vec::new, |rare| rare.locations.clone()),
        }
    }

    /// The name that became known last.
    pub(super) fn location(&self) -> Option<Location> {
        match &self.names {
            Names::One { parent, packed } => Some(self.only(parent, packed)),
            Names::Other(rare) => rare.as_ref()?.locations.last().cloned(),
        }
    }

    /// Whether this name is known; `alone`: and no other.
    pub(super) fn is_at(&self, parent: &Arc<Node>, stored: &[u8], alone: bool) -> bool {
        match &self.names {
            Names::One {
                parent: known,
                packed,
            } => Arc::ptr_eq(known, parent) && packed_name(stored) == *packed,
            Names::Other(None) => false,
            Names::Other(Some(rare)) => {
                let mut known = rare.locations.iter();
                known.any(|known| known.is(parent, stored)) && !(alone && rare.locations.len() > 1)
            }
        }
    }

    /// What is remembered beside names.
    pub(super) fn rare(&self) -> Option<&Rare> {
        match &self.names {
            Names::One { .. } => None,
            Names::Other(rare) => rare.as_deref(),
        }
    }

    /// Changes any of it. What `change` returns is to be dropped after the lock: it may be the last hold on a directory.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Rare) -> T) -> T {
        let mut rare = match std::mem::take(&mut self.names) {
            Names::One { parent, packed } => Box::new(Rare {
                locations: vec![Location {
                    parent,
                    stored: unpacked_name(&packed),
                    checked: self.checked,
                }],
                ..Rare::default()
            }),
            Names::Other(rare) => rare.unwrap_or_default(),
        };
        let changed = change(&mut rare);
        self.names = if !rare.is_plain() {
            Names::Other(Some(rare))
        } else if let Some(only) = rare.locations.pop() {
            self.checked = only.checked;
            Names::One {
                packed: packed_name(&only.stored),
                parent: only.parent,
            }
        } else {
            Names::Other(None)
        };
        changed
    }

    /// Notes the first name of a new node, which others get in any other way; whether it had none.
    pub(super) fn first_name(&mut self, parent: &Arc<Node>, stored: &[u8]) -> bool {
        let first = matches!(self.names, Names::Other(None));
        if first {
            self.names = Names::One {
                parent: Arc::clone(parent),
                packed: packed_name(stored),
            };
            self.checked = false;
        }
        first
    }

    /// Notes that the file was found bound to this name.
    pub(super) fn check_at(&mut self, parent: &Arc<Node>, stored: &[u8]) {
        let there = self.is_at(parent, stored, false);
        match &mut self.names {
            Names::One { .. } => self.checked |= there,
            Names::Other(rare) => {
                let known = rare.iter_mut().flat_map(|rare| &mut rare.locations);
                known.for_each(|known| known.checked |= known.is(parent, stored));
            }
        }
    }

    /// Notes that no name is checked.
    pub(super) fn uncheck(&mut self) {
        self.checked = false;
        if let Names::Other(Some(rare)) = &mut self.names {
            rare.locations
                .iter_mut()
                .for_each(|known| known.checked = false);
        }
    }

    /// The directories of all names, which are forgotten.
    pub(super) fn take_parents(&mut self) -> Vec<Arc<Node>> {
        match std::mem::take(&mut self.names) {
            Names::One { parent, .. } => vec![parent],
            Names::Other(rare) => {
                let known = rare.into_iter().flat_map(|rare| rare.locations);
                known.map(|known| known.parent).collect()
            }
        }
    }

    fn only(&self, parent: &Arc<Node>, packed: &[u8]) -> Location {
        Location {
            parent: Arc::clone(parent),
            stored: unpacked_name(packed),
            checked: self.checked,
        }
    }
}
