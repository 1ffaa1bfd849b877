//! The changes of names, lengths and attributes in the order in which they were made, and which of them a power cut leaves.
//!
//! Two kinds of file system. `Global`: one journal; what is forced brings everything before it along (ext4, XFS). `PerDir`:
//! only what a sync was asked for is forced: of a directory, its entries and what came before in the directories that
//! these changes touch; of a file, its own lengths and attributes. A rename is one change of both directories.

use std::collections::{HashSet, VecDeque};
use std::{fmt, io};

use super::Rng;
use crate::store::memory::tree::Tree;
use crate::store::{Kind, RenameMode, SetTimes};

/// Which file system is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journal {
    Global,
    PerDir,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Make {
        dir: u64,
        name: Vec<u8>,
        kind: Kind,
        mode: u32,
        rdev: u64,
        ino: u64,
        target: Vec<u8>,
    },
    Link {
        ino: u64,
        dir: u64,
        name: Vec<u8>,
    },
    Remove {
        dir: u64,
        name: Vec<u8>,
        directory: bool,
        ino: u64,
    },
    Rename {
        from: (u64, Vec<u8>),
        to: (u64, Vec<u8>),
        mode: RenameMode,
        moved: u64,
        replaced: Option<u64>,
    },
    Attribute(u64, Attribute),
}

#[derive(Debug, Clone)]
pub(super) enum Attribute {
    /// Its content keeps the length itself.
    Len,
    Mode(u32),
    Owner(Option<u32>, Option<u32>),
    Times(SetTimes),
    Xattr(Vec<u8>, Option<Vec<u8>>),
}

/// What a change touches: changes of one thing keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thing {
    Entries(u64),
    Names(u64),
    Attributes(u64),
    /// Where an object stands, for what must be found there.
    Reach(u64),
}

impl Change {
    fn things(&self) -> Vec<Thing> {
        use Thing::{Attributes, Entries, Names, Reach};
        match self {
            Self::Make { dir, ino, .. } => vec![Entries(*dir), Names(*ino), Reach(*ino)],
            Self::Link { dir, ino, .. } => vec![Entries(*dir), Names(*ino)],
            Self::Remove { dir, ino, .. } => vec![Entries(*dir), Names(*ino), Entries(*ino)],
            Self::Rename {
                from,
                to,
                moved,
                replaced,
                ..
            } => {
                let mut things = vec![Entries(from.0), Entries(to.0), Names(*moved), Reach(*moved)];
                things.extend(
                    replaced
                        .iter()
                        .flat_map(|ino| [Names(*ino), Entries(*ino), Reach(*ino)]),
                );
                things
            }
            Self::Attribute(ino, _) => vec![Attributes(*ino)],
        }
    }

    /// What must be durable with it: the changes that came before of the things that it touches, and of a file's lengths and
    /// attributes, since another name is a change of that file, too. Both directories of a rename must be there, or what it
    /// moves would be nowhere, and so must what a link names; a directory that is there only for that needs its own, in
    /// turn. (An entry that is new may stand in a directory that is not.)
    fn needs(&self, wanted: &HashSet<Thing>) -> Vec<Thing> {
        let mut things = self.things();
        let reached = |thing: &Thing| matches!(thing, Thing::Reach(_)) && wanted.contains(thing);
        let is_reached = things.iter().any(reached);
        things.retain(|thing| !matches!(thing, Thing::Reach(_)));
        match self {
            Self::Make { dir, .. } if is_reached => things.push(Thing::Reach(*dir)),
            Self::Link { ino, .. } => {
                things.extend([Thing::Attributes(*ino), Thing::Reach(*ino)]);
            }
            Self::Remove { ino, .. } => things.push(Thing::Attributes(*ino)),
            Self::Rename {
                from,
                to,
                moved,
                replaced,
                ..
            } => {
                things.extend([Thing::Reach(from.0), Thing::Reach(to.0)]);
                things.push(Thing::Attributes(*moved));
                things.extend(replaced.map(Thing::Attributes));
            }
            Self::Make { .. } | Self::Attribute(..) => {}
        }
        things
    }

    /// Makes the change, where what it touches is there at all.
    fn make(&self, tree: &mut Tree) -> io::Result<()> {
        match self {
            Self::Make {
                dir,
                name,
                kind,
                mode,
                rdev,
                ino,
                target,
            } if tree.inode(*dir).is_ok() => {
                tree.next_ino(*ino);
                tree.make(*dir, name, *kind, *mode, *rdev)?;
                tree.inode(*ino)?.target.clone_from(target);
            }
            Self::Link { ino, dir, name }
                if tree.inode(*dir).is_ok() && tree.inode(*ino).is_ok() =>
            {
                tree.link(*ino, *dir, name)?;
            }
            Self::Remove {
                dir,
                name,
                directory,
                ino,
            } if tree.inode(*dir).is_ok() && tree.inode(*ino).is_ok() => {
                tree.remove(*dir, name, *directory)?;
            }
            Self::Rename {
                from,
                to,
                mode,
                moved,
                ..
            } if tree.inode(from.0).is_ok()
                && tree.inode(to.0).is_ok()
                && tree.inode(*moved).is_ok() =>
            {
                tree.rename((from.0, &from.1), (to.0, &to.1), *mode)?;
            }
            Self::Attribute(ino, attribute) if tree.inode(*ino).is_ok() => {
                attribute.set(tree, *ino)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |(dir, name): (&u64, &[u8])| format!("{dir}/{}", name.escape_ascii());
        match self {
            Self::Make {
                dir,
                name,
                kind,
                ino,
                ..
            } => write!(f, "make {} {ino} {kind:?}", show((dir, name))),
            Self::Link { ino, dir, name } => write!(f, "link {} {ino}", show((dir, name))),
            Self::Remove { dir, name, ino, .. } => write!(f, "remove {} {ino}", show((dir, name))),
            Self::Rename {
                from,
                to,
                mode,
                moved,
                replaced,
            } => {
                let (from, to) = (show((&from.0, &from.1)), show((&to.0, &to.1)));
                write!(f, "rename {from} {moved} to {to} {replaced:?} {mode:?}")
            }
            Self::Attribute(ino, attribute) => {
                let what = match attribute {
                    Attribute::Len => "length",
                    Attribute::Mode(_) => "mode",
                    Attribute::Owner(..) => "owner",
                    Attribute::Times(_) => "times",
                    Attribute::Xattr(..) => "xattr",
                };
                write!(f, "{what} of {ino}")
            }
        }
    }
}

impl Attribute {
    fn set(&self, tree: &mut Tree, ino: u64) -> io::Result<()> {
        match self {
            Self::Len => {}
            Self::Mode(mode) => tree.altering(ino)?.mode = mode & 0o7777,
            Self::Owner(uid, gid) => tree.set_owner(ino, *uid, *gid)?,
            Self::Times(times) => tree.set_times(ino, *times)?,
            Self::Xattr(name, Some(value)) => {
                let inode = tree.altering(ino)?;
                inode.xattrs.insert(name.clone(), value.clone());
            }
            Self::Xattr(name, None) => drop(tree.altering(ino)?.xattrs.remove(name)),
        }
        Ok(())
    }
}

struct Record {
    time: u64,
    change: Change,
    things: Vec<Thing>,
    forced: bool,
}

/// Changes that may still be lost, oldest first, over the tree without them.
pub(super) struct Log {
    kind: Journal,
    base: Tree,
    records: VecDeque<Record>,
}

/// The changes that a power cut leaves.
pub(super) enum Survivors {
    Before(u64),
    These { before: u64, times: HashSet<u64> },
}

impl Survivors {
    pub(super) fn has(&self, time: u64) -> bool {
        match self {
            Self::Before(end) => time < *end,
            Self::These { before, times } => time < *before || times.contains(&time),
        }
    }
}

impl Log {
    pub(super) fn over(base: Tree, kind: Journal) -> Self {
        Self {
            kind,
            base,
            records: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, time: u64, change: Change) {
        let things = change.things();
        self.records.push_back(Record {
            time,
            change,
            things,
            forced: false,
        });
    }

    /// Everything made before `time` is durable.
    pub(super) fn force_all(&mut self, time: u64) {
        self.records
            .iter_mut()
            .filter(|record| record.time < time)
            .for_each(|record| record.forced = true);
        self.absorb();
    }

    /// The entries of a directory, and its attributes, are durable as of `time`.
    pub(super) fn force_dir(&mut self, dir: u64, time: u64) {
        match self.kind {
            Journal::Global => self.force_all(time),
            Journal::PerDir => {
                self.force([Thing::Entries(dir), Thing::Attributes(dir)], time);
            }
        }
    }

    /// The length of a file is durable as of `time`; `all`: its attributes, too.
    pub(super) fn force_file(&mut self, file: u64, time: u64, all: bool) {
        match self.kind {
            Journal::Global if all => self.force_all(time),
            // fdatasync waits for the journal only if it needs it to read the data back.
            Journal::Global => {
                let of_length = |change: &Change| match change {
                    Change::Make { ino, .. } => *ino == file,
                    Change::Attribute(ino, Attribute::Len) => *ino == file,
                    _ => false,
                };
                let last = self
                    .records
                    .iter()
                    .rev()
                    .find(|record| record.time < time && of_length(&record.change));
                if let Some(last) = last.map(|record| record.time) {
                    self.force_all(last + 1);
                }
            }
            Journal::PerDir => self.force([Thing::Attributes(file); 2], time),
        }
    }

    fn force(&mut self, things: [Thing; 2], time: u64) {
        let mut wanted: HashSet<Thing> = things.into();
        for record in self
            .records
            .iter_mut()
            .rev()
            .filter(|record| record.time < time)
        {
            if record.things.iter().any(|thing| wanted.contains(thing)) {
                wanted.extend(record.change.needs(&wanted));
                record.forced = true;
            }
        }
        self.absorb();
    }

    /// Puts what cannot be lost any more into the tree.
    fn absorb(&mut self) {
        while self.records.front().is_some_and(|record| record.forced) {
            let Some(record) = self.records.pop_front() else {
                return;
            };
            record
                .change
                .make(&mut self.base)
                .expect("a change that was made once");
        }
    }

    /// How many changes may be lost.
    pub(super) fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// Chooses which changes survive, `keep` of the unforced ones in a thousand (`Global`: so far into the journal).
    pub(super) fn survivors(&self, keep: u64, rng: &mut Rng) -> Survivors {
        match self.kind {
            Journal::Global => {
                let forced = self.records.iter().rposition(|record| record.forced);
                let free = forced.map_or(0, |at| at + 1) as u64;
                let end = free + (self.len() - free) * keep / 1000;
                let next = self.records.get(end as usize);
                Survivors::Before(next.map_or(u64::MAX, |record| record.time))
            }
            Journal::PerDir => {
                let mut times = HashSet::new();
                let mut wanted: HashSet<Thing> = HashSet::new();
                for record in self.records.iter().rev() {
                    let kept = record.forced
                        || record.things.iter().any(|thing| wanted.contains(thing))
                        || rng.below(1000) < keep;
                    if kept {
                        wanted.extend(record.change.needs(&wanted));
                        times.insert(record.time);
                    }
                }
                let before = self.records.front().map_or(u64::MAX, |record| record.time);
                Survivors::These { before, times }
            }
        }
    }

    /// When the changes were made that did not survive.
    pub(super) fn lost(&self, survivors: &Survivors) -> Vec<u64> {
        let times = self.records.iter().map(|record| record.time);
        times.filter(|time| !survivors.has(*time)).collect()
    }

    /// The tree with the changes that survived.
    pub(super) fn tree(&self, survivors: &Survivors) -> Tree {
        let mut tree = self.base.clone();
        for record in &self.records {
            if survivors.has(record.time) {
                let made = record.change.make(&mut tree);
                made.unwrap_or_else(|error| panic!("{:?}: {error}", record.change));
            }
        }
        tree
    }
}
