//! `strongroom.redo`: copies of ciphertext that is to stand where a block stands now, for when the power goes meanwhile. A page
//! of 32 entries, which say whose each copy is, then the 32 copies.
//!
//! Invariant: an entry only says where to look. What a copy is, the record of its block proves, as of the slot's bytes.

use super::bytes::{Reader, Writer, is_zero};
use super::error::{FormatError, Result};
use super::ids::FileId;
use super::layout::PAGE;

/// Copies that there is room for.
pub const ENTRIES: usize = 32;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 32;
/// Length of the file.
pub const LEN: u64 = (1 + ENTRIES as u64) * PAGE;

const WHAT: &str = "an entry of strongroom.redo";
const CRC_AT: usize = 28;

/// The block that a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its file.
    pub file: FileId,
    /// Its index in that.
    pub block: u64,
}

impl Entry {
    /// 32 bytes.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let fields = Writer::<CRC_AT>::new()
            .put(&self.file.0)
            .put(&self.block.to_le_bytes())
            .finish();
        Writer::new()
            .put(&fields)
            .put(&crc32c::crc32c(&fields).to_le_bytes())
            .finish()
    }

    /// Parses an entry; `None` where all is zero. The checksum only tells a torn one.
    pub fn parse(bytes: &[u8; ENTRY_LEN]) -> Result<Option<Self>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        let checked = Reader::new(bytes, WHAT).bytes(CRC_AT).map(crc32c::crc32c)?;
        let mut fields = Reader::new(bytes, WHAT);
        let (file, block) = (FileId(fields.array()?), fields.u64()?);
        fields.zeros(4, "a reserved byte of an entry of strongroom.redo")?;
        let crc = fields.u32()?;
        fields.end()?;
        if crc != checked {
            return Err(FormatError::Checksum(WHAT));
        }
        Ok(Some(Self { file, block }))
    }
}

/// Where an entry stands, by its number below [`ENTRIES`].
pub const fn entry_offset(number: usize) -> u64 {
    (number * ENTRY_LEN) as u64
}

/// Where the copy of an entry stands.
pub const fn copy_offset(number: usize) -> u64 {
    (1 + number as u64) * PAGE
}

const _: () = assert!(ENTRIES * ENTRY_LEN <= PAGE as usize);
