//! AES-256: key schedules, two keys at a time, and sixteen blocks at a time through the rounds.

use std::arch::x86_64::*;

use super::{Pair, both, first, load_one, pair, second, xor};

/// Round keys in the order of encryption.
#[derive(Clone, Copy)]
pub(in crate::crypto) struct Encryption(pub(super) [__m128i; 15]);

/// Round keys in the order of decryption.
pub(in crate::crypto) struct Decryption(pub(super) [__m128i; 15]);

/// Pairs that go through the rounds together: as many as hide the latency of a round.
pub(super) const PAIRS: usize = 8;

impl Encryption {
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let (halves, _) = key.as_chunks::<16>();
        let [a, b] = halves else {
            unreachable!("half of 32 bytes")
        };
        let (a, b) = (load_one(a), load_one(b));
        let [schedule, _] = expand([both(a), both(b)]);
        schedule
    }

    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn inverse(&self) -> Decryption {
        let mut keys = self.0;
        keys.reverse();
        let [_, middle @ .., _] = &mut keys;
        for key in middle {
            *key = _mm_aesimc_si128(*key);
        }
        Decryption(keys)
    }

    /// One block.
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn encrypt_one(&self, block: __m128i) -> __m128i {
        let [start, middle @ .., last] = &self.0;
        let mut block = _mm_xor_si128(block, *start);
        for key in middle {
            block = _mm_aesenc_si128(block, *key);
        }
        _mm_aesenclast_si128(block, *last)
    }

    /// Sixteen blocks.
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn encrypt(&self, pairs: &mut [Pair; PAIRS]) {
        let [start, middle @ .., last] = &self.0;
        whiten(pairs, *start);
        for key in middle {
            let key = both(*key);
            for pair in &mut *pairs {
                *pair = _mm256_aesenc_epi128(*pair, key);
            }
        }
        let key = both(*last);
        for pair in pairs {
            *pair = _mm256_aesenclast_epi128(*pair, key);
        }
    }
}

impl Decryption {
    /// Sixteen blocks.
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn decrypt(&self, pairs: &mut [Pair; PAIRS]) {
        let [start, middle @ .., last] = &self.0;
        whiten(pairs, *start);
        for key in middle {
            let key = both(*key);
            for pair in &mut *pairs {
                *pair = _mm256_aesdec_epi128(*pair, key);
            }
        }
        let key = both(*last);
        for pair in pairs {
            *pair = _mm256_aesdeclast_epi128(*pair, key);
        }
    }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn whiten(pairs: &mut [Pair; PAIRS], key: __m128i) {
    let key = both(key);
    for pair in pairs {
        *pair = xor(*pair, key);
    }
}

/// The schedules of two keys, each given as its first and its second 16 bytes.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
pub(super) fn expand(keys: [Pair; 2]) -> [Encryption; 2] {
    let rotated = both(_mm_set1_epi32(0x0c0f_0e0d));
    let plain = both(_mm_set1_epi32(0x0f0e_0d0c));
    let [mut even, mut odd] = keys;
    let mut schedules = [[_mm_setzero_si128(); 15]; 2];
    let [a, b] = &mut schedules;
    let mut rounds = a
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(b.as_chunks_mut::<2>().0);
    let mut constant = 1;
    for ([a0, a1], [b0, b1]) in &mut rounds {
        (*a0, *b0) = (first(even), second(even));
        (*a1, *b1) = (first(odd), second(odd));
        // `aesenclast` on four equal words is SubWord on each: its rows shift within themselves.
        let word = _mm256_shuffle_epi8(odd, rotated);
        let word = _mm256_aesenclast_epi128(word, _mm256_set1_epi32(constant));
        even = xor(prefixes(even), word);
        let word = _mm256_shuffle_epi8(even, plain);
        let word = _mm256_aesenclast_epi128(word, _mm256_setzero_si256());
        odd = xor(prefixes(odd), word);
        constant <<= 1;
    }
    let [.., a] = a;
    let [.., b] = b;
    (*a, *b) = (first(even), second(even));
    schedules.map(Encryption)
}

/// Each word xored with all before it.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn prefixes(words: Pair) -> Pair {
    let words = xor(words, _mm256_bslli_epi128(words, 4));
    xor(words, _mm256_bslli_epi128(words, 8))
}

/// The keys of two messages beside each other, as `expand` takes them.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
pub(super) fn beside(a: [__m128i; 2], b: [__m128i; 2]) -> [Pair; 2] {
    let ([a0, a1], [b0, b1]) = (a, b);
    [pair(a0, b0), pair(a1, b1)]
}
