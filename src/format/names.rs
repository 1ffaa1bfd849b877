//! Stored names: the encrypted name as one path component, long names with their side files, the names that are ours,
//! and the ids of directories that follow from stored names.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};

use super::error::{FormatError, Result};
use super::ids::{DirId, VolumeId};
use crate::crypto::{Secret, Siv, hkdf, random_bytes};

pub use super::dir_file::{DirFile, place_tag};
pub use super::texts::{
    SYMLINK_MAX, open_symlink, open_xattr_name, open_xattr_value, seal_symlink, seal_xattr_name,
    seal_xattr_value, symlink_len,
};

/// What every name of ours begins with; a stored name never does, for base64url has no dot.
pub const RESERVED: &[u8] = b"strongroom.";
/// The volume file.
pub const VOLUME: &[u8] = b"strongroom.volume";
/// The older generation of the volume file.
pub const VOLUME_OLD: &[u8] = b"strongroom.volume.old";
/// The mount file.
pub const MOUNT: &[u8] = b"strongroom.mount";
/// The lock file of a writable mount.
pub const LOCK: &[u8] = b"strongroom.lock";
/// Copies for overwrites on a full store.
pub const REDO: &[u8] = b"strongroom.redo";
/// In a directory whose id is not derived from where it stands.
pub const DIR_FILE: &[u8] = b"strongroom.dir";
/// Before 43 characters: the name is in the side file.
pub const LONG_PREFIX: &[u8] = b"strongroom.long.";
/// After a long entry: its side file.
pub const SIDE_SUFFIX: &[u8] = b".name";
/// Before 43 characters: a directory left this name with its derived id.
pub const GONE_PREFIX: &[u8] = b"strongroom.gone.";
/// Before 16 hex digits: under construction, or being removed.
pub const TMP_PREFIX: &[u8] = b"strongroom.tmp.";
/// A hidden name with a use of its own: room kept in the top directory for replacing the mount file on a full store.
pub const RESERVE: &[u8] = b"strongroom.tmp.0000000000000000";
/// Before 16 hex digits: the remains of a header that never arrived.
pub const LOST_PREFIX: &[u8] = b"strongroom.lost.";

/// The longest name in bytes whose ciphertext is itself the entry.
pub const MAX_SHORT: usize = 175;
/// The longest name in bytes.
pub const MAX_NAME: usize = 255;

const SIV_TAG: usize = 16;
const HASH_CHARS: usize = 43;

/// First byte of a packed name: ciphertext follows.
const PACKED: u8 = 0;
/// First byte of a packed name: the entry follows.
const AS_IT_IS: u8 = 1;

/// A name as it stands in the backing directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredName {
    /// The directory entry, at most 255 bytes.
    pub entry: Vec<u8>,
    /// For a long name: what its side file ([`side_file`]) holds.
    pub long: Option<Vec<u8>>,
}

/// What an entry of a backing directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryClass {
    /// A stored name, or something foreign: [`open_name`] tells.
    Name,
    /// A long stored name, whose ciphertext is in its side file.
    Long,
    /// The side file of a long name.
    SideFile,
    /// A file of ours, never shown.
    Internal,
}

/// Encrypts a name of a directory.
pub fn seal_name(siv: &Siv, dir: &DirId, name: &[u8]) -> StoredName {
    let sealed = siv.seal(&[&dir.0], name);
    if name.len() <= MAX_SHORT {
        StoredName {
            entry: encode64(&sealed),
            long: None,
        }
    } else {
        StoredName {
            entry: hashed(LONG_PREFIX, &sealed),
            long: Some(sealed),
        }
    }
}

/// Decrypts an entry; `long` is the content of its side file, which is needed exactly for [`EntryClass::Long`].
pub fn open_name(siv: &Siv, dir: &DirId, entry: &[u8], long: Option<&[u8]>) -> Result<Vec<u8>> {
    let sealed = match (classify(entry), long) {
        (EntryClass::Name, None) => decode64("a stored name", entry)?,
        (EntryClass::Long, Some(sealed)) if hashed(LONG_PREFIX, sealed) == entry => sealed.to_vec(),
        _ => return Err(FormatError::NotAuthentic("a stored name")),
    };
    let is_long = sealed.len() > MAX_SHORT + SIV_TAG;
    if is_long != long.is_some() || sealed.len() > MAX_NAME + SIV_TAG {
        return Err(FormatError::Length("a stored name"));
    }
    let name = siv
        .open(&[&dir.0], &sealed)
        .map_err(|_| FormatError::NotAuthentic("a stored name"))?;
    // A name that no caller can have made would reach beyond its directory.
    let is_component = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, 0 | b'/'));
    is_component
        .then_some(name)
        .ok_or(FormatError::Range("a decrypted name"))
}

/// Whose an entry is.
pub fn classify(entry: &[u8]) -> EntryClass {
    if !entry.starts_with(RESERVED) {
        return EntryClass::Name;
    }
    let long = entry.strip_prefix(LONG_PREFIX);
    let side = long.and_then(|rest| rest.strip_suffix(SIDE_SUFFIX));
    if side.is_some_and(is_hash) {
        EntryClass::SideFile
    } else if long.is_some_and(is_hash) {
        EntryClass::Long
    } else {
        EntryClass::Internal
    }
}

/// The name of a long entry's side file.
pub fn side_file(entry: &[u8]) -> Vec<u8> {
    [entry, SIDE_SUFFIX].concat()
}

/// The marker that a directory left at this stored name in its old parent.
pub fn gone_marker(stored: &[u8]) -> Vec<u8> {
    hashed(GONE_PREFIX, stored)
}

/// Whether an entry is such a marker.
pub fn is_gone_marker(entry: &[u8]) -> bool {
    entry.strip_prefix(GONE_PREFIX).is_some_and(is_hash)
}

/// A fresh hidden name.
pub fn random_tmp() -> Vec<u8> {
    random_suffix(TMP_PREFIX)
}

/// A fresh name for the remains of a header that never arrived.
pub fn random_lost() -> Vec<u8> {
    random_suffix(LOST_PREFIX)
}

/// The id of a volume's top directory: HKDF(dir key, volume id, "root", 16).
pub fn root_dir_id(dir_key: &Secret<32>, volume: &VolumeId) -> DirId {
    DirId(*hkdf(&[dir_key.expose()], &volume.0, &[b"root"]).expose())
}

/// The id of a directory that has no `strongroom.dir`: HKDF(dir key, parent id, "child" ‖ stored name, 16).
pub fn child_dir_id(dir_key: &Secret<32>, parent: &DirId, stored: &[u8]) -> DirId {
    DirId(*hkdf(&[dir_key.expose()], &parent.0, &[b"child", stored]).expose())
}

/// A stored name in fewer bytes, for keeping it in memory; [`unpacked_name`] gives it back.
pub fn packed_name(entry: &[u8]) -> Box<[u8]> {
    match decode64("a stored name", entry) {
        Ok(sealed) => [&[PACKED], sealed.as_slice()].concat().into(),
        Err(_) => [&[AS_IT_IS], entry].concat().into(),
    }
}

/// The stored name that was packed so.
pub fn unpacked_name(packed: &[u8]) -> Vec<u8> {
    match packed.split_first() {
        Some((&PACKED, sealed)) => encode64(sealed),
        Some((_, entry)) => entry.to_vec(),
        None => Vec::new(),
    }
}

/// Unpadded base64url (RFC 4648).
pub(super) fn encode64(bytes: &[u8]) -> Vec<u8> {
    Base64UrlUnpadded::encode_string(bytes).into_bytes()
}

/// Decodes unpadded base64url, refusing every other spelling of the same bytes.
pub(super) fn decode64(what: &'static str, text: &[u8]) -> Result<Vec<u8>> {
    let malformed = |why: &str| FormatError::Malformed {
        what,
        why: why.to_owned(),
    };
    let spelled = std::str::from_utf8(text).map_err(|_| malformed("not base64url"))?;
    let bytes = Base64UrlUnpadded::decode_vec(spelled).map_err(|_| malformed("not base64url"))?;
    if encode64(&bytes) != text {
        return Err(malformed("not the one spelling of its bytes"));
    }
    Ok(bytes)
}

fn hashed(prefix: &[u8], bytes: &[u8]) -> Vec<u8> {
    [prefix, &encode64(&Sha256::digest(bytes))].concat()
}

fn is_hash(text: &[u8]) -> bool {
    text.len() == HASH_CHARS && decode64("a hash", text).is_ok()
}

fn random_suffix(prefix: &[u8]) -> Vec<u8> {
    let mut random = [0; 8];
    random_bytes(&mut random);
    [
        prefix,
        format!("{:016x}", u64::from_le_bytes(random)).as_bytes(),
    ]
    .concat()
}
