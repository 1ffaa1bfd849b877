//! The steps of a script: what each does to a volume, and what a user may expect of it.

use std::sync::Arc;
use std::time::Duration;

use crate::format::suite::Envelope;
use crate::store::RenameMode;
use crate::store::power::Rng;
use crate::volume::dir;
use crate::volume::dir_id::settle_moves;
use crate::volume::error::Result;
use crate::volume::fixture::READ_WRITE;
use crate::volume::listing::contents;
use crate::volume::tests::me;
use crate::volume::{Fallocate, Node, SetAttr, Volume};

use super::oracle::{Kind, Tree};

/// Names from the top directory down.
pub(super) type Path = Vec<Vec<u8>>;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Create(Path),
    MakeDir(Path),
    Symlink(Path, Vec<u8>),
    Write(Path, u64, Vec<u8>),
    Resize(Path, u64),
    Zero(Path, u64, u64),
    Fsync(Path),
    DataSync(Path),
    FsyncDir(Path),
    Unlink(Path),
    RemoveDir(Path),
    Rename(Path, Path, RenameMode),
    Link(Path, Path),
    SetXattr(Path, Vec<u8>, Vec<u8>),
    RemoveXattr(Path, Vec<u8>),
    SetMode(Path, u32),
    /// What idle time does.
    Settle,
    /// Unmount and mount.
    Remount,
    /// A new version of the master key; the older ones are destroyed.
    Rotate,
    /// The volume goes to the key of this alias in the same keystore, and to this envelope.
    Rekey(&'static str, Envelope),
    /// The file is encrypted anew.
    RekeyData(Path),
}

impl std::fmt::Display for Step {
    /// Short: contents by their length, long names by their first byte.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |path: &Path| -> String {
            let names = path.iter().map(|name| match name.len() {
                0..12 => String::from_utf8_lossy(name).into_owned(),
                len => format!("{}*{len}", char::from(name[0])),
            });
            names.collect::<Vec<_>>().join("/")
        };
        match self {
            Self::Write(path, at, data) => write!(f, "write {} {at}+{}", show(path), data.len()),
            Self::Resize(path, size) => write!(f, "resize {} {size}", show(path)),
            Self::Zero(path, at, len) => write!(f, "zero {} {at}+{len}", show(path)),
            Self::Create(path) => write!(f, "create {}", show(path)),
            Self::MakeDir(path) => write!(f, "mkdir {}", show(path)),
            Self::Symlink(path, _) => write!(f, "symlink {}", show(path)),
            Self::Fsync(path) => write!(f, "fsync {}", show(path)),
            Self::DataSync(path) => write!(f, "fdatasync {}", show(path)),
            Self::FsyncDir(path) => write!(f, "fsyncdir {}", show(path)),
            Self::Unlink(path) => write!(f, "unlink {}", show(path)),
            Self::RemoveDir(path) => write!(f, "rmdir {}", show(path)),
            Self::Rename(from, to, mode) => {
                write!(f, "rename {} {} {mode:?}", show(from), show(to))
            }
            Self::Link(from, to) => write!(f, "link {} {}", show(from), show(to)),
            Self::SetXattr(path, ..) => write!(f, "setxattr {}", show(path)),
            Self::RemoveXattr(path, _) => write!(f, "rmxattr {}", show(path)),
            Self::SetMode(path, mode) => write!(f, "chmod {} {mode:o}", show(path)),
            Self::Settle => write!(f, "settle"),
            Self::Remount => write!(f, "remount"),
            Self::Rotate => write!(f, "rotate"),
            Self::Rekey(alias, envelope) => write!(f, "rekey {alias} {envelope:?}"),
            Self::RekeyData(path) => write!(f, "rekey-data {}", show(path)),
        }
    }
}

/// The node at the end of a path.
pub(super) fn node(volume: &Volume, path: &[Vec<u8>]) -> Result<Arc<Node>> {
    path.iter().try_fold(volume.root(), |dir, name| {
        volume.lookup(&dir, name).map(|(node, _)| node)
    })
}

/// The directory and the last name of a path.
fn split(volume: &Volume, path: &Path) -> Result<(Arc<Node>, Vec<u8>)> {
    let (name, dirs) = path.split_last().expect("a name");
    Ok((node(volume, dirs)?, name.clone()))
}

impl Step {
    /// Does it; what concerns more than names and contents is the session's.
    pub(super) fn run(&self, volume: &Arc<Volume>) -> Result<()> {
        match self {
            Self::Create(path) => {
                let (dir, name) = split(volume, path)?;
                volume
                    .create(&dir, &name, 0o600, &me(), READ_WRITE)
                    .map(drop)
            }
            Self::MakeDir(path) => {
                let (dir, name) = split(volume, path)?;
                volume.make_dir(&dir, &name, 0o700, &me()).map(drop)
            }
            Self::Symlink(path, target) => {
                let (dir, name) = split(volume, path)?;
                volume.make_symlink(&dir, &name, target, &me()).map(drop)
            }
            Self::Write(path, at, data) => {
                let file = volume.open(&node(volume, path)?, READ_WRITE)?;
                volume.write(&file, *at, data).map(drop)
            }
            Self::Resize(path, size) => {
                let set = SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                };
                volume.set_attr(&node(volume, path)?, &set, None).map(drop)
            }
            Self::Zero(path, at, len) => {
                let file = volume.open(&node(volume, path)?, READ_WRITE)?;
                volume.allocate(&file, Fallocate::PunchHole, *at, *len)
            }
            Self::Fsync(path) | Self::DataSync(path) => {
                let file = volume.open(&node(volume, path)?, READ_WRITE)?;
                volume.fsync(&file, matches!(self, Self::DataSync(_)))
            }
            Self::FsyncDir(path) => volume.fsync_dir(&node(volume, path)?),
            Self::Unlink(path) => {
                let (dir, name) = split(volume, path)?;
                volume.unlink(&dir, &name)
            }
            Self::RemoveDir(path) => {
                let (dir, name) = split(volume, path)?;
                volume.remove_dir(&dir, &name)
            }
            Self::Rename(from, to, mode) => {
                let (dir, name) = split(volume, from)?;
                let (new_dir, new_name) = split(volume, to)?;
                volume.rename(&dir, &name, &new_dir, &new_name, *mode)
            }
            Self::Link(from, to) => {
                let (dir, name) = split(volume, to)?;
                volume.link(&node(volume, from)?, &dir, &name).map(drop)
            }
            Self::SetXattr(path, name, value) => {
                volume.set_xattr(&node(volume, path)?, name, value, false, false)
            }
            Self::RemoveXattr(path, name) => volume.remove_xattr(&node(volume, path)?, name),
            Self::SetMode(path, mode) => {
                let set = SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                };
                volume.set_attr(&node(volume, path)?, &set, None).map(drop)
            }
            Self::Settle => {
                let files = volume.settler.pass(Duration::ZERO).error;
                files.map_or(Ok(()), Err).and(settle_moves(volume))
            }
            Self::Remount | Self::Rotate | Self::Rekey(..) | Self::RekeyData(_) => Ok(()),
        }
    }

    /// The file whose content it changes, and what it makes of it.
    pub(super) fn content(&self, before: &[u8]) -> Option<(&Path, Vec<u8>)> {
        let mut plain = before.to_vec();
        let path = match self {
            Self::Write(path, at, data) => {
                let (at, end) = (*at as usize, *at as usize + data.len());
                plain.resize(plain.len().max(end), 0);
                plain[at..end].copy_from_slice(data);
                path
            }
            Self::Resize(path, size) => {
                plain.resize(*size as usize, 0);
                path
            }
            Self::Zero(path, at, len) => {
                let end = plain.len().min((at + len) as usize);
                plain[(*at as usize).min(end)..end].fill(0);
                path
            }
            _ => return None,
        };
        Some((path, plain))
    }

    /// The path whose content it changes.
    pub(super) fn written(&self) -> Option<&Path> {
        match self {
            Self::Write(path, ..) | Self::Resize(path, _) | Self::Zero(path, ..) => Some(path),
            _ => None,
        }
    }

    /// What it makes of names and attributes.
    pub(super) fn names(&self, tree: &Tree, fresh: u64) -> Tree {
        let mut tree = tree.clone();
        match self {
            Self::Create(path) => tree.make(path, Kind::File, 0o600, fresh),
            Self::MakeDir(path) => tree.make(path, Kind::Dir, 0o700, fresh),
            Self::Symlink(path, target) => {
                tree.make(path, Kind::Symlink(target.clone()), 0o777, fresh);
            }
            Self::Unlink(path) | Self::RemoveDir(path) => drop(tree.take(path)),
            Self::Rename(from, to, mode) => {
                if tree.find(from) == tree.find(to) {
                    return tree;
                }
                let moved = tree.take(from);
                if let Some(other) = tree.put(to, moved)
                    && *mode == RenameMode::Exchange
                {
                    tree.put(from, other);
                }
            }
            Self::Link(from, to) => {
                let ino = tree.find(from).expect("a file");
                tree.put(to, ino);
            }
            Self::SetXattr(path, name, value) => {
                tree.at(path).xattrs.insert(name.clone(), value.clone());
            }
            Self::RemoveXattr(path, name) => drop(tree.at(path).xattrs.remove(name)),
            Self::SetMode(path, mode) => tree.at(path).mode = *mode,
            _ => {}
        }
        tree
    }

    /// Whether it renames over a directory that holds files of ours: only that is not one change (SEMANTICS.md).
    pub(super) fn replaces_ours(&self, volume: &Volume) -> Result<bool> {
        let Self::Rename(_, to, RenameMode::Replace) = self else {
            return Ok(false);
        };
        let target = dir::open(volume, &node(volume, to)?)?;
        Ok(!contents(&target)?.ours.is_empty())
    }

    /// What names may be in the midst of it, where `replaces_ours` says so.
    pub(super) fn names_between(&self, tree: &Tree) -> Option<Tree> {
        let Self::Rename(_, to, RenameMode::Replace) = self else {
            return None;
        };
        tree.find(to).filter(|_| tree.get(to).kind == Kind::Dir)?;
        let mut between = tree.clone();
        between.take(to);
        Some(between)
    }

    /// A step that makes sense now.
    pub(super) fn random(
        rng: &mut Rng,
        tree: &Tree,
        size_of: &dyn Fn(u64) -> u64,
        small: bool,
    ) -> Self {
        loop {
            if let Some(step) = Self::attempt(rng, tree, size_of, small) {
                return step;
            }
        }
    }

    fn attempt(
        rng: &mut Rng,
        tree: &Tree,
        size_of: &dyn Fn(u64) -> u64,
        small: bool,
    ) -> Option<Self> {
        let (files, dirs) = (
            tree.paths(&|kind| *kind == Kind::File),
            tree.paths(&|kind| *kind == Kind::Dir),
        );
        let any = |rng: &mut Rng, paths: &[Path]| -> Option<Path> {
            (!paths.is_empty()).then(|| paths[rng.below(paths.len() as u64) as usize].clone())
        };
        let inner: Vec<Path> = dirs
            .iter()
            .filter(|path| !path.is_empty())
            .cloned()
            .collect();
        let all: Vec<Path> = tree.paths(&|_| true);
        let named: Vec<Path> = all
            .iter()
            .filter(|path| !path.is_empty())
            .cloned()
            .collect();
        let fresh = |rng: &mut Rng| -> Option<Path> {
            let mut path = any(rng, &dirs)?;
            (path.len() < 4).then(|| {
                path.push(name(rng));
                path
            })
        };
        let free = |path: &Path| tree.find(path).is_none();
        let step = match rng.below(41) {
            0..=2 if files.len() < 6 => Self::Create(fresh(rng).filter(free)?),
            3..=4 if dirs.len() < 5 => Self::MakeDir(fresh(rng).filter(free)?),
            5 if named.len() < 14 => {
                let target = rng.bytes(20).iter().map(|byte| byte | 1).collect();
                Self::Symlink(fresh(rng).filter(free)?, target)
            }
            6..=13 => {
                let path = any(rng, &files)?;
                content(rng, path, size_of, tree, small)
            }
            14..=17 => Self::Fsync(any(rng, &files)?),
            18 => Self::DataSync(any(rng, &files)?),
            19..=20 => Self::FsyncDir(any(rng, &dirs)?),
            21 => {
                let others = tree.paths(&|kind| *kind != Kind::Dir);
                Self::Unlink(any(rng, &others)?)
            }
            22 => Self::RemoveDir(any(rng, &inner).filter(|path| tree.is_empty(path))?),
            23..=29 => {
                let from = any(rng, &named)?;
                let to = match rng.below(2) {
                    0 => fresh(rng),
                    _ => any(rng, &named),
                };
                rename(rng, tree, from, to?)?
            }
            30..=31 => Self::Link(any(rng, &files)?, fresh(rng).filter(free)?),
            32 => {
                let path = any(rng, &files)?;
                let (at, len) = (rng.below(3), 1 + rng.below(60) as usize);
                Self::SetXattr(path, format!("user.{at}").into_bytes(), rng.bytes(len))
            }
            33 => {
                let path = any(rng, &files)?;
                let name = tree.get(&path).xattrs.keys().next()?.clone();
                Self::RemoveXattr(path, name)
            }
            34 => {
                let paths = if rng.below(2) == 0 { &files } else { &inner };
                Self::SetMode(any(rng, paths)?, 0o700 | rng.below(64) as u32)
            }
            35..=37 => Self::Settle,
            38 => Self::Remount,
            39 if rng.below(2) == 0 => Self::Rotate,
            39 => {
                let aliases = ["alias/default", "alias/other"];
                let envelopes = [Envelope::Direct, Envelope::Volume];
                Self::Rekey(
                    aliases[rng.below(2) as usize],
                    envelopes[rng.below(2) as usize],
                )
            }
            40 => Self::RekeyData(any(rng, &files)?),
            _ => return None,
        };
        Some(step)
    }
}

/// A few names, so that they meet again; some need a side file.
fn name(rng: &mut Rng) -> Vec<u8> {
    let letter = b'a' + rng.below(5) as u8;
    vec![letter; if rng.below(5) == 0 { 200 } else { 1 }]
}

fn content(
    rng: &mut Rng,
    path: Path,
    size_of: &dyn Fn(u64) -> u64,
    tree: &Tree,
    small: bool,
) -> Step {
    const BLOCK: u64 = 4096;
    let size = size_of(tree.find(&path).expect("a file"));
    let blocks = size / BLOCK;
    let most = if small { 6 } else { 110 };
    let near = |rng: &mut Rng, bound: u64| {
        rng.below(bound) * BLOCK
            + if rng.below(2) == 0 {
                0
            } else {
                rng.below(BLOCK)
            }
    };
    match rng.below(16) {
        0..=6 => {
            let at = near(rng, (blocks + 3).min(most));
            let len = 1 + rng.below(2 * BLOCK) as usize;
            Step::Write(path, at, rng.bytes(len))
        }
        7 if !small => {
            let at = near(rng, (blocks + 1).min(40));
            let len = (10 + rng.below(50)) * BLOCK + rng.below(2) * 77;
            Step::Write(path, at, rng.bytes(len as usize))
        }
        7..=9 => Step::Resize(path, rng.below(most * BLOCK)),
        10 => Step::Resize(path, 0),
        11 => Step::Resize(path, size + rng.below(3)),
        _ => Step::Zero(path, near(rng, blocks + 1), 1 + rng.below(12 * BLOCK)),
    }
}

fn rename(rng: &mut Rng, tree: &Tree, from: Path, to: Path) -> Option<Step> {
    let inside = |a: &Path, b: &Path| a.len() >= b.len() && a[..b.len()] == b[..];
    if inside(&to, &from) || inside(&from, &to) {
        return None;
    }
    let mode = match tree.find(&to) {
        None if rng.below(3) == 0 => RenameMode::NoReplace,
        None => RenameMode::Replace,
        Some(_) if rng.below(2) == 0 => RenameMode::Exchange,
        Some(_) => {
            let dir = |path: &Path| tree.get(path).kind == Kind::Dir;
            if dir(&from) != dir(&to) || dir(&to) && !tree.is_empty(&to) {
                return None;
            }
            RenameMode::Replace
        }
    };
    Some(Step::Rename(from, to, mode))
}
