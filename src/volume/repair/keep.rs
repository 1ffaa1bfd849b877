//! `lost+found` in the top directory of the volume: what cannot stay in its place, the readable blocks of a damaged file at
//! their offsets, a report beside it, and the damaged ciphertext itself, whole, under a hidden name.

use std::ops::Range;
use std::sync::Arc;

use crate::format::layout::PAGE;
use crate::format::names::random_lost;
use crate::store::{Dir, RenameMode, Stat, TimeSpec};
use crate::volume::error::{Error, Result};
use crate::volume::file::body::Body;
use crate::volume::{Caller, Node, OpenFile, OpenFlags, SetAttr, Volume, dir, xattr};

const NAME: &[u8] = b"lost+found";
/// Bytes of a name that are left for what happened.
const ROOM: usize = 150;
/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
const WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
};

/// An extended attribute, deciphered.
pub(super) struct Attribute {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The directory, open.
pub(super) struct LostAndFound<'a> {
    volume: &'a Volume,
    pub(super) node: Arc<Node>,
    pub(super) dir: Arc<dyn Dir>,
}

impl<'a> LostAndFound<'a> {
    /// The directory, made if it is not there.
    pub(super) fn open(volume: &'a Volume) -> Result<Self> {
        let root = volume.root();
        let node = match volume.lookup(&root, NAME) {
            Ok((node, _)) => node,
            Err(error) if error.code() == libc::ENOENT => {
                let (node, _) = volume.make_dir(&root, NAME, 0o700, &me())?;
                volume.fsync_dir(&root)?;
                node
            }
            Err(error) => return Err(error),
        };
        let dir = dir::open(volume, &node)?;
        Ok(Self { volume, node, dir })
    }

    /// Moves an entry, whatever it is, into it under a hidden name, which is returned.
    pub(super) fn hide(&self, from: &Arc<dyn Dir>, entry: &[u8]) -> Result<Vec<u8>> {
        let name = random_lost();
        match from.rename(entry, &*self.dir, &name, RenameMode::NoReplace) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                from.rename(entry, &*self.dir, &name, RenameMode::Replace)?; // a random name is free
            }
            renamed => renamed?,
        }
        self.dir.sync()?;
        from.sync()?;
        Ok(name)
    }

    /// Makes a file whose name begins as `base` does and says `what` happened; its name is returned.
    pub(super) fn make(&self, base: &str, what: &str) -> Result<(String, OpenFile)> {
        for count in 1..1000 {
            let name = name_of(base, what, count);
            match self
                .volume
                .create(&self.node, name.as_bytes(), 0o600, &me(), WRITE)
            {
                Ok((_, _, file)) => return Ok((name, file)),
                Err(error) if error.code() == libc::EEXIST => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::errno(libc::EEXIST))
    }

    /// Copies the sound blocks of `body` to a new file, at their offsets, with owner, mode, times and those `attributes` that
    /// it can have; of the others a sentence each.
    pub(super) fn copy(
        &self,
        base: &str,
        what: &str,
        body: &dyn Body,
        bad: &[(Range<u64>, &'static str)],
        stat: &Stat,
        attributes: &[Attribute],
    ) -> Result<(String, Vec<String>)> {
        let (name, file) = self.make(base, what)?;
        let copied = self
            .fill(&file, body, bad)
            .and_then(|()| self.give(&name, body.size(), stat))
            .and_then(|node| {
                let left = self.give_attributes(&node, attributes);
                self.volume.fsync(&file, false).map(|()| left)
            });
        match copied {
            Ok(left) => Ok((name, left)),
            Err(error) => {
                drop(file);
                self.volume.unlink(&self.node, name.as_bytes())?; // ours, and not whole: the damaged file stays in its place
                Err(error)
            }
        }
    }

    /// Where the store takes one no more, the copy is worth more than that one.
    fn give_attributes(&self, node: &Arc<Node>, attributes: &[Attribute]) -> Vec<String> {
        let give = |attribute: &Attribute| {
            let Attribute { name, value } = attribute;
            let why = if name == xattr::CAPABILITY {
                "a damaged file's copy gets no privileges".to_owned()
            } else {
                let set = self.volume.set_xattr(node, name, value, false, false);
                set.err()?.to_string()
            };
            Some(format!("{}: {why}", name.escape_ascii()))
        };
        attributes.iter().filter_map(give).collect()
    }

    fn fill(
        &self,
        file: &OpenFile,
        body: &dyn Body,
        bad: &[(Range<u64>, &'static str)],
    ) -> Result<()> {
        let mut from = 0;
        for run in bad.iter().map(|(run, _)| run) {
            self.copy_range(file, body, from..run.start.saturating_mul(PAGE))?;
            from = run.end.saturating_mul(PAGE);
        }
        self.copy_range(file, body, from..body.size())
    }

    fn copy_range(&self, file: &OpenFile, body: &dyn Body, range: Range<u64>) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        let end = range.end.min(body.size());
        let mut at = range.start;
        while at < end {
            let Some(data) = body.next_data(at)?.filter(|data| *data < end) else {
                return Ok(());
            };
            let hole = body.next_hole(data)?.clamp(data + 1, end);
            let want = usize::try_from(hole - data).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..want).unwrap_or_default();
            let read = body.read(data, piece)?;
            if read == 0 {
                return Ok(());
            }
            self.volume
                .write(file, data, piece.get(..read).unwrap_or_default())?;
            at = data + read as u64;
        }
        Ok(())
    }

    fn give(&self, name: &str, size: u64, stat: &Stat) -> Result<Arc<Node>> {
        let (node, _) = self.volume.lookup(&self.node, name.as_bytes())?;
        let set = SetAttr {
            size: Some(size),
            mode: Some(stat.mode & 0o777),
            uid: Some(stat.uid),
            gid: Some(stat.gid),
            mtime: Some(TimeSpec::At(stat.mtime)),
            ..SetAttr::default()
        };
        self.volume.set_attr(&node, &set, None)?;
        Ok(node)
    }

    /// Writes a report, durably with everything in the directory.
    pub(super) fn report(&self, base: &str, what: &str, text: &str) -> Result<String> {
        let (name, file) = self.make(&format!("{base} ({what})"), "report")?;
        self.volume.write(&file, 0, text.as_bytes())?;
        self.volume.fsync(&file, false)?;
        self.volume.fsync_dir(&self.node)?;
        Ok(name)
    }

    /// Adds to a report.
    pub(super) fn append(&self, report: &str, text: &str) -> Result<()> {
        let (node, attr) = self.volume.lookup(&self.node, report.as_bytes())?;
        let file = self.volume.open(&node, WRITE)?;
        self.volume.write(&file, attr.size, text.as_bytes())?;
        self.volume.fsync(&file, false)
    }
}

pub(super) fn name_of(base: &str, what: &str, count: usize) -> String {
    let mut cut = base.len().min(ROOM);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let base = base
        .get(..cut)
        .unwrap_or_default()
        .replace(['/', '\0'], "_");
    let base = if base.is_empty() {
        "unnamed".to_owned()
    } else {
        base
    };
    match count {
        1 => format!("{base} ({what})"),
        count => format!("{base} ({what}) {count}"),
    }
}

/// Who repairs.
pub(super) fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0,
    }
}
