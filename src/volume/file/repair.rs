//! What `repair` does to one file in its place: mending all that an unclean end left, halves that do not hold, a length that
//! is not that of the size. Invariant: what holds is durable before what does not is zeroed.

use crate::format::header::{AREAS_AT, SECTOR, STATE_LEN, STATES_AT};
use crate::format::layout;
use crate::format::names::random_lost;
use crate::store::{Dir, File};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::header::{Arrived, LoadedHeader, area_bytes, field, load_with_key};
use crate::volume::file::shell::{Content, FileState};
use crate::volume::file::{quietly, remains};

/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

/// What was done to a file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::volume) enum Mended {
    /// Nothing was needed.
    Nothing,
    /// It was mended, and the settler has it.
    Settling,
    /// The remains of a header that never arrived are kept under this name.
    Aside(Vec<u8>),
}

impl FileState {
    /// Mends all that an unclean end left, durably, and hands the file to the settler.
    pub(in crate::volume) fn mend_all(&self) -> Result<Mended> {
        if let Content::Body(body) = &*self.content()? {
            if !body.needs_mending() {
                return Ok(Mended::Nothing);
            }
            self.note();
            body.mend_all()?;
            return Ok(Mended::Settling);
        }
        let mut content = self.content_alone();
        if !matches!(*content, Content::Remains) {
            return Ok(Mended::Nothing);
        }
        self.note();
        let lost = remains::move_aside(self.backing.as_ref(), self.dir.as_ref())?;
        self.lock_owed().changed();
        *content = Content::Empty;
        Ok(Mended::Aside(lost))
    }
}

/// Zeroes the key area and the state half that do not count, after those that do were written once more and synced. The
/// older state of a file in doubt stays: mending needs both sizes (FORMAT.md section 4, rule 7).
pub(in crate::volume) fn drop_other_halves(env: &Env, backing: &dyn File) -> Result<()> {
    let header = stored_header(env, backing)?;
    let newest = header
        .states
        .iter()
        .enumerate()
        .filter_map(|(index, state)| Some((state.as_ref()?.sequence, index)))
        .max();
    let (_, state) = newest.ok_or_else(|| Error::Damaged("header: no state".to_owned()))?;
    let half = |index: usize| header.states.get(index).and_then(Option::as_ref);
    let in_doubt = half(state).is_none_or(|state| env.epochs.in_doubt(state.settled_epoch));
    let stays = in_doubt && half(1 - state).is_some();
    let area_at = |index: usize| AREAS_AT.get(index).copied().unwrap_or_default() as u64;
    let state_at = |index: usize| STATES_AT.get(index).copied().unwrap_or_default();
    quietly(backing, || {
        let area = header.area_index;
        backing.write_at(area_bytes(&header.page, area), area_at(area))?;
        let kept = field::<STATE_LEN>(&header.page, state_at(state));
        backing.write_at(kept, state_at(state) as u64)?;
        backing.sync_data()?;
        backing.write_at(&[0; SECTOR], area_at(1 - area))?;
        if !stays {
            backing.write_at(&[0; STATE_LEN], state_at(1 - state) as u64)?;
        }
        Ok(backing.sync_data()?)
    })
}

/// Gives a file the length of its size. What stands past it is kept beside it first, under the name that is returned,
/// unless it is zero.
pub(in crate::volume) fn set_length(
    env: &Env,
    backing: &dyn File,
    dir: &dyn Dir,
) -> Result<Option<Vec<u8>>> {
    let header = stored_header(env, backing)?;
    let newest = header
        .states
        .iter()
        .flatten()
        .max_by_key(|state| state.sequence);
    let size = newest.map(|state| state.size).filter(|size| *size > 0);
    let size = size.ok_or_else(|| Error::Damaged("header: no state with a size".to_owned()))?;
    let wanted = layout::gcm_physical_len(size);
    let now = backing.stat()?.size;
    let kept = if now > wanted {
        keep_tail(backing, dir, wanted, now)?
    } else {
        None
    };
    quietly(backing, || {
        backing.set_len(wanted)?;
        Ok::<_, Error>(backing.sync_all()?)
    })?;
    Ok(kept)
}

fn stored_header(env: &Env, backing: &dyn File) -> Result<Box<LoadedHeader>> {
    match load_with_key(env, backing, backing.stat()?.size)? {
        Arrived::Header(header, _) => Ok(header),
        Arrived::Never | Arrived::Empty => Err(Error::Damaged("header: there is none".to_owned())),
    }
}

fn keep_tail(backing: &dyn File, dir: &dyn Dir, from: u64, to: u64) -> Result<Option<Vec<u8>>> {
    let mut copy = None;
    let mut buffer = vec![0; PIECE as usize];
    let mut at = from;
    while let Some(data) = backing.next_data(at)?.filter(|data| *data < to) {
        let piece = (to - data).min(PIECE) as usize;
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        let read = backing.read_at(piece, data)?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        if bytes.iter().any(|byte| *byte != 0) {
            if copy.is_none() {
                let name = random_lost();
                copy = Some((dir.create(&name, 0o600)?, name));
            }
            if let Some((copy, _)) = &copy {
                copy.write_at(bytes, data - from)?;
            }
        }
        at = data + read as u64;
    }
    let Some((copy, name)) = copy else {
        return Ok(None);
    };
    copy.sync_all()?;
    dir.sync()?;
    Ok(Some(name))
}
