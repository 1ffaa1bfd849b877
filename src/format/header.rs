//! The header page: its core, its key areas, and the keys that come from a file's data key. States are in `state`,
//! records in `record`. The byte map is section 2 of `docs/FORMAT.md`.
//!
//! Invariant: the core is believed only after its commitment matched, a key area or state only after its MAC did.

use std::fmt;

use subtle::ConstantTimeEq;

use super::bytes::{Reader, Writer, is_zero};
use super::error::{FormatError, Result};
use super::ids::{DirId, FileId, KeyId, VolumeId};
use super::suite::{Envelope, Suite};
use super::wrap::{MAX_WRAPPED, WrapAlgorithm};
use crate::crypto::{GcmSiv, Secret, Xts, hkdf, mac16, verify16};

pub use super::state::{MAX_TAGS, STATE_LEN, State, StateFlags};

/// Bytes of the header page.
pub const PAGE0: usize = 4096;
/// Bytes of the core and of each key area: one sector, written whole or not at all.
pub const SECTOR: usize = 512;
/// Offset of the core in the header page.
pub const CORE_AT: usize = 0;
/// Offsets of key areas A and B.
pub const AREAS_AT: [usize; 2] = [512, 1024];
/// Offsets of states A and B.
pub const STATES_AT: [usize; 2] = [1536, 1792];
/// What every header begins with.
pub const MAGIC: [u8; 8] = *b"STRONGRM";
/// The format that this program writes and reads.
pub const FORMAT: u16 = 1;

const LOG2_BLOCK: u8 = 12;
const COMMITMENT_AT: usize = 48;
const CRC_AT: usize = 432;
const MAC_AT: usize = 436;

/// What a file is, for as long as it has this data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// The cipher suite of its blocks.
    pub suite: Suite,
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// Its own id.
    pub file: FileId,
    /// Binds data key, `bind` and all other bytes of the core ([`commitment`]).
    pub commitment: [u8; 32],
}

impl Core {
    /// The first sector of a header.
    pub fn encode(&self) -> [u8; SECTOR] {
        Writer::new()
            .put(&MAGIC)
            .put(&FORMAT.to_le_bytes())
            .put(&[self.suite.number(), LOG2_BLOCK])
            .put(&[0; 4])
            .put(&self.volume.0)
            .put(&self.file.0)
            .put(&self.commitment)
            .finish()
    }

    /// Parses the first sector. Nothing in it is proven before the commitment was compared.
    pub fn parse(bytes: &[u8; SECTOR]) -> Result<Self> {
        let mut fields = Reader::new(bytes, "the header's core");
        if fields.array()? != MAGIC {
            return Err(FormatError::NotStrongroom);
        }
        match fields.u16()? {
            FORMAT => (),
            other => return Err(FormatError::UnknownFormat(other.into())),
        }
        let suite = Suite::from_number(fields.u8()?)?;
        match fields.u8()? {
            LOG2_BLOCK => (),
            other => {
                return Err(FormatError::Unknown {
                    what: "block size",
                    value: other.into(),
                });
            }
        }
        fields.zeros(4, "a flag of the header's core")?;
        let volume = VolumeId(fields.array()?);
        let file = FileId(fields.array()?);
        let commitment = fields.array()?;
        fields.zeros_to_end("a reserved byte of the header's core")?;
        Ok(Self {
            suite,
            volume,
            file,
            commitment,
        })
    }
}

/// A wrapped data key and what wrapped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArea {
    /// The area with the higher sequence counts; 1 to 2^63 − 1.
    pub sequence: u64,
    /// What wrapped the data key.
    pub envelope: Envelope,
    /// How.
    pub algorithm: WrapAlgorithm,
    /// Version of the wrapping key; 0 where it has none.
    pub key_version: u32,
    /// The wrapping key.
    pub key_id: KeyId,
    /// The wrapped data key, at most 400 bytes.
    pub wrapped: Vec<u8>,
}

impl KeyArea {
    /// One sector, with checksum and MAC.
    ///
    /// Panics when `wrapped` exceeds 400 bytes; a provider's answer is checked before it comes here.
    pub fn encode(&self, header_key: &Secret<32>, file: &FileId) -> [u8; SECTOR] {
        assert!(
            self.wrapped.len() <= MAX_WRAPPED,
            "a wrapped data key has at most 400 bytes"
        );
        let fields = Writer::<CRC_AT>::new()
            .put(&self.sequence.to_le_bytes())
            .put(&[self.envelope.number(), self.algorithm.number()])
            .put(&(self.wrapped.len() as u16).to_le_bytes())
            .put(&self.key_version.to_le_bytes())
            .put(&self.key_id.0)
            .put(&self.wrapped)
            .finish();
        let area = Writer::<SECTOR>::new()
            .put(&fields)
            .put(&crc32c::crc32c(&fields).to_le_bytes());
        let unsigned = area.finish();
        let mac = area_mac(header_key, file, &unsigned);
        Writer::new().put(&unsigned).at(MAC_AT).put(&mac).finish()
    }

    /// Parses an area; `None` where all is zero. The checksum only tells a torn area: [`KeyArea::verify`] proves one.
    pub fn parse(bytes: &[u8; SECTOR]) -> Result<Option<Self>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        let mut fields = Reader::new(bytes, "a key area");
        let checked = Reader::new(bytes, "a key area")
            .bytes(CRC_AT)
            .map(crc32c::crc32c)?;
        let sequence = fields.u64()?;
        let (envelope, algorithm) = (fields.u8()?, fields.u8()?);
        let len = usize::from(fields.u16()?);
        let key_version = fields.u32()?;
        let key_id = KeyId(fields.array()?);
        let mut wrapped = Reader::new(fields.bytes(MAX_WRAPPED)?, "a wrapped data key");
        let crc = fields.u32()?;
        let _mac = fields.array::<16>()?;
        fields.zeros_to_end("a reserved byte of a key area")?;
        if crc != checked {
            return Err(FormatError::Checksum("a key area"));
        }
        if sequence == 0 || sequence >= 1 << 63 {
            return Err(FormatError::Range("a key area's sequence"));
        }
        let envelope = Envelope::from_number(envelope)?;
        let algorithm = WrapAlgorithm::from_number(algorithm)?;
        let key = wrapped.bytes(len)?.to_vec();
        wrapped.zeros_to_end("padding of a wrapped data key")?;
        Ok(Some(Self {
            sequence,
            envelope,
            algorithm,
            key_version,
            key_id,
            wrapped: key,
        }))
    }

    /// Whether who wrote this area knew the file's header key.
    pub fn verify(bytes: &[u8; SECTOR], header_key: &Secret<32>, file: &FileId) -> Result<()> {
        let mut fields = Reader::new(bytes, "a key area");
        let fields_and_crc = fields.bytes(MAC_AT)?;
        let mac = fields.array()?;
        let rest = fields.bytes(SECTOR - MAC_AT - mac.len())?;
        let unsigned: [u8; SECTOR] = Writer::new()
            .put(fields_and_crc)
            .at(MAC_AT + mac.len())
            .put(rest)
            .finish();
        verify16(header_key, &[b"wrap", &file.0, &unsigned], &mac)
            .then_some(())
            .ok_or(FormatError::NotAuthentic("a key area"))
    }
}

/// The cipher of a file's blocks, by the volume's suite.
pub enum ContentCipher {
    /// AES-256-GCM-SIV.
    Gcm(GcmSiv),
    /// AES-256-XTS.
    Xts(Xts),
}

impl fmt::Debug for ContentCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gcm(_) => "Gcm(..)",
            Self::Xts(_) => "Xts(..)",
        })
    }
}

/// The keys of one file that stay in memory while it is open.
#[derive(Debug)]
pub struct FileKeys {
    /// Encrypts its blocks.
    pub content: ContentCipher,
    /// Authenticates its header.
    pub header: Secret<32>,
}

impl FileKeys {
    /// Derives both from the data key. An error only where an XTS key has equal halves: 1 in 2^256, or damage.
    pub fn derive(
        suite: Suite,
        data_key: &Secret<32>,
        bind: &Secret<32>,
        file: &FileId,
    ) -> Result<Self> {
        let content = match suite {
            Suite::Gcm => ContentCipher::Gcm(GcmSiv::new(&content_key_gcm(data_key, file))),
            Suite::Xts => Xts::new(&content_key_xts(data_key, file))
                .map(ContentCipher::Xts)
                .map_err(|_| FormatError::Range("an XTS key"))?,
        };
        Ok(Self {
            content,
            header: header_key(data_key, bind, file),
        })
    }
}

/// HKDF(data key ‖ bind, file id, "header", 32).
pub fn header_key(data_key: &Secret<32>, bind: &Secret<32>, file: &FileId) -> Secret<32> {
    hkdf(&[data_key.expose(), bind.expose()], &file.0, &[b"header"])
}

/// HKDF(data key, file id, "content" ‖ suite, 32).
pub fn content_key_gcm(data_key: &Secret<32>, file: &FileId) -> Secret<32> {
    hkdf(
        &[data_key.expose()],
        &file.0,
        &[b"content", &[Suite::Gcm.number()]],
    )
}

/// HKDF(data key, file id, "content" ‖ suite, 64).
pub fn content_key_xts(data_key: &Secret<32>, file: &FileId) -> Secret<64> {
    hkdf(
        &[data_key.expose()],
        &file.0,
        &[b"content", &[Suite::Xts.number()]],
    )
}

/// HKDF(data key ‖ bind, file id, "commit" ‖ the core's sector with the commitment zero, 32). What `core` holds in the
/// commitment's place does not count; the file id is the core's own.
pub fn commitment(data_key: &Secret<32>, bind: &Secret<32>, core: &[u8; SECTOR]) -> [u8; 32] {
    let without: [u8; SECTOR] = Writer::new()
        .put(core)
        .at(COMMITMENT_AT)
        .put(&[0; 32])
        .finish();
    let file: [u8; 16] = core
        .get(32..48)
        .and_then(|id| id.try_into().ok())
        .unwrap_or_default();
    *hkdf(
        &[data_key.expose(), bind.expose()],
        &file,
        &[b"commit", &without],
    )
    .expose()
}

/// Compares a core's commitment in constant time, as every unwrap must before the data key is used.
pub fn verify_commitment(
    data_key: &Secret<32>,
    bind: &Secret<32>,
    core: &[u8; SECTOR],
) -> Result<()> {
    let stored = core
        .get(COMMITMENT_AT..COMMITMENT_AT + 32)
        .unwrap_or_default();
    bool::from(commitment(data_key, bind, core).ct_eq(stored))
        .then_some(())
        .ok_or(FormatError::NotAuthentic("the header's commitment"))
}

/// The tag by which a file is bound to one of its names: MAC(header key, "name", file id, directory id, stored name).
pub fn name_tag(header_key: &Secret<32>, file: &FileId, dir: &DirId, stored: &[u8]) -> [u8; 16] {
    mac16(header_key, &[b"name", &file.0, &dir.0, stored])
}

fn area_mac(header_key: &Secret<32>, file: &FileId, unsigned: &[u8; SECTOR]) -> [u8; 16] {
    mac16(header_key, &[b"wrap", &file.0, unsigned])
}
