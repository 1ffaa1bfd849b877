//! Random operations on a volume whose store fails now and then, with every errno that a store has: the caller is told it,
//! and what was there stays. An operation that failed is done whole or not at all, but that each block of a write may be
//! the old one or the new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{Body, Model, Object, Rng, Story, compare, count, run, walk};
use super::{Bench, READ_WRITE, code, list, me};
use crate::format::suite::Suite;
use crate::store::{Call, FailingStore};
use crate::volume::{Node, OpenFile, Volume};

const ERRNOS: [i32; 5] = [
    libc::EIO,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EROFS,
    libc::EMFILE,
];
const CALLS: [&[Call]; 6] = [
    &[Call::Write],
    &[Call::SetLen, Call::Allocate, Call::Write],
    &[Call::SyncFile, Call::SyncDir, Call::SyncStore],
    &[
        Call::Open,
        Call::OpenDir,
        Call::Create,
        Call::MakeDir,
        Call::MakeNode,
        Call::MakeSymlink,
    ],
    &[Call::Rename, Call::Link, Call::Remove, Call::RemoveDir],
    &[
        Call::Stat,
        Call::Read,
        Call::ReadXattr,
        Call::SetXattr,
        Call::SetMode,
        Call::SetTimes,
        Call::Entries,
    ],
];

/// Everything that can be seen of a volume, by path.
type Tree = BTreeMap<Vec<Vec<u8>>, Object>;

fn leaf(body: Body, mode: u32, links: u32, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Object {
    let is_file = matches!(body, Body::File(_));
    let is_link = matches!(body, Body::Symlink(_));
    Object {
        body: match body {
            Body::Dir(_) => Body::Dir(BTreeMap::new()),
            other => other,
        },
        mode: if is_link { 0 } else { mode },
        links: if is_file { links } else { 0 },
        xattrs,
    }
}

fn wanted(model: &Model) -> Tree {
    let mut tree = Tree::new();
    for (dir, path) in model.dirs() {
        for (name, object) in model.entries(dir) {
            let object = model.objects[*object].clone();
            let seen = leaf(object.body, object.mode, object.links, object.xattrs);
            tree.insert([path.clone(), vec![name.clone()]].concat(), seen);
        }
    }
    tree
}

fn read_all(volume: &Volume, node: &Arc<Node>, size: u64) -> Vec<u8> {
    let only_read = super::OpenFlags {
        read: true,
        ..Default::default()
    };
    let file = volume.open(node, only_read).unwrap();
    let mut bytes = vec![0; size as usize + 10];
    let len = volume.read(&file, 0, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

fn found(volume: &Volume) -> Tree {
    let (mut tree, mut left) = (Tree::new(), vec![(volume.root(), Vec::new())]);
    while let Some((dir, path)) = left.pop() {
        for name in list(volume, &dir).unwrap() {
            let (node, attr) = volume.lookup(&dir, &name).unwrap();
            let path = [path.clone(), vec![name]].concat();
            let body = match attr.kind {
                crate::store::Kind::Dir => {
                    left.push((node.clone(), path.clone()));
                    Body::Dir(BTreeMap::new())
                }
                crate::store::Kind::File => Body::File(read_all(volume, &node, attr.size)),
                crate::store::Kind::Symlink => Body::Symlink(volume.read_link(&node).unwrap()),
                _ => Body::Fifo,
            };
            let names = volume.xattr_names(&node).unwrap();
            let value = |name: Vec<u8>| (name.clone(), volume.xattr(&node, &name).unwrap());
            let xattrs = names.into_iter().map(value).collect();
            tree.insert(path, leaf(body, attr.mode, attr.nlink, xattrs));
        }
    }
    tree
}

/// Whether each block of `shown` is that of one of the two.
fn is_either(shown: &[u8], before: &[u8], after: &[u8]) -> bool {
    let block = |bytes: &[u8], at: usize, len: usize| -> Vec<u8> {
        let padding = std::iter::repeat(0);
        bytes
            .iter()
            .copied()
            .skip(at)
            .chain(padding)
            .take(len)
            .collect()
    };
    (shown.len() == before.len() || shown.len() == after.len())
        && shown.chunks(4096).enumerate().all(|(n, piece)| {
            [before, after]
                .iter()
                .any(|bytes| block(bytes, n * 4096, piece.len()) == piece)
        })
}

/// Whether only contents differ, and those by blocks of one of the two.
fn is_mixed(found: &Tree, before: &Tree, after: &Tree) -> bool {
    found.len() == before.len()
        && found.iter().all(|(path, seen)| {
            let (Some(old), Some(new)) = (before.get(path), after.get(path)) else {
                return false;
            };
            match (&seen.body, &old.body, &new.body) {
                (Body::File(shown), Body::File(old), Body::File(new)) => is_either(shown, old, new),
                (shown, old, _) => shown == old,
            }
        })
}

/// A volume in memory on a store that fails, beside the tree as it should be.
struct Trial {
    bench: Bench,
    store: Arc<FailingStore>,
    volume: Arc<Volume>,
    model: Model,
    rng: Rng,
    story: Story,
    hit: u64,
}

impl Trial {
    fn new(suite: Suite, seed: u64) -> Self {
        let mut bench = Bench::new(suite);
        let store = Arc::new(FailingStore::new(bench.store.clone()));
        bench.epoch += 1;
        let volume = bench.open_on(store.clone());
        Self {
            bench,
            store,
            volume,
            model: Model::new(),
            rng: Rng(seed * 6151 + 5),
            story: Story(seed, Vec::new()),
            hit: 0,
        }
    }

    /// One operation, on a store that may fail in it.
    fn step(&mut self) {
        let (calls, errno) = (CALLS[self.rng.below(6)], ERRNOS[self.rng.below(5)]);
        let (after, lasting, short) = (
            self.rng.below(4) as u64,
            self.rng.below(3) == 0,
            self.rng.below(2) == 0,
        );
        let faulty = self.rng.below(3) > 0;
        self.story.1.push(format!(
            "errno {errno} after {after} of {calls:?}, lasting {lasting}, short {short}, {faulty}"
        ));
        let (store, failed) = (self.store.clone(), self.store.failed());
        store.shorten_writes(short);
        let mut next = self.model.clone();
        let (got, want) = run(
            &mut self.rng,
            &self.volume,
            &mut next,
            &mut self.story,
            &|| match (faulty, lasting) {
                (false, _) => {}
                (_, false) => store.fail_once(calls, after, errno),
                (_, true) => store.fail_from(calls, after, errno),
            },
        );
        store.heal();
        store.shorten_writes(false);
        let was_hit = store.failed() > failed;
        self.hit += u64::from(was_hit);
        self.story
            .1
            .push(format!("  said {got}, wanted {want}, hit {was_hit}"));
        assert!(
            got == want || was_hit && got == errno,
            "said {got}, not {want} or {errno} (hit: {was_hit})"
        );
        self.take(next, got == 0);
    }

    /// What is there now must be the tree before or after the operation; after it, if that said it went well.
    fn take(&mut self, mut next: Model, went_well: bool) {
        let (before, after, found) = (wanted(&self.model), wanted(&next), found(&self.volume));
        if found == after {
            self.model = next;
        } else if went_well {
            compare(&self.volume, &next);
            panic!("it went well, but is not done");
        } else if found != before {
            assert!(
                is_mixed(&found, &before, &after),
                "neither before nor after:\n{found:?}\n{before:?}\n{after:?}"
            );
            for (dir, path) in next.dirs() {
                for (name, object) in next.entries(dir).clone() {
                    let path = [path.clone(), vec![name]].concat();
                    if let Body::File(content) = &mut next.objects[object].body {
                        *content = match &found[&path].body {
                            Body::File(shown) => shown.clone(),
                            _ => panic!("not a file"),
                        };
                    }
                }
            }
            self.model = next;
        }
    }

    /// A sync that fails is not followed by one that says it went well without having written again and synced.
    fn sync(&mut self) {
        let Some((file, object)) = self.some_file() else {
            return;
        };
        let errno = ERRNOS[self.rng.below(5)];
        let patch = vec![self.rng.below(255) as u8; 1 + self.rng.below(3000)];
        let Body::File(content) = &mut self.model.objects[object].body else {
            return;
        };
        let offset = self.rng.below(content.len() + 1);
        self.volume.write(&file, offset as u64, &patch).unwrap();
        content.resize(content.len().max(offset + patch.len()), 0);
        content[offset..offset + patch.len()].copy_from_slice(&patch);
        self.story.1.push(format!("sync with errno {errno}"));
        self.store
            .fail_from(&[Call::SyncFile, Call::SyncStore], 0, errno);
        for _ in 0..2 {
            assert_eq!(
                code(&self.volume.fsync(&file, true)),
                errno,
                "no silent success"
            );
        }
        self.store.heal();
        let (writes, syncs) = (
            self.bench.store.writes().of(Call::Write),
            self.bench.store.syncs(),
        );
        self.volume.fsync(&file, true).unwrap();
        assert!(
            self.bench.store.writes().of(Call::Write) > writes,
            "what may be lost is written again"
        );
        assert!(self.bench.store.syncs() > syncs, "and synced");
        self.volume.fsync(&file, true).unwrap();
    }

    /// A file of the tree, open.
    fn some_file(&mut self) -> Option<(OpenFile, usize)> {
        let dirs = self.model.dirs();
        let (dir, path) = &dirs[self.rng.below(dirs.len())];
        let is_file = |object: usize| matches!(self.model.objects[object].body, Body::File(_));
        let mut names = self.model.entries(*dir).iter();
        let (name, object) = names.find(|(_, object)| is_file(**object))?;
        let node = self
            .volume
            .lookup(&walk(&self.volume, path), name)
            .unwrap()
            .0;
        let file = self.volume.open(&node, READ_WRITE).unwrap();
        Some((file, *object))
    }

    /// Ends the mount, well or by a kill, or fails to; everything must be there at the next.
    fn remount(&mut self) {
        let how = self.rng.below(3);
        self.story.1.push(format!("end {how}"));
        if how == 0 {
            self.store.fail_from(CALLS[self.rng.below(3)], 0, libc::EIO);
        }
        let ended = how < 2 && self.volume.close().is_ok();
        self.store.heal();
        assert!(ended || how != 1, "it closes once the store is well");
        if !ended {
            self.bench.listed.push(self.bench.epoch);
        }
        self.bench.epoch += 1;
        self.volume = self.bench.open_on(self.store.clone());
        compare(&self.volume, &self.model);
    }
}

fn trials(suite: Suite, count: u64) {
    let mut hit = 0;
    for seed in 0..count {
        let mut trial = Trial::new(suite, seed);
        for _ in 0..3 {
            for step in 0..25 {
                trial.step();
                if step % 8 == 7 {
                    trial.sync();
                }
            }
            trial.remount();
        }
        hit += trial.hit;
    }
    println!("{suite:?}: {hit} operations met a fault in {count} sequences");
    assert!(hit > 5 * count, "only {hit} faults were met");
}

#[test]
fn a_store_that_fails_is_said_and_loses_nothing_under_xts() {
    trials(Suite::Xts, count(60) / 10 + 20);
}

#[test]
fn a_store_that_fails_is_said_and_loses_nothing_under_gcm_siv() {
    trials(Suite::Gcm, count(60) / 10 + 20);
}

/// The store takes the length of a first write, then nothing more, not even the length back.
#[test]
fn a_first_write_that_cannot_be_taken_back_leaves_an_empty_file() {
    /// What takes it back, once the store is well again.
    #[derive(Clone, Copy, PartialEq)]
    enum Next {
        Settle,
        Write,
        Rotate,
    }
    let next = [Next::Settle, Next::Write, Next::Rotate];
    for (suite, next) in [Suite::Gcm, Suite::Xts]
        .into_iter()
        .flat_map(|suite| next.map(|next| (suite, next)))
    {
        let mut bench = Bench::new(suite);
        let store = Arc::new(FailingStore::new(bench.store.clone()));
        bench.epoch += 1;
        let volume = bench.open_on(store.clone());
        let created = volume.create(&volume.root(), b"file", 0o600, &me(), READ_WRITE);
        let (node, _, file) = created.unwrap();
        store.fail_from(
            &[Call::SetLen, Call::Write, Call::Allocate],
            1,
            libc::ENOSPC,
        );
        assert_eq!(code(&volume.write(&file, 0, &[1; 5000])), libc::ENOSPC);
        assert_eq!(volume.attr(&node).unwrap().size, 0);
        assert_eq!(code(&volume.write(&file, 0, &[2; 5000])), libc::ENOSPC);
        store.heal();
        drop((file, node));
        match next {
            Next::Settle => volume.settle().unwrap(),
            Next::Rotate => {
                let rotation = volume.rotate(&mut |_| {}).unwrap();
                assert_eq!((rotation.damaged, rotation.remaining), (0, 0));
            }
            Next::Write => {}
        }
        let (node, attr) = volume.lookup(&volume.root(), b"file").unwrap();
        assert_eq!((attr.size, read_all(&volume, &node, 0)), (0, Vec::new()));
        let file = volume.open(&node, READ_WRITE).unwrap();
        if next == Next::Write {
            volume.write(&file, 0, &[3; 5000]).unwrap();
        }
        drop((file, node));
        volume.close().unwrap();
        let volume = bench.open();
        let (node, attr) = volume.lookup(&volume.root(), b"file").unwrap();
        let expected = match next {
            Next::Write => vec![3; 5000],
            Next::Settle | Next::Rotate => Vec::new(),
        };
        assert_eq!(read_all(&volume, &node, attr.size), expected);
    }
}
