//! `strongroom.dir`: the id of a directory that was renamed or made anew, and the places where it may stand.

use super::bytes::Reader;
use super::error::{FormatError, Result};
use super::ids::DirId;
use crate::crypto::{Secret, mac16};
use subtle::ConstantTimeEq;

const WHAT: &str = "strongroom.dir";
const ID: usize = 16;

/// A directory's stored id with its place tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirFile {
    /// The id that counts.
    pub id: DirId,
    /// One tag for each place where the directory may stand: 1, or 2 while a rename is not durable.
    pub places: Vec<[u8; 16]>,
}

impl DirFile {
    /// id 16 ‖ place tags.
    ///
    /// Panics unless there are one or two places.
    pub fn encode(&self) -> Vec<u8> {
        assert!(
            matches!(self.places.len(), 1 | 2),
            "a directory has one or two places"
        );
        [&self.id.0, self.places.as_flattened()].concat()
    }

    /// Exactly 32 or 48 bytes. Proven only by [`DirFile::fits`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let places = match bytes.len().saturating_sub(ID) {
            16 => 1,
            32 => 2,
            _ => return Err(FormatError::Length(WHAT)),
        };
        let mut fields = Reader::new(bytes, WHAT);
        let id = DirId(fields.array()?);
        let places = (0..places).map(|_| fields.array()).collect::<Result<_>>()?;
        fields.end()?;
        Ok(Self { id, places })
    }

    /// Refuses a directory that stands where none of its place tags puts it.
    pub fn fits(&self, dir_key: &Secret<32>, parent: &DirId, stored: &[u8]) -> Result<()> {
        let here = place_tag(dir_key, &self.id, parent, stored);
        // Every tag is compared, so that time tells nothing.
        let fits = self
            .places
            .iter()
            .fold(false, |fits, place| fits | bool::from(place.ct_eq(&here)));
        fits.then_some(()).ok_or(FormatError::NotAuthentic(WHAT))
    }
}

/// The tag of a place: MAC(dir key, "place", id, parent id, stored name).
pub fn place_tag(dir_key: &Secret<32>, id: &DirId, parent: &DirId, stored: &[u8]) -> [u8; 16] {
    mac16(dir_key, &[b"place", &id.0, &parent.0, stored])
}
