//! What may be seen after a cut: names and attributes as they were at one moment since they were last made durable
//! (`Journal::PerDir`: each directory at a moment of its own), and of each file, block by block, what it held since its
//! last good sync.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::store::power::Journal;

use super::step::Path;

/// Numbers of objects that are being made: theirs are not known yet.
pub(super) const FRESH: u64 = 1 << 62;
const ROOT: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Symlink(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) entries: BTreeMap<Vec<u8>, u64>,
}

impl Object {
    pub(super) fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }
}

/// Names and attributes of a whole volume, by object number.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree(pub(super) BTreeMap<u64, Object>);

impl Tree {
    pub(super) fn find(&self, path: &[Vec<u8>]) -> Option<u64> {
        path.iter().try_fold(ROOT, |dir, name| {
            self.0.get(&dir)?.entries.get(name).copied()
        })
    }

    pub(super) fn get(&self, path: &[Vec<u8>]) -> &Object {
        &self.0[&self.find(path).expect("an object")]
    }

    pub(super) fn at(&mut self, path: &[Vec<u8>]) -> &mut Object {
        let ino = self.find(path).expect("an object");
        self.0.get_mut(&ino).expect("an object")
    }

    pub(super) fn is_empty(&self, path: &[Vec<u8>]) -> bool {
        self.get(path).entries.is_empty()
    }

    pub(super) fn make(&mut self, path: &Path, kind: Kind, mode: u32, ino: u64) {
        self.0.insert(ino, Object::new(kind, mode));
        self.put(path, ino);
    }

    /// How many names the object at the end of this path has.
    pub(super) fn links(&self, path: &[Vec<u8>]) -> usize {
        let ino = self.find(path);
        let objects = self.0.values();
        let entries = objects.flat_map(|object| object.entries.values());
        entries.filter(|entry| Some(**entry) == ino).count()
    }

    /// Takes a name away.
    pub(super) fn take(&mut self, path: &Path) -> u64 {
        let (name, dir) = path.split_last().expect("a name");
        self.at(dir).entries.remove(name).expect("an entry")
    }

    /// Gives a name; what had it before.
    pub(super) fn put(&mut self, path: &Path, ino: u64) -> Option<u64> {
        let (name, dir) = path.split_last().expect("a name");
        self.at(dir).entries.insert(name.clone(), ino)
    }

    /// The paths of all objects of some kind; the top directory's is empty.
    pub(super) fn paths(&self, wanted: &dyn Fn(&Kind) -> bool) -> Vec<Path> {
        let mut found = Vec::new();
        let mut left = vec![(Path::new(), ROOT)];
        while let Some((path, ino)) = left.pop() {
            let object = &self.0[&ino];
            if wanted(&object.kind) {
                found.push(path.clone());
            }
            for (name, child) in &object.entries {
                let mut path = path.clone();
                path.push(name.clone());
                left.push((path, *child));
            }
        }
        found
    }

    /// Whether the directory `ino` has the entries that `shown` has, of the same objects; those made just now may be any
    /// that nobody knew. Answers what became of them.
    fn same_entries(&self, ino: u64, shown: &Tree) -> Option<Vec<(u64, u64)>> {
        let (known, seen) = (self.0.get(&ino)?, &shown.0[&ino]);
        if !known.entries.keys().eq(seen.entries.keys()) {
            return None;
        }
        let pairs = known.entries.values().zip(seen.entries.values());
        let pairs: Vec<(u64, u64)> = pairs.map(|(&known, &seen)| (known, seen)).collect();
        let same = |&(known, seen): &(u64, u64)| {
            let kinds = self.0[&known].kind == shown.0[&seen].kind;
            kinds && (known == seen || known >= FRESH && !self.0.contains_key(&seen))
        };
        pairs.iter().all(same).then_some(pairs)
    }

    fn same_attributes(&self, known: u64, shown: &Tree, seen: u64) -> bool {
        self.0.get(&known).is_some_and(|known| {
            let seen = &shown.0[&seen];
            known.mode == seen.mode && known.xattrs == seen.xattrs
        })
    }

    /// Whether all of it is as `shown` has it.
    fn is(&self, shown: &Tree) -> bool {
        let mut left = vec![(ROOT, ROOT)];
        while let Some((known, seen)) = left.pop() {
            if known != ROOT && !self.same_attributes(known, shown, seen) {
                return false;
            }
            if self.0[&known].kind != Kind::Dir {
                continue;
            }
            let fresh_dir = known >= FRESH;
            if fresh_dir {
                if !shown.0[&seen].entries.is_empty() {
                    return false;
                }
                continue;
            }
            match self.same_entries(known, shown) {
                Some(pairs) => left.extend(pairs),
                None => return false,
            }
        }
        true
    }
}

/// What one file may hold.
#[derive(Debug, Clone, Default)]
struct Contents {
    plain: Vec<u8>,
    blocks: HashMap<usize, Vec<Vec<u8>>>,
    sizes: BTreeSet<usize>,
}

/// What a cut leaves whole of a block that was not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// Old or new as a whole (GCM-SIV).
    Block,
    /// Each sector old or new; where a sector was caught while it was copied, one cipher block of it may be anything (XTS).
    Sector,
}

impl Grain {
    /// Whether a block may show this, or, if `past` the end of one of its file's sizes, zeros.
    fn allows(self, versions: &[Vec<u8>], shown: &[u8], past: bool) -> bool {
        const CIPHER_BLOCK: usize = 16;
        let piece = match self {
            Self::Block => BLOCK,
            Self::Sector => 512,
        };
        let known = |at: usize, bytes: &[u8]| {
            past && bytes.iter().all(|byte| *byte == 0)
                || versions
                    .iter()
                    .any(|page| page[at..at + bytes.len()] == *bytes)
        };
        shown.chunks(piece).enumerate().all(|(n, bytes)| {
            let caught = |n: usize| {
                let pieces = bytes.chunks(CIPHER_BLOCK).enumerate();
                let strange = pieces.filter(|(m, bytes)| !known(n + m * CIPHER_BLOCK, bytes));
                strange.count() <= 1
            };
            known(n * piece, bytes)
                || self == Self::Sector && versions.len() > 1 && caught(n * piece)
        })
    }
}

/// How many versions of each block, and which sizes, were known when a sync began.
pub(super) struct ContentMark {
    counts: HashMap<usize, usize>,
    size: usize,
}

const BLOCK: usize = 4096;

fn block(plain: &[u8], index: usize) -> Vec<u8> {
    let from = plain.len().min(index * BLOCK);
    let mut page = plain[from..plain.len().min(from + BLOCK)].to_vec();
    page.resize(BLOCK, 0);
    page
}

impl Contents {
    fn holding(plain: Vec<u8>) -> Self {
        Self {
            sizes: BTreeSet::from([plain.len()]),
            plain,
            blocks: HashMap::new(),
        }
    }

    /// From here on it may also hold `after`.
    fn note(&mut self, after: &[u8]) {
        self.sizes.extend([self.plain.len(), after.len()]);
        for index in 0..self.plain.len().max(after.len()).div_ceil(BLOCK) {
            let (old, new) = (block(&self.plain, index), block(after, index));
            if old != new {
                self.blocks
                    .entry(index)
                    .or_insert_with(|| vec![old])
                    .push(new);
            }
        }
    }

    fn mark(&self) -> ContentMark {
        let count = |(&index, versions): (&usize, &Vec<Vec<u8>>)| (index, versions.len());
        ContentMark {
            counts: self.blocks.iter().map(count).collect(),
            size: self.plain.len(),
        }
    }

    /// A sync that began at `mark` ended well; what was noted since then is not covered.
    fn synced(&mut self, mark: &ContentMark) {
        self.blocks.retain(|index, versions| {
            let known = mark.counts.get(index).copied().unwrap_or(1);
            versions.drain(..known - 1);
            versions.len() > 1
        });
        self.sizes = BTreeSet::from([mark.size, self.plain.len()]);
    }

    /// What is wrong with `got`.
    fn check(&self, got: &[u8], grain: Grain) -> Result<(), String> {
        if !self.sizes.contains(&got.len()) {
            return Err(format!("size {} is none of {:?}", got.len(), self.sizes));
        }
        let least = self.sizes.first().copied().unwrap_or(0);
        for (index, shown) in got.chunks(BLOCK).enumerate() {
            let unchanged;
            let versions = match self.blocks.get(&index) {
                Some(versions) => versions,
                None => {
                    unchanged = vec![block(&self.plain, index)];
                    &unchanged
                }
            };
            let past = (index + 1) * BLOCK > least;
            if !grain.allows(versions, shown, past) {
                return Err(format!(
                    "block {index} of {} bytes shows what it never was ({} versions)",
                    got.len(),
                    versions.len()
                ));
            }
        }
        Ok(())
    }
}

/// A volume as somebody sees it.
pub(super) struct Shown {
    pub(super) tree: Tree,
    pub(super) contents: HashMap<u64, Vec<u8>>,
}

/// Everything that a cut may leave of a volume.
#[derive(Clone)]
pub(super) struct Oracle {
    journal: Journal,
    grain: Grain,
    /// States of names since the last one that is durable.
    history: Vec<Arc<Tree>>,
    /// For `Journal::PerDir`: the moment of an object's last good sync.
    floors: HashMap<u64, usize>,
    files: HashMap<u64, Contents>,
    fresh: u64,
}

/// What a sync will cover.
pub(super) struct Mark {
    moment: usize,
    files: HashMap<u64, ContentMark>,
}

impl Oracle {
    /// Of a volume that durably holds this.
    pub(super) fn holding(shown: Shown, journal: Journal, grain: Grain) -> Self {
        let files = shown.contents.into_iter();
        Self {
            journal,
            grain,
            history: vec![Arc::new(shown.tree)],
            floors: HashMap::new(),
            files: files
                .map(|(ino, plain)| (ino, Contents::holding(plain)))
                .collect(),
            fresh: FRESH,
        }
    }

    /// Names as they are, power cuts aside.
    pub(super) fn tree(&self) -> &Arc<Tree> {
        self.history.last().expect("a state")
    }

    /// How many states of names are remembered.
    pub(super) fn tree_count(&self) -> usize {
        self.history.len()
    }

    pub(super) fn plain(&self, ino: u64) -> &[u8] {
        self.files.get(&ino).map_or(&[], |file| &file.plain)
    }

    /// The number for the next object to be made.
    pub(super) fn next_fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    /// Names may be like this from now on.
    pub(super) fn may_be(&mut self, tree: Tree) {
        for (&ino, object) in &tree.0 {
            if object.kind == Kind::File && !self.files.contains_key(&ino) {
                self.files.insert(ino, Contents::holding(Vec::new()));
            }
        }
        self.history.push(Arc::new(tree));
    }

    /// The file at this path may be another object from now on, which durably holds the same.
    pub(super) fn may_be_anew(&mut self, path: &Path, fresh: u64) {
        let mut tree = self.tree().as_ref().clone();
        let object = tree.get(path).clone();
        let plain = tree.find(path).map_or(&[][..], |ino| self.plain(ino));
        let contents = Contents::holding(plain.to_vec());
        self.files.insert(fresh, contents);
        tree.0.insert(fresh, object);
        tree.put(path, fresh);
        self.may_be(tree);
    }

    /// The number that a file has here whose own nobody knew, and which holds this.
    fn being_made(&self, got: &[u8]) -> Option<u64> {
        let mut made = self.files.iter().filter(|(ino, _)| **ino >= FRESH);
        made.find(|(_, file)| file.check(got, self.grain).is_ok())
            .map(|(ino, _)| *ino)
    }

    /// A file may hold this from now on.
    pub(super) fn may_hold(&mut self, ino: u64, plain: &[u8]) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.note(plain);
        }
    }

    /// What it may hold is what it holds.
    pub(super) fn holds(&mut self, ino: u64, plain: Vec<u8>) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.plain = plain;
        }
    }

    /// An object that was being made has this number.
    pub(super) fn made(&mut self, fresh: u64, ino: u64) {
        if let Some(contents) = self.files.remove(&fresh) {
            self.files.insert(ino, contents);
        }
        let renamed = self.history.last_mut().expect("a state");
        let tree = Arc::make_mut(renamed);
        if let Some(object) = tree.0.remove(&fresh) {
            tree.0.insert(ino, object);
        }
        for object in tree.0.values_mut() {
            for entry in object.entries.values_mut().filter(|entry| **entry == fresh) {
                *entry = ino;
            }
        }
    }

    /// Before a sync.
    pub(super) fn mark(&self) -> Mark {
        let mark = |(&ino, file): (&u64, &Contents)| (ino, file.mark());
        Mark {
            moment: self.history.len() - 1,
            files: self.files.iter().map(mark).collect(),
        }
    }

    /// The content of a file is durable as of `mark`.
    pub(super) fn content_synced(&mut self, ino: u64, mark: &Mark) {
        if let (Some(file), Some(mark)) = (self.files.get_mut(&ino), mark.files.get(&ino)) {
            file.synced(mark);
        }
    }

    /// Attributes and, of a directory, entries are durable as of `mark`.
    pub(super) fn names_synced(&mut self, ino: u64, mark: &Mark) {
        match self.journal {
            Journal::Global => drop(self.history.drain(..mark.moment)),
            Journal::PerDir => drop(self.floors.insert(ino, mark.moment)),
        }
    }

    /// After a kill, or an operation that failed: names are as shown, contents too, and nothing more is durable.
    pub(super) fn goes_on_with(&mut self, shown: Shown) {
        for (ino, plain) in shown.contents {
            let fresh = self
                .being_made(&plain)
                .filter(|_| !self.files.contains_key(&ino));
            let made = fresh.and_then(|fresh| self.files.get(&fresh).cloned());
            let known = self
                .files
                .entry(ino)
                .or_insert_with(|| made.unwrap_or_else(|| Contents::holding(Vec::new())));
            known.note(&plain);
            known.plain = plain;
        }
        self.files.retain(|ino, _| *ino < FRESH);
        self.history.push(Arc::new(shown.tree));
    }

    /// Whether names and contents are as after one of the last two states: nothing but one operation was under way.
    pub(super) fn check_kill(
        &self,
        shown: &Shown,
        before: usize,
        step: &HashMap<u64, [Vec<u8>; 2]>,
    ) -> Result<(), String> {
        if !self.history[before..]
            .iter()
            .any(|tree| tree.is(&shown.tree))
        {
            return Err("names are neither as before nor as after".into());
        }
        for (ino, got) in &shown.contents {
            let either = match step.get(ino) {
                Some([before, after]) => {
                    let mut either = Contents::holding(before.clone());
                    either.note(after);
                    either
                }
                None if self.files.contains_key(ino) => {
                    Contents::holding(self.plain(*ino).to_vec())
                }
                None => match self.being_made(got) {
                    Some(fresh) => self.files[&fresh].clone(),
                    None => Contents::holding(Vec::new()),
                },
            };
            either.check(got, self.grain)?;
        }
        Ok(())
    }

    /// What is wrong with what a power cut left.
    pub(super) fn check(&self, shown: &Shown) -> Result<(), String> {
        match self.journal {
            Journal::Global => {
                if !self.history.iter().rev().any(|tree| tree.is(&shown.tree)) {
                    return Err("names are as they never were".into());
                }
            }
            Journal::PerDir => self.check_each(&shown.tree)?,
        }
        for (ino, got) in &shown.contents {
            match self.files.get(ino) {
                Some(file) => file
                    .check(got, self.grain)
                    .map_err(|error| format!("file {ino}: {error}"))?,
                None if got.is_empty() || self.being_made(got).is_some() => {}
                None => return Err(format!("file {ino} came into being with contents")),
            }
        }
        Ok(())
    }

    /// Whether an object that was being made may have the attributes of this one.
    fn was_made_so(&self, shown: &Tree, ino: u64) -> bool {
        self.history.iter().any(|tree| {
            let mut made = tree.0.range(FRESH..);
            made.any(|(known, _)| tree.same_attributes(*known, shown, ino))
        })
    }

    fn check_each(&self, shown: &Tree) -> Result<(), String> {
        let since = |ino: &u64| self.floors.get(ino).copied().unwrap_or(0);
        for (ino, object) in &shown.0 {
            let known = self.history.iter().any(|tree| tree.0.contains_key(ino));
            let mut moments = self.history[since(ino)..].iter();
            if known && *ino != ROOT && !moments.any(|tree| tree.same_attributes(*ino, shown, *ino))
            {
                return Err(format!("attributes of {ino} are as they never were"));
            }
            let mut moments = self.history[since(ino)..].iter();
            if known
                && object.kind == Kind::Dir
                && moments.all(|tree| tree.same_entries(*ino, shown).is_none())
            {
                let known: Vec<_> = self.history[since(ino)..]
                    .iter()
                    .filter_map(|tree| tree.0.get(ino))
                    .map(|known| &known.entries)
                    .collect();
                let shown = &object.entries;
                return Err(format!(
                    "entries of {ino} are as they never were: {shown:?}, known: {known:?}"
                ));
            }
            if !known && object.kind == Kind::File && !self.was_made_so(shown, *ino) {
                return Err(format!("{ino} came into being with other attributes"));
            }
            if !known && !object.entries.is_empty() {
                return Err(format!("{ino} came into being with entries"));
            }
        }
        Ok(())
    }
}

impl Tree {
    /// Without objects that lost their last name.
    pub(super) fn reachable(&self) -> Self {
        let mut kept = BTreeMap::new();
        let mut left = vec![ROOT];
        while let Some(ino) = left.pop() {
            let object = &self.0[&ino];
            left.extend(object.entries.values());
            kept.insert(ino, object.clone());
        }
        Self(kept)
    }
}
