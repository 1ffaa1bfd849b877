//! Re-wrap of one file (FORMAT.md section 2): its data key under the master key's current version, in the key area that
//! does not count; the old area is zeroed once the new one is durable. Never touches data. Invariant: at every moment one
//! area that holds is on the store.

use crate::broken::{Rule, broken};
use crate::crypto::Secret;
use crate::format::header::{AREAS_AT, CORE_AT, PAGE0, SECTOR, STATES_AT};
use crate::store::File;
use crate::volume::error::{Error, Result};
use crate::volume::file::header::{Arrived, LoadedHeader, area_bytes, load_stored, read_page};
use crate::volume::file::quietly;
use crate::volume::file::shell::{Content, FileState};

/// How often a file is re-wrapped whose header others change between its sync and the end.
const TRIES: usize = 64;

impl FileState {
    /// Whether the header's key area in force names the current version, as the store has it now; `None`: empty.
    pub(crate) fn header_version(&self) -> Result<Option<bool>> {
        Ok(self
            .stored_header()?
            .map(|(header, _)| self.env.ring.is_current(&header.area)))
    }

    /// Writes the data key wrapped under the current version, if it is under another. True: `rewrap_finish` is due after
    /// a sync, also where an earlier re-wrap was interrupted. An empty file needs nothing.
    pub(crate) fn rewrap(&self) -> Result<bool> {
        if self.env.read_only {
            return Err(Error::errno(libc::EROFS));
        }
        let Some((header, data_key)) = self.stored_header()? else {
            return Ok(false);
        };
        let other = 1 - header.area_index;
        if self.env.ring.is_current(&header.area) {
            return self.resume(&header);
        }
        let area = self
            .env
            .ring
            .wrap(&header.core.file, &data_key, header.area.sequence + 1)?;
        let bytes = area.encode(&header.keys.header, &header.core.file);
        // `false`: the file was cut or re-wrapped meanwhile.
        self.change_areas(|page| same_keys(page, &header.page).then_some((other, bytes)))
    }

    /// Zeroes the area that `rewrap` superseded. False: nothing was done, since the re-wrapped header is not known to be
    /// durable, also where someone else changed the header since the sync.
    pub(crate) fn rewrap_finish(&self) -> Result<bool> {
        if !self.lock_owed().is_durable() && !broken(Rule::RewrapUnsynced) {
            return Ok(false);
        }
        let Some((header, _)) = self.stored_header()? else {
            return Ok(true);
        };
        if !self.env.ring.is_current(&header.area) {
            return Ok(true);
        }
        let other = 1 - header.area_index;
        self.change_areas(|page| same_keys(page, &header.page).then_some((other, [0; SECTOR])))?;
        Ok(true)
    }

    /// All of it at once, with a sync of this file.
    ///
    /// # Errors
    /// EBUSY where others change the header all the while.
    pub(crate) fn rewrap_now(&self) -> Result<()> {
        for _ in 0..TRIES {
            if !self.rewrap()? {
                return Ok(());
            }
            self.sync(false)?;
            if self.rewrap_finish()? {
                return Ok(());
            }
        }
        Err(Error::errno(libc::EBUSY))
    }

    /// After a failed sync: writes the key areas of a re-wrapped header once more, same bytes.
    pub(super) fn rewrite_areas(&self, content: &Content) -> Result<()> {
        if self.backing.stat()?.size < PAGE0 as u64 {
            return Ok(());
        }
        let mut rewrite = || {
            let page = read_page(self.backing.as_ref())?;
            AREAS_AT
                .into_iter()
                .enumerate()
                .try_for_each(|(index, offset)| {
                    Ok(self
                        .backing
                        .write_at(area_bytes(&page, index), offset as u64)?)
                })
        };
        quietly(self.backing.as_ref(), || with_header(content, &mut rewrite))
    }

    /// Of a header that is current: whether the area before it is still there. Then the new one is written once more: a sync
    /// of an earlier mount may have lost it, and the page cache show it.
    fn resume(&self, header: &LoadedHeader) -> Result<bool> {
        let old = area_bytes(&header.page, 1 - header.area_index);
        if old.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let current = *area_bytes(&header.page, header.area_index);
        self.change_areas(|page| {
            same_keys(page, &header.page).then_some((header.area_index, current))
        })
    }

    fn stored_header(&self) -> Result<Option<(Box<LoadedHeader>, Secret<32>)>> {
        self.take_back_unmade()?;
        let _shared = self.content_shared();
        let len = self.backing.stat()?.size;
        Ok(match load_stored(&self.env, self.backing.as_ref(), len)? {
            Arrived::Header(header, data_key) => Some((header, data_key)),
            Arrived::Never | Arrived::Empty => None,
        })
    }

    /// Writes one key area, if `choose` still wants to when it sees page 0 with all writers of this file kept out.
    fn change_areas(
        &self,
        choose: impl FnOnce(&[u8; PAGE0]) -> Option<(usize, [u8; SECTOR])>,
    ) -> Result<bool> {
        let _quiet = self.lock_quiet();
        let content = self.content_alone();
        if self.backing.stat()?.size == 0 {
            return Ok(false);
        }
        self.note();
        let mut choose = Some(choose);
        let mut written = false;
        let mut change = || {
            let page = read_page(self.backing.as_ref())?;
            let chosen = choose.take().and_then(|choose| choose(&page));
            let Some((index, bytes)) = chosen else {
                return Ok(());
            };
            let offset = if index == 0 { AREAS_AT[0] } else { AREAS_AT[1] };
            written = true;
            Ok(quietly(self.backing.as_ref(), || {
                self.backing.write_at(&bytes, offset as u64)
            })?)
        };
        let changed = with_header(&content, &mut change);
        self.lock_owed().wrote_areas();
        changed.map(|()| written)
    }
}

/// Whether core and key areas are the same: same file id, same commitment, no re-wrap in between.
fn same_keys(a: &[u8; PAGE0], b: &[u8; PAGE0]) -> bool {
    let keys = CORE_AT..STATES_AT[0];
    a.get(keys.clone()) == b.get(keys)
}

fn with_header(content: &Content, change: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    match content {
        Content::Body(body) => body.with_header(change),
        _ => change(),
    }
}
