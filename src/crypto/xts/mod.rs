//! AES-256-XTS (IEEE 1619-2018, NIST SP 800-38E) over data units of 4096 bytes.
//! Confidentiality only: nothing here notices a changed text.

mod portable;

use subtle::ConstantTimeEq;

use super::stack::leaving_no_trace;
#[cfg(target_arch = "x86_64")]
use super::wide::{Decryption, Encryption, Wide};
use super::{Locked, Secret};
use portable::Portable;

/// Bytes of a data unit.
const UNIT: usize = 4096;

/// Both halves of the key are equal, which IEEE 1619-2018 and FIPS 140 forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the two halves of an XTS key are equal")]
pub struct EqualHalves;

/// A key, expanded.
pub struct Xts(Expanded);

enum Expanded {
    #[cfg(target_arch = "x86_64")]
    Wide(Wide, Locked<WideKeys>),
    Portable(Locked<Portable>),
}

#[cfg(target_arch = "x86_64")]
struct WideKeys {
    encryption: Encryption,
    decryption: Decryption,
    tweak: Encryption,
}

impl Xts {
    /// Expands the key: text half, then tweak half.
    pub fn new(key: &Secret<64>) -> Result<Self, EqualHalves> {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = Wide::detect() {
            let (text, tweak) = halves(key)?;
            let expand = || {
                let encryption = wide.expand(text);
                Locked::new(WideKeys {
                    encryption,
                    decryption: wide.invert(&encryption),
                    tweak: wide.expand(tweak),
                })
            };
            return Ok(Self(Expanded::Wide(wide, leaving_no_trace(expand))));
        }
        Self::portable(key)
    }

    /// As `new`, without the wide instructions: what other processors get. For tests and measurements.
    pub fn portable(key: &Secret<64>) -> Result<Self, EqualHalves> {
        let (text, tweak) = halves(key)?;
        let expand = || Locked::new(Portable::new(text, tweak));
        Ok(Self(Expanded::Portable(leaving_no_trace(expand))))
    }

    /// Encrypts in place: unit i of `pages` has the tweak `first_block` + i as 128 bits LE.
    ///
    /// Panics unless the length of `pages` is a multiple of 4096.
    pub fn encrypt(&self, first_block: u64, pages: &mut [u8]) {
        assert_whole(pages);
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Expanded::Wide(wide, keys) => leaving_no_trace(|| {
                wide.xts_encrypt(&keys.encryption, &keys.tweak, first_block, pages);
            }),
            Expanded::Portable(keys) => keys.encrypt(first_block, pages),
        }
    }

    /// The reverse of [`Xts::encrypt`].
    ///
    /// Panics unless the length of `pages` is a multiple of 4096.
    pub fn decrypt(&self, first_block: u64, pages: &mut [u8]) {
        assert_whole(pages);
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Expanded::Wide(wide, keys) => leaving_no_trace(|| {
                wide.xts_decrypt(&keys.decryption, &keys.tweak, first_block, pages);
            }),
            Expanded::Portable(keys) => keys.decrypt(first_block, pages),
        }
    }
}

fn assert_whole(pages: &[u8]) {
    assert!(
        pages.len().is_multiple_of(UNIT),
        "XTS works on whole units of 4096 bytes"
    );
}

/// The key for texts and that for tweaks.
fn halves(key: &Secret<64>) -> Result<(&[u8; 32], &[u8; 32]), EqualHalves> {
    match key.expose().as_chunks().0 {
        [text, tweak] if bool::from(text.ct_eq(tweak)) => Err(EqualHalves),
        [text, tweak] => Ok((text, tweak)),
        _ => unreachable!("half of 64 bytes"),
    }
}
