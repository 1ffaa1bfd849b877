//! A file that remembers every call since its last sync, so that the power can be cut: lengths keep their order, each
//! sector keeps any of its versions, and one that was being written may be caught in the middle. A page of data is kept
//! whole unless asked otherwise, and so is the first write of a header sector (FORMAT.md has no rule for one that tears).

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Mutex, MutexGuard};

use super::Rng;
use crate::store::{Allocate, File, Kind, SetTimes, Stat, Time, Xattrs};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

enum Op {
    Write(usize, Vec<u8>),
    Len(usize),
    Zero(usize, usize),
}

#[derive(Default)]
struct Tape {
    base: Vec<u8>,
    now: Vec<u8>,
    ops: Vec<Op>,
    /// Calls that still go well.
    fuse: Option<u64>,
    /// Syncs that fail: each dirty page is written or, clean in the cache, is not.
    failing_syncs: u64,
    planned: u64,
    /// Pages that a failed sync left unwritten and clean.
    lost: BTreeSet<usize>,
    seed: u64,
}

#[derive(Default)]
pub(super) struct TapeFile(Mutex<Tape>);

impl Tape {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Tape {
    /// A sync that persists all but the lost pages.
    fn persist(&mut self) {
        // What a lost page holds then: its older content, as far as no cut took that away.
        let mut old = std::mem::replace(&mut self.base, self.now.clone());
        let cuts = self.ops.iter().filter(|op| !matches!(op, Op::Write(..)));
        cuts.for_each(|op| apply(&mut old, op));
        for page in self
            .lost
            .iter()
            .filter(|page| **page * PAGE < self.now.len())
        {
            let end = self.now.len().min((page + 1) * PAGE);
            for at in page * PAGE..end {
                self.base[at] = old.get(at).copied().unwrap_or(0);
            }
        }
        self.ops.clear();
    }

    fn lose_pages(&mut self) {
        self.seed += 1;
        let mut rng = Rng(self.seed);
        for op in &self.ops {
            if let Op::Write(at, data) = op {
                let pages = at / PAGE..(at + data.len()).div_ceil(PAGE);
                self.lost.extend(pages.filter(|_| rng.below(2) == 0));
            }
        }
        self.persist();
    }

    /// A page that is written to is dirty as a whole.
    fn dirty(&mut self, at: usize, len: usize) {
        for page in at / PAGE..(at + len).div_ceil(PAGE) {
            if self.lost.remove(&page) {
                let end = self.now.len().min((page + 1) * PAGE);
                self.ops
                    .push(Op::Write(page * PAGE, self.now[page * PAGE..end].to_vec()));
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(at, data) => bytes[*at..*at + data.len()].copy_from_slice(data),
        Op::Len(len) => bytes.resize(*len, 0),
        Op::Zero(at, len) => {
            let end = (at + len).min(bytes.len());
            bytes[(*at).min(end)..end].fill(0);
        }
    }
}

/// Whether the page holds records or a header.
fn is_metadata(page: usize) -> bool {
    page == 0 || page >= 38 && (page - 38).is_multiple_of(74)
}

impl TapeFile {
    /// Lets so many calls go well; all later ones fail.
    pub(super) fn light(&self, fuse: Option<u64>) {
        self.tape().fuse = fuse;
    }

    pub(super) fn is_burnt(&self) -> bool {
        self.tape().fuse == Some(0)
    }

    pub(super) fn fail_syncs(&self, count: u64) {
        let mut tape = self.tape();
        (tape.failing_syncs, tape.planned) = (count, count);
    }

    /// Whether a planned failure of a sync came to pass since it was planned.
    pub(super) fn sync_failed(&self) -> bool {
        let tape = self.tape();
        tape.planned > tape.failing_syncs
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.tape().now.clone()
    }

    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(Tape {
            base: bytes.clone(),
            now: bytes,
            ..Tape::default()
        }))
    }

    /// Leaves what a power cut may leave.
    pub(super) fn cut_power(&self, rng: &mut Rng, torn: bool) {
        let tape = &mut *self.tape();
        let lens: Vec<usize> = (0..tape.ops.len())
            .filter(|at| matches!(tape.ops[*at], Op::Len(_)))
            .collect();
        let persisted = rng.below(lens.len() as u64 + 1) as usize;
        let last = persisted.checked_sub(1).map(|n| lens[n]);
        let len = last.map_or(tape.base.len(), |at| match tape.ops[at] {
            Op::Len(len) => len,
            _ => unreachable!(),
        });
        let mut after = vec![0; len];
        for page in 0..len.div_ceil(PAGE) {
            let whole = !torn && !is_metadata(page);
            let pick = rng.below(1 << 30);
            let end = len.min((page + 1) * PAGE);
            for start in (page * PAGE..end).step_by(SECTOR) {
                let versions = versions(tape, start, last, lens.get(persisted).copied());
                let pick = if whole { pick } else { rng.below(1 << 30) };
                let n = pick as usize % versions.len();
                let mut sector = versions[n].clone();
                let first_header = start < 2048 && sector.iter().all(|byte| *byte == 0);
                if !whole && !first_header && n + 1 < versions.len() && rng.below(5) == 0 {
                    let caught = rng.below(SECTOR as u64) as usize;
                    sector[..caught].copy_from_slice(&versions[n + 1][..caught]);
                }
                let end = len.min(start + SECTOR);
                after[start..end].copy_from_slice(&sector[..end - start]);
            }
        }
        *tape = Tape {
            base: after.clone(),
            now: after,
            ..Tape::default()
        };
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.0.lock().unwrap()
    }

    fn change(&self, op: Op) -> io::Result<()> {
        let tape = &mut *self.tape();
        tape.step()?;
        if let Op::Write(at, data) = &op {
            assert!(
                at + data.len() <= tape.now.len(),
                "written past the end of the file"
            );
            tape.dirty(*at, data.len());
        }
        apply(&mut tape.now, &op);
        tape.ops.push(op);
        Ok(())
    }
}

/// What a sector may hold: its content at the last cut that persisted, and each later one before the first cut that did
/// not. For pages that are kept whole, versions are counted by page.
fn versions(
    tape: &Tape,
    start: usize,
    persisted: Option<usize>,
    lost: Option<usize>,
) -> Vec<Vec<u8>> {
    let page = start / PAGE * PAGE;
    let mut sector = tape
        .base
        .get(start..)
        .map_or(Vec::new(), |rest| rest[..rest.len().min(SECTOR)].to_vec());
    sector.resize(SECTOR, 0);
    let mut found = vec![sector.clone()];
    let mut len = tape.base.len();
    for (at, op) in tape.ops.iter().enumerate() {
        match op {
            Op::Len(new) if *new < len && *new < page + PAGE => {
                if lost.is_some_and(|lost| at >= lost) {
                    break;
                }
                if *new < start + SECTOR {
                    sector[new.saturating_sub(start)..].fill(0);
                }
                if persisted.is_some_and(|persisted| at <= persisted) {
                    found.clear();
                }
                found.push(sector.clone());
            }
            Op::Write(to, data) => {
                let end = to + data.len();
                if *to < page + PAGE && end > page {
                    for (n, byte) in sector
                        .iter_mut()
                        .enumerate()
                        .filter(|(n, _)| (*to..end).contains(&(start + n)))
                    {
                        *byte = data[start + n - to];
                    }
                    found.push(sector.clone());
                }
            }
            Op::Zero(to, count) if *to < page + PAGE && to + count > page => {
                for (_, byte) in sector
                    .iter_mut()
                    .enumerate()
                    .filter(|(n, _)| (*to..to + count).contains(&(start + n)))
                {
                    *byte = 0;
                }
                found.push(sector.clone());
            }
            _ => {}
        }
        if let Op::Len(new) = op {
            len = *new;
        }
    }
    found
}

impl File for TapeFile {
    fn stat(&self) -> io::Result<Stat> {
        let time = Time { sec: 1, nsec: 0 };
        let size = self.tape().now.len() as u64;
        Ok(Stat {
            dev: 1,
            ino: 2,
            kind: Kind::File,
            mode: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        })
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let tape = self.tape();
        let from = tape.now.len().min(offset as usize);
        let len = buf.len().min(tape.now.len() - from);
        buf[..len].copy_from_slice(&tape.now[from..from + len]);
        Ok(len)
    }
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        for buf in bufs {
            done += self.read_at(buf, offset + done as u64)?;
        }
        Ok(done)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(Op::Write(offset as usize, buf.to_vec()))
    }
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.change(Op::Write(
            offset as usize,
            bufs.iter().flat_map(|buf| buf.iter().copied()).collect(),
        ))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Op::Len(len as usize))
    }
    fn sync_data(&self) -> io::Result<()> {
        let tape = &mut *self.tape();
        tape.step()?;
        if tape.failing_syncs > 0 {
            tape.failing_syncs -= 1;
            tape.lose_pages();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        tape.persist();
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()> {
        match how {
            Allocate::Reserve => Ok(()),
            Allocate::Punch => self.change(Op::Zero(offset as usize, len as usize)),
        }
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset).filter(|offset| *offset < self.tape().now.len() as u64))
    }
    fn next_hole(&self, _: u64) -> io::Result<Option<u64>> {
        Ok(Some(self.tape().now.len() as u64))
    }
    fn will_need(&self, _: u64, _: u64) {}
    fn set_mode(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn set_owner(&self, _: Option<u32>, _: Option<u32>) -> io::Result<()> {
        Ok(())
    }
    fn set_times(&self, _: SetTimes) -> io::Result<()> {
        Ok(())
    }
    fn try_lock(&self, _: bool) -> io::Result<bool> {
        Ok(true)
    }
}

impl Xattrs for TapeFile {
    fn xattr(&self, _: &[u8]) -> io::Result<Vec<u8>> {
        Err(io::Error::from_raw_os_error(libc::ENODATA))
    }
    fn set_xattr(&self, _: &[u8], _: &[u8], _: bool, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    fn remove_xattr(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
