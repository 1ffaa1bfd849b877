//! AES-256-SIV (RFC 5297): deterministic sealing of names, and of short texts with a nonce as the last header.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use super::stack::leaving_no_trace;
use super::{NotAuthentic, Secret};

/// A 64-byte key: MAC half, then encryption half. Expanded per call, for the crate's cipher changes while it works.
pub struct Siv(Secret<64>);

impl Siv {
    /// Keeps a copy of the key.
    pub fn new(key: &Secret<64>) -> Self {
        let mut copy = Secret::zero();
        copy.expose_mut().copy_from_slice(key.expose());
        Self(copy)
    }

    /// Seals `text` under these headers (at most 126, in the order of S2V): tag 16 ‖ ciphertext of the same length.
    pub fn seal(&self, headers: &[&[u8]], text: &[u8]) -> Vec<u8> {
        leaving_no_trace(|| self.cipher().encrypt(headers, text)).expect("at most 126 headers")
    }

    /// The text that was sealed under these headers.
    pub fn open(&self, headers: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        leaving_no_trace(|| self.cipher().decrypt(headers, sealed)).map_err(|_| NotAuthentic)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new(self.0.expose().into())
    }
}
