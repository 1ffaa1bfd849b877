//! The inodes of a store in memory and the rules of POSIX for joining them to names. Knows no descriptors but their
//! count: an inode goes with its last name and its last open handle.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::content::{Content, PAGE};
use crate::store::call::{Call, Counts};
use crate::store::name::{check, errno};
use crate::store::{Kind, RenameMode, SetTimes, Stat, Time, TimeSpec};

pub(super) const ROOT: u64 = 2;

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    nlink: u64,
    uid: u32,
    gid: u32,
    rdev: u64,
    atime: Time,
    mtime: Time,
    ctime: Time,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) content: Content,
    pub(super) folder: Folder,
    pub(super) target: Vec<u8>,
    /// Open handles.
    opens: u64,
    /// flock by handle: whether exclusive.
    pub(super) locks: HashMap<u64, bool>,
}

/// Entries of a directory by position; positions only grow, so a listing stays valid while entries come and go.
#[derive(Clone, Default)]
pub(super) struct Folder {
    pub(super) entries: BTreeMap<u64, (Vec<u8>, u64)>,
    positions: HashMap<Vec<u8>, u64>,
    last: u64,
    parent: u64,
}

impl Folder {
    pub(super) fn find(&self, name: &[u8]) -> Option<u64> {
        self.positions
            .get(name)
            .and_then(|at| self.entries.get(at))
            .map(|&(_, ino)| ino)
    }

    fn put(&mut self, name: &[u8], ino: u64) {
        let last = &mut self.last;
        let at = *self.positions.entry(name.to_vec()).or_insert_with(|| {
            *last += 1;
            *last
        });
        self.entries.insert(at, (name.to_vec(), ino));
    }

    fn take(&mut self, name: &[u8]) {
        if let Some(at) = self.positions.remove(name) {
            self.entries.remove(&at);
        }
    }
}

/// Everything a memory store holds.
#[derive(Clone)]
pub(super) struct Tree {
    inodes: BTreeMap<u64, Inode>,
    last_ino: u64,
    /// Numbers of objects that went, the last one at the end; `None` where none is given again.
    freed: Option<Vec<u64>>,
    last_handle: u64,
    now: Time,
    dev: u64,
    pub(super) counts: Counts,
}

impl Tree {
    pub(super) fn new(dev: u64) -> Self {
        let mut tree = Self {
            inodes: BTreeMap::new(),
            last_ino: ROOT - 1,
            freed: None,
            last_handle: 0,
            now: Time::default(),
            dev,
            counts: Counts::default(),
        };
        let root = tree.add_inode(Kind::Dir, 0o755);
        if let Ok(inode) = tree.inode(root) {
            inode.nlink = 2;
            inode.folder.parent = root;
        }
        tree
    }

    /// From now on a new object gets the number of the one that went last, as on file systems that are quick to do so.
    pub(super) fn reuse_numbers(&mut self) {
        self.freed = Some(Vec::new());
    }

    /// What is left when every handle is closed and every lock gone.
    pub(super) fn without_handles(&self) -> Self {
        let mut tree = self.clone();
        tree.inodes.retain(|_, inode| inode.nlink > 0);
        for inode in tree.inodes.values_mut() {
            inode.opens = 0;
            inode.locks.clear();
        }
        tree.counts = Counts::default();
        tree
    }

    /// The next object that is made gets this number.
    #[cfg(test)]
    pub(super) fn next_ino(&mut self, ino: u64) {
        self.last_ino = ino - 1;
    }

    /// No number up to that of the last object of `other` is given again.
    #[cfg(test)]
    pub(super) fn numbers_after(&mut self, other: &Self) {
        self.last_ino = self.last_ino.max(other.last_ino);
    }

    /// The numbers of all regular files.
    #[cfg(test)]
    pub(super) fn files(&self) -> Vec<u64> {
        let files = self
            .inodes
            .iter()
            .filter(|(_, inode)| inode.kind == Kind::File);
        files.map(|(&ino, _)| ino).collect()
    }

    pub(super) fn count(&mut self, call: Call) {
        self.counts.add(call);
    }

    pub(super) fn inode(&mut self, ino: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| errno(libc::ESTALE))
    }

    /// An inode whose content is about to change: new mtime and ctime.
    pub(super) fn changing(&mut self, ino: u64) -> io::Result<&mut Inode> {
        let now = self.tick();
        let inode = self.inode(ino)?;
        (inode.mtime, inode.ctime) = (now, now);
        Ok(inode)
    }

    /// An inode whose attributes are about to change: new ctime.
    pub(super) fn altering(&mut self, ino: u64) -> io::Result<&mut Inode> {
        let now = self.tick();
        let inode = self.inode(ino)?;
        inode.ctime = now;
        Ok(inode)
    }

    pub(super) fn open(&mut self, ino: u64) -> io::Result<u64> {
        self.inode(ino)?.opens += 1;
        self.last_handle += 1;
        Ok(self.last_handle)
    }

    pub(super) fn close(&mut self, ino: u64, handle: u64) {
        if let Ok(inode) = self.inode(ino) {
            inode.opens -= 1;
            inode.locks.remove(&handle);
            self.drop_if_dead(ino);
        }
    }

    pub(super) fn lookup(&mut self, dir: u64, name: &[u8]) -> io::Result<u64> {
        check(name)?;
        self.inode(dir)?
            .folder
            .find(name)
            .ok_or_else(|| errno(libc::ENOENT))
    }

    pub(super) fn kind(&mut self, ino: u64) -> io::Result<Kind> {
        Ok(self.inode(ino)?.kind)
    }

    pub(super) fn allocated(&self) -> u64 {
        self.inodes
            .values()
            .map(|inode| inode.content.allocated())
            .sum()
    }

    pub(super) fn inode_count(&self) -> u64 {
        self.inodes.len() as u64
    }

    pub(super) fn stat(&mut self, ino: u64) -> io::Result<Stat> {
        let dev = self.dev;
        let inode = self.inode(ino)?;
        let size = match inode.kind {
            Kind::Dir => PAGE,
            Kind::Symlink => inode.target.len() as u64,
            _ => inode.content.len(),
        };
        Ok(Stat {
            dev,
            ino,
            kind: inode.kind,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size,
            blocks: inode.content.allocated() * (PAGE / 512),
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
        })
    }

    /// Makes a new object under a name that must be free.
    pub(super) fn make(
        &mut self,
        dir: u64,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u64,
    ) -> io::Result<u64> {
        self.check_free(dir, name)?;
        let ino = self.add_inode(kind, mode);
        let is_dir = kind == Kind::Dir;
        let made = self.inode(ino)?;
        made.nlink = if is_dir { 2 } else { 1 };
        made.folder.parent = dir;
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            made.rdev = rdev;
        }
        let parent = self.changing(dir)?;
        parent.nlink += u64::from(is_dir);
        parent.folder.put(name, ino);
        Ok(ino)
    }

    pub(super) fn link(&mut self, ino: u64, dir: u64, name: &[u8]) -> io::Result<()> {
        self.check_free(dir, name)?;
        if self.kind(ino)? == Kind::Dir {
            return Err(errno(libc::EPERM));
        }
        self.altering(ino)?.nlink += 1;
        self.changing(dir)?.folder.put(name, ino);
        Ok(())
    }

    pub(super) fn remove(&mut self, dir: u64, name: &[u8], directory: bool) -> io::Result<()> {
        let ino = self.lookup(dir, name)?;
        match (self.kind(ino)?, directory) {
            (Kind::Dir, false) => return Err(errno(libc::EISDIR)),
            (Kind::Dir, true) => self.check_empty(ino)?,
            (_, true) => return Err(errno(libc::ENOTDIR)),
            (_, false) => {}
        }
        self.changing(dir)?.folder.take(name);
        self.unname(ino, dir)
    }

    pub(super) fn rename(
        &mut self,
        (from, name): (u64, &[u8]),
        (to, to_name): (u64, &[u8]),
        mode: RenameMode,
    ) -> io::Result<()> {
        let ino = self.lookup(from, name)?;
        check(to_name)?;
        self.check_alive(to)?;
        let other = self.inode(to)?.folder.find(to_name);
        self.check_no_loop(ino, to)?;
        match (mode, other) {
            (RenameMode::NoReplace, Some(_)) => return Err(errno(libc::EEXIST)),
            (RenameMode::Exchange, None) => return Err(errno(libc::ENOENT)),
            (_, Some(other)) if other == ino => return Ok(()),
            (RenameMode::Exchange, Some(other)) => {
                self.check_no_loop(other, from)?;
                self.changing(from)?.folder.put(name, other);
                self.moved(other, to, from)?;
            }
            (_, Some(other)) => {
                self.check_replaceable(ino, other)?;
                self.changing(from)?.folder.take(name);
                self.unname(other, to)?;
            }
            (_, None) => self.changing(from)?.folder.take(name),
        }
        self.changing(to)?.folder.put(to_name, ino);
        self.moved(ino, from, to)
    }

    pub(super) fn set_times(&mut self, ino: u64, times: SetTimes) -> io::Result<()> {
        let now = self.tick();
        let inode = self.inode(ino)?;
        let pick = |spec| match spec {
            TimeSpec::Now => now,
            TimeSpec::At(time) => time,
        };
        inode.atime = times.atime.map_or(inode.atime, pick);
        inode.mtime = times.mtime.map_or(inode.mtime, pick);
        if times.atime.is_some() || times.mtime.is_some() {
            inode.ctime = now;
        }
        Ok(())
    }

    pub(super) fn set_owner(
        &mut self,
        ino: u64,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()> {
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(errno(libc::EINVAL));
        }
        let inode = self.altering(ino)?;
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        // As Linux does for a file that anyone may run: a new owner must not inherit set-id bits.
        if inode.kind == Kind::File {
            let drop = if inode.mode & 0o010 != 0 {
                0o6000
            } else {
                0o4000
            };
            inode.mode &= !drop;
        }
        Ok(())
    }

    /// The present time, later than any time handed out before.
    fn tick(&mut self) -> Time {
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let clock = Time {
            sec: clock.as_secs() as i64,
            nsec: clock.subsec_nanos(),
        };
        let next = match self.now {
            Time {
                sec,
                nsec: 999_999_999,
            } => Time {
                sec: sec + 1,
                nsec: 0,
            },
            Time { sec, nsec } => Time {
                sec,
                nsec: nsec + 1,
            },
        };
        self.now = clock.max(next);
        self.now
    }

    fn add_inode(&mut self, kind: Kind, mode: u32) -> u64 {
        let now = self.tick();
        let ino = self.freed.as_mut().and_then(Vec::pop);
        let ino = ino.unwrap_or_else(|| {
            self.last_ino += 1;
            self.last_ino
        });
        let inode = Inode {
            kind,
            mode: mode & 0o7777,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            content: Content::default(),
            folder: Folder::default(),
            target: Vec::new(),
            opens: 0,
            locks: HashMap::new(),
        };
        self.inodes.insert(ino, inode);
        ino
    }

    /// One name of `ino` in `dir` is gone.
    fn unname(&mut self, ino: u64, dir: u64) -> io::Result<()> {
        let inode = self.altering(ino)?;
        if inode.kind == Kind::Dir {
            inode.nlink = 0;
            self.inode(dir)?.nlink -= 1;
        } else {
            inode.nlink -= 1;
        }
        self.drop_if_dead(ino);
        Ok(())
    }

    /// `ino` has gone from one directory to another.
    fn moved(&mut self, ino: u64, from: u64, to: u64) -> io::Result<()> {
        let inode = self.altering(ino)?;
        inode.folder.parent = to;
        if inode.kind == Kind::Dir {
            self.inode(from)?.nlink -= 1;
            self.inode(to)?.nlink += 1;
        }
        Ok(())
    }

    fn drop_if_dead(&mut self, ino: u64) {
        if self
            .inodes
            .get(&ino)
            .is_some_and(|inode| inode.nlink == 0 && inode.opens == 0)
        {
            self.inodes.remove(&ino);
            if let Some(freed) = &mut self.freed {
                freed.push(ino);
            }
        }
    }

    /// A directory that was removed takes no new entries.
    fn check_alive(&mut self, dir: u64) -> io::Result<()> {
        if self.inode(dir)?.nlink == 0 {
            Err(errno(libc::ENOENT))
        } else {
            Ok(())
        }
    }

    fn check_free(&mut self, dir: u64, name: &[u8]) -> io::Result<()> {
        check(name)?;
        self.check_alive(dir)?;
        if self.inode(dir)?.folder.find(name).is_some() {
            Err(errno(libc::EEXIST))
        } else {
            Ok(())
        }
    }

    fn check_empty(&mut self, dir: u64) -> io::Result<()> {
        if self.inode(dir)?.folder.entries.is_empty() {
            Ok(())
        } else {
            Err(errno(libc::ENOTEMPTY))
        }
    }

    fn check_replaceable(&mut self, ino: u64, other: u64) -> io::Result<()> {
        match (self.kind(ino)?, self.kind(other)?) {
            (Kind::Dir, Kind::Dir) => self.check_empty(other),
            (Kind::Dir, _) => Err(errno(libc::ENOTDIR)),
            (_, Kind::Dir) => Err(errno(libc::EISDIR)),
            _ => Ok(()),
        }
    }

    /// A directory must not move into itself or below itself.
    fn check_no_loop(&mut self, moving: u64, into: u64) -> io::Result<()> {
        let mut dir = into;
        loop {
            if dir == moving {
                return Err(errno(libc::EINVAL));
            }
            if dir == ROOT {
                return Ok(());
            }
            dir = self.inode(dir)?.folder.parent;
        }
    }
}
