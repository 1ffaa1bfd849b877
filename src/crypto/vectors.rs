//! Published vectors for every primitive, and our GCM-SIV and XTS, wide and portable, against the crates `aes-gcm-siv` and
//! `xts-mode`. The files are in `tests/data/vectors`.

use aes::cipher::KeyInit;
use aes_gcm_siv::aead::AeadInOut;
use aes_siv::siv::{Aes128Siv, Aes256Siv};
use proptest::prelude::*;

use super::*;

#[test]
fn aes_256_gcm_siv_as_in_rfc_8452() {
    let vectors = lines(include_str!("../../tests/data/vectors/gcm_siv.txt"));
    assert_eq!(vectors.len(), 24);
    for fields in vectors {
        let [key, nonce, aad, text, sealed, tag] = fields.try_into().expect("six fields");
        let (nonce, tag) = (
            nonce.try_into().expect("12 bytes"),
            tag.try_into().expect("16 bytes"),
        );
        for cipher in both_siv(&key) {
            let mut buf = text.clone();
            assert_eq!(cipher.seal(&nonce, &aad, &mut buf), tag);
            assert_eq!(buf, sealed);
            assert_eq!(cipher.open(&nonce, &aad, &mut buf, &tag), Ok(()));
            assert_eq!(buf, text);
            let mut forged = tag;
            forged[15] ^= 0x80;
            buf.clone_from(&sealed);
            assert_eq!(
                cipher.open(&nonce, &aad, &mut buf, &forged),
                Err(NotAuthentic)
            );
            assert_eq!(buf, sealed, "no plaintext after an error");
        }
    }
}

#[test]
fn aes_256_xts_as_in_ieee_1619_and_nist() {
    let mut count = 0;
    for line in include_str!("../../tests/data/vectors/xts.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let [key, unit, text, sealed] = line
            .split(' ')
            .collect::<Vec<_>>()
            .try_into()
            .expect("four fields");
        let unit = unit.parse().expect("a number");
        let (text, sealed) = (unhex(text), unhex(sealed));
        for cipher in both_xts(&unhex(key)) {
            let mut page = vec![0; 4096];
            page[..text.len()].copy_from_slice(&text);
            cipher.encrypt(unit, &mut page);
            assert_eq!(page[..text.len()], sealed);
            cipher.decrypt(unit, &mut page);
            assert_eq!(page[..text.len()], text);
        }
        count += 1;
    }
    assert_eq!(count, 5 + 75);
}

#[test]
fn aes_siv_as_in_rfc_5297() {
    let vectors = lines(include_str!("../../tests/data/vectors/siv.txt"));
    assert_eq!(vectors.len(), 5);
    for fields in vectors {
        let [key, text, sealed, headers @ ..] = &fields[..] else {
            panic!("three fields and headers")
        };
        let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
        let made = match key.len() {
            32 => Aes128Siv::new_from_slice(key)
                .expect("a key")
                .encrypt(&headers, text),
            _ => Aes256Siv::new_from_slice(key)
                .expect("a key")
                .encrypt(&headers, text),
        };
        assert_eq!(made.as_deref(), Ok(&sealed[..]));
        let Some(key) = Secret::from_slice(key) else {
            continue;
        };
        let siv = Siv::new(&key);
        assert_eq!(siv.seal(&headers, text), *sealed);
        assert_eq!(siv.open(&headers, sealed).as_deref(), Ok(&text[..]));
        assert_eq!(siv.open(&headers[1..], sealed), Err(NotAuthentic));
        assert_eq!(siv.open(&headers, &sealed[..15]), Err(NotAuthentic));
    }
}

#[test]
fn hkdf_sha256_as_in_rfc_5869() {
    let long = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
    let cases = [
        (
            vec![0x0b; 22],
            unhex("000102030405060708090a0b0c"),
            unhex("f0f1f2f3f4f5f6f7f8f9"),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            long(0, 0x4f),
            long(0x60, 0xaf),
            long(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f\
             09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (ikm, salt, info, okm) in cases {
        let okm = unhex(okm);
        let mut derived = vec![0; okm.len()];
        let hkdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(&salt), &ikm);
        hkdf.expand(&info, &mut derived)
            .expect("a length that HKDF gives");
        assert_eq!(derived, okm);
    }
}

#[test]
fn argon2id_as_in_rfc_9106() {
    use argon2::{Algorithm, Argon2, AssociatedData, ParamsBuilder, Version};
    let data = AssociatedData::new(&[4; 12]).expect("12 bytes");
    let params = ParamsBuilder::new()
        .m_cost(32)
        .t_cost(3)
        .p_cost(4)
        .data(data)
        .build()
        .expect("parameters");
    let secret = [3; 8];
    let argon2 = Argon2::new_with_secret(&secret, Algorithm::Argon2id, Version::V0x13, params)
        .expect("a secret");
    let mut tag = [0; 32];
    argon2
        .hash_password_into(&[1; 32], &[2; 16], &mut tag)
        .expect("a hash");
    assert_eq!(
        tag[..],
        unhex("0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659")
    );
}

#[test]
fn xts_refuses_equal_halves() {
    let key = Secret::from_bytes(&mut [7; 64]);
    assert_eq!(Xts::new(&key).err(), Some(EqualHalves));
    assert_eq!(Xts::portable(&key).err(), Some(EqualHalves));
}

#[test]
fn mac_parts_do_not_run_into_each_other() {
    let key = Secret::from_bytes(&mut [1; 32]);
    assert_ne!(
        mac16(&key, &[b"label", b"ab", b"c"]),
        mac16(&key, &[b"label", b"a", b"bc"])
    );
    assert_ne!(
        mac16(&key, &[b"label", b"a"]),
        mac16(&key, &[b"label", b"a", b""])
    );
    let tag = mac16(&key, &[b"label", b"a"]);
    assert!(verify16(&key, &[b"label", b"a"], &tag));
    assert!(!verify16(&key, &[b"other", b"a"], &tag));
    assert!(verify32(&key, &[b"a"], &mac32(&key, &[b"a"])));
    assert!(!verify32(&key, &[b"a"], &mac32(&key, &[b"b"])));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batched_xts_equals_the_plain_one(
        key in prop::array::uniform32(any::<u8>()).prop_flat_map(|a| prop::array::uniform32(any::<u8>()).prop_map(move |b| [a, b])),
        // Also where the unit number passes 2^32, and in batches that are not full.
        first in prop_oneof![0..1u64 << 40, (1u64 << 32) - 4..(1u64 << 32) + 4],
        units in 1usize..14,
        seed: u64,
    ) {
        prop_assume!(key[0] != key[1]);
        let [text_half, tweak_half] = key.map(|half| aes::Aes256::new(&half.into()));
        let plain = xts_mode::Xts128::new(text_half, tweak_half);
        let text = noise(seed, units * 4096);
        let mut expected = text.clone();
        plain.encrypt_area(&mut expected, 4096, u128::from(first), |unit| unit.to_le_bytes().into());
        for ours in both_xts(key.as_flattened()) {
            let mut pages = text.clone();
            ours.encrypt(first, &mut pages);
            prop_assert_eq!(&pages, &expected);
            ours.decrypt(first, &mut pages);
            prop_assert_eq!(&pages, &text);
        }
    }

    #[test]
    fn batched_gcm_siv_equals_the_plain_one(
        key in prop::array::uniform32(any::<u8>()),
        // Around the sizes that are worked on at once, and blocks as they are written.
        lens in prop::collection::vec((len(4096 + 300), len(400)), 0..12),
        forged in any::<prop::sample::Index>(),
        seed: u64,
    ) {
        let plain = aes_gcm_siv::Aes256GcmSiv::new(&key.into());
        let made: Vec<Sealed> = (0..).zip(&lens).map(|(number, (text, aad))| {
            let mut sealed = Sealed {
                nonce: noise(seed ^ number << 9, 12).try_into().expect("12 bytes"),
                aad: noise(seed ^ number << 17, *aad),
                text: noise(seed ^ number << 25, *text),
                ..Sealed::default()
            };
            sealed.sealed.clone_from(&sealed.text);
            let tag = plain.encrypt_inout_detached(&sealed.nonce.into(), &sealed.aad, sealed.sealed.as_mut_slice().into());
            sealed.tag = tag.expect("a short text").into();
            sealed
        }).collect();
        let bad = (!made.is_empty()).then(|| forged.index(made.len()));
        for (ours, apart) in both_siv(&key).iter().flat_map(|ours| [(ours, false), (ours, true)]) {
            // Apart, whatever stands in the texts before counts for nothing.
            let mut texts: Vec<Vec<u8>> = made.iter().map(|one| vec![seed as u8; one.text.len()]).collect();
            let mut messages: Vec<_> = made.iter().zip(&mut texts).map(|(one, text)| one.message(&one.text, text, apart)).collect();
            ours.seal_all(&mut messages);
            let tags: Vec<_> = messages.iter().map(|message| message.tag).collect();
            for ((one, text), tag) in made.iter().zip(&texts).zip(tags) {
                prop_assert_eq!(text, &one.sealed);
                prop_assert_eq!(tag, one.tag);
            }
            texts.iter_mut().for_each(|text| text.fill(!seed as u8));
            let mut messages: Vec<_> = made.iter().zip(&mut texts).map(|(one, text)| one.message(&one.sealed, text, apart)).collect();
            for (one, message) in made.iter().zip(&mut messages) {
                message.tag = one.tag;
            }
            if let Some(bad) = bad {
                messages[bad].tag[seed as usize % 16] ^= 1 << (seed >> 8 & 7);
            }
            let failed = ours.open_all(&mut messages);
            prop_assert_eq!(failed, bad.into_iter().collect::<Vec<_>>());
            for (number, (one, text)) in made.iter().zip(&texts).enumerate() {
                prop_assert_eq!(text, if Some(number) == bad { &one.sealed } else { &one.text });
            }
        }
    }
}

/// A message that the other implementation sealed.
#[derive(Default)]
struct Sealed {
    nonce: [u8; 12],
    aad: Vec<u8>,
    text: Vec<u8>,
    sealed: Vec<u8>,
    tag: [u8; 16],
}

impl Sealed {
    /// To be worked on where `text` is, into which `source` is copied, or `apart`, from `source`.
    fn message<'a>(
        &'a self,
        source: &'a [u8],
        text: &'a mut [u8],
        apart: bool,
    ) -> Message<'a, &'a [u8]> {
        if !apart {
            text.copy_from_slice(source);
        }
        Message {
            nonce: self.nonce,
            aad: &self.aad,
            text,
            from: apart.then_some(source),
            tag: [0; 16],
        }
    }
}

/// Lengths up to `max`, many of them near a multiple of 128, and whole blocks of a file.
fn len(max: usize) -> impl Strategy<Value = usize> {
    let near = (0..max / 128, 0usize..5)
        .prop_map(|(chunks, more)| (chunks * 128 + more).saturating_sub(2));
    prop_oneof![0..max, near, Just(4096.min(max))]
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (seed.wrapping_mul(2 * i as u64 + 1) >> 56) as u8)
        .collect()
}

/// What this processor has, and what all have.
fn both_siv(key: &[u8]) -> [GcmSiv; 2] {
    let key = Secret::from_slice(key).expect("32 bytes");
    [GcmSiv::new(&key), GcmSiv::portable(&key)]
}

/// The same for XTS.
fn both_xts(key: &[u8]) -> [Xts; 2] {
    let key = Secret::from_slice(key).expect("64 bytes");
    [Xts::new(&key), Xts::portable(&key)].map(|made| made.expect("halves differ"))
}

fn lines(file: &str) -> Vec<Vec<Vec<u8>>> {
    let vectors = file.lines().filter(|line| !line.starts_with('#'));
    vectors
        .map(|line| line.split(' ').map(unhex).collect())
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).expect("a hex digit") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
