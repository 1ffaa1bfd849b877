//! Open files: what programs do through a handle. A handle keeps its file reachable after the last name went.

use std::sync::Arc;

use crate::store::Kind;
use crate::volume::ahead::Ahead;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::files;
use crate::volume::node::Node;

/// Bytes copied in one step, and at most in one call of `copy_range`.
const COPY_STEP: usize = 1 << 20;
const COPY_MAX: u64 = 64 << 20;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Cut to 0 bytes first.
    pub truncate: bool,
}

/// An open file; closed when dropped.
pub struct OpenFile {
    node: Arc<Node>,
    state: Arc<FileState>,
    flags: OpenFlags,
    ahead: Ahead,
}

impl OpenFile {
    pub(crate) fn new(node: Arc<Node>, state: Arc<FileState>, flags: OpenFlags) -> Self {
        Self {
            node,
            state,
            flags,
            ahead: Ahead::default(),
        }
    }

    /// The node it was opened on.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// How it was opened.
    pub fn flags(&self) -> OpenFlags {
        self.flags
    }

    pub(crate) fn state(&self) -> &Arc<FileState> {
        &self.state
    }

    fn for_change(&self) -> Result<&FileState> {
        if self.flags.write {
            Ok(&self.state)
        } else {
            Err(Error::errno(libc::EBADF))
        }
    }
}

/// What `allocate` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallocate {
    /// Reserves space; the file grows to the end of the range.
    Reserve,
    /// Reserves space; the size stays (FALLOC_FL_KEEP_SIZE).
    ReserveKeepSize,
    /// The range reads as zeros and gives its space back (FALLOC_FL_PUNCH_HOLE).
    PunchHole,
    /// The range reads as zeros; the file grows to its end (FALLOC_FL_ZERO_RANGE).
    ZeroRange,
    /// The range reads as zeros; the size stays.
    ZeroRangeKeepSize,
}

/// What `seek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// Opens a file. EISDIR, EINVAL for what is none.
pub(crate) fn open(volume: &Volume, node: &Arc<Node>, flags: OpenFlags) -> Result<OpenFile> {
    let write = flags.write || flags.truncate;
    if write {
        volume.require_writable()?;
    }
    if node.kind() == Kind::Dir {
        return Err(Error::errno(libc::EISDIR));
    }
    let state = if flags.truncate {
        let state = files::open_unchecked(volume, node, true)?;
        state.set_size(0)?;
        state
    } else {
        files::open(volume, node, write)?
    };
    Ok(OpenFile::new(Arc::clone(node), state, flags))
}

/// Reads at `offset`; short only at the end of the file.
pub(crate) fn read(file: &OpenFile, offset: u64, buf: &mut [u8]) -> Result<usize> {
    if let Some((from, to)) = file.ahead.before_read(offset, buf.len() as u64) {
        let to = to.min(file.state.size()?);
        if from < to {
            file.state.read_ahead(from, to);
        }
    }
    file.state.read(offset, buf)
}

/// Writes all of `data` at `offset`, or at the end of a file opened to append.
pub(crate) fn write(file: &OpenFile, offset: u64, data: &[u8]) -> Result<usize> {
    let state = file.for_change()?;
    if file.flags.append {
        state.append(data)?;
    } else {
        state.write(offset, data)?;
    }
    Ok(data.len())
}

/// Makes everything written durable; `data_only`: of the attributes only what is needed to read it back.
pub(crate) fn fsync(volume: &Volume, file: &OpenFile, data_only: bool) -> Result<()> {
    if volume.env.read_only {
        Ok(())
    } else {
        file.state.sync(!data_only)
    }
}

/// fallocate(2).
pub(crate) fn allocate(file: &OpenFile, how: Fallocate, offset: u64, len: u64) -> Result<()> {
    let state = file.for_change()?;
    if len == 0 {
        return Err(Error::errno(libc::EINVAL));
    }
    let end = offset
        .checked_add(len)
        .ok_or_else(|| Error::errno(libc::EFBIG))?;
    match how {
        Fallocate::Reserve | Fallocate::ReserveKeepSize => state.reserve(offset, len)?,
        Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize => {
            let inside = end.min(state.size()?).saturating_sub(offset);
            if inside > 0 {
                state.zero(offset, inside, how == Fallocate::PunchHole)?;
            }
        }
    }
    let grows = matches!(how, Fallocate::Reserve | Fallocate::ZeroRange);
    if grows { state.grow(end) } else { Ok(()) }
}

/// The next data or hole at or after `offset`; ENXIO past the end, and where no data follows.
pub(crate) fn seek(file: &OpenFile, offset: u64, to: SeekTo) -> Result<u64> {
    let past_the_end = || Error::errno(libc::ENXIO);
    if offset >= file.state.size()? {
        return Err(past_the_end());
    }
    match to {
        SeekTo::Data => file.state.next_data(offset)?.ok_or_else(past_the_end),
        SeekTo::Hole => file.state.next_hole(offset),
    }
}

/// Copies a range from one file to another (or to another part of itself; ranges that overlap are EINVAL). Returns the
/// bytes copied: fewer at the end of the source, and at most 64 MiB.
pub(crate) fn copy_range(
    from: &OpenFile,
    from_at: u64,
    to: &OpenFile,
    to_at: u64,
    len: u64,
) -> Result<u64> {
    let target = to.for_change()?;
    let len = len.min(COPY_MAX);
    let apart = from_at.abs_diff(to_at) >= len;
    if Arc::ptr_eq(&from.state, &to.state) && !apart {
        return Err(Error::errno(libc::EINVAL));
    }
    let mut buf = vec![0; usize::try_from(len).map_or(COPY_STEP, |len| len.min(COPY_STEP))];
    let mut copied = 0;
    while copied < len {
        let step = usize::try_from(len - copied).map_or(buf.len(), |left| left.min(buf.len()));
        let Some(room) = buf.get_mut(..step) else {
            break;
        };
        let read = match from.state.read(from_at + copied, room) {
            Ok(read) => read,
            Err(_) if copied > 0 => break,
            Err(error) => return Err(error),
        };
        let Some(data) = room.get(..read).filter(|data| !data.is_empty()) else {
            break;
        };
        match target.write(to_at + copied, data) {
            Ok(()) => copied += data.len() as u64,
            Err(_) if copied > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}
