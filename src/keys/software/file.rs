//! The bytes of a keystore file; pure functions over slices. Knows no file descriptor.
//!
//! ```text
//! strongroom keystore 1
//! { JSON }
//! mac <64 hex>      HMAC-SHA256 under the root key over everything before this line
//! check <8 hex>     CRC-32C over everything before this line: tells damage from a wrong passphrase, stops nobody
//! ```
//!
//! Invariant: what `parse` returns is within all bounds below but is not authentic before `Parsed::verify`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::KeystoreError;
use super::bytes::Bytes;
use super::hex;
use super::seal::{RootKey, SEALED_KEY, SEALED_ROOT, SEALED_SLOT_KEY};
use crate::keys::KeyState;

const MAGIC: &[u8] = b"strongroom keystore ";
const FORMAT: u32 = 1;
/// Longest keystore file, bytes.
pub(super) const MAX_FILE: usize = 4 << 20;
const MAX_SLOTS: usize = 32;
const MAX_PASSPHRASES: usize = 8;
const MAX_KEYS: usize = 1000;
const MAX_ALIASES: usize = 50;
const MAX_TEXT: usize = 250;

/// What Argon2id costs for one passphrase slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argon2Cost {
    /// Memory in KiB; at least 8 a lane, at most 4 GiB.
    pub memory_kib: u32,
    /// Passes over the memory, 1 to 64; memory times passes is at most 64 GiB.
    pub passes: u32,
    /// Lanes, 1 to 16.
    pub lanes: u32,
}

impl Argon2Cost {
    pub(super) fn check(&self) -> Result<(), String> {
        let memory = u64::from(self.memory_kib);
        let sound = (1..=16).contains(&self.lanes)
            && (1..=64).contains(&self.passes)
            && memory >= 8 * u64::from(self.lanes)
            && memory <= 4 << 20
            && memory * u64::from(self.passes) <= 64 << 20;
        sound
            .then_some(())
            .ok_or_else(|| format!("Argon2id parameters {self:?} are out of bounds"))
    }
}

/// The id of an unlock slot: 8 random bytes, shown as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(#[serde(with = "hex")] pub [u8; 8]);

impl std::fmt::Display for SlotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::str::FromStr for SlotId {
    type Err = KeystoreError;

    fn from_str(text: &str) -> Result<Self, KeystoreError> {
        hex::decode(text.as_bytes())
            .map(Self)
            .ok_or_else(|| KeystoreError::NoSuchSlot(text.to_owned()))
    }
}

/// What opens a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SlotKind {
    /// A passphrase, through Argon2id.
    Passphrase(Argon2Cost),
    /// A file of 32 random bytes.
    KeyFile,
    /// The recovery key that was printed once.
    RecoveryKey,
}

impl SlotKind {
    /// Its name in sentences.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::KeyFile => "key file",
            Self::RecoveryKey => "recovery key",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) id: SlotId,
    pub(super) label: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) kind: SlotKind,
    pub(super) salt: Bytes<16>,
    pub(super) public: Bytes<32>,
    pub(super) slot_key: Bytes<SEALED_SLOT_KEY>,
    pub(super) root_key: Bytes<SEALED_ROOT>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionRecord {
    pub(super) version: u32,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) key: Bytes<SEALED_KEY>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRecord {
    #[serde(with = "hex")]
    pub(super) id: [u8; 16],
    pub(super) aliases: Vec<String>,
    pub(super) state: KeyState,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// Ascending; the last one wraps.
    pub(super) versions: Vec<VersionRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    pub(super) generation: u64,
    /// The generation that made the present root key; an older copy on disk is erased.
    pub(super) root_generation: u64,
    pub(super) authenticator: Bytes<SEALED_KEY>,
    pub(super) slots: Vec<Slot>,
    pub(super) keys: Vec<KeyRecord>,
}

/// A file that was read but not yet verified.
pub(super) struct Parsed {
    pub(super) body: Body,
    text: Vec<u8>,
    mac: [u8; 32],
}

impl Parsed {
    /// Whether this root key made the file.
    pub(super) fn verify(&self, root: &RootKey) -> bool {
        root.verify(&self.text, &self.mac)
    }
}

/// Reads a file's bytes; `name` is for the sentence.
pub(super) fn parse(bytes: &[u8], name: &str) -> Result<Parsed, KeystoreError> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| KeystoreError::NotAKeystore(name.to_owned()))?;
    // A later format may end in another way, so this comes before the check.
    if let Some(newer) = newer(rest) {
        return Err(newer);
    }
    let (text, check) = cut_line(bytes, b"check ").ok_or_else(|| damaged("it ends too early"))?;
    if hex::decode::<4>(check).map(u32::from_be_bytes) != Some(crc32c::crc32c(text)) {
        return Err(damaged("its check does not fit"));
    }
    let (text, mac) = cut_line(text, b"mac ").ok_or_else(|| damaged("it has no MAC"))?;
    let mac = hex::decode(mac).ok_or_else(|| damaged("its MAC is not hex"))?;
    let json = rest
        .get(..rest.len() - (bytes.len() - text.len()))
        .and_then(|rest| rest.strip_prefix(b"1\n"));
    let json = json.ok_or_else(|| damaged("its first line is not what Strongroom writes"))?;
    let body: Body = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
    body.check().map_err(|why| damaged(&why))?;
    Ok(Parsed {
        body,
        text: text.to_vec(),
        mac,
    })
}

/// The bytes of a file.
pub(super) fn encode(body: &Body, root: &RootKey) -> Result<Vec<u8>, KeystoreError> {
    body.check().map_err(|why| {
        KeystoreError::InvalidState(format!("the keystore would not be sound: {why}"))
    })?;
    let mut bytes = format!("{}{FORMAT}\n", String::from_utf8_lossy(MAGIC)).into_bytes();
    serde_json::to_writer_pretty(&mut bytes, body)
        .map_err(|error| KeystoreError::Io(error.into()))?;
    bytes.push(b'\n');
    let mac = root.mac(&bytes);
    bytes.extend_from_slice(format!("mac {}\n", hex::encode(&mac)).as_bytes());
    let check = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(format!("check {check:08x}\n").as_bytes());
    if bytes.len() > MAX_FILE {
        return Err(KeystoreError::Full("its file would be over 4 MiB"));
    }
    Ok(bytes)
}

/// Whether this file beside the keystore is a copy from before the root key of `root_generation`, or what an interrupted
/// erasure left of one.
pub(super) fn superseded(bytes: &[u8], root_generation: u64) -> bool {
    match parse(bytes, "") {
        Ok(parsed) => parsed.body.root_generation < root_generation,
        Err(KeystoreError::Damaged(_)) => true,
        Err(_) => bytes.first() == Some(&0),
    }
}

fn damaged(why: &str) -> KeystoreError {
    KeystoreError::Damaged(why.to_owned())
}

/// The format number where it is a later one than ours.
fn newer(rest: &[u8]) -> Option<KeystoreError> {
    let line = rest.split(|byte| *byte == b'\n').next()?;
    let digits = line
        .get(..line.len().min(9))
        .and_then(|line| std::str::from_utf8(line).ok())?;
    let format: u32 = digits.parse().ok()?;
    (format > FORMAT).then_some(KeystoreError::NewerFormat(format))
}

/// The last line, which begins with `label`, and everything before it.
fn cut_line<'a>(bytes: &'a [u8], label: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let whole = bytes.strip_suffix(b"\n")?;
    let start = whole.iter().rposition(|byte| *byte == b'\n')? + 1;
    let (text, line) = whole.split_at_checked(start)?;
    Some((text, line.strip_prefix(label)?))
}

impl Body {
    /// Bounds and uniqueness, for reading and for writing.
    pub(super) fn check(&self) -> Result<(), String> {
        let passphrases = self
            .slots
            .iter()
            .filter(|slot| matches!(slot.kind, SlotKind::Passphrase(_)))
            .count();
        if self.slots.is_empty() || self.slots.len() > MAX_SLOTS || passphrases > MAX_PASSPHRASES {
            return Err(format!("{} slots", self.slots.len()));
        }
        if self.keys.len() > MAX_KEYS || self.root_generation > self.generation {
            return Err(format!(
                "{} keys, generation {}",
                self.keys.len(),
                self.generation
            ));
        }
        let mut slots = HashSet::new();
        for slot in &self.slots {
            slot.check()?;
            slots
                .insert(slot.id)
                .then_some(())
                .ok_or_else(|| format!("slot {} stands twice", slot.id))?;
        }
        let (mut keys, mut aliases) = (HashSet::new(), HashSet::new());
        for key in &self.keys {
            key.check()?;
            keys.insert(key.id)
                .then_some(())
                .ok_or("a key stands twice")?;
            key.aliases
                .iter()
                .all(|alias| aliases.insert(alias))
                .then_some(())
                .ok_or("an alias stands twice")?;
        }
        Ok(())
    }
}

impl Slot {
    fn check(&self) -> Result<(), String> {
        if self.label.len() > MAX_TEXT || self.label.chars().any(char::is_control) {
            return Err(format!(
                "the label of slot {} is too long or has control characters",
                self.id
            ));
        }
        match &self.kind {
            SlotKind::Passphrase(cost) => cost.check(),
            SlotKind::KeyFile | SlotKind::RecoveryKey => Ok(()),
        }
    }
}

impl KeyRecord {
    fn check(&self) -> Result<(), String> {
        let ascending = self.versions.is_sorted_by(|a, b| a.version < b.version);
        let from_one = self.versions.first().is_some_and(|first| first.version > 0);
        let aliases =
            self.aliases.len() <= MAX_ALIASES && self.aliases.iter().all(|alias| is_alias(alias));
        (ascending && from_one && aliases)
            .then_some(())
            .ok_or_else(|| format!("the record of key {}", hex::encode(&self.id)))
    }
}

/// KMS's rule: `alias/`, then `[a-zA-Z0-9:/_-]+`, 256 characters in all, and not `alias/aws/`.
pub(super) fn is_alias(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'/' | b'_' | b'-');
    text.strip_prefix("alias/").is_some_and(|name| {
        !name.is_empty()
            && text.len() <= 256
            && !name.starts_with("aws/")
            && name.bytes().all(allowed)
    })
}
