//! AES-256-XTS over units of 4096 bytes, sixteen blocks at a time.

use std::arch::x86_64::*;

use super::aes::{Decryption, Encryption, PAIRS};
use super::{Pair, both, load, load_one, pair, store, xor};

/// Bytes of a unit.
const UNIT: usize = 4096;
/// Bytes per turn through the rounds.
const CHUNK: usize = 32 * PAIRS;

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
pub(super) fn encrypt(text: &Encryption, tweak: &Encryption, first_unit: u64, pages: &mut [u8]) {
    let mut unit = first_unit;
    for page in pages.as_chunks_mut::<UNIT>().0 {
        let mut tweaks = first_tweaks(tweak, unit);
        for chunk in page.as_chunks_mut::<CHUNK>().0 {
            let mut pairs = xored(chunk, &tweaks);
            text.encrypt(&mut pairs);
            put(chunk, pairs, &mut tweaks);
        }
        unit = unit.wrapping_add(1);
    }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
pub(super) fn decrypt(text: &Decryption, tweak: &Encryption, first_unit: u64, pages: &mut [u8]) {
    let mut unit = first_unit;
    for page in pages.as_chunks_mut::<UNIT>().0 {
        let mut tweaks = first_tweaks(tweak, unit);
        for chunk in page.as_chunks_mut::<CHUNK>().0 {
            let mut pairs = xored(chunk, &tweaks);
            text.decrypt(&mut pairs);
            put(chunk, pairs, &mut tweaks);
        }
        unit = unit.wrapping_add(1);
    }
}

/// The tweaks of the first sixteen blocks of a unit: E(unit), then doubled in GF(2^128) from block to block.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn first_tweaks(key: &Encryption, unit: u64) -> [Pair; PAIRS] {
    let first = key.encrypt_one(load_one(&u128::from(unit).to_le_bytes()));
    let mut tweaks = [both(first); PAIRS];
    let mut tweak = pair(first, super::first(doubled(both(first))));
    for place in &mut tweaks {
        *place = tweak;
        tweak = doubled(doubled(tweak));
    }
    tweaks
}

/// Times x.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn doubled(tweaks: Pair) -> Pair {
    // The top bit of each half goes to the bottom of the other: as 1 where it moves up, as 0x87 where it wraps around.
    let tops = _mm256_srai_epi32(_mm256_shuffle_epi32(tweaks, 0x13), 31);
    let carries = _mm256_and_si256(tops, both(_mm_set_epi32(0, 1, 0, 0x87)));
    xor(_mm256_slli_epi64(tweaks, 1), carries)
}

/// Times x^16.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn sixteen_on(tweaks: Pair) -> Pair {
    let carried = _mm256_bsrli_epi128(tweaks, 14);
    let folded = _mm256_clmulepi64_epi128(carried, both(_mm_set_epi64x(0, 0x87)), 0x00);
    xor(_mm256_bslli_epi128(tweaks, 2), folded)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn xored(chunk: &[u8; CHUNK], tweaks: &[Pair; PAIRS]) -> [Pair; PAIRS] {
    let mut pairs = *tweaks;
    for (pair, bytes) in pairs.iter_mut().zip(chunk.as_chunks::<32>().0) {
        *pair = xor(*pair, load(bytes));
    }
    pairs
}

/// Stores the blocks, and moves the tweaks on to those of the next.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn put(chunk: &mut [u8; CHUNK], pairs: [Pair; PAIRS], tweaks: &mut [Pair; PAIRS]) {
    let places = chunk.as_chunks_mut::<32>().0.iter_mut();
    for ((bytes, pair), tweak) in places.zip(pairs).zip(tweaks) {
        store(bytes, xor(pair, *tweak));
        *tweak = sixteen_on(*tweak);
    }
}
