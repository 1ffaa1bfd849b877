//! How a body begins: with the first write of a file, or from a header that was read.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::header::{AREAS_AT, CORE_AT, MAX_TAGS, PAGE0, STATES_AT};
use crate::format::layout::{self, PAGE};
use crate::format::record::Kind;
use crate::format::state::{State, StateFlags};
use crate::store::File;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::body::{Body, Place};
use crate::volume::file::header::{LoadedHeader, NewHeader};

use super::choose::{Job, kinds, runs};
use super::names::tag;
use super::scratch::with_scratch;
use super::state::Head;
use super::table::Table;
use super::write::Bytes;
use super::{Doubt, GcmBody, Ledger, Memory, Turn};

impl GcmBody {
    /// The first write of a file, of `data` at `offset`, zeros before it; the size is their sum, above 0. One `set_len` and
    /// one write where all fits into the first group; the header comes last. Unbound: names are not checked. After an error the
    /// caller cuts the file to nothing.
    pub(crate) fn create(
        env: &Arc<Env>,
        backing: Arc<dyn File>,
        header: NewHeader,
        places: &[Place],
        unbound: bool,
        offset: u64,
        data: &[u8],
    ) -> Result<Self> {
        let size = offset
            .checked_add(data.len() as u64)
            .filter(|size| (1..=layout::MAX_SIZE).contains(size));
        let size = size.ok_or(Error::errno(libc::EFBIG))?;
        let NewHeader {
            core,
            area,
            file,
            keys,
        } = header;
        let unbound = env.bind_names && (unbound || places.len() > MAX_TAGS);
        let bound = places.iter().filter(|_| env.bind_names && !unbound);
        let state = State {
            size,
            flags: StateFlags {
                unbound,
                unsettled: true,
                ..StateFlags::default()
            },
            epoch: env.epochs.running,
            sequence: 2,
            tags: bound.map(|place| tag(&keys.header, &file, place)).collect(),
            ..State::default()
        };
        let none = State {
            size: 0,
            sequence: 1,
            tags: Vec::new(),
            ..state.clone()
        };
        let memory = Memory {
            head: Head::first(none, state),
            table: Table::default(),
            ledger: Ledger::default(),
            doubt: Doubt::default(),
        };
        let body = Self::assemble(env, backing, keys.content, keys.header, file, memory)?;
        body.size.store(0, Ordering::Release);
        {
            let turn = body.wait_turn();
            body.put_len(layout::gcm_physical_len(size))?;
            body.write_first(&turn, size, offset, data, [&core, &area])?;
        }
        body.size.store(size, Ordering::Release);
        Ok(body)
    }

    /// Later groups, then the first with the header.
    fn write_first(
        &self,
        turn: &Turn<'_>,
        size: u64,
        offset: u64,
        data: &[u8],
        sectors: [&[u8]; 2],
    ) -> Result<()> {
        let new_blocks = layout::blocks_of(size);
        let (skipped, sparse) = self.skipped((0, 0), 0, new_blocks, offset, data);
        {
            let mut memory = self.memory();
            let state = memory.head.first_state_mut();
            state.sparse = sparse;
            state.flags.sparse = sparse != (0, 0);
        }
        let bytes = Bytes {
            offset,
            data,
            old_blocks: 0,
            new_blocks,
            sparse,
        };
        let last = layout::group_of(new_blocks - 1);
        for number in (1..last + 1).filter(|number| !skipped.contains(number)) {
            self.write_group(turn, number, &bytes)?;
        }
        let len = layout::blocks_in(0, new_blocks) as usize;
        let changed = bytes.blocks();
        let within = |block: u64| (block as usize).min(len);
        let data = within(changed.start)..within(changed.end);
        let job = Job::new(0, Arc::default(), 0, new_blocks);
        let kinds = kinds(&job.group, &data, 0, len, false);
        with_scratch(|text| {
            let text = text.add(data.len() * PAGE as usize);
            let plain = self.plain_of(data.start as u64, &bytes, text)?;
            self.write_header(&job, &kinds, text, &plain, sectors)
        })
    }

    fn write_header(
        &self,
        job: &Job,
        kinds: &[(usize, Kind)],
        text: &mut [u8],
        plain: &[Option<&[u8]>],
        [core, area]: [&[u8]; 2],
    ) -> Result<()> {
        let mut pieces = self.seal_pieces(job, kinds, text, plain);
        job.choose(&mut pieces);
        let group = job.after(&pieces);
        let mut page = [0; PAGE0];
        let mut fill = |at: usize, bytes: &[u8]| {
            if let Some(place) = page.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        fill(CORE_AT, core);
        fill(AREAS_AT[0], area);
        {
            let memory = self.memory();
            let states = [memory.head.other(), Some(memory.head.state())];
            for (at, state) in STATES_AT.into_iter().zip(states) {
                fill(
                    at,
                    &state.map_or([0; 256], |state| state.encode(&self.header_key, &self.file)),
                );
            }
        }
        for (index, block) in group.blocks().iter().enumerate() {
            fill(
                layout::record_offset(index as u64) as usize,
                &block.encode(),
            );
        }
        let from_first = runs(&pieces)
            .next()
            .and_then(|run| run.first())
            .is_none_or(|piece| piece.half.slot == 0);
        let one_run = runs(&pieces).count() < 2 && from_first;
        if one_run {
            self.put_all(&[IoSlice::new(&page), IoSlice::new(text)], 0)?;
        } else {
            self.write_runs(0, &pieces, text)?;
            self.put(&page, 0)?;
        }
        self.memory().table.wrote(0, Arc::new(group));
        Ok(())
    }

    /// A file with this header and length on the store, reached under the name `via`. Writes nothing: what an unclean end
    /// left is mended in memory, and on the store before the first change.
    ///
    /// # Errors
    /// Damaged if the length is not that of the size, in a file that is not in doubt.
    pub(crate) fn load(
        env: &Arc<Env>,
        backing: Arc<dyn File>,
        header: LoadedHeader,
        physical_len: u64,
        via: &Place,
    ) -> Result<Self> {
        let body = Self::load_whatever_length(env, backing, header, physical_len, via)?;
        let (size, in_doubt) = (body.size(), body.memory().doubt.in_doubt);
        if !in_doubt && physical_len != layout::gcm_physical_len(size) {
            tracing::error!(
                physical_len,
                size,
                "a file's length is not that of its size"
            );
            return Err(Error::Damaged(format!(
                "length {physical_len} is not that of size {size}"
            )));
        }
        Ok(body)
    }

    /// As `load`, whatever the length is: what it lacks reads as damage.
    pub(crate) fn load_whatever_length(
        env: &Arc<Env>,
        backing: Arc<dyn File>,
        header: LoadedHeader,
        physical_len: u64,
        via: &Place,
    ) -> Result<Self> {
        let LoadedHeader {
            core,
            keys,
            states,
            page,
            ..
        } = header;
        let head = Head::found(states).filter(|head| head.state().size > 0);
        let head = head.ok_or_else(|| Error::Damaged("header: no state".into()))?;
        let state = head.state();
        let in_doubt = env.epochs.in_doubt(state.settled_epoch);
        let lenient = in_doubt && state.flags.unsettled && env.epochs.is_listed(state.epoch);
        let sizes = head
            .other()
            .map(|other| (other.size.min(state.size), other.size.max(state.size)));
        let between = sizes.filter(|_| in_doubt).map_or((0, 0), |(a, b)| {
            (layout::blocks_of(a), layout::blocks_of(b))
        });
        let unsynced = in_doubt || state.flags.unsettled || head.other().is_some();
        let via = tag(&keys.header, &core.file, via);
        let memory = Memory {
            head,
            table: Table::default(),
            ledger: Ledger {
                to_mend: unsynced,
                loaded_unsynced: unsynced,
                ..Ledger::default()
            },
            doubt: Doubt {
                in_doubt,
                lenient,
                via,
                between,
                physical_len,
                mended_groups: 0,
            },
        };
        let body = Self::assemble(env, backing, keys.content, keys.header, core.file, memory)?;
        let records = page
            .get(layout::RECORDS_0 as usize..PAGE as usize)
            .unwrap_or_default();
        body.take_in(0, records, 0)?;
        Ok(body)
    }
}
