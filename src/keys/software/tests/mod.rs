//! The keystore's promises, on a memory store: what opens it, what does not, what a change leaves behind.

mod changes;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::format::ids::{KeyId, KeyVersion};
use crate::keys::{KeyError, KeyProvider, KeyState};
use crate::store::{Access, Dir, MemoryStore, Store};

const CHEAP: Argon2Cost = Argon2Cost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};
const CONTEXT: &[u8] = b"a volume and a file";

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(SecretBytes::take(&mut text.as_bytes().to_vec()).unwrap())
}

fn key_file(byte: u8) -> Unlock {
    Unlock::KeyFile(Secret::from_bytes(&mut [byte; 32]))
}

fn recovery(byte: u8) -> Unlock {
    Unlock::RecoveryKey(Secret::from_bytes(&mut [byte; 32]))
}

fn slot(secret: Unlock) -> NewSlot {
    NewSlot {
        label: "test".into(),
        secret,
        cost: CHEAP,
    }
}

fn three_slots() -> Vec<NewSlot> {
    vec![
        slot(passphrase("correct horse")),
        slot(key_file(1)),
        slot(recovery(2)),
    ]
}

struct Disk {
    dir: Arc<dyn Dir>,
    place: Place,
}

impl Disk {
    fn new() -> Self {
        let dir = MemoryStore::new().root();
        Self {
            place: Place::new(Arc::clone(&dir), b"keystore"),
            dir,
        }
    }

    fn with_keystore() -> (Self, Keystore) {
        let disk = Self::new();
        let keystore = Keystore::create(&disk.place, three_slots()).unwrap();
        (disk, keystore)
    }

    fn bytes(&self, name: &[u8]) -> Vec<u8> {
        let file = self.dir.open(name, Access::Read).unwrap();
        let mut bytes = vec![0; file.stat().unwrap().size as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn put(&self, name: &[u8], bytes: &[u8]) {
        let _ = self.dir.remove(name);
        self.dir
            .create(name, 0o600)
            .unwrap()
            .write_at(bytes, 0)
            .unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = self.dir.entries(0).unwrap();
        let mut names: Vec<_> = entries
            .into_iter()
            .map(|entry| String::from_utf8(entry.name).unwrap())
            .collect();
        names.sort();
        names
    }

    fn open(&self, secret: Unlock) -> Result<Keystore, KeystoreError> {
        Keystore::open(&self.place, &[secret])
    }
}

fn default_key(keystore: &Keystore) -> KeyId {
    keystore.resolve(DEFAULT_ALIAS).unwrap()
}

#[test]
fn opens_by_every_slot() {
    let (disk, made) = Disk::with_keystore();
    let key = default_key(&made);
    let (secret, wrapped) = made.generate(&key, KeyVersion(1), CONTEXT).unwrap();
    for unlock in [passphrase("correct horse"), key_file(1), recovery(2)] {
        let keystore = disk.open(unlock).unwrap();
        assert!(
            keystore
                .unwrap(&key, CONTEXT, &wrapped)
                .unwrap()
                .ct_eq(&secret)
        );
        assert_eq!(keystore.slots().len(), 3);
    }
}

#[test]
fn tells_wrong_secrets_from_missing_slots() {
    let (disk, _) = Disk::with_keystore();
    assert!(
        matches!(disk.open(passphrase("wrong")), Err(KeystoreError::WrongSecret(kind)) if kind == "passphrase")
    );
    assert!(
        matches!(disk.open(key_file(9)), Err(KeystoreError::WrongSecret(kind)) if kind == "key file")
    );
    assert!(matches!(
        disk.open(recovery(9)),
        Err(KeystoreError::WrongSecret(_))
    ));
    // One secret does not stand in for another kind of the same bytes.
    assert!(matches!(
        disk.open(recovery(1)),
        Err(KeystoreError::WrongSecret(_))
    ));
    let other = Disk::new();
    Keystore::create(&other.place, vec![slot(key_file(1))]).unwrap();
    assert!(matches!(
        other.open(passphrase("x")),
        Err(KeystoreError::NoSuchSlotKind("passphrase"))
    ));
    assert!(matches!(
        Disk::new().open(key_file(1)),
        Err(KeystoreError::Missing(_))
    ));
    let both = Keystore::open(&disk.place, &[passphrase("wrong"), key_file(1)]);
    assert!(both.is_ok());
}

#[test]
fn never_replaces_a_file_by_a_new_keystore() {
    let (disk, _) = Disk::with_keystore();
    let before = disk.bytes(b"keystore");
    assert!(matches!(
        Keystore::create(&disk.place, three_slots()),
        Err(KeystoreError::Exists(_))
    ));
    assert_eq!(disk.bytes(b"keystore"), before);
    assert_eq!(disk.names(), [".keystore.lock", "keystore"]);
}

#[test]
fn needs_a_slot_for_daily_use() {
    for slots in [vec![], vec![slot(recovery(2))], vec![slot(passphrase(""))]] {
        let made = Keystore::create(&Disk::new().place, slots);
        assert!(matches!(made, Err(KeystoreError::InvalidSecret(_))));
    }
}

#[test]
fn refuses_every_flipped_byte_as_damage() {
    let (disk, _) = Disk::with_keystore();
    let sound = disk.bytes(b"keystore");
    for at in 0..sound.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut bytes = sound.clone();
            bytes[at] ^= bit;
            let refused = file::parse(&bytes, "keystore").map(|_| ()).unwrap_err();
            let expected = matches!(
                refused,
                KeystoreError::Damaged(_)
                    | KeystoreError::NotAKeystore(_)
                    | KeystoreError::NewerFormat(_)
            );
            assert!(expected, "byte {at}: {refused:?}");
        }
    }
    for length in 0..sound.len() {
        assert!(
            file::parse(&sound[..length], "keystore").is_err(),
            "cut to {length}"
        );
    }
}

/// Someone who edits the file can make the check fit; the MAC and the slots must refuse all the same.
#[test]
fn refuses_every_flipped_byte_with_a_fitting_check() {
    let (disk, _) = Disk::with_keystore();
    let sound = disk.bytes(b"keystore");
    let end = sound.len() - "check 01234567\n".len();
    for at in 0..end {
        let mut bytes = sound[..end].to_vec();
        bytes[at] ^= 0x01;
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!("check {check:08x}\n").as_bytes());
        disk.put(b"keystore", &bytes);
        assert!(disk.open(key_file(1)).is_err(), "byte {at}");
    }
}

#[test]
fn knows_a_later_format_and_other_files() {
    let refused = |bytes: &[u8]| file::parse(bytes, "x").map(|_| ()).unwrap_err();
    assert!(matches!(
        refused(b"strongroom keystore 2\n{}\n"),
        KeystoreError::NewerFormat(2)
    ));
    assert!(matches!(refused(b"hello"), KeystoreError::NotAKeystore(_)));
    assert!(matches!(refused(b""), KeystoreError::NotAKeystore(_)));
    assert!(matches!(
        refused(b"strongroom keystore 1\n"),
        KeystoreError::Damaged(_)
    ));
}

#[test]
fn refuses_argon2_parameters_that_would_eat_the_machine() {
    let gib_5 = Argon2Cost {
        memory_kib: 5 << 20,
        passes: 1,
        lanes: 1,
    };
    let long = Argon2Cost {
        memory_kib: 4 << 20,
        passes: 64,
        lanes: 1,
    };
    let zero = Argon2Cost {
        memory_kib: 0,
        passes: 0,
        lanes: 0,
    };
    for cost in [
        gib_5,
        long,
        zero,
        Argon2Cost {
            memory_kib: u32::MAX,
            passes: u32::MAX,
            lanes: u32::MAX,
        },
    ] {
        let (disk, keystore) = Disk::with_keystore();
        assert!(
            keystore
                .add_slot(&NewSlot {
                    label: String::new(),
                    secret: passphrase("a"),
                    cost
                })
                .is_err()
        );
        let mut body = keystore.look().body.clone();
        body.slots[0].kind = SlotKind::Passphrase(cost);
        // Written as an enemy would, around our own bounds, with a check that fits.
        let mut bytes = b"strongroom keystore 1\n".to_vec();
        serde_json::to_writer_pretty(&mut bytes, &body).unwrap();
        bytes.extend_from_slice(format!("\nmac {}\n", "0".repeat(64)).as_bytes());
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!("check {check:08x}\n").as_bytes());
        disk.put(b"keystore", &bytes);
        assert!(
            matches!(
                disk.open(passphrase("correct horse")),
                Err(KeystoreError::Damaged(_))
            ),
            "{cost:?}"
        );
    }
}

#[test]
fn wraps_are_bound_to_key_version_and_context() {
    let (_disk, keystore) = Disk::with_keystore();
    let key = default_key(&keystore);
    let other = keystore.create_key(Some("alias/other")).unwrap();
    assert_eq!(keystore.rotate(&key).unwrap(), KeyVersion(2));
    let (secret, wrapped) = keystore.generate(&key, KeyVersion(1), CONTEXT).unwrap();
    assert_eq!(wrapped.version, KeyVersion(1));
    assert!(
        keystore
            .unwrap(&key, CONTEXT, &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
    let damaged = |key, context, wrapped: &_| {
        matches!(
            keystore.unwrap(key, context, wrapped),
            Err(KeyError::InvalidCiphertext)
        )
    };
    assert!(damaged(&key, b"another file", &wrapped));
    assert!(damaged(&other, CONTEXT, &wrapped));
    assert!(damaged(
        &key,
        CONTEXT,
        &crate::keys::Wrapped {
            version: KeyVersion(2),
            ..wrapped.clone()
        }
    ));
    for at in 0..wrapped.bytes.len() {
        let mut flipped = wrapped.clone();
        flipped.bytes[at] ^= 1;
        assert!(damaged(&key, CONTEXT, &flipped), "byte {at}");
    }
    let unknown = crate::keys::Wrapped {
        version: KeyVersion(3),
        ..wrapped
    };
    assert!(matches!(
        keystore.unwrap(&key, CONTEXT, &unknown),
        Err(KeyError::NotFound(_))
    ));
}

#[test]
fn a_new_version_is_durable_and_old_ones_still_unwrap() {
    let (disk, keystore) = Disk::with_keystore();
    let key = default_key(&keystore);
    let (secret, wrapped) = keystore.generate(&key, KeyVersion(1), CONTEXT).unwrap();
    for expected in 2..30 {
        assert_eq!(keystore.rotate(&key).unwrap(), KeyVersion(expected));
    }
    let again = disk.open(key_file(1)).unwrap();
    let described = again.describe(&key).unwrap();
    assert_eq!(
        (described.current, described.versions.len()),
        (KeyVersion(29), 29)
    );
    assert!(
        again
            .unwrap(&key, CONTEXT, &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
}

#[test]
fn a_disabled_key_does_nothing_until_enabled() {
    let (disk, keystore) = Disk::with_keystore();
    let key = default_key(&keystore);
    let (_, wrapped) = keystore.generate(&key, KeyVersion(1), CONTEXT).unwrap();
    for _ in 0..2 {
        keystore.set_key_state(&key, KeyState::Disabled).unwrap();
    }
    let again = disk.open(key_file(1)).unwrap();
    for keystore in [&keystore, &again] {
        assert!(matches!(
            keystore.generate(&key, KeyVersion(1), CONTEXT),
            Err(KeyError::Disabled(_))
        ));
        assert!(matches!(
            keystore.unwrap(&key, CONTEXT, &wrapped),
            Err(KeyError::Disabled(_))
        ));
        assert!(matches!(keystore.rotate(&key), Err(KeyError::Disabled(_))));
        assert_eq!(keystore.describe(&key).unwrap().state, KeyState::Disabled);
    }
    again.set_key_state(&key, KeyState::Enabled).unwrap();
    assert_eq!(keystore.describe(&key).unwrap().state, KeyState::Enabled);
    assert!(keystore.unwrap(&key, CONTEXT, &wrapped).is_ok());
}

#[test]
fn aliases_are_unique_and_follow_the_rules_of_kms() {
    let (_disk, keystore) = Disk::with_keystore();
    let key = keystore.create_key(Some("alias/a:b/c_d-9")).unwrap();
    assert_eq!(keystore.resolve("alias/a:b/c_d-9").unwrap(), key);
    assert_eq!(keystore.resolve(&key.to_string()).unwrap(), key);
    let unnamed = keystore.create_key(None).unwrap();
    assert_eq!(keystore.resolve(&unnamed.to_string()).unwrap(), unnamed);
    assert!(matches!(
        keystore.create_key(Some(DEFAULT_ALIAS)),
        Err(KeystoreError::AliasTaken(_))
    ));
    for wrong in [
        "",
        "a",
        "alias/",
        "alias/a b",
        "alias/ä",
        "alias/aws/s3",
        "Alias/x",
        &format!("alias/{}", "a".repeat(251)),
    ] {
        assert!(
            matches!(
                keystore.create_key(Some(wrong)),
                Err(KeystoreError::InvalidAlias(_))
            ),
            "{wrong:?}"
        );
    }
    for missing in ["alias/none", "00", &"0".repeat(32), ""] {
        assert!(
            matches!(keystore.resolve(missing), Err(KeystoreError::NoSuchKey(_))),
            "{missing:?}"
        );
    }
}
