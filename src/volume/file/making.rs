//! The first write of an empty file: its header is made, and taken back where that fails. Knows no path.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::header::MAX_TAGS;
use crate::format::suite::Suite;
use crate::store::File;
use crate::volume::error::Result;
use crate::volume::file::body::{Body, Place};
use crate::volume::file::gcm::GcmBody;
use crate::volume::file::header;
use crate::volume::file::remains;
use crate::volume::file::shell::{Content, FileState};
use crate::volume::file::xts::XtsBody;

impl FileState {
    /// Makes the header of an empty file with its first bytes. False: it is not empty any more.
    pub(super) fn first_write(&self, offset: u64, data: &[u8]) -> Result<bool> {
        let mut content = self.content_alone();
        match *content {
            Content::Empty => {}
            Content::Remains => {
                let lost = remains::move_aside(self.backing.as_ref(), self.dir.as_ref())?;
                tracing::warn!(
                    "remains of a header that never arrived are kept as {}",
                    lost.escape_ascii()
                );
                *content = Content::Empty;
            }
            Content::Unmade => self.take_back(&mut content)?,
            Content::Unread | Content::Body(_) => return Ok(false),
        }
        self.note();
        self.user_changes.fetch_add(1, Ordering::AcqRel);
        let created = self.create_body(offset, data);
        self.lock_owed().changed();
        match created {
            Ok(body) => *content = Content::Body(body),
            Err(error) => {
                *content = Content::Unmade;
                if let Err(error) = self.take_back(&mut content) {
                    tracing::warn!("a first write that failed is to be taken back later: {error}");
                }
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Gives up what a failed first write left.
    pub(super) fn take_back(&self, content: &mut Content) -> Result<()> {
        self.backing.set_len(0)?;
        self.lock_owed().changed();
        *content = Content::Empty;
        Ok(())
    }

    /// Of a file whose first write failed and still waits to be taken back: does that, so that no header of it is left.
    pub(super) fn take_back_unmade(&self) -> Result<()> {
        if !matches!(*self.content_shared(), Content::Unmade) {
            return Ok(());
        }
        match &mut *self.content_alone() {
            content @ Content::Unmade => self.take_back(content),
            _ => Ok(()),
        }
    }

    fn create_body(&self, offset: u64, data: &[u8]) -> Result<Arc<dyn Body>> {
        let _making = self.env.ring.making();
        let header = header::new_header(&self.env)?;
        let backing = self.backing.clone();
        match self.env.suite {
            Suite::Xts => Ok(Arc::new(XtsBody::create(
                &self.env, backing, header, offset, data,
            )?)),
            Suite::Gcm => {
                let (places, unbound) = self.names_for_header()?;
                let body =
                    GcmBody::create(&self.env, backing, header, &places, unbound, offset, data)?;
                Ok(Arc::new(body))
            }
        }
    }

    /// The names that a new header is bound to, and whether it must be left unbound because it has or may have others.
    fn names_for_header(&self) -> Result<(Vec<Place>, bool)> {
        let names = self.lock_names();
        let mut places = names.for_header();
        let (ino, others) = match self.made.get() {
            Some(ino) => (*ino, false),
            None => {
                let stat = self.backing.stat()?;
                (stat.ino, stat.nlink > places.len() as u64)
            }
        };
        let knows_all = self.made.get().is_some() && names.lost_none();
        let others = others || !knows_all && self.settler.may_have_had_others(ino);
        let unbound = others || places.len() > MAX_TAGS;
        places.truncate(MAX_TAGS);
        Ok((places, unbound))
    }
}
