//! Re-wrap of one file (FORMAT.md section 2): its data key under the master key's current version, in the key area that
//! does not count; the old area is zeroed once the new one is durable. Never touches data. Invariant: at every moment one
//! area that holds is on the store.

use std::ops::Range;

use crate::broken::{Rule, broken};
use crate::crypto::Secret;
use crate::format::header::{AREAS_AT, CORE_AT, PAGE0, SECTOR, STATES_AT};
use crate::store::File;
use crate::volume::error::{Error, Result};
use crate::volume::file::backing::{put_mtime_back, quietly};
use crate::volume::file::header::{Arrived, LoadedHeader, area_bytes, load_stored, read_page};
use crate::volume::file::owed::Rewrapped;
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
        self.supersede(&header.page, other, bytes)
    }

    /// Zeroes the area that `rewrap` superseded. False: nothing was done, since the re-wrapped header is not known to be
    /// durable, or is not what `rewrap` left.
    pub(crate) fn rewrap_finish(&self) -> Result<bool> {
        let rewrapped = {
            let mut owed = self.lock_owed();
            if !owed.is_durable() && !broken(Rule::RewrapUnsynced) {
                return Ok(false);
            }
            owed.rewrapped.take()
        };
        let Some(rewrapped) = rewrapped else {
            return Ok(false);
        };
        self.change_areas(|page| {
            let keys = page.get(KEYS) == Some(&*rewrapped.keys);
            keys.then_some((rewrapped.superseded, [0; SECTOR]))
        })
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
        self.supersede(&header.page, header.area_index, current)
    }

    /// Writes an area of a header, if that still has the keys of `page`. `rewrap_finish` then takes the other area away.
    fn supersede(&self, page: &[u8; PAGE0], index: usize, area: [u8; SECTOR]) -> Result<bool> {
        let written =
            self.change_areas(|now| (now.get(KEYS) == page.get(KEYS)).then_some((index, area)))?;
        if written {
            let mut keys = *page;
            let at = area_at(index);
            keys.iter_mut()
                .skip(at)
                .zip(area)
                .for_each(|(byte, new)| *byte = new);
            self.lock_owed().rewrapped = Some(Rewrapped {
                keys: keys.get(KEYS).unwrap_or_default().into(),
                superseded: 1 - index,
            });
        }
        Ok(written)
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

    /// Writes one key area, if `choose` still wants to when it sees page 0 with all writers of this file kept out. Whether it
    /// did.
    fn change_areas(
        &self,
        choose: impl FnOnce(&[u8; PAGE0]) -> Option<(usize, [u8; SECTOR])>,
    ) -> Result<bool> {
        let _quiet = self.lock_quiet();
        let content = self.content_alone();
        let before = self.backing.stat()?;
        if before.size == 0 {
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
            written = true;
            let done = self.backing.write_at(&bytes, area_at(index) as u64);
            put_mtime_back(self.backing.as_ref(), before.mtime);
            Ok(done?)
        };
        let changed = with_header(&content, &mut change);
        self.lock_owed().wrote_areas();
        changed.map(|()| written)
    }
}

/// What of page 0 a re-wrap needs unchanged, core and key areas: same file id, same commitment, no other re-wrap.
const KEYS: Range<usize> = CORE_AT..STATES_AT[0];

fn area_at(index: usize) -> usize {
    if index == 0 { AREAS_AT[0] } else { AREAS_AT[1] }
}

fn with_header(content: &Content, change: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    match content {
        Content::Body(body) => body.with_header(change),
        _ => change(),
    }
}
