//! Symlink targets and extended attributes: AES-256-SIV with a stored random nonce, the nonce as the last header.

use super::bytes::Reader;
use super::error::{FormatError, Result};
use super::names::{decode64, encode64};
use crate::crypto::{Siv, random_bytes};

/// The longest symlink target in bytes: its stored form fits the 4095 that a symlink holds.
pub const MAX_TARGET: usize = 3039;
/// What a stored xattr name begins with.
pub const XATTR_PREFIX: &[u8] = b"user.strongroom.";
/// The longest xattr name in bytes: its stored form fits 255.
pub const MAX_XATTR_NAME: usize = 163;

const TARGET: &str = "a symlink target";
const XATTR_NAME: &str = "an xattr name";
const XATTR_VALUE: &str = "an xattr value";

/// The stored form of a symlink target: base64url of nonce 16 ‖ tag 16 ‖ ciphertext.
pub fn seal_target(siv: &Siv, target: &[u8]) -> Result<Vec<u8>> {
    if target.len() > MAX_TARGET {
        return Err(FormatError::TooLong(TARGET));
    }
    Ok(encode64(&seal(siv, &[], target)))
}

/// The target behind a stored form.
pub fn open_target(siv: &Siv, stored: &[u8]) -> Result<Vec<u8>> {
    open(siv, &[], &decode64(TARGET, stored)?, TARGET)
}

/// The stored form of an xattr name; the same name always gives the same.
pub fn seal_xattr_name(siv: &Siv, name: &[u8]) -> Result<Vec<u8>> {
    if name.len() > MAX_XATTR_NAME {
        return Err(FormatError::TooLong(XATTR_NAME));
    }
    Ok([XATTR_PREFIX, &encode64(&siv.seal(&[], name))].concat())
}

/// The name behind a stored xattr name; `None` for an xattr that is not ours.
pub fn open_xattr_name(siv: &Siv, stored: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(text) = stored.strip_prefix(XATTR_PREFIX) else {
        return Ok(None);
    };
    let opened = siv.open(&[], &decode64(XATTR_NAME, text)?);
    opened
        .map(Some)
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
    let mut nonce = [0; 16];
    random_bytes(&mut nonce);
    let headers = [aad, &[&nonce[..]]].concat();
    [&nonce[..], &siv.seal(&headers, text)].concat()
}

fn open(siv: &Siv, aad: &[&[u8]], stored: &[u8], what: &'static str) -> Result<Vec<u8>> {
    let mut fields = Reader::new(stored, what);
    let nonce: [u8; 16] = fields.array()?;
    let headers = [aad, &[&nonce[..]]].concat();
    siv.open(&headers, fields.rest())
        .map_err(|_| FormatError::NotAuthentic(what))
}
