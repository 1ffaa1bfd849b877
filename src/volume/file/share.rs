//! One file's ciphertext for another volume: the blocks as they are, under the same file id and data key; a new core, key
//! area and state for them. No block is opened.
//!
//! Invariant: only a settled file is shared, with its writers kept out, so what the other volume gets is strict.

use crate::crypto::Secret;
use crate::format::header::{self, AREAS_AT, CORE_AT, Core, PAGE0, STATES_AT, State, StateFlags};
use crate::format::layout;
use crate::format::suite::Suite;
use crate::store::{File, Taken};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::body::Place;
use crate::volume::file::header::{Arrived, LoadedHeader, load_with_key};
use crate::volume::file::shell::{Content, FileState};

/// Bytes of page 0 that are made anew: core, key areas, states. Records follow.
const ANEW: usize = layout::RECORDS_0 as usize;

impl FileState {
    /// Mends a file in doubt, durably, and puts it on the settler's list unless it is settled; whether it had to.
    pub(crate) fn wants_settling(&self) -> Result<bool> {
        self.size()?;
        let content = self.content_shared();
        let Content::Body(body) = &*content else {
            return Ok(false);
        };
        if body.is_durable() && !body.needs_mending() {
            return Ok(false);
        }
        self.note();
        body.mend_all()?;
        Ok(true)
    }

    /// Fills `to`, an empty file, with what a file of the volume `env` under the name `place` holds that has these contents;
    /// `None` if this file is empty.
    ///
    /// # Errors
    /// EBUSY where this file is not settled.
    pub(crate) fn share(&self, env: &Env, to: &dyn File, place: &Place) -> Result<Option<Taken>> {
        self.size()?;
        let _quiet = self.lock_quiet();
        let content = self.content_shared();
        let Content::Body(body) = &*content else {
            return Ok(None);
        };
        let mut taken = None;
        body.with_header(&mut || {
            if !(body.is_durable() && body.is_settled()) {
                return Err(Error::errno(libc::EBUSY));
            }
            taken = self.share_held(env, to, place)?;
            Ok(())
        })?;
        Ok(taken)
    }

    /// With writers and settling kept out.
    fn share_held(&self, env: &Env, to: &dyn File, place: &Place) -> Result<Option<Taken>> {
        let len = self.backing.stat()?.size;
        let Arrived::Header(found, data_key) =
            load_with_key(&self.env, self.backing.as_ref(), len)?
        else {
            return Ok(None);
        };
        let state = settled_state(&self.env, &found, len)?;
        let taken = to.take_contents(self.backing.as_ref())?;
        to.write_at(&new_header(env, &found, &data_key, state, place)?, 0)?;
        Ok(Some(taken))
    }
}

/// The one state of a settled file that is not in doubt.
fn settled_state<'a>(env: &Env, found: &'a LoadedHeader, len: u64) -> Result<&'a State> {
    let ([Some(state), None] | [None, Some(state)]) = &found.states else {
        return Err(Error::errno(libc::EBUSY));
    };
    let strict = match env.suite {
        Suite::Gcm => {
            !state.flags.unsettled
                && !env.epochs.in_doubt(state.settled_epoch)
                && layout::gcm_physical_len(state.size) == len
        }
        Suite::Xts => layout::xts_size(len).is_ok(),
    };
    if strict {
        Ok(state)
    } else {
        Err(Error::errno(libc::EBUSY))
    }
}

fn new_header(
    env: &Env,
    found: &LoadedHeader,
    data_key: &Secret<32>,
    state: &State,
    place: &Place,
) -> Result<[u8; ANEW]> {
    let keys = env.keys()?;
    let file = found.core.file;
    let mut core = Core {
        suite: env.suite,
        volume: env.volume,
        file,
        commitment: [0; 32],
    };
    core.commitment = header::commitment(data_key, &keys.bind, &core.encode());
    let header_key = header::header_key(data_key, &keys.bind, &file);
    let area = env.ring.wrap(&file, data_key, 1)?;
    let bound = env.bind_names && env.suite == Suite::Gcm;
    let tag = bound.then(|| header::name_tag(&header_key, &file, &place.dir, &place.stored));
    let state = State {
        size: state.size,
        flags: StateFlags {
            sparse: state.flags.sparse,
            ..StateFlags::default()
        },
        epoch: env.epochs.running,
        sequence: 1,
        sparse: state.sparse,
        settled_epoch: env.epochs.running,
        tags: tag.into_iter().collect(),
    };
    let mut page = [0; ANEW];
    for (offset, part) in [
        (CORE_AT, &core.encode()[..]),
        (AREAS_AT[0], &area.encode(&header_key, &file)[..]),
        (STATES_AT[0], &state.encode(&header_key, &file)[..]),
    ] {
        page.iter_mut()
            .skip(offset)
            .zip(part)
            .for_each(|(to, from)| *to = *from);
    }
    Ok(page)
}

const _: () = assert!(ANEW < PAGE0);
