//! A file's state: size, flags, epochs and the tags of its names; one of two halves in the header page.

use super::bytes::{Reader, Writer, is_zero};
use super::error::{FormatError, Result};
use super::ids::FileId;
use super::layout::MAX_SIZE;
use crate::crypto::{Secret, mac16, verify16};

/// Bytes of a state half.
pub const STATE_LEN: usize = 256;
/// Name tags that a state holds.
pub const MAX_TAGS: usize = 12;

const MAC_AT: usize = 48;
const SPARSE: u32 = 1 << 0;
const UNBOUND: u32 = 1 << 1;
const UNSETTLED: u32 = 1 << 2;

/// The flags of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateFlags {
    /// Sectors of zero records in [`State::sparse`] are holes.
    pub sparse: bool,
    /// Names are not checked: more links than tags, or linked before the first byte.
    pub unbound: bool,
    /// Not written by settling.
    pub unsettled: bool,
}

impl StateFlags {
    fn bits(self) -> u32 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(self.sparse, SPARSE) | bit(self.unbound, UNBOUND) | bit(self.unsettled, UNSETTLED)
    }

    fn from_bits(bits: u32) -> Result<Self> {
        if bits & !(SPARSE | UNBOUND | UNSETTLED) != 0 {
            return Err(FormatError::Unknown {
                what: "flags of a state",
                value: bits.into(),
            });
        }
        let set = |bit| bits & bit != 0;
        Ok(Self {
            sparse: set(SPARSE),
            unbound: set(UNBOUND),
            unsettled: set(UNSETTLED),
        })
    }
}

/// One half of a file's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Plaintext bytes; 0 under XTS, where the length on the store says it.
    pub size: u64,
    /// Flags.
    pub flags: StateFlags,
    /// The epoch it was written in.
    pub epoch: u64,
    /// The half with the higher sequence is newer; from 1.
    pub sequence: u64,
    /// Groups from the first to before the second may hold sectors of zero records; (0, 0) without the flag.
    pub sparse: (u32, u32),
    /// The epoch in which the file was last settled, at most `epoch`; 0: never.
    pub settled_epoch: u64,
    /// One tag for each name, at most [`MAX_TAGS`].
    pub tags: Vec<[u8; 16]>,
}

impl State {
    /// Encodes with its MAC.
    ///
    /// Panics with more than [`MAX_TAGS`] tags.
    pub fn encode(&self, header_key: &Secret<32>, file: &FileId) -> [u8; STATE_LEN] {
        let unsigned: [u8; STATE_LEN] = Writer::new()
            .put(&self.size.to_le_bytes())
            .put(&self.flags.bits().to_le_bytes())
            .put(&(self.tags.len() as u32).to_le_bytes())
            .put(&self.epoch.to_le_bytes())
            .put(&self.sequence.to_le_bytes())
            .put(&self.sparse.0.to_le_bytes())
            .put(&self.sparse.1.to_le_bytes())
            .put(&self.settled_epoch.to_le_bytes())
            .put(&[0; 16])
            .put(self.tags.as_flattened())
            .finish();
        let mac = mac16(header_key, &[b"state", &file.0, &unsigned]);
        Writer::new().put(&unsigned).at(MAC_AT).put(&mac).finish()
    }

    /// Parses a half whose MAC is right; `None` where all is zero.
    pub fn parse(
        bytes: &[u8; STATE_LEN],
        header_key: &Secret<32>,
        file: &FileId,
    ) -> Result<Option<Self>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        verify(bytes, header_key, file)?;
        let mut fields = Reader::new(bytes, "a state");
        let size = fields.u64()?;
        let flags = StateFlags::from_bits(fields.u32()?)?;
        let tag_count = fields.u32()? as usize;
        let epoch = fields.u64()?;
        let sequence = fields.u64()?;
        let sparse = (fields.u32()?, fields.u32()?);
        let settled_epoch = fields.u64()?;
        let _mac = fields.array::<16>()?;
        let in_range = size <= MAX_SIZE
            && tag_count <= MAX_TAGS
            && sequence > 0
            && settled_epoch <= epoch
            && sparse.0 <= sparse.1
            && (flags.sparse || sparse == (0, 0));
        if !in_range {
            return Err(FormatError::Range("a field of a state"));
        }
        let tags = (0..tag_count)
            .map(|_| fields.array())
            .collect::<Result<_>>()?;
        fields.zeros_to_end("an unused name tag")?;
        Ok(Some(Self {
            size,
            flags,
            epoch,
            sequence,
            sparse,
            settled_epoch,
            tags,
        }))
    }
}

fn verify(bytes: &[u8; STATE_LEN], header_key: &Secret<32>, file: &FileId) -> Result<()> {
    let mut fields = Reader::new(bytes, "a state");
    let before = fields.bytes(MAC_AT)?;
    let mac = fields.array()?;
    let after = fields.bytes(STATE_LEN - MAC_AT - mac.len())?;
    let unsigned: [u8; STATE_LEN] = Writer::new().put(before).put(&[0; 16]).put(after).finish();
    verify16(header_key, &[b"state", &file.0, &unsigned], &mac)
        .then_some(())
        .ok_or(FormatError::NotAuthentic("a state"))
}
