//! How the volume file and the mount file are framed: one JSON object, a newline, the MAC of exactly those JSON bytes in
//! hex, a newline. Ids and wrapped bytes are hex within the JSON.
//!
//! Invariant: the bytes under the MAC are the bytes on disk; nothing is encoded again to be compared.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{FormatError, Result};
use crate::crypto::{Secret, mac32, verify32};

/// The longest such file in bytes.
pub(super) const MAX_LEN: usize = 1 << 20;
const MAC_CHARS: usize = 64;

/// A file whose JSON was read and whose MAC was not yet compared.
#[derive(Debug)]
pub(super) struct Unverified<T> {
    json: Vec<u8>,
    mac: [u8; 32],
    pub(super) value: T,
}

impl<T: DeserializeOwned> Unverified<T> {
    pub(super) fn parse(bytes: &[u8], what: &'static str) -> Result<Self> {
        if bytes.len() > MAX_LEN {
            return Err(FormatError::Length(what));
        }
        let malformed = |why: &str| FormatError::Malformed {
            what,
            why: why.to_owned(),
        };
        let lines = bytes
            .strip_suffix(b"\n")
            .and_then(|bytes| bytes.split_last_chunk::<MAC_CHARS>());
        let (json, mac) = lines.ok_or_else(|| malformed("cut off before its MAC"))?;
        let json = json
            .strip_suffix(b"\n")
            .ok_or_else(|| malformed("no line with a MAC"))?;
        let mac = hex::decode(mac)
            .and_then(|mac| mac.try_into().ok())
            .ok_or_else(|| malformed("MAC is not hex"))?;
        let value = serde_json::from_slice(json).map_err(|error| malformed(&error.to_string()))?;
        Ok(Self {
            json: json.to_vec(),
            mac,
            value,
        })
    }

    pub(super) fn verify(self, key: &Secret<32>, label: &[u8], what: &'static str) -> Result<T> {
        verify32(key, &[label, &self.json], &self.mac)
            .then_some(self.value)
            .ok_or(FormatError::NotAuthentic(what))
    }
}

/// The bytes of such a file.
pub(super) fn encode<T: Serialize>(
    value: &T,
    key: &Secret<32>,
    label: &[u8],
    what: &'static str,
) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| FormatError::Malformed {
        what,
        why: error.to_string(),
    })?;
    let mac = hex::encode(&mac32(key, &[label, &bytes]));
    bytes.push(b'\n');
    bytes.extend_from_slice(mac.as_bytes());
    bytes.push(b'\n');
    if bytes.len() > MAX_LEN {
        return Err(FormatError::TooLong(what));
    }
    Ok(bytes)
}

/// Lower-case hex, one spelling only.
pub(super) mod hex {
    use std::fmt::Write;

    /// Two digits a byte.
    pub(in crate::format) fn encode(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// `None` unless all are lower-case digits in pairs.
    pub(in crate::format) fn decode(text: &[u8]) -> Option<Vec<u8>> {
        let (pairs, rest) = text.as_chunks::<2>();
        rest.is_empty().then_some(())?;
        pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect()
    }

    fn digit(digit: u8) -> Option<u8> {
        match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }
}

/// Serde for byte strings as hex.
pub(super) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::format) fn serialize<S: Serializer>(
        bytes: &[u8],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::hex::encode(bytes))
    }

    pub(in crate::format) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        super::hex::decode(text.as_bytes()).ok_or_else(|| D::Error::custom("not lower-case hex"))
    }
}

/// Serde for what prints and parses itself (ids).
pub(super) mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::format) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in crate::format) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
