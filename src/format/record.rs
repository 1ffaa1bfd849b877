//! A block's record: two halves, each with the nonce and tag of one version of the block and the slot it stands in.
//!
//! Invariant: the half that holds the durable version is never rewritten, so a half that does not even parse in a file in
//! doubt is the other one, caught while it was copied.

use super::bytes::{Reader, Writer, is_zero};
use super::error::{FormatError, Result};
use super::ids::FileId;

/// Bytes of a record.
pub const RECORD_LEN: usize = 64;
/// Bytes of a half.
pub const HALF_LEN: usize = 32;
/// Records of a sector.
pub const RECORDS_PER_SECTOR: usize = 8;
/// Bytes of a block's additional data.
pub const AAD_LEN: usize = 30;

/// What a version of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 4096 bytes in a slot.
    Data = 1,
    /// Zeros: the tag over an empty text.
    Hole = 2,
}

/// One version of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// Random.
    pub nonce: [u8; 12],
    /// Over the slot's bytes, or over nothing for a hole.
    pub tag: [u8; 16],
    /// The slot within the block's group; 0 for a hole.
    pub slot: u8,
    /// Data or hole.
    pub kind: Kind,
    /// Which half is newer, modulo 2^16.
    pub sequence: u16,
}

impl Half {
    /// 32 bytes.
    pub fn encode(&self) -> [u8; HALF_LEN] {
        Writer::new()
            .put(&self.nonce)
            .put(&self.tag)
            .put(&[self.slot, self.kind as u8])
            .put(&self.sequence.to_le_bytes())
            .finish()
    }

    /// Parses a half; `None` where all is zero. Whether the slot exists is for who knows the file's length.
    pub fn parse(bytes: &[u8; HALF_LEN]) -> Result<Option<Self>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        let mut fields = Reader::new(bytes, "a record");
        let (nonce, tag, slot) = (fields.array()?, fields.array()?, fields.u8()?);
        let kind = match fields.u8()? {
            1 => Kind::Data,
            2 if slot == 0 => Kind::Hole,
            2 => return Err(FormatError::NotZero("the slot of a hole")),
            other => {
                return Err(FormatError::Unknown {
                    what: "kind of block",
                    value: other.into(),
                });
            }
        };
        let sequence = fields.u16()?;
        fields.end()?;
        Ok(Some(Self {
            nonce,
            tag,
            slot,
            kind,
            sequence,
        }))
    }
}

/// Both halves of a block's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Half A and half B; `None` for 32 zero bytes.
    pub halves: [Option<Half>; 2],
}

impl Record {
    /// 64 bytes.
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let [a, b] = self
            .halves
            .map(|half| half.map_or([0; HALF_LEN], |half| half.encode()));
        Writer::new().put(&a).put(&b).finish()
    }

    /// Parses a record strictly, as in a settled file: one half that does not parse is damage.
    pub fn parse(bytes: &[u8; RECORD_LEN]) -> Result<Self> {
        let [a, b] = halves(bytes)?;
        Ok(Self { halves: [a?, b?] })
    }

    /// Parses a record of a file in doubt: a half that does not parse was caught while it was copied, and is none.
    pub fn parse_in_doubt(bytes: &[u8; RECORD_LEN]) -> Self {
        let parsed = halves(bytes).map(|halves| halves.map(|half| half.ok().flatten()));
        Self {
            halves: parsed.unwrap_or_default(),
        }
    }

    /// Index of the newer half (of two with one sequence: A); `None` where both are zero.
    pub fn newest(&self) -> Option<usize> {
        match self.halves {
            [None, None] => None,
            [Some(_), None] => Some(0),
            [None, Some(_)] => Some(1),
            [Some(a), Some(b)] => Some(usize::from(newer(b.sequence, a.sequence))),
        }
    }
}

/// Whether sequence `a` is later than `b`, modulo 2^16: 0 < a − b < 2^15.
pub fn newer(a: u16, b: u16) -> bool {
    (1..1 << 15).contains(&a.wrapping_sub(b))
}

/// Additional data of a block: "block" ‖ kind ‖ block index u64 ‖ file id. The slot is not bound: blocks move.
pub fn block_aad(kind: Kind, block: u64, file: &FileId) -> [u8; AAD_LEN] {
    Writer::new()
        .put(b"block")
        .put(&[kind as u8])
        .put(&block.to_le_bytes())
        .put(&file.0)
        .finish()
}

fn halves(bytes: &[u8; RECORD_LEN]) -> Result<[Result<Option<Half>>; 2]> {
    let mut fields = Reader::new(bytes, "a record");
    let (a, b) = (fields.array()?, fields.array()?);
    Ok([Half::parse(&a), Half::parse(&b)])
}
