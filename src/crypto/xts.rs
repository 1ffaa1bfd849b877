//! AES-256-XTS (IEEE 1619-2018, NIST SP 800-38E) over data units of 4096 bytes, many units per call of the block cipher.
//! Confidentiality only: nothing here notices a changed text.

use aes::cipher::array::Array;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};
use subtle::ConstantTimeEq;

use super::stack::leaving_no_trace;
use super::{Locked, Secret};

/// Bytes of a data unit.
const UNIT: usize = 4096;
/// AES blocks of a data unit.
const BLOCKS: usize = UNIT / 16;
/// Units encrypted with one call: enough to keep wide AES instructions busy, few enough to stay in the first cache.
const BATCH: usize = 4;

/// Both halves of the key are equal, which IEEE 1619-2018 and FIPS 140 forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the two halves of an XTS key are equal")]
pub struct EqualHalves;

/// A key, expanded.
pub struct Xts(Locked<Ciphers>);

struct Ciphers {
    text: Aes256,
    tweak: Aes256Enc,
}

impl Xts {
    /// Expands the key: text half, then tweak half.
    pub fn new(key: &Secret<64>) -> Result<Self, EqualHalves> {
        let (text, tweak) = key.expose().split_at(32);
        if bool::from(text.ct_eq(tweak)) {
            return Err(EqualHalves);
        }
        let expect = "half of 64 bytes";
        Ok(leaving_no_trace(|| {
            let text = Aes256::new(text.try_into().expect(expect));
            let tweak = Aes256Enc::new(tweak.try_into().expect(expect));
            Self(Locked::new(Ciphers { text, tweak }))
        }))
    }

    /// Encrypts in place: unit i of `pages` has the tweak `first_block` + i as 128 bits LE.
    ///
    /// Panics unless the length of `pages` is a multiple of 4096.
    pub fn encrypt(&self, first_block: u64, pages: &mut [u8]) {
        self.each_batch(first_block, pages, |blocks| {
            self.0.text.encrypt_blocks(blocks)
        });
    }

    /// The reverse of [`Xts::encrypt`].
    ///
    /// Panics unless the length of `pages` is a multiple of 4096.
    pub fn decrypt(&self, first_block: u64, pages: &mut [u8]) {
        self.each_batch(first_block, pages, |blocks| {
            self.0.text.decrypt_blocks(blocks)
        });
    }

    fn each_batch(&self, first_block: u64, pages: &mut [u8], cipher: impl Fn(&mut [Block])) {
        assert!(
            pages.len().is_multiple_of(UNIT),
            "XTS works on whole units of 4096 bytes"
        );
        let mut tweaks = [0; BATCH * BLOCKS]; // out here: below it would put the round keys beyond what is wiped
        leaving_no_trace(|| {
            let mut unit = first_block;
            for batch in pages.chunks_mut(BATCH * UNIT) {
                self.fill_tweaks(unit, &mut tweaks);
                let (blocks, _) = Array::slice_as_chunks_mut(batch);
                xor(blocks, &tweaks);
                cipher(blocks);
                xor(blocks, &tweaks);
                unit = unit.wrapping_add(BATCH as u64);
            }
        });
    }

    /// The tweaks of all AES blocks in BATCH units from `unit`: E(unit), then doubled in GF(2^128) from block to block.
    fn fill_tweaks(&self, unit: u64, tweaks: &mut [u128; BATCH * BLOCKS]) {
        let mut first = [Block::default(); BATCH];
        for (index, tweak) in first.iter_mut().enumerate() {
            *tweak = u128::from(unit.wrapping_add(index as u64))
                .to_le_bytes()
                .into();
        }
        self.0.tweak.encrypt_blocks(&mut first);
        for (unit_tweaks, first) in tweaks.chunks_mut(BLOCKS).zip(first) {
            let mut tweak = u128::from_le_bytes(first.into());
            for slot in unit_tweaks {
                *slot = tweak;
                tweak = (tweak << 1) ^ (0x87 & (tweak >> 127).wrapping_neg());
            }
        }
    }
}

fn xor(blocks: &mut [Block], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        *block = (u128::from_le_bytes((*block).into()) ^ tweak)
            .to_le_bytes()
            .into();
    }
}
