//! Random operations on a volume and on a tree in memory must give the same results, over clean ends and kills.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Bench, READ_WRITE, code, list, me};
use crate::format::suite::Suite;
use crate::store::{Kind, RenameMode};
use crate::volume::{Node, SetAttr, Volume};

pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    Dir(BTreeMap<Vec<u8>, usize>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The tree as it should be; object 0 is the root.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) objects: Vec<Object>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            objects: vec![Object {
                body: Body::Dir(BTreeMap::new()),
                mode: 0o755,
                links: 1,
                xattrs: BTreeMap::new(),
            }],
        }
    }

    pub(super) fn entries(&self, dir: usize) -> &BTreeMap<Vec<u8>, usize> {
        match &self.objects[dir].body {
            Body::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    fn entries_mut(&mut self, dir: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.objects[dir].body {
            Body::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    fn is_dir(&self, object: usize) -> bool {
        matches!(self.objects[object].body, Body::Dir(_))
    }

    /// Every directory with its path.
    pub(super) fn dirs(&self) -> Vec<(usize, Vec<Vec<u8>>)> {
        let mut all = vec![(0, Vec::new())];
        let mut at = 0;
        while at < all.len() {
            let (dir, path) = all[at].clone();
            for (name, child) in self.entries(dir) {
                if self.is_dir(*child) {
                    all.push((*child, [path.clone(), vec![name.clone()]].concat()));
                }
            }
            at += 1;
        }
        all
    }

    fn is_below(&self, dir: usize, above: usize) -> bool {
        dir == above
            || self.is_dir(above)
                && self
                    .entries(above)
                    .values()
                    .any(|child| self.is_dir(*child) && self.is_below(dir, *child))
    }

    fn add(&mut self, dir: usize, name: &[u8], body: Body, mode: u32) -> i32 {
        if self.entries(dir).contains_key(name) {
            return libc::EEXIST;
        }
        self.objects.push(Object {
            body,
            mode,
            links: 1,
            xattrs: BTreeMap::new(),
        });
        let new = self.objects.len() - 1;
        self.entries_mut(dir).insert(name.to_vec(), new);
        0
    }

    fn unlink(&mut self, dir: usize, name: &[u8]) -> i32 {
        match self.entries(dir).get(name).copied() {
            None => libc::ENOENT,
            Some(object) if self.is_dir(object) => libc::EISDIR,
            Some(object) => {
                self.objects[object].links -= 1;
                self.entries_mut(dir).remove(name);
                0
            }
        }
    }

    fn remove_dir(&mut self, dir: usize, name: &[u8]) -> i32 {
        match self.entries(dir).get(name).copied() {
            None => libc::ENOENT,
            Some(object) if !self.is_dir(object) => libc::ENOTDIR,
            Some(object) if !self.entries(object).is_empty() => libc::ENOTEMPTY,
            Some(_) => {
                self.entries_mut(dir).remove(name);
                0
            }
        }
    }

    fn link(&mut self, object: usize, dir: usize, name: &[u8]) -> i32 {
        if self.is_dir(object) {
            return libc::EPERM;
        }
        if self.entries(dir).contains_key(name) {
            return libc::EEXIST;
        }
        self.objects[object].links += 1;
        self.entries_mut(dir).insert(name.to_vec(), object);
        0
    }

    fn rename(&mut self, from: usize, name: &[u8], to: usize, new: &[u8], mode: RenameMode) -> i32 {
        let Some(moved) = self.entries(from).get(name).copied() else {
            return libc::ENOENT;
        };
        let target = self.entries(to).get(new).copied();
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => return libc::EEXIST,
            (None, RenameMode::Exchange) => return libc::ENOENT,
            (Some(target), _) if target == moved => return 0,
            _ => {}
        }
        if self.is_dir(moved) && self.is_below(to, moved) {
            return libc::EINVAL;
        }
        if let Some(target) = target {
            if self.is_dir(target) && self.is_below(from, target) {
                return if mode == RenameMode::Exchange {
                    libc::EINVAL
                } else {
                    libc::ENOTEMPTY
                };
            }
            if mode != RenameMode::Exchange {
                match (self.is_dir(moved), self.is_dir(target)) {
                    (true, false) => return libc::ENOTDIR,
                    (false, true) => return libc::EISDIR,
                    (true, true) if !self.entries(target).is_empty() => return libc::ENOTEMPTY,
                    _ => self.objects[target].links -= 1,
                }
            }
        }
        self.entries_mut(from).remove(name);
        self.entries_mut(to).insert(new.to_vec(), moved);
        if let (Some(target), RenameMode::Exchange) = (target, mode) {
            self.entries_mut(from).insert(name.to_vec(), target);
        }
        0
    }
}

pub(super) fn walk(volume: &Volume, path: &[Vec<u8>]) -> Arc<Node> {
    path.iter().fold(volume.root(), |dir, name| {
        volume.lookup(&dir, name).unwrap().0
    })
}

pub(super) fn name(rng: &mut Rng) -> Vec<u8> {
    match rng.below(9) {
        0 => vec![b'L'; 255],
        1 => vec![0xC3; 176],
        2 => vec![b'm'; 175],
        3 => vec![0xFF, 0x01, b'\n'],
        _ => vec![b"abcd"[rng.below(4)]],
    }
}

fn mode(rng: &mut Rng) -> RenameMode {
    [
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ][rng.below(4)]
}

/// What was done in a sequence; shown if it fails.
pub(super) struct Story(pub(super) u64, pub(super) Vec<String>);

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}:", self.0);
            self.1.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// One random operation on both; panics where they differ.
fn step(rng: &mut Rng, volume: &Volume, model: &mut Model, story: &mut Story) {
    let (got, want) = run(rng, volume, model, story, &|| {});
    assert_eq!(got, want, "{:?}", story.1.last());
}

/// One random operation on both, each with the code that came of it. `arm` is called once all that it needs was found.
pub(super) fn run(
    rng: &mut Rng,
    volume: &Volume,
    model: &mut Model,
    story: &mut Story,
    arm: &dyn Fn(),
) -> (i32, i32) {
    let dirs = model.dirs();
    let (at, path) = dirs[rng.below(dirs.len())].clone();
    let (to, to_path) = dirs[rng.below(dirs.len())].clone();
    let (dir, to_dir) = (walk(volume, &path), walk(volume, &to_path));
    let (one, two) = (name(rng), name(rng));
    let permissions = [0o600, 0o644, 0o755, 0o400][rng.below(4)];
    let op = rng.below(14);
    let shown = |path: &[Vec<u8>], name: &[u8]| {
        let all = path.iter().map(Vec::as_slice).chain([name]);
        all.map(|name| String::from_utf8_lossy(&name[..name.len().min(4)]).into_owned())
            .collect::<Vec<_>>()
            .join("/")
    };
    let (here, there) = (shown(&path, &one), shown(&to_path, &two));
    story
        .1
        .push(format!("op {op} mode {permissions:o} {here} -> {there}"));
    if op < 11 {
        arm();
    }
    match op {
        0 | 1 => (
            code(&volume.create(&dir, &one, permissions, &me(), READ_WRITE)),
            model.add(at, &one, Body::File(Vec::new()), permissions),
        ),
        2 | 3 => (
            code(&volume.make_dir(&dir, &one, 0o755, &me())),
            model.add(at, &one, Body::Dir(BTreeMap::new()), 0o755),
        ),
        4 => (
            code(&volume.make_symlink(&dir, &one, &two, &me())),
            model.add(at, &one, Body::Symlink(two.clone()), 0o777),
        ),
        5 => (
            code(&volume.make_node(&dir, &one, Kind::Fifo, permissions, 0, &me())),
            model.add(at, &one, Body::Fifo, permissions),
        ),
        6 => (code(&volume.unlink(&dir, &one)), model.unlink(at, &one)),
        7 => (
            code(&volume.remove_dir(&dir, &one)),
            model.remove_dir(at, &one),
        ),
        8..=10 => {
            let mode = mode(rng);
            story.1.push(format!("  {mode:?}"));
            (
                code(&volume.rename(&dir, &one, &to_dir, &two, mode)),
                model.rename(at, &one, to, &two, mode),
            )
        }
        _ => on_object(
            rng,
            volume,
            model,
            (&dir, at, &one),
            (&to_dir, to, &two),
            story,
            arm,
        ),
    }
}

/// An operation on an object that is there.
fn on_object(
    rng: &mut Rng,
    volume: &Volume,
    model: &mut Model,
    (dir, at, one): (&Arc<Node>, usize, &[u8]),
    (to_dir, to, two): (&Arc<Node>, usize, &[u8]),
    story: &mut Story,
    arm: &dyn Fn(),
) -> (i32, i32) {
    let found = volume.lookup(dir, one);
    let Some(object) = model.entries(at).get(one).copied() else {
        return (code(&found), libc::ENOENT);
    };
    let node = found.unwrap().0;
    let which = rng.below(4);
    story.1.push(format!("  on object {object}, {which}"));
    arm();
    match which {
        0 => (
            code(&volume.link(&node, to_dir, two)),
            model.link(object, to, two),
        ),
        1 => {
            let mode = [0o600, 0o640, 0o755][rng.below(3)];
            let set = SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
            let got = code(&volume.set_attr(&node, &set, None));
            if !matches!(model.objects[object].body, Body::Symlink(_)) {
                model.objects[object].mode = mode;
            }
            (got, 0)
        }
        2 => {
            let (key, value) = (b"user.k".to_vec(), vec![7; rng.below(100)]);
            let got = code(&volume.set_xattr(&node, &key, &value, false, false));
            if matches!(model.objects[object].body, Body::Dir(_) | Body::File(_)) {
                model.objects[object].xattrs.insert(key, value);
                (got, 0)
            } else {
                (got, libc::EPERM)
            }
        }
        _ => {
            let data = vec![rng.below(256) as u8; 1 + rng.below(5000)];
            let offset = rng.below(6000);
            let opened = volume.open(&node, READ_WRITE);
            match &mut model.objects[object].body {
                Body::File(content) => {
                    content.resize(content.len().max(offset + data.len()), 0);
                    content[offset..offset + data.len()].copy_from_slice(&data);
                    let written = opened.and_then(|file| volume.write(&file, offset as u64, &data));
                    assert!(
                        written.as_ref().is_ok_and(|len| *len == data.len()) || written.is_err()
                    );
                    (code(&written), 0)
                }
                Body::Dir(_) => (code(&opened), libc::EISDIR),
                _ => (code(&opened), libc::EINVAL),
            }
        }
    }
}

/// The whole volume is as the model says.
pub(super) fn compare(volume: &Volume, model: &Model) {
    for (dir, path) in model.dirs() {
        let node = walk(volume, &path);
        let mut names = list(volume, &node).unwrap();
        names.sort();
        let expected: Vec<_> = model.entries(dir).keys().cloned().collect();
        assert_eq!(names, expected, "in {path:?}");
        for (name, object) in model.entries(dir) {
            compare_object(volume, &node, name, &model.objects[*object]);
        }
    }
}

fn compare_object(volume: &Volume, dir: &Arc<Node>, name: &[u8], object: &Object) {
    let (node, attr) = volume.lookup(dir, name).unwrap();
    if !matches!(object.body, Body::Symlink(_)) {
        assert_eq!(attr.mode, object.mode, "mode of {name:?}");
    }
    match &object.body {
        Body::Dir(_) => assert_eq!(attr.kind, Kind::Dir),
        Body::File(content) => {
            assert_eq!(
                (attr.kind, attr.size, attr.nlink),
                (Kind::File, content.len() as u64, object.links),
                "{name:?}"
            );
            let file = volume
                .open(
                    &node,
                    super::OpenFlags {
                        read: true,
                        ..Default::default()
                    },
                )
                .unwrap();
            let mut read = vec![0xEE; content.len() + 10];
            let len = volume.read(&file, 0, &mut read).unwrap();
            read.truncate(len);
            assert!(read == *content, "contents of {name:?}");
        }
        Body::Symlink(target) => {
            assert_eq!((attr.kind, attr.size), (Kind::Symlink, target.len() as u64));
            assert_eq!(volume.read_link(&node).unwrap(), *target);
        }
        Body::Fifo => assert_eq!(attr.kind, Kind::Fifo),
    }
    let xattrs: BTreeMap<_, _> = volume
        .xattr_names(&node)
        .unwrap()
        .into_iter()
        .collect::<Vec<_>>()
        .into_iter()
        .map(|key| (key.clone(), volume.xattr(&node, &key).unwrap()))
        .collect();
    assert_eq!(xattrs, object.xattrs);
}

/// Sequences of random operations; each ends cleanly or by a kill, and all must be there at the next mount.
fn sequences(suite: Suite, count: u64, steps: usize) {
    for seed in 0..count {
        let mut rng = Rng(seed * 7919 + 1);
        let mut story = Story(seed, Vec::new());
        let mut bench = Bench::new(suite);
        let mut model = Model::new();
        let mut volume = bench.open();
        volume
            .set_attr(
                &volume.root(),
                &SetAttr {
                    mode: Some(0o755),
                    ..SetAttr::default()
                },
                None,
            )
            .unwrap();
        for _ in 0..3 {
            for _ in 0..steps {
                step(&mut rng, &volume, &mut model, &mut story);
            }
            compare(&volume, &model);
            volume = if rng.below(2) == 0 {
                story.1.push("close".to_owned());
                volume.close().unwrap();
                drop(volume);
                bench.open()
            } else {
                story.1.push("kill".to_owned());
                drop(volume);
                bench.open_after_kill()
            };
            compare(&volume, &model);
        }
    }
}

/// How many sequences to run: `STRONGROOM_SEQUENCES`, else enough to find a mistake made today.
pub(super) fn count(default: u64) -> u64 {
    std::env::var("STRONGROOM_SEQUENCES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn random_operations_agree_with_the_model_under_xts() {
    sequences(Suite::Xts, count(60), 30);
}

#[test]
fn random_operations_agree_with_the_model_under_gcm_siv() {
    sequences(Suite::Gcm, count(60), 30);
}
