//! Keys that are away, headers and pins that name what is not allowed, headers made ready ahead.

use super::*;

#[test]
fn a_rotation_finishes_a_move_first() {
    let homes = Homes::new();
    let step = Move {
        from: (&homes.first, Direct),
        to: (&homes.second, Direct),
    };
    let setup = halfway(&homes, &step);
    let volume = setup.open(homes.all()).unwrap();
    assert!(matches!(
        volume.destroy_old(),
        Err(Error::Key(KeyError::InvalidState(_)))
    ));
    let report = volume.rotate(&mut |_| {}).unwrap();
    assert_proven(&report);
    assert_eq!(homes.second.versions(), [KeyVersion(1)], "no new version");
    assert_eq!(report.to_key, homes.second.key().to_string());
    volume.close().unwrap();
    setup.assert_whole(only(&homes.second));
}

#[test]
fn a_key_that_is_away_hides_its_files_and_keeps_its_place() {
    for envelope in [Direct, ByVolumeKey] {
        let homes = Homes::new();
        let step = Move {
            from: (&homes.first, envelope),
            to: (&homes.second, envelope),
        };
        let setup = halfway(&homes, &step);
        let left_behind = (0..FILES)
            .filter(|n| n % 2 == 0)
            .find(|n| newest_area(&setup, *n).key_id == homes.first.key())
            .unwrap();
        let volume = setup.open(only(&homes.second)).unwrap();
        let file = read(&volume, &volume.root(), name(left_behind));
        match file {
            Err(Error::Key(KeyError::NotFound(said))) => {
                assert_eq!(said, homes.first.key().to_string());
            }
            other => panic!("{other:?}"),
        }
        let report = volume.rotate(&mut |_| {}).unwrap();
        assert!(
            report.damaged > 0 && report.headers == FILES as u64,
            "{report:?}"
        );
        assert_eq!(volume.env.ring.chain().entries().len(), 2, "the key stays");
        volume.close().unwrap();
        assert!(
            matches!(setup.open(only(&homes.first)), Err(Error::NotAVolume(_))),
            "the current key is needed"
        );
        // A home that is away for the moment is asked again when a file needs it.
        homes.first.away.store(true, SeqCst);
        let volume = setup.open(homes.all()).unwrap();
        let away = read(&volume, &volume.root(), name(left_behind));
        assert!(
            matches!(away, Err(Error::Key(KeyError::Unavailable(_)))),
            "{away:?}"
        );
        homes.first.away.store(false, SeqCst);
        assert_readable(&volume);
        assert_proven(&volume.rotate(&mut |_| {}).unwrap());
        volume.close().unwrap();
        setup.assert_whole(only(&homes.second));
    }
}

#[test]
fn a_header_that_names_what_the_volume_does_not_allow_asks_no_provider() {
    let homes = Homes::new();
    let step = Move {
        from: (&homes.first, Direct),
        to: (&homes.second, ByVolumeKey),
    };
    let setup = halfway(&homes, &step);
    let moved = (0..FILES)
        .filter(|n| n % 2 == 0)
        .find(|n| newest_area(&setup, *n).key_id == homes.second.key())
        .unwrap();
    homes.second.add_version();
    homes.first.add_version();
    let fine = newest_area(&setup, moved);
    type Change<'a> = Box<dyn Fn(&mut KeyArea) + 'a>;
    let changes: Vec<Change> = vec![
        Box::new(|area| area.key_id = homes.card.key()),
        Box::new(|area| area.key_id = homes.first.key()), // allowed, but under the other envelope
        Box::new(|area| area.envelope = Direct),
        Box::new(|area| area.key_version = 2),
        Box::new(|area| area.key_version = 0),
        Box::new(|area| area.algorithm = WrapAlgorithm::AesGcm),
        Box::new(|area| {
            (area.key_id, area.envelope, area.key_version) = (homes.first.key(), Direct, 2);
        }),
        Box::new(|area| {
            (area.key_id, area.envelope) = (homes.first.key(), Direct);
            area.algorithm = WrapAlgorithm::RsaOaepSha256;
        }),
    ];
    for (n, change) in changes.iter().enumerate() {
        let hostile = setup.left();
        let mut area = fine.clone();
        change(&mut area);
        let bytes = area.encode(
            &crate::crypto::Secret::random(),
            &crate::format::ids::FileId([0; 16]),
        );
        hostile
            .store
            .edit(&[&stored_name(&setup, moved)], |file| {
                for offset in AREAS_AT {
                    file[offset..offset + SECTOR].fill(0);
                }
                file[AREAS_AT[0]..AREAS_AT[0] + SECTOR].copy_from_slice(&bytes);
            })
            .unwrap();
        let volume = hostile.open(homes.all()).unwrap();
        let calls = || homes.first.calls() + homes.second.calls() + homes.card.calls();
        let before = calls();
        let read = read(&volume, &volume.root(), name(moved));
        match read {
            Err(Error::Damaged(said)) => assert!(said.contains("does not allow"), "{n}: {said}"),
            other => panic!("{n}: {other:?}"),
        }
        assert_eq!(calls(), before, "{n}: a provider was asked");
        volume.close().unwrap();
    }
}

#[test]
fn older_versions_are_destroyed_after_the_proof_only() {
    for envelope in [Direct, ByVolumeKey] {
        let homes = Homes::new();
        let setup = Setup::new(Suite::Gcm, &homes.first, Some(envelope));
        let volume = setup.open(homes.all()).unwrap();
        assert_eq!(volume.destroy_old().unwrap(), []);
        volume.rotate(&mut |_| {}).unwrap();
        volume.rotate(&mut |_| {}).unwrap();
        let newer = homes.first.add_version();
        let destroyed = volume.destroy_old().unwrap();
        assert_eq!(destroyed, [KeyVersion(1), KeyVersion(2)]);
        assert_eq!(homes.first.versions(), [KeyVersion(3), newer]);
        volume.close().unwrap();
        setup.assert_whole(only(&homes.first));
    }
}

#[test]
fn a_pin_knows_the_key_and_the_library_of_its_token() {
    let homes = Homes::new();
    let setup = Setup::new(Suite::Gcm, &homes.first, None);
    let id = setup.info().volume;
    let pinned = || {
        let state = setup.state.root();
        pinned_modules(&state, &id).unwrap()
    };
    assert!(pinned().is_empty());
    let before = setup.left();
    let volume = setup.open(homes.all()).unwrap();
    volume
        .rekey(target(&homes.second, Direct), &mut |_| {})
        .unwrap();
    volume.close().unwrap();
    assert_eq!(
        pinned(),
        BTreeMap::from([(homes.second.key(), module("token"))])
    );

    let with = |name: &str, expect: Option<String>| {
        let options = OpenOptions {
            modules: BTreeMap::from([(homes.second.key(), module(name))]),
            expect,
            ..setup.options()
        };
        open(setup.store.clone(), homes.all(), &options)
    };
    with("token", None).unwrap().close().unwrap();
    let refused = with("planted", None).err().unwrap().to_string();
    assert!(refused.contains("library"), "{refused}");
    let pin = refused.rsplit(' ').next().unwrap().to_owned();
    with("planted", Some(pin)).unwrap().close().unwrap();
    assert_eq!(pinned()[&homes.second.key()], module("planted"));

    // A host that saw the volume under the key before does not take the new one on trust.
    let other_host = Setup {
        store: setup.store.clone(),
        state: before.state,
    };
    assert!(matches!(
        other_host.open(homes.all()),
        Err(Error::Pinned(_))
    ));

    // Back in the keystore, no library is remembered.
    let volume = setup.open(homes.all()).unwrap();
    volume
        .rekey(target(&homes.first, Direct), &mut |_| {})
        .unwrap();
    volume.close().unwrap();
    assert!(pinned().is_empty());
}

#[test]
fn a_move_is_refused_where_it_cannot_be() {
    let homes = Homes::new();
    let setup = Setup::new(Suite::Gcm, &homes.first, None);
    let volume = setup.open(homes.all()).unwrap();
    let refused = |target| volume.rekey(target, &mut |_| {}).unwrap_err();
    let direct = refused(target(&homes.card, Direct));
    assert!(matches!(direct, Error::Key(KeyError::InvalidState(_))));
    let twin = Arc::new(TestKeys::new(
        "pkcs11",
        homes.first.key(),
        WrapAlgorithm::AesGcm,
    ));
    assert!(
        refused(target(&twin, Direct))
            .to_string()
            .contains("two providers")
    );
    homes.second.away.store(true, SeqCst);
    let away = refused(target(&homes.second, Direct));
    assert!(matches!(away, Error::Key(KeyError::Unavailable(_))));
    // Nothing of that left a trace, and a move to the key that wraps only proves.
    let report = volume
        .rekey(target(&homes.first, Direct), &mut |_| {})
        .unwrap();
    assert_proven(&report);
    assert_eq!((report.rewrapped, report.to_version), (0, 1));
    volume.close().unwrap();
    setup.assert_whole(only(&homes.first));
}

/// A file made while a token is slow must not name what the volume file no longer allows.
#[test]
fn ready_headers_are_wiped_when_the_key_changes() {
    let homes = Homes::new();
    homes.first.ahead.store(64, SeqCst);
    homes.first.sessions.store(4, SeqCst);
    let setup = Setup::new(Suite::Gcm, &homes.first, None);
    let volume = setup.open(homes.all()).unwrap();
    let made = std::cell::Cell::new(0);
    let make = || {
        made.set(made.get() + 1);
        let named = format!("n{}", made.get());
        let (_, _, file) = volume
            .create(&volume.root(), named.as_bytes(), 0o644, &USER, READ_WRITE)
            .unwrap();
        volume.write(&file, 0, named.as_bytes()).unwrap();
    };
    let filled = || {
        while volume.env.ring.ready.len() < 64 {
            std::thread::yield_now();
        }
    };
    let pool = || volume.env.ring.ready.len();
    assert_eq!(pool(), 0, "nothing is made before a file is");
    make();
    filled();
    let before = homes.first.calls();
    (0..10).for_each(|_| make());
    assert_eq!(homes.first.calls(), before, "files take what is ready");
    assert_eq!(pool(), 54);
    let report = volume.rotate(&mut |_| {}).unwrap();
    assert_eq!((pool(), report.remaining), (0, 0));
    homes.first.destroy(KeyVersion(1));
    make();
    filled();
    volume
        .rekey(target(&homes.second, Direct), &mut |_| {})
        .unwrap();
    assert_eq!(pool(), 0);
    homes.first.destroy_all();
    make();
    volume.close().unwrap();
    drop(volume);
    let volume = setup.open(only(&homes.second)).unwrap();
    for n in 1..=made.get() {
        let named = format!("n{n}");
        let bytes = read(&volume, &volume.root(), &named).unwrap();
        assert_eq!(bytes, named.as_bytes());
    }
    volume.close().unwrap();
}

#[test]
fn where_none_is_ready_the_provider_is_asked_and_its_error_told() {
    let homes = Homes::new();
    homes.first.ahead.store(64, SeqCst);
    let setup = Setup::new(Suite::Gcm, &homes.first, None);
    let volume = setup.open(homes.all()).unwrap();
    homes.first.away.store(true, SeqCst);
    let (_, _, file) = volume
        .create(&volume.root(), b"n", 0o644, &USER, READ_WRITE)
        .unwrap();
    let refused = volume.write(&file, 0, b"n");
    assert!(matches!(refused, Err(Error::Key(KeyError::Unavailable(_)))));
    homes.first.away.store(false, SeqCst);
    volume.write(&file, 0, b"n").unwrap();
    drop(file);
    volume.close().unwrap();
    assert_eq!(volume.env.ring.ready.len(), 0);
}
