//! A file's contents as `check` looks at them: the header in full, both key areas and both states, then records and blocks
//! range by range. Writes nothing. Knows no path.

use std::ops::Range;
use std::sync::Arc;

use crate::format::header::{PAGE0, STATE_LEN, STATES_AT, State};
use crate::format::layout::{self, PAGE};
use crate::format::suite::Suite;
use crate::keys::KeyError;
use crate::store::File;
use crate::volume::chain::NOT_ALLOWED;
use crate::volume::check::{Note, Part};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::body::{Body, Place};
use crate::volume::file::gcm::GcmBody;
use crate::volume::file::header::{
    Arrived, LoadedHeader, area_bytes, field, load_with_key, open_area,
};
use crate::volume::file::xts::XtsBody;

/// Bytes of one read of an XTS file.
const PIECE: u64 = 1 << 20;

/// What a look at some blocks counted and found.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) notes: Vec<Note>,
    pub(crate) blocks: u64,
    pub(crate) holes: u64,
    pub(crate) bytes_read: u64,
    /// Runs of blocks with one thing wrong, ascending.
    pub(crate) bad: Vec<(Range<u64>, &'static str)>,
}

impl Tally {
    pub(crate) fn bad_block(&mut self, block: u64, what: &'static str) {
        match self.bad.last_mut() {
            Some((run, same)) if *same == what && run.end == block => run.end = block + 1,
            _ => self.bad.push((block..block + 1, what)),
        }
    }
}

/// What a file holds, after its header was looked at.
pub(crate) enum Holds {
    /// Nothing, or the remains of a header that never arrived.
    Nothing,
    /// What cannot be read at all.
    Unreadable,
    /// Blocks of GCM-SIV.
    Gcm(Box<GcmBody>),
    /// Pages of XTS.
    Xts {
        /// To read by.
        body: Arc<XtsBody>,
        /// The descriptor.
        backing: Arc<dyn File>,
        /// Length on the store.
        len: u64,
    },
}

/// A file after its header was looked at.
pub(crate) struct Examined {
    pub(crate) holds: Holds,
    pub(crate) notes: Vec<Note>,
    pub(crate) has_header: bool,
    /// Its key area names the version that wraps now.
    pub(crate) is_current: bool,
    pub(crate) in_doubt: bool,
    /// The newest epoch that a state of it carries.
    pub(crate) epoch: u64,
}

/// Looks at the header of a file of this length, and at whether it may stand under the name `place`, where one is known.
pub(crate) fn examine(
    env: &Arc<Env>,
    backing: Arc<dyn File>,
    len: u64,
    place: Option<&Place>,
) -> Examined {
    let mut seen = Examined {
        holds: Holds::Nothing,
        notes: Vec::new(),
        has_header: false,
        is_current: true,
        in_doubt: false,
        epoch: 0,
    };
    let header = match load_with_key(env, backing.as_ref(), len) {
        Ok(Arrived::Empty) => return seen,
        Ok(Arrived::Never) => {
            seen.in_doubt = true;
            seen.notes.push(Note::left(
                Part::Header,
                "it never arrived in full before an unclean end: the file reads as empty",
            ));
            return seen;
        }
        Ok(Arrived::Header(header, _)) => *header,
        Err(error) => {
            seen.holds = Holds::Unreadable;
            seen.notes.push(Note::of_error(part_of(&error), &error));
            return seen;
        }
    };
    seen.has_header = true;
    seen.is_current = env.ring.is_current(&header.area);
    let newest = header
        .states
        .iter()
        .flatten()
        .max_by_key(|state| state.sequence);
    let epochs = header.states.iter().flatten().map(|state| state.epoch);
    seen.epoch = epochs.max().unwrap_or(0);
    let settled = newest.map_or(0, |state| state.settled_epoch);
    seen.in_doubt = env.epochs.in_doubt(settled);
    other_area(env, &header, &mut seen);
    states(&header, &mut seen);
    match env.suite {
        Suite::Xts => xts(env, header, backing, len, &mut seen),
        Suite::Gcm => gcm(env, header, backing, len, place, &mut seen),
    }
    seen
}

/// What an error of a header is about: bytes, or a key that cannot be asked or is not allowed, with which the file may well
/// be sound.
fn part_of(error: &Error) -> Part {
    match error {
        Error::Key(KeyError::InvalidCiphertext) => Part::Header,
        Error::Key(_) => Part::Key,
        Error::Damaged(what) if what.contains(NOT_ALLOWED) => Part::Key,
        _ => Part::Header,
    }
}

/// The key area that does not count: zero, or, while a re-wrap is not finished, one that holds as well.
fn other_area(env: &Env, header: &LoadedHeader, seen: &mut Examined) {
    use crate::format::header::KeyArea;
    let other = 1 - header.area_index;
    let name = if other == 0 { "A" } else { "B" };
    let bytes = area_bytes(&header.page, other);
    let note = match KeyArea::parse(bytes) {
        Ok(None) => return,
        Ok(Some(area)) => match open_area(env, &header.core, &header.page, &area, other) {
            Ok(_) => Note::left(
                Part::KeyArea,
                format!("key area {name} is still there: a re-wrap was not finished"),
            ),
            Err(error) => Note::in_doubt(
                seen.in_doubt,
                match part_of(&error) {
                    Part::Key => Part::Key,
                    _ => Part::KeyArea,
                },
                format!("key area {name} does not hold, the other one does: {error}"),
            ),
        },
        Err(error) => Note::in_doubt(
            seen.in_doubt,
            Part::KeyArea,
            format!("key area {name} does not hold, the other one does: {error}"),
        ),
    };
    seen.notes.push(note);
}

/// Both state halves, and what must be zero beside them.
fn states(header: &LoadedHeader, seen: &mut Examined) {
    for ((name, offset), state) in ["A", "B"].into_iter().zip(STATES_AT).zip(&header.states) {
        let bytes = field::<STATE_LEN>(&header.page, offset);
        if state.is_none() && bytes.iter().any(|byte| *byte != 0) {
            seen.notes.push(Note::in_doubt(
                seen.in_doubt,
                Part::State,
                format!("state {name} is not authentic, the other one is"),
            ));
        }
    }
    let held: Vec<&State> = header.states.iter().flatten().collect();
    if !seen.in_doubt && (held.len() > 1 || held.iter().any(|state| state.flags.unsettled)) {
        seen.notes.push(Note::left(
            Part::State,
            "the file is not settled, and no unclean end explains it",
        ));
    }
}

fn xts(env: &Env, header: LoadedHeader, backing: Arc<dyn File>, len: u64, seen: &mut Examined) {
    let rest = header.page.get(layout::RECORDS_0 as usize..PAGE0);
    if rest.is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
        seen.notes.push(Note::in_doubt(
            seen.in_doubt,
            Part::Header,
            "bytes that must be zero are not",
        ));
    }
    match layout::xts_size(len) {
        Ok(size) if size > 0 => match XtsBody::load(env, backing.clone(), header, len) {
            Ok(body) => {
                let body = Arc::new(body);
                seen.holds = Holds::Xts { body, backing, len };
            }
            Err(error) => {
                seen.holds = Holds::Unreadable;
                seen.notes.push(Note::of_error(Part::Header, &error));
            }
        },
        _ => {
            seen.holds = Holds::Unreadable;
            seen.notes.push(Note::damaged(
                Part::Length,
                format!("no size of a file gives a length of {len} bytes"),
            ));
        }
    }
}

fn gcm(
    env: &Arc<Env>,
    header: LoadedHeader,
    backing: Arc<dyn File>,
    len: u64,
    place: Option<&Place>,
    seen: &mut Examined,
) {
    let nowhere = Place {
        dir: crate::format::ids::DirId([0; 16]),
        stored: Vec::new(),
    };
    match GcmBody::load_whatever_length(env, backing, header, len, place.unwrap_or(&nowhere)) {
        Ok(body) => {
            let expected = layout::gcm_physical_len(body.size());
            if len != expected {
                seen.notes.push(Note::in_doubt(
                    seen.in_doubt,
                    Part::Length,
                    format!("it is {len} bytes long on the store; its size of {} bytes needs {expected}", body.size()),
                ));
            }
            if place.is_some_and(|place| !body.may_have_name(place)) {
                seen.notes.push(Note::damaged(
                    Part::NameTag,
                    "the file is not bound to this name: another file's ciphertext was put here, or it was moved",
                ));
            }
            seen.holds = Holds::Gcm(Box::new(body));
        }
        Err(error) => {
            seen.holds = Holds::Unreadable;
            seen.notes.push(Note::of_error(Part::Header, &error));
        }
    }
}

impl Holds {
    /// Contents that can be read, as far as they are sound.
    pub(crate) fn body(&self) -> Option<&dyn Body> {
        match self {
            Self::Nothing | Self::Unreadable => None,
            Self::Gcm(body) => Some(body.as_ref()),
            Self::Xts { body, .. } => Some(body.as_ref()),
        }
    }

    /// Blocks that there are to look at.
    pub(crate) fn blocks(&self) -> u64 {
        match self {
            Self::Nothing | Self::Unreadable => 0,
            Self::Gcm(body) => layout::blocks_of(body.size()),
            Self::Xts { len, .. } => len / PAGE,
        }
    }

    /// Looks at a range of blocks (whole groups); `deep`: opens them, else only what their records say is looked at.
    pub(crate) fn inspect(&self, range: Range<u64>, deep: bool) -> Tally {
        let mut tally = Tally::default();
        let looked = match self {
            Self::Nothing | Self::Unreadable => Ok(()),
            Self::Gcm(body) => body.inspect(range, deep, &mut tally),
            Self::Xts { .. } if !deep => Ok(()),
            Self::Xts { backing, .. } => read_pages(backing.as_ref(), range, &mut tally),
        };
        if let Err(error) = looked {
            tally.notes.push(Note::of_error(Part::Block, &error));
        }
        tally
    }
}

/// Reads what the store holds of a range of pages: all that can be said of an XTS file is whether the disk gives it.
fn read_pages(backing: &dyn File, range: Range<u64>, tally: &mut Tally) -> Result<()> {
    let (mut at, end) = (range.start * PAGE, range.end * PAGE);
    let mut buffer = vec![0; PIECE as usize];
    while let Some(data) = next_data(backing, at)?.filter(|data| *data < end) {
        let stop = (data - data % PAGE + PIECE).min(end);
        let piece = buffer.get_mut(..(stop - data) as usize).unwrap_or_default();
        tally.holes += (data - at) / PAGE;
        match backing.read_at(piece, data) {
            Ok(0) => break,
            Ok(read) => {
                tally.bytes_read += read as u64;
                tally.blocks += (read as u64).div_ceil(PAGE);
            }
            Err(_) => (data / PAGE..stop.div_ceil(PAGE)).for_each(|page| {
                tally.bad_block(page.saturating_sub(1), "the store cannot read it")
            }),
        }
        at = stop;
    }
    Ok(())
}

fn next_data(backing: &dyn File, at: u64) -> Result<Option<u64>> {
    match backing.next_data(at) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Some(at)),
        found => found.map_err(Error::from),
    }
}
