//! XTS over RustCrypto's AES, many units per call of the block cipher, for processors without the wide instructions.

use aes::cipher::array::Array;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};

use super::{UNIT, leaving_no_trace};

/// AES blocks of a data unit.
const BLOCKS: usize = UNIT / 16;
/// Units encrypted with one call: enough to keep wide AES instructions busy, few enough to stay in the first cache.
const BATCH: usize = 4;
/// Tweaks made beside each other: each is the one eight before it times x^8.
const CHAINS: usize = 8;

/// A key, expanded.
pub(super) struct Portable {
    text: Aes256,
    tweak: Aes256Enc,
}

impl Portable {
    pub(super) fn new(text: &[u8; 32], tweak: &[u8; 32]) -> Self {
        Self {
            text: Aes256::new(text.into()),
            tweak: Aes256Enc::new(tweak.into()),
        }
    }

    pub(super) fn encrypt(&self, first_block: u64, pages: &mut [u8]) {
        self.each_batch(first_block, pages, |blocks| {
            self.text.encrypt_blocks(blocks)
        });
    }

    pub(super) fn decrypt(&self, first_block: u64, pages: &mut [u8]) {
        self.each_batch(first_block, pages, |blocks| {
            self.text.decrypt_blocks(blocks)
        });
    }

    fn each_batch(&self, first_block: u64, pages: &mut [u8], cipher: impl Fn(&mut [Block])) {
        let mut tweaks = [0; BATCH * BLOCKS]; // out here: below it would put the round keys beyond what is wiped
        leaving_no_trace(|| {
            let mut unit = first_block;
            for batch in pages.chunks_mut(BATCH * UNIT) {
                let (blocks, _) = Array::slice_as_chunks_mut(batch);
                let tweaks = tweaks.get_mut(..blocks.len()).unwrap_or_default();
                self.fill_tweaks(unit, tweaks);
                xor(blocks, tweaks);
                cipher(blocks);
                xor(blocks, tweaks);
                unit = unit.wrapping_add(BATCH as u64);
            }
        });
    }

    /// The tweaks of all AES blocks of up to BATCH units from `unit`: E(unit), then doubled in GF(2^128) from block to block.
    fn fill_tweaks(&self, unit: u64, tweaks: &mut [u128]) {
        let mut first = [Block::default(); BATCH];
        for (index, tweak) in first.iter_mut().enumerate() {
            *tweak = u128::from(unit.wrapping_add(index as u64))
                .to_le_bytes()
                .into();
        }
        self.tweak.encrypt_blocks(&mut first);
        for (unit_tweaks, first) in tweaks.chunks_mut(BLOCKS).zip(first) {
            let mut chains = [0; CHAINS];
            let mut tweak = u128::from_le_bytes(first.into());
            for chain in &mut chains {
                *chain = tweak;
                tweak = (tweak << 1) ^ (0x87 & (tweak >> 127).wrapping_neg());
            }
            for places in unit_tweaks.as_chunks_mut::<CHAINS>().0 {
                *places = chains;
                for chain in &mut chains {
                    let top = *chain >> 120;
                    *chain = (*chain << 8) ^ top ^ (top << 1) ^ (top << 2) ^ (top << 7);
                }
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
