//! A store that remembers how far what it holds is from the medium, so that the power can be cut at any moment: each 512-byte
//! sector keeps any state that it had since the file's last good sync, names and lengths keep their order, copies are
//! caught in the middle, syncs are written into and fail (FORMAT.md section 4, "What the media give").
//!
//! Invariant: what is read is always what a memory store would hold; a cut changes nothing here but answers another store.

mod file_log;
mod handles;
mod journal;
mod story;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::{fmt, io};

use super::tree::Tree;
use super::{MemoryStore, Shared};
use crate::store::name::errno;
use crate::store::{Dir, Store, Traits, Usage};
use file_log::{FileLog, Pick};
use handles::Held;
use journal::{Attribute, Change, Log};

pub(crate) use file_log::Rules;
pub(crate) use journal::Journal;
pub(crate) use story::told;

pub(crate) use crate::repeated::Rng;

/// What other threads do while a sync runs.
pub(crate) type Meanwhile = Box<dyn FnOnce() + Send>;

/// What a sync is asked for.
#[derive(Clone, Copy)]
enum Synced {
    Store,
    Dir(u64),
    File(u64),
}

impl fmt::Display for Synced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => write!(f, "the store"),
            Self::Dir(ino) => write!(f, "directory {ino}"),
            Self::File(ino) => write!(f, "file {ino}"),
        }
    }
}

struct Disk {
    live: Shared,
    log: Log,
    files: BTreeMap<u64, FileLog>,
    rules: Rules,
    traits: Traits,
    rng: Rng,
    /// Of the last change or sync.
    time: u64,
    /// Handles of earlier ones answer EIO: their process was killed.
    process: u64,
    /// Calls that change something, and syncs, until the process is killed.
    fuse: Option<u64>,
    /// Syncs that go well until some fail, and how many do.
    failing: Option<(u64, u64)>,
    failed: u64,
    /// Nothing is written where nothing stands yet: ENOSPC.
    full: bool,
    /// Files whose next sync is told that one of the whole store lost something of theirs (errseq).
    told: HashSet<u64>,
    meanwhile: Option<Meanwhile>,
    watch: Option<Watch>,
}

/// Cuts taken after every change that one thread makes.
struct Watch {
    thread: ThreadId,
    permille: u64,
    samples: u64,
    taken: Vec<MemoryStore>,
}

impl Disk {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn require_alive(&mut self, process: u64) -> io::Result<()> {
        if process == self.process && self.fuse != Some(0) {
            Ok(())
        } else {
            Err(errno(libc::EIO))
        }
    }

    /// Before a change or sync.
    fn step(&mut self, process: u64) -> io::Result<u64> {
        self.require_alive(process)?;
        if let Some(left) = &mut self.fuse {
            *left -= 1;
        }
        Ok(self.tick())
    }

    fn note(&mut self, time: u64, change: Change) {
        story::tell(|| format!("{time}: {change}"));
        self.log.add(time, change);
    }

    fn note_attribute(&mut self, time: u64, ino: u64, attribute: Attribute) {
        self.note(time, Change::Attribute(ino, attribute));
    }

    fn take_failure(&mut self) -> bool {
        match &mut self.failing {
            Some((0, times)) => {
                *times -= 1;
                self.failing = self.failing.filter(|(_, times)| *times > 0);
                self.failed += 1;
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn file_synced(&mut self, ino: u64, time: u64, all: bool) {
        self.log.force_file(ino, time, all);
        if let Some(file) = self.files.get_mut(&ino) {
            file.synced(time);
        }
    }

    /// Whether anything was lost.
    fn file_sync_failed(&mut self, ino: u64, time: u64) -> bool {
        self.log.force_file(ino, time, false);
        let Some(file) = self.files.get_mut(&ino) else {
            return false;
        };
        let before = file.losses();
        let dropped = file.sync_failed(time, &self.rules, &mut self.rng);
        if let Ok(inode) = self.live.lock().inode(ino) {
            for (number, page) in dropped {
                inode.content.put_page(number, page);
            }
        }
        self.files
            .get(&ino)
            .is_some_and(|file| file.losses() > before)
    }

    fn all_synced(&mut self, time: u64) {
        self.log.force_all(time);
        self.files.values_mut().for_each(|file| file.synced(time));
    }

    fn all_syncs_failed(&mut self, time: u64) -> bool {
        let inos: Vec<u64> = self.files.keys().copied().collect();
        self.log.force_all(time);
        for ino in inos {
            if self.file_sync_failed(ino, time) {
                self.told.insert(ino);
            }
        }
        !self.told.is_empty()
    }

    /// What a power cut leaves now.
    fn cut(&mut self, pick: Pick) -> Tree {
        let keep = match (pick, self.rng.below(4)) {
            (Pick::Oldest, _) => 0,
            (Pick::Newest, _) => 1000,
            (Pick::Any, 0) => 1000 * self.rng.below(2),
            (Pick::Any, _) => self.rng.below(1001),
        };
        let survivors = self.log.survivors(keep, &mut self.rng);
        story::tell(|| format!("cut, without {:?}", self.log.lost(&survivors)));
        // Pages may be all old, or all new, whatever became of the names.
        let pick = match self.rng.below(8) {
            0 => Pick::Oldest,
            1 => Pick::Newest,
            _ => pick,
        };
        let mut tree = self.log.tree(&survivors);
        for ino in tree.files() {
            if let (Some(file), Ok(inode)) = (self.files.get(&ino), tree.inode(ino)) {
                inode.content = file.after_cut(&survivors, &self.rules, pick, &mut self.rng);
            }
        }
        tree.numbers_after(&self.live.lock());
        tree
    }

    fn watched(&mut self) {
        let here = std::thread::current().id();
        let Some((permille, samples)) = self
            .watch
            .as_ref()
            .filter(|watch| watch.thread == here)
            .map(|watch| (watch.permille, watch.samples))
        else {
            return;
        };
        if permille < 1000 && self.rng.below(1000) >= permille {
            return;
        }
        for n in 0..samples {
            let pick = match n {
                0 if samples > 2 => Pick::Oldest,
                1 if samples > 2 => Pick::Newest,
                _ => Pick::Any,
            };
            let store = stored(self.cut(pick), self.traits);
            if let Some(watch) = &mut self.watch {
                watch.taken.push(store);
            }
        }
    }
}

fn stored(tree: Tree, traits: Traits) -> MemoryStore {
    MemoryStore {
        shared: Shared(Arc::new(Mutex::new(tree))),
        traits,
    }
}

/// A store whose power can be cut. Clones are the same store.
#[derive(Clone)]
pub(crate) struct PowerStore {
    disk: Arc<Mutex<Disk>>,
    live: Arc<MemoryStore>,
}

impl PowerStore {
    /// A store that holds durably what `before` holds; that one is not changed.
    pub(crate) fn over(before: &MemoryStore, kind: Journal, rules: Rules, seed: u64) -> Self {
        let live = Arc::new(before.snapshot());
        let mut tree = live.shared.lock().clone();
        let mut files = BTreeMap::new();
        for ino in tree.files() {
            if let Ok(inode) = tree.inode(ino) {
                files.insert(ino, FileLog::holding(std::mem::take(&mut inode.content)));
            }
        }
        let disk = Disk {
            live: live.shared.clone(),
            log: Log::over(tree, kind),
            files,
            rules,
            traits: before.traits,
            rng: Rng(seed),
            time: 0,
            process: 0,
            fuse: None,
            failing: None,
            failed: 0,
            full: false,
            told: HashSet::new(),
            meanwhile: None,
            watch: None,
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
            live,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a power cut may leave now: one of many possibilities.
    pub(crate) fn cut(&self) -> MemoryStore {
        stored(self.lock().cut(Pick::Any), self.live.traits)
    }

    /// From now on, each change or sync that this thread makes is followed by `samples` cuts, with this probability.
    pub(crate) fn watch(&self, permille: u64, samples: u64) {
        self.lock().watch = Some(Watch {
            thread: std::thread::current().id(),
            permille,
            samples,
            taken: Vec::new(),
        });
    }

    /// The cuts taken since the last call.
    pub(crate) fn taken(&self) -> Vec<MemoryStore> {
        let mut disk = self.lock();
        disk.watch
            .as_mut()
            .map_or(Vec::new(), |watch| std::mem::take(&mut watch.taken))
    }

    /// Kills the process that holds this store, at once or after so many more changes and syncs: its handles answer EIO.
    /// The cache lives on. `revive` gives the store to another.
    pub(crate) fn kill_after(&self, changes: u64) {
        self.lock().fuse = Some(changes);
    }

    /// Takes back what `kill_after` and `fail_sync` planned, unless it came true.
    pub(crate) fn spare(&self) {
        let mut disk = self.lock();
        disk.failing = None;
        if disk.fuse != Some(0) {
            disk.fuse = None;
        }
    }

    /// Whether the process was killed.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().fuse == Some(0)
    }

    /// Another process takes the store over; handles of the one before stay dead.
    pub(crate) fn revive(&self) {
        let mut disk = self.lock();
        disk.fuse = None;
        disk.full = false;
        disk.process += 1;
        if disk.rng.below(2) == 0 {
            disk.told.clear(); // nobody had the files open, and the inodes went
        }
    }

    /// One sync fails, after `after` that go well; `None`: none does.
    pub(crate) fn fail_sync(&self, after: Option<u64>) {
        self.lock().failing = after.map(|after| (after, 1));
    }

    /// The next syncs fail.
    pub(crate) fn fail_syncs(&self, times: u64) {
        self.lock().failing = (times > 0).then_some((0, times));
    }

    /// Whether the store has no room from now on for what is not written over something.
    pub(crate) fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// How many syncs failed so far.
    pub(crate) fn failed_syncs(&self) -> u64 {
        self.lock().failed
    }

    /// What another thread does while the next sync runs.
    pub(crate) fn during_next_sync(&self, work: Option<Meanwhile>) {
        self.lock().meanwhile = work;
    }

    /// One call that changes something: made on the live store, then noted.
    fn change<T>(
        &self,
        process: u64,
        act: impl FnOnce(&mut Disk, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.lock();
        let time = disk.step(process)?;
        let done = act(&mut disk, time)?;
        disk.watched();
        Ok(done)
    }

    /// One sync, into which others may write.
    fn sync_with(
        &self,
        process: u64,
        what: Synced,
        finish: impl FnOnce(&mut Disk, u64),
        fail: impl FnOnce(&mut Disk, u64) -> bool,
    ) -> io::Result<()> {
        let (begun, meanwhile) = {
            let mut disk = self.lock();
            (disk.step(process)?, disk.meanwhile.take())
        };
        if let Some(work) = meanwhile {
            work();
        }
        let mut disk = self.lock();
        if process != disk.process {
            return Err(errno(libc::EIO));
        }
        let told = matches!(what, Synced::File(ino) if disk.told.remove(&ino));
        disk.failed += u64::from(told);
        let failed = told || disk.take_failure();
        story::tell(|| {
            let how = if failed { "failed" } else { "went well" };
            format!("{begun}: sync of {what} {how}")
        });
        if failed {
            fail(&mut disk, begun);
            return Err(errno(libc::EIO));
        }
        finish(&mut disk, begun);
        disk.watched();
        Ok(())
    }
}

impl Store for PowerStore {
    fn root(&self) -> Arc<dyn Dir> {
        let process = self.lock().process;
        Arc::new(Held::new(self, process, self.live.root(), super::ROOT))
    }

    fn sync(&self) -> io::Result<()> {
        let process = self.lock().process;
        let (synced, failed) = (Disk::all_synced, Disk::all_syncs_failed);
        self.sync_with(process, Synced::Store, synced, failed)
    }

    fn usage(&self) -> io::Result<Usage> {
        self.live.usage()
    }

    fn traits(&self) -> Traits {
        self.live.traits()
    }
}
