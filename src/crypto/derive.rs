//! Derivation and MACs: HKDF-SHA256 (RFC 5869) and HMAC-SHA256 (RFC 2104), each use under a label of its own.
//!
//! Invariant: every label begins with [`LABEL_PREFIX`], put there by these functions, and MAC parts are framed by their
//! lengths, so no two uses ever hash the same bytes.

use hkdf::HkdfExtract;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Secret;
use super::stack::leaving_no_trace;

/// What every label begins with.
pub const LABEL_PREFIX: &[u8] = b"strongroom/1/";

/// HKDF-SHA256 over the concatenated `ikm` parts with this salt; info = [`LABEL_PREFIX`] ‖ `label` parts, concatenated:
/// all parts but the last must have a fixed length. `N` is at most 8160.
pub fn hkdf<const N: usize>(ikm: &[&[u8]], salt: &[u8], label: &[&[u8]]) -> Secret<N> {
    const { assert!(N <= 255 * 32, "HKDF-SHA256 gives at most 8160 bytes") };
    let mut info = Vec::with_capacity(1 + label.len());
    info.push(LABEL_PREFIX);
    info.extend_from_slice(label);
    let mut derived = Secret::zero();
    leaving_no_trace(|| {
        let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
        for part in ikm {
            extract.input_ikm(part);
        }
        let (mut prk, expand) = extract.finalize();
        zeroize::Zeroize::zeroize(prk.as_mut_slice());
        expand
            .expand_multi_info(&info, derived.expose_mut())
            .expect("the length was checked when compiled");
    });
    derived
}

/// HMAC-SHA256 over the parts, each preceded by its length as u32 LE. The first part is the label, which gets
/// [`LABEL_PREFIX`] (its length counts). A part is shorter than 4 GiB.
pub fn mac32(key: &Secret<32>, parts: &[&[u8]]) -> [u8; 32] {
    leaving_no_trace(|| hmac(key, parts))
}

fn hmac(key: &Secret<32>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
    for (index, part) in parts.iter().enumerate() {
        let prefix = if index == 0 { LABEL_PREFIX } else { b"" };
        let len =
            u32::try_from(prefix.len() + part.len()).expect("a MAC part is shorter than 4 GiB");
        mac.update(&len.to_le_bytes());
        mac.update(prefix);
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// [`mac32`] cut to its first 16 bytes.
pub fn mac16(key: &Secret<32>, parts: &[&[u8]]) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.iter_mut()
        .zip(mac32(key, parts))
        .for_each(|(to, from)| *to = from);
    cut
}

/// Whether `tag` is [`mac16`] of the parts, in constant time.
pub fn verify16(key: &Secret<32>, parts: &[&[u8]], tag: &[u8; 16]) -> bool {
    mac16(key, parts).ct_eq(tag).into()
}

/// Whether `tag` is [`mac32`] of the parts, in constant time.
pub fn verify32(key: &Secret<32>, parts: &[&[u8]], tag: &[u8; 32]) -> bool {
    mac32(key, parts).ct_eq(tag).into()
}
