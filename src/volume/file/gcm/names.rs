//! Name tags: which names a file may be reached under (FORMAT.md section 5). Knows no directory, only places.

use crate::broken::{Rule, broken};
use crate::crypto::Secret;
use crate::format::header::{MAX_TAGS, name_tag};
use crate::format::ids::FileId;
use crate::format::state::State;
use crate::volume::error::{Error, Result};
use crate::volume::file::body::{Names, Place};

use super::{GcmBody, Turn};

/// The tag of a place.
pub(super) fn tag(header_key: &Secret<32>, file: &FileId, place: &Place) -> [u8; 16] {
    name_tag(header_key, file, &place.dir, &place.stored)
}

impl GcmBody {
    /// Whether the file may be reached under this name.
    pub(super) fn name_is_known(&self, place: &Place) -> Result<()> {
        if self.may_have_name(place) {
            return Ok(());
        }
        tracing::error!("a file stands under a name that it is not bound to");
        Err(Error::Damaged("the file is not bound to this name".into()))
    }

    /// Adds the tag of `new`, and of `via` where an unclean end kept it out. `several`: the file has or gets more than one
    /// link.
    pub(super) fn bind_name(
        &self,
        turn: &Turn<'_>,
        via: &Place,
        new: &Place,
        several: bool,
    ) -> Result<()> {
        self.name_is_known(via)?;
        let tags = [self.tag(via), self.tag(new)];
        let (missing, may_be_settled) = {
            let memory = self.memory();
            let state = memory.head.state();
            if state.flags.unbound {
                return Ok(());
            }
            let missing: Vec<_> = tags
                .into_iter()
                .filter(|tag| !state.tags.contains(tag))
                .collect();
            (missing, memory.head.may_be_settled())
        };
        if !missing.is_empty() {
            self.write_state(turn, |state| add_tags(state, &missing))?;
        }
        if (may_be_settled || several) && !broken(Rule::TagUnsynced) {
            self.barrier(turn)
        } else {
            Ok(())
        }
    }

    /// The tags of a settled state: of the names that it has.
    pub(super) fn settle_tags(&self, state: &mut State, names: &Names) {
        if !self.env.bind_names {
            return;
        }
        let here = self.tag(&names.here);
        if names.links == 1 {
            state.flags.unbound = false;
            state.tags = vec![here];
            return;
        }
        if state.flags.unbound {
            return;
        }
        let gone: Vec<_> = names
            .gone
            .iter()
            .map(|place| self.tag(place))
            .filter(|tag| *tag != here)
            .collect();
        state.tags.retain(|tag| !gone.contains(tag));
        if !state.tags.contains(&here) {
            add_tags(state, &[here]);
        }
    }

    fn tag(&self, place: &Place) -> [u8; 16] {
        tag(&self.header_key, &self.file, place)
    }
}

/// More tags than a state holds: names are not checked any more, until the file is settled with one link.
fn add_tags(state: &mut State, tags: &[[u8; 16]]) {
    if state.tags.len() + tags.len() > MAX_TAGS {
        tracing::warn!(
            "a file got more names than its header binds: they are not checked until it has one again"
        );
        state.flags.unbound = true;
        state.tags.clear();
        return;
    }
    state.tags.extend_from_slice(tags);
}
