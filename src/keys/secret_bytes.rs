//! A secret of varying length (a passphrase) in locked, wiped memory.

use std::fmt;

use zeroize::Zeroize;

use crate::crypto::Secret;

/// Longest passphrase, bytes.
pub const MAX_SECRET: usize = 1024;

/// At most [`MAX_SECRET`] bytes in locked memory; no Clone, redacted in Debug.
pub struct SecretBytes {
    buffer: Secret<MAX_SECRET>,
    length: usize,
}

impl SecretBytes {
    /// Takes the bytes and wipes the source; `None` where there are more than [`MAX_SECRET`].
    pub fn take(source: &mut [u8]) -> Option<Self> {
        let mut buffer = [0; MAX_SECRET];
        let length = source.len();
        let taken = buffer
            .get_mut(..length)
            .map(|start| start.copy_from_slice(source));
        source.zeroize();
        let buffer = Secret::from_bytes(&mut buffer);
        taken.map(|()| Self { buffer, length })
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.buffer.expose().get(..self.length).unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}
