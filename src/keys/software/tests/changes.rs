//! What a change of a keystore leaves behind: older generations, removed slots and versions, other processes.

use super::*;

#[test]
fn keeps_one_older_generation() {
    let (disk, keystore) = Disk::with_keystore();
    let first = disk.bytes(b"keystore");
    keystore.create_key(Some("alias/a")).unwrap();
    assert_eq!(disk.bytes(b"keystore.older"), first);
    let second = disk.bytes(b"keystore");
    keystore.create_key(Some("alias/b")).unwrap();
    assert_eq!(disk.bytes(b"keystore.older"), second);
    assert_eq!(
        disk.names(),
        [".keystore.lock", "keystore", "keystore.older"]
    );
    // The older one is a whole keystore.
    disk.put(b"keystore", &second);
    assert_eq!(disk.open(key_file(1)).unwrap().list().len(), 2);
}

#[test]
fn a_destroyed_version_opens_nothing_and_no_copy_stays() {
    let (disk, keystore) = Disk::with_keystore();
    let key = default_key(&keystore);
    let (_, old) = keystore.generate(&key, KeyVersion(1), CONTEXT).unwrap();
    assert!(matches!(
        keystore.destroy_version(&key, KeyVersion(1)),
        Err(KeystoreError::InvalidState(_))
    ));
    keystore.rotate(&key).unwrap();
    let (secret, new) = keystore.generate(&key, KeyVersion(2), CONTEXT).unwrap();
    let before = disk.dir.open(b"keystore", Access::Read).unwrap();
    let older = disk.dir.open(b"keystore.older", Access::Read).unwrap();
    keystore.destroy_version(&key, KeyVersion(1)).unwrap();
    assert_eq!(disk.names(), [".keystore.lock", "keystore"]);
    for copy in [before, older] {
        let mut bytes = vec![1; 100];
        assert_eq!(copy.read_at(&mut bytes, 0).unwrap(), 100);
        assert_eq!(bytes, [0; 100]);
    }
    for keystore in [keystore, disk.open(recovery(2)).unwrap()] {
        assert!(matches!(
            keystore.unwrap(&key, CONTEXT, &old),
            Err(KeyError::NotFound(_))
        ));
        assert!(keystore.unwrap(&key, CONTEXT, &new).unwrap().ct_eq(&secret));
        assert!(matches!(
            keystore.destroy_version(&key, KeyVersion(1)),
            Err(KeystoreError::NoSuchKey(_))
        ));
    }
}

#[test]
fn a_version_number_is_never_given_twice() {
    let (_disk, keystore) = Disk::with_keystore();
    let key = default_key(&keystore);
    keystore.rotate(&key).unwrap();
    keystore.destroy_version(&key, KeyVersion(1)).unwrap();
    assert_eq!(keystore.rotate(&key).unwrap(), KeyVersion(3));
}

#[test]
fn a_removed_slot_opens_nothing_with_or_without_an_old_copy() {
    let (disk, keystore) = Disk::with_keystore();
    let old_copy = disk.bytes(b"keystore");
    let key = default_key(&keystore);
    let gone = keystore.slots()[0].id;
    // The thief: the removed passphrase, an old copy of the file, and from it the old root key and the slot's own key.
    let thief = State::unlock(
        file::parse(&old_copy, "").unwrap(),
        &[passphrase("correct horse")],
    )
    .unwrap();
    disk.open(key_file(1)).unwrap().remove_slot(gone).unwrap();
    assert!(matches!(
        disk.open(passphrase("correct horse")),
        Err(KeystoreError::NoSuchSlotKind(_))
    ));
    let new = file::parse(&disk.bytes(b"keystore"), "").unwrap();
    assert!(!new.verify(&thief.root));
    for slot in &new.body.slots {
        assert!(thief.slot_key.open_root(slot).is_none());
    }
    let record = &new.body.keys[0].versions[0];
    assert!(
        thief
            .root
            .unwrap_version(&key, KeyVersion(1), &record.key)
            .is_none()
    );
    assert!(matches!(thief.follow(new), Err(KeystoreError::SlotRevoked)));
    // Slots whose secrets were not at hand still open.
    for secret in [key_file(1), recovery(2)] {
        assert_eq!(default_key(&disk.open(secret).unwrap()), key);
    }
}

#[test]
fn the_last_slot_of_daily_use_stays() {
    let (_disk, keystore) = Disk::with_keystore();
    let slots = keystore.slots();
    keystore.remove_slot(slots[0].id).unwrap();
    assert!(matches!(
        keystore.remove_slot(slots[1].id),
        Err(KeystoreError::LastSlot(_))
    ));
    keystore.remove_slot(slots[2].id).unwrap();
    assert!(matches!(
        keystore.remove_slot(slots[1].id),
        Err(KeystoreError::LastSlot(_))
    ));
    assert!(matches!(
        keystore.remove_slot(slots[0].id),
        Err(KeystoreError::NoSuchSlot(_))
    ));
    let turned = keystore.change_slot(slots[1].id, &slot(recovery(3)));
    assert!(matches!(turned, Err(KeystoreError::LastSlot(_))));
}

#[test]
fn a_changed_passphrase_shuts_the_old_one_out() {
    let (disk, _) = Disk::with_keystore();
    let old_copy = disk.bytes(b"keystore");
    let keystore = disk.open(passphrase("correct horse")).unwrap();
    let id = keystore.slots()[0].id;
    keystore
        .change_slot(id, &slot(passphrase("battery staple")))
        .unwrap();
    assert!(matches!(
        disk.open(passphrase("correct horse")),
        Err(KeystoreError::WrongSecret(_))
    ));
    assert!(disk.open(passphrase("battery staple")).is_ok());
    // The process that changed it goes on.
    keystore.create_key(None).unwrap();
    let thief = State::unlock(
        file::parse(&old_copy, "").unwrap(),
        &[passphrase("correct horse")],
    )
    .unwrap();
    let new = file::parse(&disk.bytes(b"keystore"), "").unwrap();
    assert!(
        new.body
            .slots
            .iter()
            .all(|slot| thief.slot_key.open_root(slot).is_none())
    );
}

#[test]
fn a_stranger_cannot_seal_a_root_key_to_our_slots() {
    let (disk, keystore) = Disk::with_keystore();
    let forged = {
        let state = keystore.look();
        let root = seal::RootKey::random();
        let mut body = state.body.clone();
        let guess = Secret::<32>::random();
        for slot in &mut body.slots {
            slot.root_key = root.seal_to(slot, &guess).unwrap();
        }
        file::encode(&body, &root).unwrap()
    };
    disk.put(b"keystore", &forged);
    for secret in [passphrase("correct horse"), key_file(1), recovery(2)] {
        assert!(matches!(disk.open(secret), Err(KeystoreError::Damaged(_))));
    }
}

#[test]
fn two_processes_lose_none_of_their_changes() {
    let (disk, _) = Disk::with_keystore();
    std::thread::scope(|scope| {
        for process in 0..4 {
            let disk = &disk;
            scope.spawn(move || {
                let keystore = disk.open(key_file(1)).unwrap();
                for number in 0..10 {
                    keystore
                        .create_key(Some(&format!("alias/{process}-{number}")))
                        .unwrap();
                }
            });
        }
    });
    let keystore = disk.open(recovery(2)).unwrap();
    assert_eq!((keystore.list().len(), keystore.generation()), (41, 41));
}

#[test]
fn a_process_follows_a_new_root_key_and_new_versions() {
    let (disk, first) = Disk::with_keystore();
    let second = disk.open(key_file(1)).unwrap();
    let key = default_key(&first);
    second.rotate(&key).unwrap();
    second.destroy_version(&key, KeyVersion(1)).unwrap();
    let (secret, wrapped) = second.generate(&key, KeyVersion(2), CONTEXT).unwrap();
    assert!(
        first
            .unwrap(&key, CONTEXT, &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
    assert_eq!(first.rotate(&key).unwrap(), KeyVersion(3));
    second.remove_slot(first.slots()[0].id).unwrap();
    assert!(matches!(first.rotate(&key), Err(KeyError::AccessDenied(_))));
}

#[test]
fn an_older_copy_put_back_is_noticed_by_who_saw_the_newer() {
    let (disk, keystore) = Disk::with_keystore();
    let old = disk.bytes(b"keystore");
    keystore.create_key(None).unwrap();
    disk.put(b"keystore", &old);
    assert!(matches!(keystore.refresh(), Err(KeystoreError::RolledBack)));
    assert!(matches!(
        keystore.create_key(None),
        Err(KeystoreError::RolledBack)
    ));
}

#[test]
fn an_interrupted_erasure_is_finished_by_the_next_change() {
    let (disk, keystore) = Disk::with_keystore();
    let key = default_key(&keystore);
    keystore.rotate(&key).unwrap();
    let (old, older) = (disk.bytes(b"keystore"), disk.bytes(b"keystore.older"));
    keystore.destroy_version(&key, KeyVersion(1)).unwrap();
    // As a crash between the exchange and the erasures leaves it.
    disk.put(b".keystore.new", &old);
    disk.put(b"keystore.older", &older);
    keystore.create_key(None).unwrap();
    assert_eq!(
        disk.names(),
        [".keystore.lock", "keystore", "keystore.older"]
    );
    let kept = file::parse(&disk.bytes(b"keystore.older"), "").unwrap();
    assert_eq!(kept.body.keys[0].versions.len(), 1);
}

#[test]
fn a_store_that_refuses_leaves_the_old_generation_whole() {
    let (disk, keystore) = Disk::with_keystore();
    let before = disk.bytes(b"keystore");
    // A directory stands where the new file is to be written.
    disk.dir.make_dir(b".keystore.new", 0o700).unwrap();
    assert!(keystore.create_key(None).is_err());
    assert_eq!(disk.bytes(b"keystore"), before);
    assert_eq!(keystore.list().len(), 1);
}

#[test]
fn works_on_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore");
    let place = Place::at(&path).unwrap();
    let keystore = Keystore::create(&place, three_slots()).unwrap();
    let key = default_key(&keystore);
    keystore.rotate(&key).unwrap();
    keystore.destroy_version(&key, KeyVersion(1)).unwrap();
    keystore.create_key(None).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        Keystore::open(&place, &[key_file(1)]).unwrap().list().len(),
        2
    );
    assert!(matches!(
        Place::at(&dir.path().join("none/keystore")),
        Err(KeystoreError::Missing(_))
    ));
}

#[test]
fn calibration_stays_within_the_bounds() {
    let cost = calibrate().unwrap();
    cost.check().unwrap();
    assert!(cost.memory_kib >= 32 << 10);
}

proptest! {
    #[test]
    fn parses_any_bytes_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = file::parse(&bytes, "x");
        let mut framed = b"strongroom keystore 1\n".to_vec();
        framed.extend_from_slice(&bytes);
        framed.extend_from_slice(format!("\nmac {}\n", "0".repeat(64)).as_bytes());
        let check = crc32c::crc32c(&framed);
        framed.extend_from_slice(format!("check {check:08x}\n").as_bytes());
        prop_assert!(file::parse(&framed, "x").is_err());
    }
}
