//! AES-256 and POLYVAL on two blocks per instruction (VAES, VPCLMULQDQ on 256 bits: Intel from Ice Lake, AMD from Zen 3), where
//! the processor has them. Owns the one crossing from ordinary code to code for these instructions, and the loads and stores.
//!
//! Invariant: a [`Wide`] exists only where every instruction of its features was detected.

#![allow(unsafe_code)]

mod aes;
mod polyval;
mod siv;
mod xts;

use std::arch::x86_64::*;

use super::gcm_siv::Message;
pub(super) use aes::{Decryption, Encryption};

/// Two AES blocks.
type Pair = __m256i;

/// The proof that this processor has the instructions.
#[derive(Clone, Copy)]
pub(super) struct Wide(());

impl Wide {
    /// Looks once; later calls are one load.
    pub(super) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("vpclmulqdq");
        has_all.then_some(Self(()))
    }

    /// Expands a key for encryption.
    pub(super) fn expand(self, key: &[u8; 32]) -> Encryption {
        // SAFETY: `self` says that the processor has the instructions.
        unsafe { Encryption::new(key) }
    }

    /// The key for decryption.
    pub(super) fn invert(self, key: &Encryption) -> Decryption {
        // SAFETY: as above.
        unsafe { key.inverse() }
    }

    /// GCM-SIV: encrypts each text and sets its tag.
    pub(super) fn seal_all<A: AsRef<[u8]>>(
        self,
        key: &Encryption,
        messages: &mut [Message<'_, A>],
    ) {
        // SAFETY: as above.
        unsafe { siv::seal_all(key, messages) }
    }

    /// GCM-SIV: decrypts each text, and back again where its tag is not the one it should have; those are returned.
    pub(super) fn open_all<A: AsRef<[u8]>>(
        self,
        key: &Encryption,
        messages: &mut [Message<'_, A>],
    ) -> Vec<usize> {
        // SAFETY: as above.
        unsafe { siv::open_all(key, messages) }
    }

    /// XTS over units of 4096 bytes, the first with this tweak.
    pub(super) fn xts_encrypt(
        self,
        text: &Encryption,
        tweak: &Encryption,
        first: u64,
        pages: &mut [u8],
    ) {
        // SAFETY: as above.
        unsafe { xts::encrypt(text, tweak, first, pages) }
    }

    /// The reverse.
    pub(super) fn xts_decrypt(
        self,
        text: &Decryption,
        tweak: &Encryption,
        first: u64,
        pages: &mut [u8],
    ) {
        // SAFETY: as above.
        unsafe { xts::decrypt(text, tweak, first, pages) }
    }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn load(bytes: &[u8; 32]) -> Pair {
    // SAFETY: 32 bytes that may be read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn store(bytes: &mut [u8; 32], pair: Pair) {
    // SAFETY: 32 bytes that may be written; the instruction takes any alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), pair) }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn load_one(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: as in `load`.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn store_one(bytes: &mut [u8; 16], block: __m128i) {
    // SAFETY: as in `store`.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), block) }
}

/// The block in both places.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn both(block: __m128i) -> Pair {
    _mm256_broadcastsi128_si256(block)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn pair(first: __m128i, second: __m128i) -> Pair {
    _mm256_set_m128i(second, first)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn first(pair: Pair) -> __m128i {
    _mm256_castsi256_si128(pair)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn second(pair: Pair) -> __m128i {
    _mm256_extracti128_si256(pair, 1)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn xor(a: Pair, b: Pair) -> Pair {
    _mm256_xor_si256(a, b)
}
