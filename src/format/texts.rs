//! Symlink targets and extended attributes: AES-256-SIV with a stored random nonce, the nonce as the last header.

use super::bytes::Reader;
use super::error::{FormatError, Result};
use super::names::{decode64, encode64};
use crate::crypto::{Siv, random_bytes};

/// The longest symlink target in bytes: its stored form fits the 4095 that a symlink holds. Callers refuse longer ones.
pub const SYMLINK_MAX: usize = 3039;
/// What a stored xattr name begins with.
pub const XATTR_PREFIX: &[u8] = b"user.strongroom.";

const NONCE: usize = 16;
const TAG: usize = 16;
const SYMLINK: &str = "a symlink target";
const XATTR_NAME: &str = "an xattr name";
const XATTR_VALUE: &str = "an xattr value";

/// The stored form of a symlink target: base64url of nonce 16 ‖ tag 16 ‖ ciphertext.
pub fn seal_symlink(siv: &Siv, target: &[u8]) -> Vec<u8> {
    encode64(&seal(siv, &[], target))
}

/// The target behind a stored form.
pub fn open_symlink(siv: &Siv, stored: &[u8]) -> Result<Vec<u8>> {
    open(siv, &[], &decode64(SYMLINK, stored)?, SYMLINK)
}

/// Bytes of the target behind a stored form of this many bytes, as lstat says it; `None` where none is as long.
pub fn symlink_len(stored_len: u64) -> Option<u64> {
    let tail = match stored_len % 4 {
        0 => 0,
        1 => return None,
        chars => chars - 1,
    };
    (stored_len / 4 * 3 + tail).checked_sub((NONCE + TAG) as u64)
}

/// The stored form of an xattr name; the same name always gives the same. Longer than 255 bytes, which no store takes,
/// for names over 163 bytes.
pub fn seal_xattr_name(siv: &Siv, name: &[u8]) -> Vec<u8> {
    [XATTR_PREFIX, &encode64(&siv.seal(&[], name))].concat()
}

/// The name behind a stored xattr name; an xattr that is not ours is malformed.
pub fn open_xattr_name(siv: &Siv, stored: &[u8]) -> Result<Vec<u8>> {
    let text = stored
        .strip_prefix(XATTR_PREFIX)
        .ok_or_else(|| FormatError::Malformed {
            what: XATTR_NAME,
            why: "it does not begin with user.strongroom.".to_owned(),
        })?;
    let sealed = decode64(XATTR_NAME, text)?;
    siv.open(&[], &sealed)
        .map_err(|_| FormatError::NotAuthentic(XATTR_NAME))
}

/// The stored form of an xattr value: nonce 16 ‖ tag 16 ‖ ciphertext, bound to its whole stored name.
pub fn seal_xattr_value(siv: &Siv, stored_name: &[u8], value: &[u8]) -> Vec<u8> {
    seal(siv, &[stored_name], value)
}

/// The value behind a stored form under this stored name.
pub fn open_xattr_value(siv: &Siv, stored_name: &[u8], stored: &[u8]) -> Result<Vec<u8>> {
    open(siv, &[stored_name], stored, XATTR_VALUE)
}

fn seal(siv: &Siv, aad: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE];
    random_bytes(&mut nonce);
    let headers = [aad, &[&nonce[..]]].concat();
    [&nonce[..], &siv.seal(&headers, text)].concat()
}

fn open(siv: &Siv, aad: &[&[u8]], stored: &[u8], what: &'static str) -> Result<Vec<u8>> {
    let mut fields = Reader::new(stored, what);
    let nonce: [u8; NONCE] = fields.array()?;
    let headers = [aad, &[&nonce[..]]].concat();
    siv.open(&headers, fields.rest())
        .map_err(|_| FormatError::NotAuthentic(what))
}
