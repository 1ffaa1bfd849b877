//! Wrapped keys: how, bound to what, and the software wrap itself.

use serde::{Deserialize, Serialize};

use super::bytes::{Reader, Writer};
use super::error::{FormatError, Result};
use super::ids::{FileId, VolumeId};
use crate::crypto::{GcmSiv, LABEL_PREFIX, Secret, random_bytes};

/// Bytes of a wrap's context.
pub const CONTEXT_LEN: usize = 55;
/// Bytes of a software wrap of a 32-byte key: nonce 12 ‖ text 32 ‖ tag 16.
pub const SOFTWARE_WRAP_LEN: usize = 60;
/// The longest wrapped key that a header holds (RSA up to 3072 bits).
pub const MAX_WRAPPED: usize = 400;

/// How a key was wrapped: numbers, words and bytes stand in `docs/FORMAT.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WrapAlgorithm {
    /// AES-256-GCM-SIV in software; the context is its additional data.
    #[serde(rename = "aes-256-gcm-siv")]
    AesGcmSiv,
    /// AES-256-GCM in a token: IV 12 ‖ text 32 ‖ tag 16; the context is its additional data.
    #[serde(rename = "aes-256-gcm")]
    AesGcm,
    /// RSA-OAEP with SHA-256 and MGF1-SHA-256 (RFC 8017); the context is its label.
    #[serde(rename = "rsa-oaep-sha256")]
    RsaOaepSha256,
    /// RSA-OAEP with SHA-1 and an empty label, over key ‖ SHA-256(context)\[0..16\].
    #[serde(rename = "rsa-oaep-sha1")]
    RsaOaepSha1,
    /// AES-256-CBC without padding in a token, and our own HMAC-SHA-256 over context, IV and ciphertext: IV 16 ‖
    /// ciphertext 32 ‖ MAC 32.
    #[serde(rename = "aes-256-cbc-hmac-sha256")]
    AesCbcHmac,
}

impl WrapAlgorithm {
    /// The number in a header.
    pub fn number(self) -> u8 {
        match self {
            Self::AesGcmSiv => 1,
            Self::AesGcm => 2,
            Self::RsaOaepSha256 => 3,
            Self::RsaOaepSha1 => 4,
            Self::AesCbcHmac => 5,
        }
    }

    /// Whether it may wrap data keys itself (`direct` envelope): authenticated with the file's context, and cheap.
    pub fn wraps_data_keys(self) -> bool {
        matches!(self, Self::AesGcmSiv | Self::AesGcm)
    }

    /// The algorithm with this number.
    pub fn from_number(number: u8) -> Result<Self> {
        match number {
            1 => Ok(Self::AesGcmSiv),
            2 => Ok(Self::AesGcm),
            3 => Ok(Self::RsaOaepSha256),
            4 => Ok(Self::RsaOaepSha1),
            5 => Ok(Self::AesCbcHmac),
            other => Err(FormatError::Unknown {
                what: "wrap algorithm",
                value: other.into(),
            }),
        }
    }
}

/// What a wrapped key is for; a wrap made for one purpose opens for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A file's data key.
    DataKey = 1,
    /// A volume key.
    VolumeKey = 2,
    /// The volume secret.
    VolumeSecret = 3,
}

/// What a wrap is bound to: label ‖ 0 ‖ purpose ‖ volume id ‖ file id (zero where there is none) ‖ volume-key version.
pub fn context(
    purpose: Purpose,
    volume: &VolumeId,
    file: Option<&FileId>,
    volume_key_version: u32,
) -> [u8; CONTEXT_LEN] {
    Writer::new()
        .put(LABEL_PREFIX)
        .put(b"wrap\0")
        .put(&[purpose as u8])
        .put(&volume.0)
        .put(&file.map_or([0; 16], |file| file.0))
        .put(&volume_key_version.to_le_bytes())
        .finish()
}

/// Wraps a key in software under a fresh nonce: nonce 12 ‖ text 32 ‖ tag 16.
pub fn software_wrap(kek: &GcmSiv, context: &[u8], secret: &Secret<32>) -> Vec<u8> {
    let mut nonce = [0; 12];
    random_bytes(&mut nonce);
    let mut text = *secret.expose();
    let tag = kek.seal(&nonce, context, &mut text);
    [&nonce[..], &text, &tag].concat()
}

/// Opens a software wrap. Not authentic: another key, another context, or damaged.
pub fn software_unwrap(kek: &GcmSiv, context: &[u8], bytes: &[u8]) -> Result<Secret<32>> {
    let mut fields = Reader::new(bytes, "a wrapped key");
    let (nonce, mut text, tag) = (fields.array()?, fields.array::<32>()?, fields.array()?);
    fields.end()?;
    kek.open(&nonce, context, &mut text, &tag)
        .map_err(|_| FormatError::NotAuthentic("a wrapped key"))?;
    Ok(Secret::from_bytes(&mut text))
}
