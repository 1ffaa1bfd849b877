//! Bytes from an enemy: random ones, and valid ones with a bit flipped, cut or grown, through every parser.

use proptest::prelude::*;

use super::header::*;
use super::ids::*;
use super::mount_file::MountFile;
use super::names::*;
use super::record::*;
use super::redo;
use super::suite::{Envelope, Suite};
use super::volume_file::*;
use super::wrap::{WrapAlgorithm, software_unwrap, software_wrap};
use super::{FormatError, layout};
use crate::crypto::{GcmSiv, Secret, Siv, mac32};

const FILE: FileId = FileId([0xB0; 16]);
const PARENT: DirId = DirId([0xC0; 16]);

fn key(byte: u8) -> Secret<32> {
    Secret::from_bytes(&mut [byte; 32])
}

fn siv() -> Siv {
    Siv::new(&Secret::from_bytes(&mut [6; 64]))
}

fn area() -> KeyArea {
    KeyArea {
        sequence: 7,
        envelope: Envelope::Direct,
        algorithm: WrapAlgorithm::AesGcmSiv,
        key_version: 3,
        key_id: KeyId([0xD0; 16]),
        wrapped: (0..60).collect(),
    }
}

fn state() -> State {
    State {
        size: 70_000,
        flags: StateFlags {
            sparse: true,
            unbound: false,
            unsettled: true,
        },
        epoch: 9,
        sequence: 5,
        sparse: (0, 1),
        settled_epoch: 8,
        tags: vec![[0xEE; 16]; 12],
    }
}

fn entry(current: bool, id: u8) -> KeyEntry {
    KeyEntry {
        provider: "software".to_owned(),
        key: KeyId([id; 16]),
        home: None,
        envelope: Envelope::Direct,
        versions: vec![KeyVersion(1), KeyVersion(4)],
        wraps_with: KeyVersion(4),
        algorithms: vec![WrapAlgorithm::AesGcmSiv],
        current,
    }
}

fn volume_file() -> VolumeFile {
    VolumeFile {
        format: VolumeFile::FORMAT,
        volume: VolumeId([0xA0; 16]),
        suite: Suite::Gcm,
        bind_names: true,
        no_sparse: false,
        generation: 3,
        keys: vec![entry(false, 1), entry(true, 2)],
        volume_secret: WrappedSecret {
            version: KeyVersion(1),
            algorithm: WrapAlgorithm::AesGcmSiv,
            bytes: vec![5; 60],
        },
        volume_keys: Vec::new(),
        created: 1_700_000_000,
    }
}

fn mount_file() -> MountFile {
    MountFile {
        epoch: 9,
        clean: false,
        boot_id: "boot".to_owned(),
        start: 1,
        listed: vec![2, 5, 8],
    }
}

fn flip<const N: usize>(bytes: &[u8; N], bit: usize) -> [u8; N] {
    let mut flipped = *bytes;
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

fn read_volume(bytes: &[u8]) -> super::error::Result<VolumeFile> {
    VolumeFile::parse_unverified(bytes)?.verify(&key(4))
}

/// The file with another JSON text, rightly signed: what only the rules of its content can refuse.
fn signed(json: &str, label: &[u8]) -> Vec<u8> {
    let mac = super::json::hex::encode(&mac32(&key(4), &[label, json.as_bytes()]));
    format!("{json}\n{mac}\n").into_bytes()
}

fn json_of(bytes: &[u8]) -> String {
    String::from_utf8(bytes[..bytes.len() - 66].to_vec()).expect("JSON is UTF-8")
}

#[test]
fn refuses_every_flipped_bit_of_a_header() {
    let core = Core {
        suite: Suite::Gcm,
        volume: VolumeId([1; 16]),
        file: FILE,
        commitment: [0; 32],
    }
    .encode();
    let proof = commitment(&key(1), &key(2), &core);
    let core = Core {
        commitment: proof,
        ..Core::parse(&core).expect("valid")
    }
    .encode();
    let (area, state) = (
        area().encode(&key(3), &FILE),
        state().encode(&key(3), &FILE),
    );
    for bit in 0..8 * SECTOR {
        let flipped = flip(&core, bit);
        assert!(
            Core::parse(&flipped).is_err()
                || verify_commitment(&key(1), &key(2), &flipped).is_err(),
            "core bit {bit}"
        );
        assert!(
            KeyArea::verify(&flip(&area, bit), &key(3), &FILE).is_err(),
            "area bit {bit}"
        );
    }
    for bit in (0..8 * 432).chain(8 * 452..8 * SECTOR) {
        assert!(
            KeyArea::parse(&flip(&area, bit)).is_err(),
            "bit {bit} is outside checksum and MAC"
        );
    }
    for bit in 0..8 * STATE_LEN {
        let parsed = State::parse(&flip(&state, bit), &key(3), &FILE);
        assert_eq!(
            parsed,
            Err(FormatError::NotAuthentic("a state")),
            "state bit {bit}"
        );
    }
}

#[test]
fn refuses_a_header_part_of_another_file_or_key() {
    let (area, state) = (
        area().encode(&key(3), &FILE),
        state().encode(&key(3), &FILE),
    );
    for (key, file) in [(key(3), FileId([0; 16])), (key(4), FILE)] {
        assert!(KeyArea::verify(&area, &key, &file).is_err());
        assert!(State::parse(&state, &key, &file).is_err());
    }
}

#[test]
fn takes_zeros_for_nothing_written() {
    assert_eq!(KeyArea::parse(&[0; 512]), Ok(None));
    assert_eq!(State::parse(&[0; 256], &key(3), &FILE), Ok(None));
    assert_eq!(Record::parse(&[0; 64]), Ok(Record::default()));
    assert_eq!(Core::parse(&[0; 512]), Err(FormatError::NotStrongroom));
}

#[test]
fn refuses_states_that_nobody_writes() {
    let edits: [fn(&mut State); 5] = [
        |state| state.size = layout::MAX_SIZE + 1,
        |state| state.sequence = 0,
        |state| state.settled_epoch = 10,
        |state| state.sparse = (2, 1),
        |state| state.flags.sparse = false,
    ];
    for edit in edits {
        let mut state = state();
        edit(&mut state);
        let bytes = state.encode(&key(3), &FILE);
        assert!(
            matches!(
                State::parse(&bytes, &key(3), &FILE),
                Err(FormatError::Range(_))
            ),
            "{state:?}"
        );
    }
}

#[test]
fn keeps_the_durable_half_beside_a_torn_one() {
    let whole = Half {
        nonce: [1; 12],
        tag: [2; 16],
        slot: 3,
        kind: Kind::Data,
        sequence: 4,
    };
    let mut bytes = Record {
        halves: [Some(whole), None],
    }
    .encode();
    bytes[32..44].fill(9);
    assert!(Record::parse(&bytes).is_err());
    assert_eq!(Record::parse_in_doubt(&bytes).halves, [Some(whole), None]);
}

#[test]
fn an_entry_of_the_redo_file_holds_as_it_was_written_or_not_at_all() {
    let entry = redo::Entry {
        file: FILE,
        block: 77,
    };
    let bytes = entry.encode();
    assert_eq!(redo::Entry::parse(&bytes), Ok(Some(entry)));
    assert_eq!(redo::Entry::parse(&[0; redo::ENTRY_LEN]), Ok(None));
    for bit in 0..8 * redo::ENTRY_LEN {
        let parsed = redo::Entry::parse(&flip(&bytes, bit));
        assert!(parsed.is_err(), "bit {bit}: {parsed:?}");
    }
    for caught in 1..redo::ENTRY_LEN {
        let mut torn = [0; redo::ENTRY_LEN];
        torn[..caught].copy_from_slice(&bytes[..caught]);
        assert!(redo::Entry::parse(&torn).is_err(), "{caught} bytes");
    }
}

#[test]
fn orders_sequences_across_their_wrap() {
    assert!(newer(1, 0) && !newer(0, 1) && !newer(7, 7));
    assert!(newer(0, u16::MAX) && !newer(u16::MAX, 0));
}

#[test]
fn names_of_every_length_come_back() {
    for len in 1..=255 {
        let name = vec![0xFF; len];
        let stored = seal_name(&siv(), &PARENT, &name);
        assert!(stored.entry.len() <= 255);
        assert_eq!(stored.long.is_some(), len > 175, "{len}");
        let class = if stored.long.is_some() {
            EntryClass::Long
        } else {
            EntryClass::Name
        };
        assert_eq!(classify(&stored.entry), class);
        assert_eq!(
            classify(&side_file(&stored.entry)) == EntryClass::SideFile,
            stored.long.is_some()
        );
        assert_eq!(
            open_name(&siv(), &PARENT, &stored.entry, stored.long.as_deref()),
            Ok(name)
        );
        assert!(
            open_name(
                &siv(),
                &DirId([0; 16]),
                &stored.entry,
                stored.long.as_deref()
            )
            .is_err()
        );
    }
}

#[test]
fn refuses_another_spelling_of_a_name() {
    // One byte: 17 bytes of ciphertext are 23 characters, the last with two bits to spare.
    let stored = seal_name(&siv(), &PARENT, b"n").entry;
    let refused = |entry: &[u8]| open_name(&siv(), &PARENT, entry, None).is_err();
    let last = *stored.last().expect("not empty");
    let others = (0u8..=255).filter(|byte| *byte != last);
    for byte in others {
        let mut respelled = stored.clone();
        *respelled.last_mut().expect("not empty") = byte;
        assert!(refused(&respelled), "ends in {byte}");
    }
    assert!(refused(&[&stored[..], b"="].concat()));
    assert!(refused(&[&stored[..], b"\n"].concat()));
    assert!(refused(&stored[1..]));
}

#[test]
fn refuses_a_side_file_of_another_name() {
    let (one, two) = (
        seal_name(&siv(), &PARENT, &[b'a'; 200]),
        seal_name(&siv(), &PARENT, &[b'b'; 200]),
    );
    assert!(open_name(&siv(), &PARENT, &one.entry, two.long.as_deref()).is_err());
    assert!(open_name(&siv(), &PARENT, &one.entry, None).is_err());
}

#[test]
fn refuses_names_that_reach_beyond_their_directory() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        let stored = seal_name(&siv(), &PARENT, name).entry;
        assert_eq!(
            open_name(&siv(), &PARENT, &stored, None),
            Err(FormatError::Range("a decrypted name"))
        );
    }
}

#[test]
fn knows_its_own_files() {
    let internal = [
        VOLUME,
        VOLUME_OLD,
        REDO,
        MOUNT,
        LOCK,
        DIR_FILE,
        b"strongroom.",
        b"strongroom.long.short",
    ];
    let made = [random_tmp(), random_lost(), gone_marker(b"x")];
    for entry in internal.into_iter().chain(made.iter().map(Vec::as_slice)) {
        assert_eq!(classify(entry), EntryClass::Internal);
    }
    assert!(is_gone_marker(&gone_marker(b"x")) && !is_gone_marker(&random_tmp()));
    assert_eq!(classify(b"strongroom"), EntryClass::Name);
}

#[test]
fn longest_symlinks_and_xattrs_fit() {
    let stored = seal_symlink(&siv(), &[b'/'; SYMLINK_MAX]);
    assert!(stored.len() <= 4095);
    for len in 0..200 {
        let stored = seal_symlink(&siv(), &vec![b'x'; len]);
        assert_eq!(symlink_len(stored.len() as u64), Some(len as u64));
        assert_eq!(open_symlink(&siv(), &stored), Ok(vec![b'x'; len]));
    }
    assert_eq!(seal_xattr_name(&siv(), &[b'x'; 163]).len(), 255);
    assert_eq!(symlink_len(41), None);
}

#[test]
fn volume_file_round_trips_and_needs_its_key() {
    let bytes = volume_file().encode(&key(4)).expect("valid");
    assert_eq!(read_volume(&bytes), Ok(volume_file()));
    let unverified = VolumeFile::parse_unverified(&bytes).expect("valid");
    assert_eq!(unverified.current_key(), Ok(&entry(true, 2)));
    assert_eq!(
        unverified.verify(&key(5)),
        Err(FormatError::NotAuthentic("strongroom.volume"))
    );
}

#[test]
fn refuses_unknown_doubled_missing_and_foreign_fields() {
    let json = json_of(&volume_file().encode(&key(4)).expect("valid"));
    assert!(read_volume(&signed(&json, b"volume")).is_ok());
    assert!(
        read_volume(&signed(&json, b"mount")).is_err(),
        "MAC of the other file"
    );
    let edits = [
        (
            "\"generation\": 3",
            "\"generation\": 3, \"module\": \"/lib/evil.so\"",
        ),
        ("\"generation\": 3", "\"generation\": 3, \"generation\": 4"),
        ("\"generation\": 3,", ""),
        ("\"generation\": 3", "\"generation\": 0"),
        ("\"generation\": 3", "\"generation\": -3"),
        ("\"format\": 1", "\"format\": 2"),
        ("\"aes-256-gcm-siv\"", "\"rot13\""),
        ("\"current\": false", "\"current\": true"),
        ("\"current\": true", "\"current\": false"),
        ("\"wraps_with\": 4", "\"wraps_with\": 5"),
        ("a0a0a0a0", "A0a0a0a0"),
        ("\"0202", "\"02"),
        ("0505", ""),
    ];
    for (from, to) in edits {
        assert!(json.contains(from), "{from} is in the file");
        let edited = json.replacen(from, to, 1);
        // The last edit only shortens a wrapped key, which may have any length up to 400.
        assert_eq!(
            read_volume(&signed(&edited, b"volume")).is_err(),
            from != "0505",
            "{from} → {to}"
        );
    }
    let doubled = VolumeFile {
        keys: vec![entry(false, 2), entry(true, 2)],
        ..volume_file()
    };
    assert!(doubled.encode(&key(4)).is_err());
}

/// A volume on its way from a key of the volume envelope to another: three volume keys, the newest of the current key.
fn moving_file() -> VolumeFile {
    let under = |current, id: u8, versions: &[u32]| KeyEntry {
        envelope: Envelope::Volume,
        versions: versions.iter().copied().map(KeyVersion).collect(),
        wraps_with: KeyVersion(versions[versions.len() - 1]),
        ..entry(current, id)
    };
    let volume_key = |version, id: u8| WrappedVolumeKey {
        version,
        provider: "software".to_owned(),
        key: KeyId([id; 16]),
        key_version: KeyVersion(9),
        algorithm: WrapAlgorithm::RsaOaepSha256,
        bytes: vec![6; 384],
    };
    VolumeFile {
        keys: vec![under(false, 1, &[4, 5]), under(true, 2, &[6])],
        volume_secret: WrappedSecret {
            version: KeyVersion(6),
            ..volume_file().volume_secret
        },
        volume_keys: vec![volume_key(4, 1), volume_key(5, 1), volume_key(6, 2)],
        ..volume_file()
    }
}

#[test]
fn every_version_of_the_volume_envelope_has_its_volume_key() {
    let fine = moving_file().encode(&key(4)).expect("valid");
    assert_eq!(read_volume(&fine), Ok(moving_file()));
    type Edit = (&'static str, fn(&mut VolumeFile));
    let edits: [Edit; 8] = [
        ("a missing volume key", |file| {
            file.volume_keys.remove(0);
        }),
        ("one of another master key", |file| {
            file.volume_keys[0].key = KeyId([2; 16])
        }),
        ("one of another provider", |file| {
            file.volume_keys[1].provider = "pkcs11".to_owned()
        }),
        ("the newest of a key that is not current", |file| {
            file.volume_keys.pop();
            file.volume_secret.version = KeyVersion(5);
        }),
        ("a secret under an older one", |file| {
            file.volume_secret.version = KeyVersion(5)
        }),
        ("new headers under an older one", |file| {
            file.keys[1].versions = vec![KeyVersion(5), KeyVersion(6)];
            file.keys[1].wraps_with = KeyVersion(5);
            file.volume_keys[1].key = KeyId([2; 16]);
            file.keys[0].versions = vec![KeyVersion(4)];
            file.keys[0].wraps_with = KeyVersion(4);
        }),
        ("a version twice", |file| file.volume_keys[1].version = 4),
        ("version 0", |file| file.volume_keys[0].version = 0),
    ];
    for (what, edit) in edits {
        let mut file = moving_file();
        edit(&mut file);
        assert!(file.encode(&key(4)).is_err(), "{what}");
    }
}

#[test]
fn mount_file_keeps_its_list_in_order() {
    let bytes = mount_file().encode(&key(4)).expect("short");
    assert_eq!(MountFile::parse(&bytes, &key(4)), Ok(mount_file()));
    for listed in [vec![5, 2], vec![5, 5], vec![9]] {
        let bytes = MountFile {
            listed,
            ..mount_file()
        }
        .encode(&key(4))
        .expect("short");
        assert!(MountFile::parse(&bytes, &key(4)).is_err());
    }
}

#[test]
fn refuses_deep_and_huge_json() {
    let deep = "[".repeat(100_000);
    assert!(VolumeFile::parse_unverified(&signed(&deep, b"volume")).is_err());
    assert!(VolumeFile::parse_unverified(&vec![b'{'; 2 << 20]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_harm_no_parser(bytes in prop::collection::vec(any::<u8>(), 0..700), page: [u8; 32]) {
        let _ = VolumeFile::parse_unverified(&bytes);
        let _ = MountFile::parse(&bytes, &key(1));
        let _ = DirFile::parse(&bytes);
        let _ = open_symlink(&siv(), &bytes);
        let _ = open_xattr_name(&siv(), &bytes);
        let _ = open_xattr_value(&siv(), b"n", &bytes);
        let _ = classify(&bytes);
        let _ = Half::parse(&page);
        prop_assert!(open_name(&siv(), &PARENT, &bytes, None).is_err());
        prop_assert!(open_name(&siv(), &PARENT, &[LONG_PREFIX, &bytes].concat(), Some(&bytes)).is_err());
        prop_assert!(software_unwrap(&GcmSiv::new(&key(1)), b"", &bytes).is_err());
        let sector: Option<&[u8; 512]> = bytes.first_chunk();
        if let Some(sector) = sector {
            prop_assert!(Core::parse(sector).is_err());
            prop_assert!(KeyArea::parse(sector).is_err());
        }
        if let Some(half) = bytes.first_chunk() {
            prop_assert!(State::parse(half, &key(1), &FILE).is_err());
        }
        if let Some(record) = bytes.first_chunk() {
            let lenient = Record::parse_in_doubt(record);
            if let Ok(strict) = Record::parse(record) {
                prop_assert_eq!(strict, lenient);
                prop_assert_eq!(&strict.encode(), record);
            }
        }
    }

    #[test]
    fn a_core_with_random_fields_parses_to_itself(fields: [u8; 32], proof: [u8; 32], gcm: bool) {
        let (volume, file) = fields.split_at(16);
        let core = Core {
            suite: if gcm { Suite::Gcm } else { Suite::Xts },
            volume: VolumeId(volume.try_into().expect("16 bytes")),
            file: FileId(file.try_into().expect("16 bytes")),
            commitment: proof,
        };
        prop_assert_eq!(Core::parse(&core.encode()), Ok(core));
    }

    #[test]
    fn a_changed_byte_of_a_signed_file_is_refused(at: prop::sample::Index, to: u8) {
        let volume = volume_file().encode(&key(4)).expect("valid");
        let mount = mount_file().encode(&key(4)).expect("short");
        for (bytes, is_volume) in [(volume, true), (mount, false)] {
            let mut changed = bytes.clone();
            let at = at.index(changed.len());
            changed[at] = to;
            let refused = if is_volume {
                read_volume(&changed).is_err()
            } else {
                MountFile::parse(&changed, &key(4)).is_err()
            };
            prop_assert_eq!(refused, changed != bytes);
            prop_assert!(read_volume(&bytes[..at]).is_err() && MountFile::parse(&bytes[..at], &key(4)).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_of_sealed_texts_is_refused(text in prop::collection::vec(any::<u8>(), 0..80), at: prop::sample::Index, bit in 0u8..8) {
        let harm = |bytes: &[u8]| {
            let mut harmed = bytes.to_vec();
            harmed[at.index(bytes.len())] ^= 1 << bit;
            harmed
        };
        let value = seal_xattr_value(&siv(), b"name", &text);
        let refused = open_xattr_value(&siv(), b"name", &harm(&value)).is_err();
        prop_assert!(refused);
        prop_assert_eq!(open_xattr_value(&siv(), b"name", &value), Ok(text.clone()));
        let target = seal_symlink(&siv(), &text);
        prop_assert!(open_symlink(&siv(), &harm(&target)).is_err());
        let name = seal_xattr_name(&siv(), &text);
        prop_assert!(open_xattr_name(&siv(), &harm(&name)).is_err());
        let kek = GcmSiv::new(&key(1));
        prop_assert!(software_unwrap(&kek, &text, &harm(&software_wrap(&kek, &text, &key(2)))).is_err());
    }
}
