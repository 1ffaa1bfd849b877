//! AES-256-GCM-SIV (RFC 8452): the block suite and software wraps. A repeated nonce only shows that two texts are equal.

use aes::Aes256Enc;
use aes_gcm_siv::AesGcmSiv;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};

use super::stack::leaving_no_trace;
use super::{Locked, NotAuthentic, Secret};

/// A key, expanded. `Aes256Enc`, because the decryption schedule would be made anew, unused, for each message.
pub struct GcmSiv(Locked<AesGcmSiv<Aes256Enc>>);

impl GcmSiv {
    /// Expands the key.
    pub fn new(key: &Secret<32>) -> Self {
        leaving_no_trace(|| Self(Locked::new(AesGcmSiv::new(key.expose().into()))))
    }

    /// Encrypts `buf` in place and returns its tag. `aad` and `buf` are at most 2^36 bytes each.
    pub fn seal(&self, nonce: &[u8; 12], aad: &[u8], buf: &mut [u8]) -> [u8; 16] {
        let sealed = self.0.encrypt_inout_detached(nonce.into(), aad, buf.into());
        sealed.expect("a text of at most 2^36 bytes").into()
    }

    /// Decrypts `buf` in place. After an error `buf` holds its ciphertext still, no plaintext.
    pub fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotAuthentic> {
        self.0
            .decrypt_inout_detached(nonce.into(), aad, buf.into(), tag.into())
            .map_err(|_| NotAuthentic)
    }
}
