//! Page 0 of a file as it is read and first made: core, key areas, states; from there the file's keys. Knows nothing of
//! blocks. Invariant: no key is handed out before the area's MAC and the commitment have been compared.

use crate::crypto::Secret;
use crate::format::FormatError;
use crate::format::header::{
    self, AREAS_AT, CORE_AT, Core, FileKeys, KeyArea, PAGE0, SECTOR, STATES_AT, State,
};
use crate::format::ids::FileId;
use crate::format::suite::Suite;
use crate::keys::KeyError;
use crate::store::File;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::ready::ReadyHeader;

/// The longest file on the store that is read whole with its header, bytes: so much costs a device what one page does.
const SMALL: usize = 8 * PAGE0;

/// A header that was read and holds.
pub(crate) struct LoadedHeader {
    /// The part that never changes.
    pub(crate) core: Core,
    /// The key area in force.
    pub(crate) area: KeyArea,
    /// Which of the two it is: 0 is A.
    pub(crate) area_index: usize,
    /// The file's keys.
    pub(crate) keys: FileKeys,
    /// The state halves whose MAC is right.
    pub(crate) states: [Option<State>; 2],
    /// The page as it was read.
    pub(crate) page: Box<[u8; PAGE0]>,
}

/// What a file turned out to hold.
pub(crate) enum Loaded {
    /// A header.
    Header(Box<LoadedHeader>),
    /// Remains of one whose write was cut off by an unclean end: reads as empty (FORMAT.md section 4).
    NeverArrived,
    /// Nothing.
    Empty,
}

/// The parts of a header that a new file starts with; the states and records are its body's.
pub(crate) struct NewHeader {
    /// Bytes 0..511 of page 0.
    pub(crate) core: [u8; SECTOR],
    /// Bytes of key area A; B is zero.
    pub(crate) area: [u8; SECTOR],
    /// The new file's id.
    pub(crate) file: FileId,
    /// Its keys.
    pub(crate) keys: FileKeys,
}

/// Makes id, data key and header of a file that gets its first byte.
pub(crate) fn new_header(env: &Env) -> Result<NewHeader> {
    let volume_keys = env.keys()?;
    let bind = &volume_keys.bind;
    loop {
        let ReadyHeader {
            file,
            data_key,
            area,
        } = env.ring.generate()?;
        let Ok(keys) = FileKeys::derive(env.suite, &data_key, bind, &file) else {
            continue;
        };
        let mut core = Core {
            suite: env.suite,
            volume: env.volume,
            file,
            commitment: [0; 32],
        };
        core.commitment = header::commitment(&data_key, bind, &core.encode());
        let area = area.encode(&keys.header, &file);
        return Ok(NewHeader {
            core: core.encode(),
            area,
            file,
            keys,
        });
    }
}

/// Reads and checks the header of a file of this physical length, whose content is read next.
///
/// # Errors
/// Damaged where FORMAT.md says EIO; the provider's error where the key cannot be unwrapped now.
pub(crate) fn load_header(env: &Env, backing: &dyn File, physical_len: u64) -> Result<Loaded> {
    let read = || read_page_of(backing, physical_len);
    Ok(match arrived(env, stored(env, physical_len, read)?)? {
        Arrived::Header(header, _) => Loaded::Header(header),
        Arrived::Never => Loaded::NeverArrived,
        Arrived::Empty => Loaded::Empty,
    })
}

/// As `Loaded`, with the data key, for re-wrap.
pub(super) enum Arrived {
    Header(Box<LoadedHeader>, Secret<32>),
    Never,
    Empty,
}

pub(super) fn load_with_key(env: &Env, backing: &dyn File, physical_len: u64) -> Result<Arrived> {
    arrived(env, load_stored(env, backing, physical_len)?)
}

fn arrived(env: &Env, stored: Arrived) -> Result<Arrived> {
    match stored {
        Arrived::Header(header, _)
            if env.suite == Suite::Gcm
                && newest(&header.states).is_none_or(|state| state.size == 0) =>
        {
            never_arrived(env, "the newest state has size 0")
        }
        stored => Ok(stored),
    }
}

fn newest(states: &[Option<State>; 2]) -> Option<&State> {
    states.iter().flatten().max_by_key(|state| state.sequence)
}

/// As `load_with_key`, also where the first state that counts never arrived: such a header's key area is one to re-wrap, or
/// the file would not read as empty any more, but as damaged, once its version is forgotten.
pub(super) fn load_stored(env: &Env, backing: &dyn File, physical_len: u64) -> Result<Arrived> {
    stored(env, physical_len, || read_page(backing))
}

fn stored(
    env: &Env,
    physical_len: u64,
    read: impl FnOnce() -> Result<Box<[u8; PAGE0]>>,
) -> Result<Arrived> {
    let volume_keys = env.keys()?;
    if physical_len == 0 {
        return Ok(Arrived::Empty);
    }
    let page = read()?;
    if parts_missing(&page) {
        return never_arrived(env, "the header is zero in part");
    }
    let core = parse_core(env, &page)?;
    let (area, area_index, data_key) = choose_area(env, &core, &page)?;
    let keys = FileKeys::derive(env.suite, &data_key, &volume_keys.bind, &core.file)
        .map_err(|error| damaged("data key", error))?;
    let states = parse_states(&page, &keys.header, &core.file);
    if newest(&states).is_none() {
        return Err(Error::Damaged("header: neither state is authentic".into()));
    }
    Ok(Arrived::Header(
        Box::new(LoadedHeader {
            core,
            area,
            area_index,
            keys,
            states,
            page,
        }),
        data_key,
    ))
}

/// Page 0; Damaged if the file is shorter than a header and one block.
pub(super) fn read_page(backing: &dyn File) -> Result<Box<[u8; PAGE0]>> {
    let mut page = Box::new([0; PAGE0]);
    match backing.read_at(page.as_mut_slice(), 0)? {
        PAGE0.. => Ok(page),
        _ => Err(too_short()),
    }
}

/// As `read_page`, with whatever else a small file holds: one request to the device then brings all of it into the store's
/// cache, where reading the first page alone would bring a part and have the next read ask for the rest.
fn read_page_of(backing: &dyn File, physical_len: u64) -> Result<Box<[u8; PAGE0]>> {
    let len = usize::try_from(physical_len).unwrap_or(usize::MAX);
    if len <= PAGE0 || len > SMALL {
        return read_page(backing);
    }
    let mut room = [0; SMALL];
    let (all, _) = room.split_at_mut(len);
    let read = backing.read_at(all, 0)?;
    let page = all.first_chunk::<PAGE0>().filter(|_| read >= PAGE0);
    page.map(|page| Box::new(*page)).ok_or_else(too_short)
}

fn too_short() -> Error {
    Error::Damaged("header: the file is shorter than its header page".into())
}

/// The bytes of one key area; 0 is A.
pub(super) fn area_bytes(page: &[u8; PAGE0], index: usize) -> &[u8; SECTOR] {
    field(page, if index == 0 { AREAS_AT[0] } else { AREAS_AT[1] })
}

/// N bytes of page 0 at one of the offsets above.
pub(super) fn field<const N: usize>(page: &[u8; PAGE0], offset: usize) -> &[u8; N] {
    page.get(offset..)
        .and_then(|rest| rest.first_chunk())
        .expect("the offsets of fields lie within page 0")
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn parts_missing(page: &[u8; PAGE0]) -> bool {
    let zero = |offset: usize| is_zero(field::<SECTOR>(page, offset));
    zero(CORE_AT) || AREAS_AT.into_iter().all(zero) || zero(STATES_AT[0])
}

fn never_arrived(env: &Env, what: &str) -> Result<Arrived> {
    if env.epochs.any_listed() {
        return Ok(Arrived::Never);
    }
    Err(Error::Damaged(format!(
        "header: {what}, and no mount of this volume ended uncleanly"
    )))
}

fn parse_core(env: &Env, page: &[u8; PAGE0]) -> Result<Core> {
    let core = Core::parse(field(page, CORE_AT)).map_err(|error| damaged("core", error))?;
    if core.volume != env.volume {
        return Err(Error::Damaged(format!(
            "header: it belongs to volume {}",
            core.volume
        )));
    }
    if core.suite != env.suite {
        return Err(Error::Damaged(
            "header: its suite is not the volume's".into(),
        ));
    }
    Ok(core)
}

fn damaged(part: &str, error: FormatError) -> Error {
    Error::Damaged(format!("header: {part}: {error}"))
}

/// The newest area that holds; an older one counts only when it holds in full itself.
fn choose_area(env: &Env, core: &Core, page: &[u8; PAGE0]) -> Result<(KeyArea, usize, Secret<32>)> {
    let mut first_error = None;
    let mut found: Vec<(KeyArea, usize)> = Vec::with_capacity(2);
    for (index, offset) in AREAS_AT.into_iter().enumerate() {
        match KeyArea::parse(field(page, offset)) {
            Ok(Some(area)) => found.push((area, index)),
            Ok(None) => {}
            Err(error) => first_error = Some(damaged("key area", error)),
        }
    }
    found.sort_by_key(|(area, _)| std::cmp::Reverse(area.sequence));
    for (area, index) in found {
        match open_area(env, core, page, &area, index) {
            Ok(data_key) => return Ok((area, index, data_key)),
            // The area may well be right: what cannot be asked now is not a reason to trust the older one.
            Err(error @ Error::Key(KeyError::Unavailable(_) | KeyError::AccessDenied(_))) => {
                return Err(error);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| Error::Damaged("header: no key area".into())))
}

/// Unwraps the data key of one area, then checks the commitment and the area's MAC.
pub(super) fn open_area(
    env: &Env,
    core: &Core,
    page: &[u8; PAGE0],
    area: &KeyArea,
    index: usize,
) -> Result<Secret<32>> {
    let data_key = env.ring.unwrap(&core.file, area)?;
    header::verify_commitment(&data_key, &env.keys()?.bind, field(page, CORE_AT))
        .map_err(|error| damaged("core", error))?;
    let header_key = header::header_key(&data_key, &env.keys()?.bind, &core.file);
    KeyArea::verify(area_bytes(page, index), &header_key, &core.file)
        .map_err(|error| damaged("key area", error))?;
    Ok(data_key)
}

/// The halves that are authentic. One that is not may have been caught in the middle of being written.
fn parse_states(page: &[u8; PAGE0], header_key: &Secret<32>, file: &FileId) -> [Option<State>; 2] {
    STATES_AT.map(|offset| {
        State::parse(field(page, offset), header_key, file)
            .ok()
            .flatten()
    })
}
