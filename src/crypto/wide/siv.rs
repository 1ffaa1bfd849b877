//! AES-256-GCM-SIV (RFC 8452) over many messages: the keys of some are derived together, each text is gone through once to
//! open it and twice to seal it.

use std::arch::x86_64::*;
use std::slice::Iter;

use subtle::ConstantTimeEq;

use super::aes::{Encryption, PAIRS, beside, expand};
use super::polyval::Polyval;
use super::{Pair, both, first, load, load_one, pair, second, store, store_one, xor};
use crate::crypto::gcm_siv::Message;

/// Messages whose keys are derived together: their blocks fill the rounds of AES, their round keys the stack a little.
const TOGETHER: usize = 4;
/// Bytes of text per turn through the rounds.
const CHUNK: usize = 32 * PAIRS;

/// The keys of one message.
struct Keys {
    hash: __m128i,
    text: Encryption,
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
pub(super) fn seal_all<A: AsRef<[u8]>>(key: &Encryption, messages: &mut [Message<'_, A>]) {
    for some in messages.chunks_mut(TOGETHER) {
        let keys = derive(key, some);
        for (message, keys) in some.iter_mut().zip(&keys) {
            let mut hash = Polyval::new(keys.hash);
            let aad = message.aad.as_ref();
            hash.take_padded(aad);
            hash.take_padded(message.source());
            message.tag = tag(keys, &hash, &message.nonce, aad.len(), message.text.len());
            apply_keystream(keys, &message.tag, message.from, message.text);
        }
    }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
pub(super) fn open_all<A: AsRef<[u8]>>(
    key: &Encryption,
    messages: &mut [Message<'_, A>],
) -> Vec<usize> {
    let mut failed = Vec::new();
    let mut number = 0;
    for some in messages.chunks_mut(TOGETHER) {
        let keys = derive(key, some);
        for (message, keys) in some.iter_mut().zip(&keys) {
            let mut hash = Polyval::new(keys.hash);
            let aad = message.aad.as_ref();
            hash.take_padded(aad);
            open_text(keys, &message.tag, message.from, message.text, &mut hash);
            let expected = tag(keys, &hash, &message.nonce, aad.len(), message.text.len());
            if !bool::from(expected.ct_eq(&message.tag)) {
                apply_keystream(keys, &message.tag, None, message.text);
                failed.push(number);
            }
            number += 1;
        }
    }
    failed
}

/// The keys of up to four messages (RFC 8452 section 4): six blocks of counter and nonce each, the first halves of what
/// they encrypt to.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn derive<A>(key: &Encryption, messages: &[Message<'_, A>]) -> [Keys; TOGETHER] {
    let mut nonces = [_mm_setzero_si128(); TOGETHER];
    for (to, message) in nonces.iter_mut().zip(messages) {
        let mut block = [0; 16];
        for (to, from) in block.iter_mut().skip(4).zip(&message.nonce) {
            *to = *from;
        }
        *to = load_one(&block);
    }
    let [a, b, c, d] = nonces;
    let (zero, two, four) = (counters(0), counters(2), counters(4));
    let blocks = |nonce| {
        [
            xor(both(nonce), zero),
            xor(both(nonce), two),
            xor(both(nonce), four),
        ]
    };
    let ([a0, a1, a2], [b0, b1, b2]) = (blocks(a), blocks(b));
    let ([c0, c1, c2], [d0, d1, d2]) = (blocks(c), blocks(d));
    let mut ahead = [a0, a1, a2, b0, b1, b2, c0, c1];
    let mut behind = [c2, d0, d1, d2, zero, zero, zero, zero];
    key.encrypt(&mut ahead);
    if messages.len() > 2 {
        key.encrypt(&mut behind);
    }
    let [a0, a1, a2, b0, b1, b2, c0, c1] = ahead;
    let [c2, d0, d1, d2, ..] = behind;
    let [a_text, b_text] = expand(beside([halves(a1), halves(a2)], [halves(b1), halves(b2)]));
    let [c_text, d_text] = match messages.len() > 2 {
        true => expand(beside([halves(c1), halves(c2)], [halves(d1), halves(d2)])),
        false => [a_text, b_text],
    };
    [
        Keys {
            hash: halves(a0),
            text: a_text,
        },
        Keys {
            hash: halves(b0),
            text: b_text,
        },
        Keys {
            hash: halves(c0),
            text: c_text,
        },
        Keys {
            hash: halves(d0),
            text: d_text,
        },
    ]
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn counters(from: i32) -> Pair {
    pair(
        _mm_set_epi32(0, 0, 0, from),
        _mm_set_epi32(0, 0, 0, from + 1),
    )
}

/// The first halves of two blocks.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn halves(blocks: Pair) -> __m128i {
    _mm_unpacklo_epi64(first(blocks), second(blocks))
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn tag(keys: &Keys, hash: &Polyval, nonce: &[u8; 12], aad_len: usize, text_len: usize) -> [u8; 16] {
    let mut tag = [0; 16];
    store_one(&mut tag, hash.finish(aad_len, text_len));
    for (byte, nonce) in tag.iter_mut().zip(nonce) {
        *byte ^= nonce;
    }
    tag[15] &= 0x7f;
    let sealed = keys.text.encrypt_one(load_one(&tag));
    store_one(&mut tag, sealed);
    tag
}

/// The first counters of a text.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn first_counters(tag: &[u8; 16]) -> Pair {
    let mut block = *tag;
    block[15] |= 0x80;
    _mm256_add_epi32(both(load_one(&block)), counters(0))
}

/// The next sixteen counters, encrypted.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn keystream(keys: &Keys, next: &mut Pair) -> [Pair; PAIRS] {
    let mut pairs = [*next; PAIRS];
    let two = both(_mm_set_epi32(0, 0, 0, 2));
    let mut counter = *next;
    for pair in &mut pairs {
        *pair = counter;
        counter = _mm256_add_epi32(counter, two);
    }
    *next = counter;
    keys.text.encrypt(&mut pairs);
    pairs
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn apply_keystream(keys: &Keys, tag: &[u8; 16], from: Option<&[u8]>, text: &mut [u8]) {
    let mut next = first_counters(tag);
    let (mut sources, source_rest) = parts(from);
    let (chunks, rest) = text.as_chunks_mut::<CHUNK>();
    for chunk in chunks {
        let mut stream = keystream(keys, &mut next);
        apply_chunk(&mut stream, sources.next(), chunk);
    }
    if !rest.is_empty() {
        bring(source_rest, rest);
        apply_rest(keystream(keys, &mut next), rest);
    }
}

/// Decrypts, and hashes what comes out while it is at hand.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn open_text(
    keys: &Keys,
    tag: &[u8; 16],
    from: Option<&[u8]>,
    text: &mut [u8],
    hash: &mut Polyval,
) {
    let mut next = first_counters(tag);
    let (mut sources, source_rest) = parts(from);
    let (chunks, rest) = text.as_chunks_mut::<CHUNK>();
    for chunk in chunks {
        let mut stream = keystream(keys, &mut next);
        apply_chunk(&mut stream, sources.next(), chunk);
        let [a, b, c, d, e, f, g, h] = stream;
        hash.take([a, b, c, d]);
        hash.take([e, f, g, h]);
    }
    if !rest.is_empty() {
        bring(source_rest, rest);
        apply_rest(keystream(keys, &mut next), rest);
        hash.take_padded(rest);
    }
}

/// The turns of a source, and what is left of it; none where the text is its own.
fn parts(from: Option<&[u8]>) -> (Iter<'_, [u8; CHUNK]>, Option<&[u8]>) {
    let parts = from.map(<[u8]>::as_chunks::<CHUNK>);
    let (chunks, rest) = parts.unzip();
    (chunks.unwrap_or_default().iter(), rest)
}

fn bring(source: Option<&[u8]>, rest: &mut [u8]) {
    if let Some(source) = source {
        rest.copy_from_slice(source);
    }
}

/// Puts the exclusive or of a turn's source and its keystream into its place, and leaves it in `stream`.
#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn apply_chunk(stream: &mut [Pair; PAIRS], source: Option<&[u8; CHUNK]>, chunk: &mut [u8; CHUNK]) {
    let bytes = source.unwrap_or(chunk).as_chunks::<32>().0;
    for (pair, bytes) in stream.iter_mut().zip(bytes) {
        *pair = xor(load(bytes), *pair);
    }
    for (bytes, pair) in chunk.as_chunks_mut::<32>().0.iter_mut().zip(stream) {
        store(bytes, *pair);
    }
}

#[inline]
#[target_feature(enable = "vaes,vpclmulqdq")]
fn apply_rest(stream: [Pair; PAIRS], rest: &mut [u8]) {
    let mut bytes = [[0; 32]; PAIRS];
    for (bytes, pair) in bytes.iter_mut().zip(stream) {
        store(bytes, pair);
    }
    for (byte, stream) in rest.iter_mut().zip(bytes.as_flattened()) {
        *byte ^= stream;
    }
}
