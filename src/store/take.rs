//! Taking over the whole contents of one file into another, holes as holes, for stores that share no blocks.

use std::io;

use super::File;

/// Bytes copied in one step.
const STEP: usize = 1 << 20;

/// How contents came into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Both files share the blocks until one of them changes.
    Shared,
    /// Copied.
    Copied,
}

/// Sets the length, then hands every range of data to `copy`: (offset, length).
pub(super) fn by_ranges(
    to: &(impl File + ?Sized),
    from: &dyn File,
    mut copy: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let size = from.stat()?.size;
    to.set_len(size)?;
    let mut position = 0;
    while let Some(data) = from.next_data(position)?.filter(|data| *data < size) {
        let hole = from.next_hole(data)?.unwrap_or(size);
        let end = hole.min(size).max(data + 1);
        copy(data, end - data)?;
        position = end;
    }
    Ok(())
}

/// Copies a range through memory.
pub(super) fn through_memory(
    to: &(impl File + ?Sized),
    from: &dyn File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(len).map_or(STEP, |len| len.min(STEP))];
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).map_or(STEP, |left| left.min(buffer.len()));
        let room = buffer.get_mut(..step).unwrap_or_default();
        let read = from.read_at(room, offset + done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(room.get(..read).unwrap_or_default(), offset + done)?;
        done += read as u64;
    }
    Ok(())
}
