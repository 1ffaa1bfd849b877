//! The bytes of wraps made with tokens: pure functions (`docs/FORMAT.md`, section 1).
//!
//! Invariant: what a mechanism does not bind to its context is bound here, and compared in constant time.

use rsa::oaep::EncryptingKey;
use rsa::traits::{PublicKeyParts, RandomizedEncryptor};
use rsa::{BoxedUint, PublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::crypto::{Secret, hkdf, mac32, verify32};
use crate::format::wrap::{MAX_WRAPPED, WrapAlgorithm};
use crate::keys::KeyError;

/// Bytes of a wrapped key.
pub(super) const KEY: usize = 32;
/// Bytes of the hash of a context behind a key, where the mechanism has no place for the context.
const CHECK: usize = 16;
/// Two blocks that the token's key encrypts for the MAC key of `aes-cbc-hmac`; they name their purpose and are never a text.
pub(super) const MAC_BLOCKS: &[u8; 32] = b"strongroom/1/pkcs11 cbc mac key.";
/// The label of that MAC key, and of what it is used for.
const MAC_LABEL: &[u8] = b"pkcs11 cbc mac";

/// The MAC key of `aes-cbc-hmac`, of what the token's key made of [`MAC_BLOCKS`] in CBC mode under a vector of zeros.
pub(super) fn mac_key(made: &[u8]) -> Secret<32> {
    hkdf(&[made], &[], &[MAC_LABEL])
}

/// IV ‖ text ‖ MAC.
pub(super) fn framed_cbc(
    mac: &Secret<32>,
    context: &[u8],
    iv: &[u8; 16],
    text: &[u8; KEY],
) -> Vec<u8> {
    let tag = mac32(mac, &[MAC_LABEL, context, iv, text]);
    [&iv[..], text, &tag].concat()
}

/// IV and text of a wrap whose MAC is right.
pub(super) fn checked_cbc(
    mac: &Secret<32>,
    context: &[u8],
    bytes: &[u8],
) -> Option<([u8; 16], [u8; KEY])> {
    let (iv, rest) = bytes.split_first_chunk::<16>()?;
    let (text, rest) = rest.split_first_chunk::<KEY>()?;
    let tag: &[u8; 32] = rest.try_into().ok()?;
    verify32(mac, &[MAC_LABEL, context, iv, text], tag).then_some((*iv, *text))
}

pub(super) fn parse_public(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, KeyError> {
    let number = BoxedUint::from_be_slice_vartime;
    let start = modulus.iter().position(|byte| *byte != 0).unwrap_or(0);
    let modulus = modulus.get(start..).unwrap_or_default();
    PublicKey::new(number(modulus), number(exponent))
        .map_err(|error| KeyError::InvalidState(format!("the public key on the token: {error}")))
}

pub(super) fn wrap_oaep(
    public: &PublicKey,
    algorithm: WrapAlgorithm,
    context: &[u8],
    secret: &Secret<32>,
) -> Result<Vec<u8>, KeyError> {
    let mut rng = getrandom::SysRng;
    let wrapped = match algorithm {
        // A TPM opens no other label, and would tell when it is too late. The version at the end of a context gives the 0.
        WrapAlgorithm::RsaOaepSha256 if context.last() != Some(&0) => {
            let text = "a context that is to be an OAEP label must end in a zero byte";
            return Err(KeyError::InvalidState(text.into()));
        }
        WrapAlgorithm::RsaOaepSha256 => {
            EncryptingKey::<Sha256>::new_with_label(public.clone(), context.to_vec())
                .encrypt_with_rng(&mut rng, secret.expose())
        }
        _ => {
            let mut text = Secret::<{ KEY + CHECK }>::zero();
            let (key, check) = text.expose_mut().split_at_mut(KEY);
            key.copy_from_slice(secret.expose());
            check.copy_from_slice(&context_check(context));
            EncryptingKey::<Sha1>::new(public.clone()).encrypt_with_rng(&mut rng, text.expose())
        }
    };
    let wrapped = wrapped.map_err(|error| KeyError::InvalidState(format!("RSA-OAEP: {error}")))?;
    if wrapped.len() != public.size() || wrapped.len() > MAX_WRAPPED {
        return Err(KeyError::InvalidState("the RSA key is too long".into()));
    }
    Ok(wrapped)
}

/// The key in what OAEP gave.
pub(super) fn opened_oaep(
    algorithm: WrapAlgorithm,
    context: &[u8],
    text: &[u8],
) -> Option<Secret<32>> {
    if algorithm == WrapAlgorithm::RsaOaepSha256 {
        return Secret::from_slice(text);
    }
    let (key, check) = text.split_first_chunk::<KEY>()?;
    let right: bool = check.ct_eq(&context_check(context)).into();
    right.then(|| Secret::from_slice(key)).flatten()
}

fn context_check(context: &[u8]) -> [u8; CHECK] {
    let hash: [u8; 32] = Sha256::digest(context).into();
    let mut check = [0; CHECK];
    check.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    check
}

#[cfg(test)]
mod tests {
    use rsa::PrivateKey;
    use rsa::oaep::DecryptingKey;
    use rsa::traits::Decryptor;

    use super::*;
    use crate::format::ids::VolumeId;
    use crate::format::wrap::{Purpose, context};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn counting<const N: usize>(from: u8) -> [u8; N] {
        std::array::from_fn(|at| from + at as u8)
    }

    /// Computed with Python's hmac and hashlib from docs/FORMAT.md.
    #[test]
    fn cbc_wraps_have_the_bytes_of_the_format() {
        let mac = mac_key(&counting::<32>(0));
        assert_eq!(
            hex(mac.expose()),
            "71fc30781bf4ea80f85ff119c277956e5cbf763832e0e1ed6f4ca8549ea94778"
        );
        let (iv, text) = (counting(100), counting(32));
        let bytes = framed_cbc(&mac, &[3; 55], &iv, &text);
        assert_eq!(bytes.len(), 80);
        assert_eq!((&bytes[..16], &bytes[16..48]), (&iv[..], &text[..]));
        assert_eq!(
            hex(&bytes[48..]),
            "be46ae184a187c810075d34e2f2a80f36209955f5085ad6ca1a07bc31ba7cea2"
        );
        assert_eq!(checked_cbc(&mac, &[3; 55], &bytes), Some((iv, text)));
    }

    #[test]
    fn a_cbc_wrap_opens_in_no_other_context_and_with_no_other_byte() {
        let mac = Secret::random();
        let bytes = framed_cbc(&mac, &[3; 55], &counting(100), &counting(32));
        assert!(checked_cbc(&mac, &[4; 55], &bytes).is_none());
        assert!(checked_cbc(&Secret::random(), &[3; 55], &bytes).is_none());
        assert!(checked_cbc(&mac, &[3; 55], &bytes[..79]).is_none());
        assert!(checked_cbc(&mac, &[3; 55], &[&bytes[..], &[0]].concat()).is_none());
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(checked_cbc(&mac, &[3; 55], &altered).is_none(), "byte {at}");
        }
    }

    fn opened(
        key: &PrivateKey,
        algorithm: WrapAlgorithm,
        context: &[u8],
        wrapped: &[u8],
    ) -> Option<Secret<32>> {
        let text = match algorithm {
            WrapAlgorithm::RsaOaepSha256 => {
                DecryptingKey::<Sha256>::new_with_label(key.clone(), context.to_vec())
                    .decrypt(wrapped)
            }
            _ => DecryptingKey::<Sha1>::new(key.clone()).decrypt(wrapped),
        };
        opened_oaep(algorithm, context, &text.ok()?)
    }

    #[test]
    fn oaep_wraps_open_with_the_private_key_and_their_context_only() {
        let key = PrivateKey::new(&mut getrandom::SysRng, 2048).unwrap();
        let modulus = key.n().to_be_bytes();
        let public = parse_public(&[&[0, 0], &modulus[..]].concat(), &[1, 0, 1]).unwrap();
        let [right, wrong] =
            [1, 2].map(|id| context(Purpose::VolumeKey, &VolumeId([id; 16]), None, 7));
        for algorithm in [WrapAlgorithm::RsaOaepSha256, WrapAlgorithm::RsaOaepSha1] {
            let secret = Secret::random();
            let wrapped = wrap_oaep(&public, algorithm, &right, &secret).unwrap();
            assert_eq!(wrapped.len(), 256);
            assert!(
                opened(&key, algorithm, &right, &wrapped)
                    .unwrap()
                    .ct_eq(&secret)
            );
            assert!(opened(&key, algorithm, &wrong, &wrapped).is_none());
        }
        let no_zero_at_the_end = [9; 55];
        let refused = wrap_oaep(
            &public,
            WrapAlgorithm::RsaOaepSha256,
            &no_zero_at_the_end,
            &Secret::random(),
        );
        assert!(
            matches!(refused, Err(KeyError::InvalidState(_))),
            "a TPM could not open it"
        );
    }

    #[test]
    fn refuses_public_keys_that_are_none() {
        assert!(parse_public(&[], &[]).is_err());
        assert!(parse_public(&[0; 256], &[1, 0, 1]).is_err());
        assert!(parse_public(&[0xff; 64], &[1, 0, 1]).is_err(), "512 bits");
    }
}
