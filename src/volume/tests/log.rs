//! Random operations on a volume whose process dies at any call of the store, as a supervised mount has it: what the next one
//! makes of the log must be what the first one had, and the request that was not answered must come out as if nothing happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::carry::{Held, compare_held, hold, write};
use super::model::{Body, Model, Rng, Story, compare, count, run, walk};
use super::{Bench, READ_WRITE};
use crate::format::suite::Suite;
use crate::store::{Call, FailingStore, File, Kind, MemoryStore, Store};
use crate::volume::{Generation, Keeper, Left, Node, Result, SetAttr, Volume};

/// A process that is dead makes none of these.
const EVERY: [Call; 32] = [
    Call::Stat,
    Call::Read,
    Call::Write,
    Call::SetLen,
    Call::Allocate,
    Call::NextData,
    Call::NextHole,
    Call::TakeContents,
    Call::Lock,
    Call::Open,
    Call::OpenDir,
    Call::Create,
    Call::MakeDir,
    Call::MakeNode,
    Call::MakeSymlink,
    Call::ReadLink,
    Call::Link,
    Call::Rename,
    Call::Remove,
    Call::RemoveDir,
    Call::Entries,
    Call::SetMode,
    Call::SetOwner,
    Call::SetTimes,
    Call::ReadXattr,
    Call::SetXattr,
    Call::RemoveXattr,
    Call::SyncFile,
    Call::SyncDir,
    Call::SyncStore,
    Call::Usage,
    Call::Stat,
];

fn head() -> Value {
    Value::from("head")
}

/// What is outside of the process.
#[derive(Default)]
struct Outside {
    log: Vec<u8>,
    kept: HashMap<u64, Arc<dyn File>>,
    doomed: bool,
}

struct Kept {
    outside: Arc<Mutex<Outside>>,
    store: Arc<FailingStore>,
    /// Calls that had failed when this process began.
    failed: u64,
}

impl Kept {
    /// Nothing comes out of a process that is dead.
    fn living(&self, act: impl FnOnce(&mut Outside)) -> io::Result<()> {
        if self.store.failed() == self.failed {
            act(&mut self.outside.lock().unwrap());
        }
        Ok(())
    }
}

impl Keeper for Kept {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.living(|outside| outside.log.extend_from_slice(bytes))
    }

    fn renew(&self, bytes: &[u8]) -> io::Result<()> {
        self.living(|outside| outside.log = bytes.to_vec())
    }

    fn keep(&self, key: u64, file: &Arc<dyn File>) -> io::Result<()> {
        self.living(|outside| drop(outside.kept.insert(key, Arc::clone(file))))
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }

    fn let_go(&self, key: u64) {
        self.living(|outside| drop(outside.kept.remove(&key)))
            .unwrap();
    }

    fn doom(&self, _: &str) {
        self.living(|outside| outside.doomed = true).unwrap();
    }
}

/// What the kernel knows, and what everything should be.
struct World {
    bench: Bench,
    store: Arc<FailingStore>,
    outside: Arc<Mutex<Outside>>,
    volume: Arc<Volume>,
    model: Model,
    story: Story,
    rng: Rng,
    request: u64,
    handles: BTreeMap<u64, Held>,
    /// Nodes that the kernel looked up: how often, and which object each is.
    looked_up: BTreeMap<u64, (u64, usize)>,
    deaths: u32,
}

impl World {
    fn new(suite: Suite, seed: u64) -> Self {
        let mut bench = Bench::new(suite);
        bench.epoch = 1;
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let store = Arc::new(FailingStore::new(memory));
        let volume = bench.open_on(store.clone());
        let top = SetAttr {
            mode: Some(0o755),
            ..SetAttr::default()
        };
        volume.set_attr(&volume.root(), &top, None).unwrap();
        let world = Self {
            bench,
            store,
            outside: Arc::default(),
            volume,
            model: Model::new(),
            story: Story(seed, Vec::new()),
            rng: Rng(seed * 6131 + 5),
            request: 0,
            handles: BTreeMap::new(),
            looked_up: BTreeMap::new(),
            deaths: 0,
        };
        world
            .volume
            .keep_log(world.keeper(), head(), Generation(1), None)
            .unwrap();
        world
    }

    fn keeper(&self) -> Box<dyn Keeper> {
        Box::new(Kept {
            outside: Arc::clone(&self.outside),
            store: Arc::clone(&self.store),
            failed: self.store.failed(),
        })
    }

    /// One operation, over which the process may die, also just after it.
    fn step(&mut self) {
        self.request += 2;
        let (request, rng, model) = (self.request, self.rng.0, self.model.clone());
        let after = self.rng.below(60) as u64;
        let dies_after = self.rng.below(8) == 0;
        let failed = self.store.failed();
        let store = Arc::clone(&self.store);
        let arm = move || store.fail_from(&EVERY, after, libc::EIO);
        let mut rng_now = Rng(rng);
        let (volume, model_now, story) = (&self.volume, &mut self.model, &mut self.story);
        let done: Option<(i32, i32)> = volume
            .once(request, false, || {
                Ok(Some(run(&mut rng_now, volume, model_now, story, &arm)))
            })
            .unwrap();
        let (got, want) = done.unwrap();
        let lives = self.store.failed() == failed;
        if lives {
            self.store.heal();
            assert_eq!(got, want, "{:?}", self.story.1.last());
            if !dies_after {
                self.volume.log_changes();
                return;
            }
        }
        self.die();
        let mut rng_again = Rng(rng);
        let mut model_again = model;
        let (volume, story) = (&self.volume, &mut self.story);
        let again: Option<(i32, i32)> = volume
            .once(request, true, || {
                let done = run(&mut rng_again, volume, &mut model_again, story, &|| {});
                self.model = model_again;
                Ok(Some(done))
            })
            .unwrap();
        // Done by the process before: the kernel would get a success.
        let (got, want) = again.unwrap_or((0, want));
        assert_eq!(got, want, "again: {:?}", self.story.1.last());
        self.volume.log_changes();
    }

    /// Another process goes on.
    fn die(&mut self) {
        self.deaths += 1;
        self.story.1.push("dies".to_owned());
        let numbers: Vec<_> = self
            .handles
            .iter()
            .map(|(n, h)| (*n, h.object, h.id))
            .collect();
        self.handles.clear();
        self.bench.listed.push(self.bench.epoch);
        self.bench.epoch += 1;
        // Nothing that the one before does on its way out reaches the store or the log.
        self.store.fail_from(&EVERY, 0, libc::EIO);
        let outside = std::mem::take(&mut *self.outside.lock().unwrap());
        let none = self.bench.open_on(Arc::new(MemoryStore::new()));
        drop(std::mem::replace(&mut self.volume, none));
        self.store.heal();
        assert!(!outside.doomed);
        self.volume = self.bench.open_on(self.store.clone());
        let left = Left::read(&outside.log).unwrap();
        let generation = Generation(left.generation.0 + 1);
        let rebuilt = left.rebuild(&self.volume, &outside.kept).unwrap();
        self.outside.lock().unwrap().kept = outside.kept; // none is kept again
        for (node, lookups) in &rebuilt.lookups {
            node.hold(*lookups);
        }
        self.volume
            .keep_log(self.keeper(), head(), generation, Some(&rebuilt))
            .unwrap();
        let mut files: BTreeMap<_, _> = rebuilt
            .handles
            .into_iter()
            .map(|(opened, file)| (opened.number, file))
            .collect();
        for (number, object, id) in numbers {
            let file = files.remove(&number).expect("a handle");
            self.handles.insert(number, Held { file, object, id });
        }
        assert!(files.is_empty(), "no handle that the kernel does not have");
        let states = self.handles.values().map(|held| held.file.state().number);
        let states: BTreeSet<_> = states.collect();
        let kept = self.outside.lock().unwrap().kept.len();
        assert_eq!(kept, states.len(), "what is open, and nothing else");
    }

    /// The kernel looks something up, or forgets it.
    fn look_up(&mut self) -> Result<()> {
        let dirs = self.model.dirs();
        let (dir, path) = &dirs[self.rng.below(dirs.len())];
        let parent = walk(&self.volume, path);
        let entries: Vec<_> = self.model.entries(*dir).iter().collect();
        let Some((name, object)) = entries.get(self.rng.below(entries.len().max(1))) else {
            return Ok(());
        };
        let node = self.volume.lookup(&parent, name)?.0;
        self.hold(&node, **object);
        self.volume.log_changes();
        Ok(())
    }

    fn hold(&mut self, node: &Arc<Node>, object: usize) {
        node.hold(1);
        let known = self.looked_up.entry(node.id()).or_insert((0, object));
        assert_eq!(known.1, object, "one number, one object");
        known.0 += 1;
    }

    fn forget(&mut self) {
        let numbers: Vec<_> = self.looked_up.keys().copied().collect();
        let used = |number: &u64| self.handles.values().any(|held| held.id == *number);
        let Some(number) = numbers.get(self.rng.below(numbers.len().max(1))) else {
            return;
        };
        if !used(number) {
            let (lookups, _) = self.looked_up.remove(number).unwrap();
            self.volume
                .nodes()
                .numbered(*number)
                .unwrap()
                .let_go(lookups);
            self.volume.log_changes();
        }
    }

    fn handle(&mut self) {
        self.request += 2;
        let number = self.request;
        match self.rng.below(3) {
            0 => {
                let (volume, rng, model) = (Arc::clone(&self.volume), &mut self.rng, &self.model);
                let mut held = None;
                let _: bool = volume
                    .once(number, false, || {
                        held = hold(rng, &volume, model);
                        if let Some(held) = &held {
                            volume.log_opened(number, &held.file)?;
                        }
                        Ok(true)
                    })
                    .unwrap();
                if let Some(held) = held {
                    self.hold(&Arc::clone(held.file.node()), held.object);
                    self.handles.insert(number, held);
                    self.volume.log_changes();
                }
            }
            1 => {
                let numbers: Vec<_> = self.handles.keys().copied().collect();
                if let Some(number) = numbers.get(self.rng.below(numbers.len().max(1))) {
                    self.handles.remove(number);
                    self.volume.log_closed(*number);
                }
            }
            _ => {
                let place = self.rng.below(self.handles.len().max(1));
                if let Some(held) = self.handles.values().nth(place) {
                    write(&mut self.rng, &self.volume, &mut self.model, held);
                    self.volume.log_changes();
                }
            }
        }
    }

    /// Everything is as the model says, and the kernel's numbers stand for what they stood for.
    fn compare(&self) {
        compare(&self.volume, &self.model);
        for held in self.handles.values() {
            compare_held(&self.volume, &self.model, held);
        }
        let mut numbers = HashMap::new();
        for (dir, path) in self.model.dirs() {
            let node = walk(&self.volume, &path);
            for (name, object) in self.model.entries(dir) {
                let found = self.volume.lookup(&node, name).unwrap().0;
                numbers.insert(*object, found.id());
            }
        }
        for (number, (lookups, object)) in &self.looked_up {
            let node = self.volume.nodes().numbered(*number).expect("a node");
            assert_eq!(u64::from(node.holds()), *lookups, "of {number}");
            if let Some(now) = numbers.get(object) {
                assert_eq!(now, number, "object {object} keeps its number");
            }
            if node.kind() != Kind::Dir {
                let links = self.volume.attr(&node).unwrap().nlink;
                assert_eq!(links, self.model.objects[*object].links, "of {number}");
            }
            if let Body::File(content) = &self.model.objects[*object].body
                && self.model.objects[*object].links > 0
            {
                let file = self.volume.open(&node, READ_WRITE).unwrap();
                let mut read = vec![0; content.len() + 1];
                let len = self.volume.read(&file, 0, &mut read).unwrap();
                assert!(read[..len] == *content, "object {object}");
            }
        }
    }
}

fn sequences(suite: Suite, count: u64) {
    let mut deaths = 0;
    for seed in 0..count {
        let mut world = World::new(suite, seed);
        for round in 0..80 {
            world.step();
            match world.rng.below(5) {
                0 | 1 => world.handle(),
                2 | 3 => world.look_up().unwrap(),
                _ => world.forget(),
            }
            if round % 4 == 3 {
                world.compare();
            }
        }
        deaths += world.deaths;
    }
    assert!(deaths > count as u32, "{deaths}");
}

#[test]
fn a_process_that_died_at_any_call_is_gone_on_with_under_xts() {
    sequences(Suite::Xts, count(40).min(400));
}

#[test]
fn a_process_that_died_at_any_call_is_gone_on_with_under_gcm_siv() {
    sequences(Suite::Gcm, count(40).min(400));
}

struct Told(Arc<Mutex<Option<String>>>);

impl Keeper for Told {
    fn append(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn renew(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn keep(&self, _: u64, _: &Arc<dyn File>) -> io::Result<()> {
        Ok(())
    }
    fn has_room(&self, _: usize) -> bool {
        true
    }

    fn let_go(&self, _: u64) {}
    fn doom(&self, why: &str) {
        *self.0.lock().unwrap() = Some(why.to_owned());
    }
}

/// Another process would say that it is durable.
#[test]
fn after_a_failed_sync_no_other_process_goes_on() {
    for suite in [Suite::Xts, Suite::Gcm] {
        let bench = Bench::new(suite);
        let store = Arc::new(FailingStore::new(Arc::new(MemoryStore::new())));
        let volume = bench.open_on(store.clone());
        let why = Arc::default();
        volume
            .keep_log(
                Box::new(Told(Arc::clone(&why))),
                head(),
                Generation(1),
                None,
            )
            .unwrap();
        let made = volume.create(&volume.root(), b"a", 0o600, &super::me(), READ_WRITE);
        let (_, _, file) = made.unwrap();
        volume.write(&file, 0, b"text").unwrap();
        volume.fsync(&file, false).unwrap();
        assert_eq!(*why.lock().unwrap(), None);
        volume.write(&file, 0, b"more").unwrap();
        store.fail_once(&[Call::SyncFile], 0, libc::EIO);
        assert!(volume.fsync(&file, false).is_err());
        assert!(why.lock().unwrap().is_some());
    }
}
