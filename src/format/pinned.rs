//! The format, held fast: every derived value and every byte that is written, against constants that
//! `tests/data/derived.py` computes from `docs/FORMAT.md` without this crate. A change here is a new format version.

use sha2::{Digest, Sha256};

use super::header::*;
use super::ids::*;
use super::json::hex;
use super::names::*;
use super::record::*;
use super::redo;
use super::suite::{Envelope, Suite};
use super::volume_keys::VolumeKeys;
use super::wrap::{Purpose, WrapAlgorithm, context, software_unwrap, software_wrap};
use crate::crypto::{GcmSiv, Secret, hkdf, mac32};

const VOLUME_ID: VolumeId = VolumeId([0xA0; 16]);
const FILE: FileId = FileId([0xB0; 16]);
const DIR: DirId = DirId([0xC0; 16]);
const KEY: KeyId = KeyId([0xD0; 16]);
const STORED: &[u8] = b"stored-name";

fn secret(byte: u8) -> Secret<32> {
    Secret::from_bytes(&mut [byte; 32])
}

fn header() -> Secret<32> {
    header_key(&secret(2), &secret(3), &FILE)
}

fn keys() -> VolumeKeys {
    VolumeKeys::derive(&secret(1), &VOLUME_ID)
}

#[track_caller]
fn is(bytes: &[u8], expected: &str) {
    assert_eq!(hex::encode(bytes), expected);
}

#[test]
fn volume_keys() {
    let of = |purpose: &[u8]| *hkdf::<64>(&[secret(1).expose()], &VOLUME_ID.0, &[purpose]).expose();
    is(
        &of(b"name"),
        "8cbc6b30f7c654ac6b7cad7213ebc4957b834e71e701363937fded134a892284\
         89b03c7584c7384e347c6b0ea0d5f10b10c3f07cb89452080f2694f92a876b4a",
    );
    is(
        keys().dir.expose(),
        "78402609edd3cfd1ee10a3cd5f2ebda14b5e31f7e9f46066f42f4e40bcd8820d",
    );
    is(
        keys().mac.expose(),
        "32beb08cfc42444788922992d105b2b4d7c484bc84348351e9d14ca5daac32ba",
    );
    is(&keys().pin, "e5d17b15773b7676045d9c994bad5404");
    is(
        keys().bind.expose(),
        "c85489617871c010c6bf17e5d8db30803af49d99a68a0a83344f6d2a0464ffd1",
    );
}

#[test]
fn file_keys() {
    is(
        header().expose(),
        "7b1526aeb1e7fc228254d379a9a2634759c46c0e27d57e55fbe9fc7d99be3e96",
    );
    is(
        content_key_gcm(&secret(2), &FILE).expose(),
        "8c7c5c85dbdaeb9e2f571636cb8c2fc1e30560ac8272944019353add376bb3b7",
    );
    is(
        content_key_xts(&secret(2), &FILE).expose(),
        "55519343301d4f2de05369774909604403cd89b5b5c0eb86219509422c988be2\
         c9f46690f5e10c0d0c7e8f2355ecb9fe3f322948870a4593b214b61ef460308b",
    );
}

#[test]
fn core_and_commitment() {
    let mut core = Core {
        suite: Suite::Gcm,
        volume: VOLUME_ID,
        file: FILE,
        commitment: [0; 32],
    };
    core.commitment = commitment(&secret(2), &secret(3), &core.encode());
    is(
        &core.commitment,
        "ce9521aba81d12984d9282adadbc4e8ac675985eadce6cff689bf9fb81c100c3",
    );
    let bytes = core.encode();
    is(
        &Sha256::digest(bytes),
        "d81126fefc26ab506f560231719e6079254e514d991edf780865a7f23ac3dc5c",
    );
    assert_eq!(Core::parse(&bytes), Ok(core));
    assert_eq!(verify_commitment(&secret(2), &secret(3), &bytes), Ok(()));
    assert!(
        verify_commitment(&secret(2), &secret(4), &bytes).is_err(),
        "another volume's bind"
    );
    assert!(
        verify_commitment(&secret(4), &secret(3), &bytes).is_err(),
        "another data key"
    );
}

#[test]
fn key_area() {
    let area = KeyArea {
        sequence: 7,
        envelope: Envelope::Direct,
        algorithm: WrapAlgorithm::AesGcmSiv,
        key_version: 3,
        key_id: KEY,
        wrapped: (0..60).collect(),
    };
    let bytes = area.encode(&header(), &FILE);
    is(
        &Sha256::digest(bytes),
        "85e4dd9483d128820812da8e0eca8b60709db13295d28274c435a69d7bb656b9",
    );
    assert_eq!(KeyArea::parse(&bytes), Ok(Some(area)));
    assert_eq!(KeyArea::verify(&bytes, &header(), &FILE), Ok(()));
}

#[test]
fn state_and_name_tag() {
    let tag = name_tag(&header(), &FILE, &DIR, STORED);
    is(&tag, "375f748e7ef5d51255073b62cc20e118");
    let state = State {
        size: 123_456_789,
        flags: StateFlags {
            sparse: true,
            unbound: false,
            unsettled: true,
        },
        epoch: 9,
        sequence: 5,
        sparse: (2, 4),
        settled_epoch: 8,
        tags: vec![tag, [0xEE; 16]],
    };
    let bytes = state.encode(&header(), &FILE);
    is(
        &Sha256::digest(bytes),
        "3a64d0cf02e312b08bbcc8a091919a1bb509321990fb68eece499994eb35ae1f",
    );
    assert_eq!(State::parse(&bytes, &header(), &FILE), Ok(Some(state)));
}

#[test]
fn record_and_block() {
    let data = Half {
        nonce: [0x11; 12],
        tag: [0x22; 16],
        slot: 5,
        kind: Kind::Data,
        sequence: 0x1234,
    };
    let hole = Half {
        nonce: [0x33; 12],
        tag: [0x44; 16],
        slot: 0,
        kind: Kind::Hole,
        sequence: 0x1235,
    };
    let record = Record {
        halves: [Some(data), Some(hole)],
    };
    is(
        &record.encode(),
        "1111111111111111111111112222222222222222222222222222222205013412\
         3333333333333333333333334444444444444444444444444444444400023512",
    );
    assert_eq!(Record::parse(&record.encode()), Ok(record));
    assert_eq!(record.newest(), Some(1));
    let aad = block_aad(Kind::Data, 77, &FILE);
    is(
        &aad,
        "626c6f636b014d00000000000000b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0",
    );
    let mut text = *b"text";
    let tag = GcmSiv::new(&content_key_gcm(&secret(2), &FILE)).seal(&[0x11; 12], &aad, &mut text);
    is(
        &[&text[..], &tag].concat(),
        "366ddfa7e9377c91e829f0080fa7bb2c26d89339",
    );
}

#[test]
fn redo_entry() {
    let entry = redo::Entry {
        file: FILE,
        block: 77,
    };
    is(
        &entry.encode(),
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b04d0000000000000000000000beef8903",
    );
    assert_eq!(redo::LEN, 33 * 4096);
    assert_eq!(
        (redo::entry_offset(3), redo::copy_offset(3)),
        (96, 4 * 4096)
    );
}

#[test]
fn wraps() {
    is(
        &context(Purpose::DataKey, &VOLUME_ID, Some(&FILE), 0),
        "7374726f6e67726f6f6d2f312f777261700001a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0\
         b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b000000000",
    );
    let bound = context(Purpose::VolumeKey, &VOLUME_ID, None, 6);
    is(
        &bound,
        "7374726f6e67726f6f6d2f312f777261700002a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0\
         0000000000000000000000000000000006000000",
    );
    let kek = GcmSiv::new(&secret(9));
    let wrapped = software_wrap(&kek, &bound, &secret(2));
    assert_eq!(wrapped.len(), super::wrap::SOFTWARE_WRAP_LEN);
    assert!(software_unwrap(&kek, &bound, &wrapped).is_ok_and(|key| key.ct_eq(&secret(2))));
    let other = context(Purpose::VolumeKey, &VOLUME_ID, None, 7);
    assert!(
        software_unwrap(&kek, &other, &wrapped).is_err(),
        "another context"
    );
    assert!(
        software_unwrap(&GcmSiv::new(&secret(8)), &bound, &wrapped).is_err(),
        "another key"
    );
}

#[test]
fn directories() {
    let root = root_dir_id(&keys().dir, &VOLUME_ID);
    is(&root.0, "830b866c3193d5dc528e408d5ac754b0");
    is(
        &child_dir_id(&keys().dir, &root, STORED).0,
        "839b5e05f0d6345c2d1e0482bce0556d",
    );
    let place = place_tag(&keys().dir, &DIR, &root, STORED);
    is(&place, "d87ec9d68879cc78ab9eca44f98ca8c8");
    let file = DirFile {
        id: DIR,
        places: vec![[1; 16], place],
    };
    assert_eq!(DirFile::parse(&file.encode()), Ok(file.clone()));
    assert_eq!(file.fits(&keys().dir, &root, STORED), Ok(()));
    assert!(file.fits(&keys().dir, &root, b"elsewhere").is_err());
}

#[test]
fn names() {
    let root = root_dir_id(&keys().dir, &VOLUME_ID);
    let short = seal_name(&keys().name, &root, "Grüße.txt".as_bytes());
    assert_eq!(
        short,
        StoredName {
            entry: b"0D9tiNqpvJvTpRnMfxGCZKp0cqthZWaxkgtq".to_vec(),
            long: None
        }
    );
    let long = seal_name(&keys().name, &root, &[b'n'; 176]);
    assert_eq!(
        long.entry,
        b"strongroom.long.22leCZrhYvGpVLacq9u9Cg0gBKBCYuUyOCGzBBqRY1s"
    );
    assert_eq!(
        gone_marker(STORED),
        b"strongroom.gone.mEISQQ5bHXiEl_tD_FJBq_U36RcXIqQitf67BHR7Te4"
    );
}

#[test]
fn symlinks_and_xattrs() {
    let stored = seal_xattr_name(&keys().xattr_name, b"user.colour");
    assert_eq!(
        stored,
        b"user.strongroom.gB5_X-D6Dyra6dhlazbVmWVzJYrCROBchFYQ"
    );
    assert_eq!(
        open_xattr_name(&keys().xattr_name, &stored),
        Ok(b"user.colour".to_vec())
    );
    let value =
        hex::decode(b"555555555555555555555555555555555ff5e57d6c155f6afe1b65106db474ebe5cc4eab");
    let value = value.expect("hex");
    assert_eq!(
        open_xattr_value(&keys().xattr_value, &stored, &value),
        Ok(b"blue".to_vec())
    );
    assert!(
        open_xattr_value(&keys().xattr_value, b"user.strongroom.AA", &value).is_err(),
        "under another name"
    );
    let target = b"VVVVVVVVVVVVVVVVVVVVVani8Vcrled0PutKF5SpY4XYzfknWYsZHS0";
    assert_eq!(
        open_symlink(&keys().symlink, target),
        Ok(b"../target".to_vec())
    );
    assert!(
        open_symlink(&keys().name, target).is_err(),
        "names may not stand in for targets"
    );
}

#[test]
fn framing_of_the_mount_file() {
    is(
        &mac32(&keys().mac, &[b"mount", b"{}"]),
        "dceb7d1acab7aedd38b578f1be151b80803a1599e68f90c5ccf37ff1238635f9",
    );
}
