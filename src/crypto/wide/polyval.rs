//! POLYVAL (RFC 8452 section 3), eight blocks with one reduction.
//!
//! A product is kept as R and F: with H = H1·x^64 + H0, D = swap(H) + H0·P and M likewise, R = M0·D1 + M1·H1 and
//! F = M0·D0 + M1·H0; then M·H = R + F1 + x^64·F0 + P·F0 ("Efficient GHASH implementation using CLMUL", eprint 2025/2171).

use std::arch::x86_64::*;

use super::{Pair, both, first, load, load_one, pair, second, store_one, xor};

/// Blocks taken at a time.
const BLOCKS: usize = 8;
/// Bytes of them.
const LEN: usize = 16 * BLOCKS;
/// x^63 + x^62 + x^57: what x^128 reduces to, above x^64.
const P: i64 = 0xC200_0000_0000_0000_u64 as i64;

/// A hash being made.
pub(super) struct Polyval {
    /// H^8 and H^7, H^6 and H^5, and so on; `d` belongs to them.
    h: [Pair; 4],
    d: [Pair; 4],
    sum: __m128i,
}

impl Polyval {
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn new(h: __m128i) -> Self {
        let h1 = both(h);
        let h2 = multiply(h1, h1, d_of(h1));
        let h21 = pair(first(h2), h);
        let d2 = d_of(h2);
        let h43 = multiply(h21, h2, d2);
        let h44 = both(first(h43));
        let h65 = multiply(h43, h2, d2);
        let h87 = multiply(h43, h44, d_of(h44));
        Self {
            h: [h87, h65, h43, h21],
            d: [d_of(h87), d_of(h65), d_of(h43), d_of(h21)],
            sum: _mm_setzero_si128(),
        }
    }

    /// Eight blocks.
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn take(&mut self, blocks: [Pair; 4]) {
        let [b0, b1, b2, b3] = blocks;
        let blocks = [xor(b0, _mm256_zextsi128_si256(self.sum)), b1, b2, b3];
        let (mut r, mut f) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for ((block, h), d) in blocks.iter().zip(&self.h).zip(&self.d) {
            let (more_r, more_f) = unreduced(*block, *h, *d);
            (r, f) = (xor(r, more_r), xor(f, more_f));
        }
        let r = _mm_xor_si128(first(r), second(r));
        let f = _mm_xor_si128(first(f), second(f));
        self.sum = reduce(r, f);
    }

    /// Any number of bytes, padded with zeros to whole blocks.
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn take_padded(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<LEN>();
        for blocks in whole {
            self.take(load_blocks(blocks));
        }
        if rest.is_empty() {
            return;
        }
        // Zero blocks before the first change nothing where the sum stands in that.
        let mut last = [0; LEN];
        let start = LEN - rest.len().next_multiple_of(16);
        let (_, end) = last.split_at_mut(start);
        for (to, from) in end.iter_mut().zip(rest) {
            *to = *from;
        }
        if let Some(block) = end.first_chunk_mut() {
            store_one(block, _mm_xor_si128(load_one(block), self.sum));
        }
        self.sum = _mm_setzero_si128();
        self.take(load_blocks(&last));
    }

    /// The sum, with the block of lengths.
    #[inline]
    #[target_feature(enable = "vaes,vpclmulqdq")]
    pub(super) fn finish(&self, aad_len: usize, text_len: usize) -> __m128i {
        let lengths = _mm_set_epi64x((text_len as i64) << 3, (aad_len as i64) << 3);
        let last = _mm_xor_si128(self.sum, lengths);
        let [.., h21] = self.h;
        let [.., d21] = self.d;
        let (r, f) = unreduced_one(last, second(h21), second(d21));
        reduce(r, f)
    }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn load_blocks(bytes: &[u8; LEN]) -> [Pair; 4] {
    let (pairs, _) = bytes.as_chunks::<32>();
    let [a, b, c, d] = pairs else {
        unreachable!("a quarter of the bytes")
    };
    [load(a), load(b), load(c), load(d)]
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn d_of(h: Pair) -> Pair {
    let swapped = _mm256_shuffle_epi32(h, 0x4e);
    let p = both(_mm_set_epi64x(P, 0));
    xor(swapped, _mm256_clmulepi64_epi128(h, p, 0x10))
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn unreduced(m: Pair, h: Pair, d: Pair) -> (Pair, Pair) {
    let r = xor(
        _mm256_clmulepi64_epi128(m, d, 0x10),
        _mm256_clmulepi64_epi128(m, h, 0x11),
    );
    let f = xor(
        _mm256_clmulepi64_epi128(m, d, 0x00),
        _mm256_clmulepi64_epi128(m, h, 0x01),
    );
    (r, f)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn unreduced_one(m: __m128i, h: __m128i, d: __m128i) -> (__m128i, __m128i) {
    let r = _mm_xor_si128(
        _mm_clmulepi64_si128(m, d, 0x10),
        _mm_clmulepi64_si128(m, h, 0x11),
    );
    let f = _mm_xor_si128(
        _mm_clmulepi64_si128(m, d, 0x00),
        _mm_clmulepi64_si128(m, h, 0x01),
    );
    (r, f)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn reduce(r: __m128i, f: __m128i) -> __m128i {
    let shifted = _mm_shuffle_epi32(f, 0x4e); // F1 at x^0, F0 at x^64
    let folded = _mm_clmulepi64_si128(f, _mm_set_epi64x(0, P), 0x00);
    _mm_xor_si128(_mm_xor_si128(r, shifted), folded)
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn multiply(m: Pair, h: Pair, d: Pair) -> Pair {
    let (r, f) = unreduced(m, h, d);
    let folded = _mm256_clmulepi64_epi128(f, both(_mm_set_epi64x(0, P)), 0x00);
    xor(xor(r, _mm256_shuffle_epi32(f, 0x4e)), folded)
}
