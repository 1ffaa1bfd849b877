//! One program at work in a directory of its own: random operations, each taken down before and acknowledged after it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};

use crate::model::{Found, Model, Object, Shape};
use crate::support::random::Random;

const ATTRIBUTE: &str = "user.kept";
const MAX_SIZE: usize = 400_000;

pub struct Writer {
    random: Random,
    model: Model,
    name: String,
    open: HashMap<usize, File>,
    acknowledged: u64,
    synced: u64,
    /// What it does, for whoever reads why it failed.
    doing: String,
}

impl Writer {
    pub fn new(random: Random, model: Model, name: String) -> Self {
        Self {
            random,
            model,
            name,
            open: HashMap::new(),
            acknowledged: 0,
            synced: 0,
            doing: String::new(),
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Makes the directories.
    pub fn begin(&mut self, mnt: &Path) {
        for dir in ["a", "b"] {
            fs::create_dir_all(mnt.join(&self.name).join(dir)).unwrap();
            self.model.shape.dirs.push(dir.to_owned());
        }
    }

    /// Works until the daemon is dead.
    pub fn work(&mut self, mnt: &Path, killed: &AtomicBool, acknowledged: &AtomicUsize) {
        let top = mnt.join(&self.name);
        loop {
            match self.step(&top, killed) {
                Ok(()) => {
                    self.acknowledged += 1;
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    let code = error.raw_os_error().unwrap_or(0);
                    let is_dead = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO].contains(&code);
                    assert!(
                        killed.load(Ordering::SeqCst) && is_dead,
                        "{}, {}: {error}",
                        self.name,
                        self.doing
                    );
                    self.open.clear();
                    return;
                }
            }
        }
    }

    /// Compares everything with what was acknowledged, and goes on from what is there.
    pub fn verify(&mut self, mnt: &Path, when: &str) {
        let top = mnt.join(&self.name);
        let (mut dirs, mut found) = (Vec::new(), BTreeMap::new());
        for dir in fs::read_dir(&top).unwrap() {
            let dir = dir.unwrap().file_name().into_string().unwrap();
            for entry in fs::read_dir(top.join(&dir)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let seen = look(&entry.path());
                let seen = seen
                    .unwrap_or_else(|error| panic!("{when}: {}: {error}", entry.path().display()));
                found.insert((dir.clone(), name), seen);
            }
            dirs.push(dir);
        }
        dirs.sort();
        if let Err(what) = self.model.adopt(&dirs, found) {
            panic!("{when}, {}: {what}", self.name);
        }
    }

    fn path(&self, top: &Path, (dir, name): &(usize, String)) -> PathBuf {
        top.join(&self.model.shape.dirs[*dir]).join(name)
    }

    fn place(&mut self) -> (usize, String) {
        let name = match self.random.place(7) {
            0 => "l".repeat(200),
            n => format!("f{n}"),
        };
        (self.random.place(2), name)
    }

    /// One operation; the model is ahead of it when it fails.
    fn step(&mut self, top: &Path, killed: &AtomicBool) -> io::Result<()> {
        let (one, two) = (self.place(), self.place());
        let (from, to) = (self.path(top, &one), self.path(top, &two));
        let here = self.model.shape.names.get(&one).cloned();
        let there = self.model.shape.names.get(&two).cloned();
        let drawn = self.random.place(20);
        self.doing = format!("operation {drawn} on {one:?} ({here:?}), {two:?} ({there:?})");
        match (drawn, here, there) {
            (0..=2, None, _) => self.create(one, &from),
            (3, None, _) => {
                let target = "t".repeat(1 + self.random.place(200));
                self.named(
                    |shape| {
                        shape.names.insert(one, Object::Symlink(target.clone()));
                    },
                    || std::os::unix::fs::symlink(&target, &from),
                )
            }
            (4, Some(_), _) => self.named(
                |shape| {
                    shape.names.remove(&one);
                },
                || fs::remove_file(&from),
            ),
            (5, Some(object @ Object::File(_)), None) => self.named(
                |shape| {
                    shape.names.insert(two, object);
                },
                || fs::hard_link(&from, &to),
            ),
            (6 | 7, Some(object), target) if Some(&object) != target.as_ref() => self.named(
                |shape| {
                    shape.names.remove(&one);
                    shape.names.insert(two, object);
                },
                || fs::rename(&from, &to),
            ),
            (8, Some(object), Some(target)) if one != two => self.named(
                |shape| {
                    shape.names.insert(one, target);
                    shape.names.insert(two, object);
                },
                || Ok(renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE)?),
            ),
            (9, ..) => self.rename_dir(top),
            (10.., Some(Object::File(id)), _) => self.change(id, &from, killed),
            _ => self.fill(top, killed),
        }
    }

    /// Where the drawn operation does not fit: a new file, if there is a free name.
    fn fill(&mut self, top: &Path, killed: &AtomicBool) -> io::Result<()> {
        let place = self.place();
        let path = self.path(top, &place);
        match self.model.shape.names.get(&place) {
            None => self.create(place, &path),
            Some(Object::File(id)) => self.change(*id, &path, killed),
            Some(_) => Ok(()),
        }
    }

    /// An operation that changes names: done whole, or not at all.
    fn named(
        &mut self,
        change: impl FnOnce(&mut Shape),
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.model.before = Some(self.model.shape.clone());
        change(&mut self.model.shape);
        act()?;
        self.model.before = None;
        Ok(())
    }

    fn create(&mut self, place: (usize, String), path: &Path) -> io::Result<()> {
        let id = self.model.next;
        self.model.next += 1;
        self.model.files.insert(id, Default::default());
        let mut file = None;
        self.named(
            |shape| {
                shape.names.insert(place, Object::File(id));
            },
            || {
                file = Some(File::create_new(path)?);
                Ok(())
            },
        )?;
        self.open.extend(file.map(|file| (id, file)));
        Ok(())
    }

    fn rename_dir(&mut self, top: &Path) -> io::Result<()> {
        let (which, new) = (self.random.place(2), format!("dir{}", self.model.next));
        self.model.next += 1;
        let old = top.join(&self.model.shape.dirs[which]);
        let path = top.join(&new);
        self.named(|shape| shape.dirs[which] = new, || fs::rename(old, path))
    }

    fn change(&mut self, id: usize, path: &Path, killed: &AtomicBool) -> io::Result<()> {
        if let Entry::Vacant(unopened) = self.open.entry(id) {
            let options = OpenOptions::new().read(true).write(true).clone();
            unopened.insert(options.open(path)?);
        }
        let what = self.random.place(12);
        let (offset, length) = (self.random.place(MAX_SIZE), 1 + self.random.place(30_000));
        let byte = self.random.place(255) as u8;
        self.doing += &format!("; change {what} of {id}: {length} at {offset}");
        let state = self.model.files.get_mut(&id).unwrap();
        let file = &self.open[&id];
        let mut is_certain = !self.model.writeback;
        match what {
            0 => {
                file.sync_all()?;
                self.synced += 1;
                is_certain = true;
            }
            1 => {
                // A cut under writeback is followed by a sync: what the kernel had not sent of it is of no interest here.
                let size = if offset % 3 == 0 { 0 } else { offset };
                state.resize(size);
                file.set_len(size as u64)?;
                if self.model.writeback {
                    file.sync_all()?;
                    self.synced += 1;
                }
                is_certain = true;
            }
            2 => {
                let value = vec![byte; 1 + length % 300];
                state.other_attribute = Some(std::mem::replace(&mut state.attribute, value));
                rustix::fs::fsetxattr(
                    file.as_fd(),
                    ATTRIBUTE,
                    &state.attribute,
                    XattrFlags::empty(),
                )?;
                state.other_attribute = None;
            }
            3 => {
                // Closing sends what the kernel kept; if nobody was killed by now, it went well.
                drop(self.open.remove(&id));
                is_certain |= !killed.load(Ordering::SeqCst);
            }
            _ => {
                let offset = if what < 7 {
                    state.content.len()
                } else {
                    offset.min(state.content.len() + 9000)
                };
                let data: Vec<u8> = (0..length)
                    .map(|at| byte.wrapping_add((at / 61) as u8))
                    .collect();
                state.write(offset, &data);
                let written = file.write_at(&data, offset as u64)?;
                if written < data.len() {
                    // The kernel asks in pieces; the daemon died between two of them.
                    return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
                }
            }
        }
        if is_certain {
            self.model.files.get_mut(&id).unwrap().settle();
        }
        Ok(())
    }
}

fn look(path: &Path) -> io::Result<Found> {
    let meta = path.symlink_metadata()?;
    if meta.is_symlink() {
        let target = fs::read_link(path)?.into_os_string().into_string();
        return Ok(Found::Symlink(target.unwrap()));
    }
    let mut value = vec![0; 400];
    let length = match rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NODATA) => 0,
        Err(error) => return Err(error.into()),
    };
    value.truncate(length);
    Ok(Found::File {
        ino: meta.ino(),
        content: fs::read(path)?,
        attribute: value,
    })
}
