//! GCM-SIV over RustCrypto's AES and POLYVAL, for processors without the wide instructions.

use aes::cipher::array::Array;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes256Enc, Block};
use polyval::Polyval;
use polyval::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::Message;

/// Messages whose keys are derived together.
const TOGETHER: usize = 8;
/// AES blocks that give the keys of a message.
const KEY_BLOCKS: usize = 6;
/// AES blocks of keystream made at a time.
const STREAM: usize = 256;

/// A key, expanded. `Aes256Enc`, because GCM-SIV never decrypts with the block cipher.
pub(super) struct Portable(Aes256Enc);

/// The keys of one message.
struct Keys {
    hash: Polyval,
    text: Aes256Enc,
}

impl Portable {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Aes256Enc::new(key.into()))
    }

    pub(super) fn seal_all<A: AsRef<[u8]>>(&self, messages: &mut [Message<'_, A>]) {
        for some in messages.chunks_mut(TOGETHER) {
            let mut blocks = self.key_blocks(some);
            for (message, blocks) in some.iter_mut().zip(&mut blocks) {
                message.bring();
                let keys = Keys::new(blocks);
                message.tag = keys.tag(message);
                keys.apply_keystream(&message.tag, message.text);
            }
        }
    }

    pub(super) fn open_all<A: AsRef<[u8]>>(&self, messages: &mut [Message<'_, A>]) -> Vec<usize> {
        let mut failed = Vec::new();
        let mut number = 0;
        for some in messages.chunks_mut(TOGETHER) {
            let mut blocks = self.key_blocks(some);
            for (message, blocks) in some.iter_mut().zip(&mut blocks) {
                message.bring();
                let keys = Keys::new(blocks);
                keys.apply_keystream(&message.tag, message.text);
                if !bool::from(keys.tag(message).ct_eq(&message.tag)) {
                    keys.apply_keystream(&message.tag, message.text);
                    failed.push(number);
                }
                number += 1;
            }
        }
        failed
    }

    /// What the keys of up to eight messages are made from (RFC 8452 section 4): counter and nonce, encrypted.
    fn key_blocks<A>(&self, messages: &[Message<'_, A>]) -> [[Block; KEY_BLOCKS]; TOGETHER] {
        let mut all = [[Block::default(); KEY_BLOCKS]; TOGETHER];
        for (blocks, message) in all.iter_mut().zip(messages) {
            for (counter, block) in (0u8..).zip(blocks) {
                let (start, nonce) = block.split_at_mut(4);
                start.fill(0);
                start
                    .first_mut()
                    .into_iter()
                    .for_each(|byte| *byte = counter);
                nonce.copy_from_slice(&message.nonce);
            }
        }
        let used = all.as_flattened_mut();
        let used = used.get_mut(..messages.len() * KEY_BLOCKS);
        self.0.encrypt_blocks(used.unwrap_or_default());
        all
    }
}

impl Keys {
    /// From the first halves of the blocks, which are wiped.
    fn new(blocks: &mut [Block; KEY_BLOCKS]) -> Self {
        let mut bytes = [0; 8 * KEY_BLOCKS];
        for (to, from) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&mut *blocks) {
            to.iter_mut().zip(&*from).for_each(|(to, from)| *to = *from);
            from.as_mut_slice().zeroize();
        }
        let (hash, text) = bytes.split_at(16);
        let expect = "16 and 32 of 48 bytes";
        let keys = Self {
            hash: Polyval::new(hash.try_into().expect(expect)),
            text: Aes256Enc::new(text.try_into().expect(expect)),
        };
        bytes.zeroize();
        keys
    }

    fn tag<A: AsRef<[u8]>>(&self, message: &Message<'_, A>) -> [u8; 16] {
        let aad = message.aad.as_ref();
        let mut hash = self.hash.clone();
        hash.update_padded(aad);
        hash.update_padded(message.text);
        let bits = |len: usize| ((len as u64) << 3).to_le_bytes();
        let lengths = [bits(aad.len()), bits(message.text.len())];
        hash.update_padded(lengths.as_flattened());
        let mut tag = hash.finalize();
        for (byte, nonce) in tag.iter_mut().zip(&message.nonce) {
            *byte ^= nonce;
        }
        tag.iter_mut().skip(15).for_each(|byte| *byte &= 0x7f);
        self.text.encrypt_block(&mut tag);
        tag.into()
    }

    fn apply_keystream(&self, tag: &[u8; 16], text: &mut [u8]) {
        let start = u128::from_le_bytes(*tag) | 1 << 127;
        let mut counter = start as u32;
        let rest = start & !u128::from(u32::MAX);
        let mut stream = [Block::default(); STREAM];
        for part in text.chunks_mut(16 * STREAM) {
            let stream = stream
                .get_mut(..part.len().div_ceil(16))
                .unwrap_or_default();
            for block in &mut *stream {
                *block = (rest | u128::from(counter)).to_le_bytes().into();
                counter = counter.wrapping_add(1);
            }
            self.text.encrypt_blocks(stream);
            let stream = Array::slice_as_flattened(stream);
            part.iter_mut()
                .zip(stream)
                .for_each(|(byte, stream)| *byte ^= stream);
        }
    }
}
