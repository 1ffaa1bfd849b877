//! A volume in use on a disk whose power may be cut, and what its user knows of it. Every error is a sentence that says
//! which steps led to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::format::suite::{Envelope, Suite};
use crate::keys::Keystore;
use crate::repeated::follow;
use crate::store::power::{Journal, PowerStore, Rng};
use crate::store::{Kind as StoreKind, MemoryStore, Store};
use crate::volume::error::{Error, Result as VolumeResult};
use crate::volume::fixture::READ_WRITE;
use crate::volume::spot::Spot;
use crate::volume::tests::list;
use crate::volume::{Node, Rotation, Target, Volume, dir};

use super::machine::{self, Setup, empty_list, init, mount};
use super::oracle::{Grain, Kind, Object, Oracle, Shown, Tree};
use super::step::{Step, node};

/// What was done, for the figures.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) cuts: u64,
    pub(super) kills: u64,
    pub(super) failed_syncs: u64,
    pub(super) steps: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.kills += other.kills;
        self.failed_syncs += other.failed_syncs;
        self.steps += other.steps;
    }
}

pub(super) struct Session {
    setup: Setup,
    disk: PowerStore,
    pub(super) volume: Arc<Volume>,
    pub(super) keys: Arc<Keystore>,
    pub(super) oracle: Oracle,
    pub(super) rng: Rng,
    log: Vec<String>,
    /// A sync failed since it was mounted: it will not end clean.
    unclean: bool,
    /// Of a thousand cuts, how many are followed by more work, a clean end and a strict mount.
    pub(super) deep: u64,
    pub(super) counts: Counts,
}

/// What files held before a step, and after it.
type Expected = HashMap<u64, [Vec<u8>; 2]>;

/// What became of a write by another thread; `None`: nothing synced, so it did not come to it.
type Told = Arc<Mutex<Option<VolumeResult<()>>>>;

pub(super) type Outcome<T> = Result<T, String>;

impl Session {
    /// A new volume, durable and mounted.
    pub(super) fn new(setup: Setup, seed: u64) -> Self {
        follow(seed);
        let made = PowerStore::over(
            &machine::empty_disk(&setup),
            setup.journal,
            setup.rules(),
            seed,
        );
        let disk: Arc<dyn Store> = Arc::new(made.clone());
        init(&disk, &setup).unwrap();
        disk.sync().unwrap();
        Self::over(&made.cut(), setup, seed, None, Vec::new()).unwrap()
    }

    /// What is on this disk, mounted and, if `known` is given, compared with what it may be.
    pub(super) fn over(
        disk: &MemoryStore,
        setup: Setup,
        seed: u64,
        known: Option<&Oracle>,
        log: Vec<String>,
    ) -> Outcome<Self> {
        let disk = PowerStore::over(disk, setup.journal, setup.rules(), seed);
        let what = |error: String| format!("{error}, seed {seed}: {log:?}");
        let opened = open(&disk, &setup).map_err(&what)?;
        let (volume, keys, shown) = opened;
        if let Some(known) = known {
            known.check(&shown).map_err(&what)?;
        }
        Ok(Self {
            setup,
            disk,
            volume,
            keys,
            oracle: Oracle::holding(shown, setup.journal, grain(&setup)),
            rng: Rng(seed),
            log,
            unclean: false,
            deep: 0,
            counts: Counts::default(),
        })
    }

    /// From now on a cut is taken after every change, with this probability in a thousand, `samples` times.
    pub(super) fn watch(&self, permille: u64, samples: u64) {
        self.disk.watch(permille, samples);
    }

    pub(super) fn what(&self, error: impl std::fmt::Display) -> String {
        format!("{error}, after {:?}", self.log)
    }

    /// Does a step that must succeed, with cuts as `watch` says.
    pub(super) fn step(&mut self, step: &Step) -> Outcome<()> {
        self.step_while(step, None)
    }

    /// As `step`; `meanwhile` is written by another thread while the step syncs. Kills and failed syncs that the disk has
    /// planned may come true.
    pub(super) fn step_while(&mut self, step: &Step, meanwhile: Option<&Step>) -> Outcome<()> {
        self.counts.steps += 1;
        self.log.push(step.to_string());
        let before = self.oracle.tree_count() - 1;
        let (fresh, mark) = (self.oracle.next_fresh(), self.oracle.mark());
        if let Step::RekeyData(path) = step
            && self.is_rekeyed(path)
        {
            self.oracle.may_be_anew(path, fresh);
        }
        let names = step.names(self.oracle.tree(), fresh);
        if let Some(between) = step.names_between(self.oracle.tree())
            && !self.disk.is_dead()
            && step
                .replaces_ours(&self.volume)
                .map_err(|error| self.what(error))?
        {
            self.oracle.may_be(between);
        }
        if names.0 != self.oracle.tree().0 {
            self.oracle.may_be(names);
        }
        let mut expected = HashMap::new();
        let own = self.expect(step, &mut expected);
        let other = meanwhile.and_then(|step| self.expect(step, &mut expected));
        let told = self.arrange(meanwhile);
        let failures = self.disk.failed_syncs();
        let done = self.perform(step);
        self.disk.during_next_sync(None);
        self.check_taken()?;
        let failed = self.disk.failed_syncs() > failures;
        self.counts.failed_syncs += u64::from(failed);
        self.unclean |= failed;
        match done {
            _ if self.disk.is_dead() => return self.killed(before, &expected),
            Err(error) if !failed => return Err(self.what(error)),
            Err(_) => return self.failed(before, &expected),
            Ok(()) => {}
        }
        if let Some((ino, after)) = own {
            self.oracle.holds(ino, after);
        }
        match told.map(|told| told.lock().unwrap().take()) {
            Some(Some(Err(error))) if !failed => return Err(self.what(error)),
            Some(Some(Err(_))) => return self.failed(before, &expected),
            Some(Some(Ok(()))) => {
                let (ino, after) = other.expect("something was written");
                self.oracle.holds(ino, after);
            }
            _ => {}
        }
        self.promised(step, fresh, &mark)
    }

    /// What a step may make of a file's content.
    fn expect(&mut self, step: &Step, expected: &mut Expected) -> Option<(u64, Vec<u8>)> {
        let ino = self.oracle.tree().find(step.written()?)?;
        let before = self.oracle.plain(ino).to_vec();
        let (_, after) = step.content(&before)?;
        self.oracle.may_hold(ino, &after);
        expected.insert(ino, [before, after.clone()]);
        Some((ino, after))
    }

    fn arrange(&mut self, meanwhile: Option<&Step>) -> Option<Told> {
        let step = meanwhile?.clone();
        self.log.push(format!("meanwhile {step}"));
        let told = Arc::new(Mutex::new(None));
        let (tell, volume) = (Arc::clone(&told), Arc::downgrade(&self.volume));
        self.disk.during_next_sync(Some(Box::new(move || {
            if let Some(volume) = volume.upgrade() {
                let done = step.run(&volume);
                *tell.lock().unwrap() = Some(done);
            }
        })));
        Some(told)
    }

    fn perform(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Remount => {
                let closed = self.volume.close();
                let mounted = mount(&self.shared(), &self.setup)
                    .or_else(|_| mount(&self.shared(), &self.setup));
                (self.volume, self.keys) = mounted.map_err(|error| error.to_string())?;
                self.unclean = false;
                closed.map_err(|error| error.to_string())
            }
            Step::Rotate => {
                let rotated = self.volume.rotate(&mut |_| {});
                self.proven(rotated)
            }
            Step::Rekey(alias, envelope) => {
                let target = self.target(alias, *envelope)?;
                let moved = self.volume.rekey(target, &mut |_| {});
                self.proven(moved)
            }
            Step::RekeyData(path) => self.rekey_data(path),
            _ => step.run(&self.volume).map_err(|error| error.to_string()),
        }
    }

    /// After a rotation or a move, which must have been whole: older versions are destroyed.
    fn proven(&self, done: VolumeResult<Rotation>) -> Result<(), String> {
        let rotation = done.map_err(|error| error.to_string())?;
        if rotation.remaining + rotation.damaged > 0 {
            return Err(format!("{rotation:?}"));
        }
        self.volume
            .destroy_old()
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    fn target(&self, alias: &str, envelope: Envelope) -> Result<Target, String> {
        // A failed sync may have left the key in the file, without telling this process.
        let key = self
            .keys
            .resolve(alias)
            .or_else(|_| self.keys.create_key(Some(alias)))
            .or_else(|_| self.keys.resolve(alias));
        Ok(Target {
            provider: self.keys.clone(),
            key: key.map_err(|error| error.to_string())?,
            envelope: Some(envelope),
            module: None,
        })
    }

    fn promised(&mut self, step: &Step, fresh: u64, mark: &super::oracle::Mark) -> Outcome<()> {
        match step {
            Step::Create(path) | Step::MakeDir(path) | Step::Symlink(path, _) => {
                let made = node(&self.volume, path).map_err(|error| self.what(error))?;
                self.oracle.made(fresh, made.id());
            }
            Step::RekeyData(path) if self.is_rekeyed(path) => self.rekeyed(path, fresh)?,
            Step::Fsync(path) | Step::DataSync(path) => {
                let ino = self.oracle.tree().find(path).expect("a file");
                self.oracle.content_synced(ino, mark);
                if matches!(step, Step::Fsync(_)) {
                    self.oracle.names_synced(ino, mark);
                }
            }
            Step::FsyncDir(path) => {
                let ino = self.oracle.tree().find(path).expect("a directory");
                self.oracle.names_synced(ino, mark);
            }
            _ => {}
        }
        Ok(())
    }

    fn check_taken(&mut self) -> Outcome<()> {
        for image in self.disk.taken() {
            self.counts.cuts += 1;
            let seed = self.rng.next();
            let mut log = self.log.clone();
            log.push("power cut".into());
            let mut after = Self::over(&image, self.setup, seed, Some(&self.oracle), log)?;
            if self.rng.below(1000) < self.deep {
                after.go_on()?;
            }
        }
        Ok(())
    }

    /// A few more steps, then everything is touched, and ends clean and strict.
    fn go_on(&mut self) -> Outcome<()> {
        for _ in 0..self.rng.below(4) {
            self.random_step()?;
        }
        match self.rng.below(8) {
            0..=1 => self.step(&Step::Rotate)?,
            2 => self.rekey_each_file()?,
            _ => {}
        }
        self.finish()
    }

    pub(super) fn random_step(&mut self) -> Outcome<()> {
        let step = self.random();
        self.step(&step)
    }

    pub(super) fn random(&mut self) -> Step {
        let tree = Arc::clone(self.oracle.tree());
        let oracle = &self.oracle;
        Step::random(
            &mut self.rng,
            &tree,
            &|ino| oracle.plain(ino).len() as u64,
            false,
        )
    }

    /// Writes to every file, unmounts, takes all leniency away and compares.
    pub(super) fn finish(&mut self) -> Outcome<()> {
        let files = self.oracle.tree().paths(&|kind| *kind == Kind::File);
        for path in files {
            let ino = self.oracle.tree().find(&path).expect("a file");
            let at = self.oracle.plain(ino).len() as u64 / 2;
            self.step(&Step::Write(path, at, vec![7]))?;
        }
        if self.unclean {
            self.step(&Step::Remount)?;
            return self.finish();
        }
        self.log.push("close".into());
        self.volume.close().map_err(|error| self.what(error))?;
        empty_list(&self.shared(), &self.volume);
        let (_volume, _, shown) =
            open(&self.disk, &self.setup).map_err(|error| self.what(error))?;
        self.check_exact(&shown)
    }

    fn check_exact(&self, shown: &Shown) -> Outcome<()> {
        if shown.tree.0 != self.oracle.tree().reachable().0 {
            return Err(self.what("names are not what they were made"));
        }
        for (ino, got) in &shown.contents {
            if got != self.oracle.plain(*ino) {
                return Err(self.what(format!("file {ino} is not what was written")));
            }
        }
        Ok(())
    }

    /// The daemon died within a step: the cache lives on. Or the host did: what a cut leaves.
    fn killed(&mut self, before: usize, expected: &Expected) -> Outcome<()> {
        // Under XTS nobody can tell after a kill what an earlier failed sync lost, as on a plain disk (SEMANTICS.md).
        let unknown = self.unclean && self.setup.suite == Suite::Xts;
        if unknown || self.rng.below(2) == 0 {
            return self.cut_power();
        }
        self.die(before, expected)
    }

    /// Kills the daemon between two steps.
    pub(super) fn kill(&mut self) -> Outcome<()> {
        self.disk.kill_after(0);
        self.die(self.oracle.tree_count() - 1, &HashMap::new())
    }

    fn die(&mut self, before: usize, expected: &Expected) -> Outcome<()> {
        self.counts.kills += 1;
        self.log.push("killed".into());
        let _ = self.volume.close(); // lets the lock go; nothing else gets through
        self.disk.revive();
        let (volume, keys, shown) =
            open(&self.disk, &self.setup).map_err(|error| self.what(error))?;
        (self.volume, self.keys) = (volume, keys);
        self.unclean = false;
        let checked = self.oracle.check_kill(&shown, before, expected);
        checked.map_err(|error| self.what(error))?;
        self.oracle.goes_on_with(shown);
        Ok(())
    }

    /// A sync failed within a step, and the step with it: it had all of its effect or none.
    fn failed(&mut self, before: usize, expected: &Expected) -> Outcome<()> {
        self.log.push("a sync failed".into());
        let shown = show(&self.volume).map_err(|error| self.what(error))?;
        let checked = self.oracle.check_kill(&shown, before, expected);
        checked.map_err(|error| self.what(error))?;
        self.oracle.goes_on_with(shown);
        Ok(())
    }

    /// Cuts the power and goes on with what that left.
    pub(super) fn cut_power(&mut self) -> Outcome<()> {
        self.counts.cuts += 1;
        self.log.push("power cut".into());
        let image = self.disk.cut();
        self.disk.kill_after(0);
        let _ = self.volume.close();
        let seed = self.rng.next();
        let (deep, mut counts) = (self.deep, self.counts);
        let next = Self::over(
            &image,
            self.setup,
            seed,
            Some(&self.oracle),
            self.log.clone(),
        )?;
        counts.add(next.counts);
        *self = Self {
            deep,
            counts,
            ..next
        };
        Ok(())
    }

    /// Checks one cut; the run goes on as it was.
    pub(super) fn cut_once(&mut self) -> Outcome<()> {
        self.counts.cuts += 1;
        let seed = self.rng.next();
        let mut log = self.log.clone();
        log.push("power cut".into());
        Self::over(&self.disk.cut(), self.setup, seed, Some(&self.oracle), log).map(drop)
    }

    /// Whether passes sync the store, not file by file.
    pub(super) fn syncs_whole_store(&self) -> bool {
        self.setup.syncfs
    }

    pub(super) fn disk(&self) -> &PowerStore {
        &self.disk
    }

    pub(super) fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.disk.clone())
    }
}

fn grain(setup: &Setup) -> Grain {
    match setup.suite {
        Suite::Gcm => Grain::Block,
        Suite::Xts => Grain::Sector,
    }
}

fn open(disk: &PowerStore, setup: &Setup) -> Outcome<(Arc<Volume>, Arc<Keystore>, Shown)> {
    let disk: Arc<dyn Store> = Arc::new(disk.clone());
    let (volume, keys) =
        mount(&disk, setup).map_err(|error| format!("it does not mount: {error}"))?;
    let shown = show(&volume)?;
    Ok((volume, keys, shown))
}

/// All of a volume; an error for anything that cannot be read.
pub(super) fn show(volume: &Volume) -> Outcome<Shown> {
    let mut shown = Shown {
        tree: Tree(BTreeMap::new()),
        contents: HashMap::new(),
    };
    let root = volume.root();
    let mut ids = HashSet::from([dir::id(volume, &root).expect("known from the start")]);
    shown.tree.0.insert(root.id(), Object::new(Kind::Dir, 0));
    let mut left = vec![root];
    while let Some(dir) = left.pop() {
        let names =
            list(volume, &dir).map_err(|error| format!("a directory cannot be listed: {error}"))?;
        for name in names {
            let (node, object, content) =
                look(volume, &dir, &name).map_err(|error| unread(volume, &dir, &name, &error))?;
            let id = node.id();
            if let Some(parent) = shown.tree.0.get_mut(&dir.id()) {
                parent.entries.insert(name, id);
            }
            if object.kind == Kind::Dir {
                let id = dir::id(volume, &node).map_err(|error| error.to_string())?;
                if !ids.insert(id) {
                    return Err("two directories have one identity".into());
                }
                left.push(node);
            }
            if shown
                .tree
                .0
                .insert(id, object)
                .is_some_and(|object| object.kind == Kind::Dir)
            {
                return Err("a directory stands in two places".into());
            }
            if let Some(content) = content {
                shown.contents.insert(id, content);
            }
        }
    }
    Ok(shown)
}

/// What cannot be read, as the journal calls it, too.
fn unread(volume: &Volume, dir: &Arc<Node>, name: &[u8], error: &Error) -> String {
    let stored = Spot::new(volume, dir, name).map(|spot| spot.entry().escape_ascii().to_string());
    let name = name.escape_ascii();
    format!(
        "{name} ({} in {}) cannot be read: {error}",
        stored.unwrap_or_default(),
        dir.ino()
    )
}

type Look = (Arc<Node>, Object, Option<Vec<u8>>);

fn look(volume: &Volume, dir: &Arc<Node>, name: &[u8]) -> VolumeResult<Look> {
    let (node, attr) = volume.lookup(dir, name)?;
    let mut content = None;
    let kind = match attr.kind {
        StoreKind::Dir => Kind::Dir,
        StoreKind::Symlink => Kind::Symlink(volume.read_link(&node)?),
        _ => {
            let file = volume.open(&node, READ_WRITE)?;
            let mut bytes = vec![0xEE; attr.size as usize + 1];
            let read = volume.read(&file, 0, &mut bytes)?;
            if read as u64 != attr.size {
                return Err(Error::Damaged(format!("{read} of {} bytes", attr.size)));
            }
            bytes.truncate(read);
            content = Some(bytes);
            Kind::File
        }
    };
    let mut object = Object::new(kind, attr.mode);
    if attr.kind != StoreKind::Symlink {
        for name in volume.xattr_names(&node)? {
            let value = volume.xattr(&node, &name)?;
            object.xattrs.insert(name, value);
        }
    }
    Ok((node, object, content))
}

/// Runs a script with cuts after every change, `samples` each; how many there were.
pub(super) fn exhaust(
    setup: Setup,
    seed: u64,
    samples: u64,
    before: &[Step],
    script: &[Step],
) -> Outcome<Counts> {
    let mut session = Session::new(setup, seed);
    for step in before {
        session.step(step)?;
    }
    session.deep = 250;
    session.watch(1000, samples);
    for step in script {
        session.step(step)?;
    }
    session.finish()?;
    Ok(session.counts)
}

/// Both kinds of journal.
pub(super) fn both(setup: Setup) -> [Setup; 2] {
    [Journal::Global, Journal::PerDir].map(|journal| Setup { journal, ..setup })
}
