//! Moves that are killed, or whose store or provider fails, on the way.

use super::*;

#[test]
fn a_move_killed_at_any_write_goes_on_and_ends() {
    each_move(|homes, step| {
        let setup = Setup::new(Suite::Gcm, step.from.0, Some(step.from.1));
        let mut kills = 0;
        for pins in [false, true] {
            for at in 0.. {
                let (left, was_hit) = killed_at(&setup, step, homes, at, pins);
                if !was_hit {
                    break;
                }
                kills += 1;
                let said = format!("{}, write {at} (pins: {pins})", step.said());
                let volume = left
                    .open(homes.all())
                    .unwrap_or_else(|error| panic!("{said}: {error}"));
                assert_readable(&volume);
                assert_proven(&step.run(&volume).unwrap());
                assert!(!volume.env.ring.chain().is_unfinished(), "{said}");
                volume.close().unwrap();
                left.assert_whole(only(step.to.0));
                assert_eq!(left.info().keys.len(), 1);
            }
        }
        assert!(kills > 30, "{}: only {kills} kills", step.said());
    });
}

#[test]
fn a_move_that_was_killed_may_turn_to_another_key_or_back() {
    let homes = Homes::new();
    let there = Move {
        from: (&homes.first, Direct),
        to: (&homes.second, ByVolumeKey),
    };
    let setup = Setup::new(Suite::Gcm, &homes.first, Some(Direct));
    for (keys, envelope) in [
        (&homes.card, ByVolumeKey),
        (&homes.first, Direct),
        (&homes.first, ByVolumeKey),
        (&homes.second, Direct),
    ] {
        for at in 0.. {
            let (left, was_hit) = killed_at(&setup, &there, &homes, at, false);
            if !was_hit {
                break;
            }
            // Killed once more on the turned way, then finished.
            let turned = Move {
                from: there.to,
                to: (keys, envelope),
            };
            let (left, _) = killed_at(&left, &turned, &homes, at / 2, false);
            let volume = left.open(homes.all()).unwrap();
            assert_readable(&volume);
            assert_proven(&volume.rekey(target(keys, envelope), &mut |_| {}).unwrap());
            volume.close().unwrap();
            left.assert_whole(only(keys));
        }
    }
}

#[test]
fn a_provider_that_goes_away_ends_the_walk_and_not_the_move() {
    let homes = Homes::new();
    let step = Move {
        from: (&homes.first, Direct),
        to: (&homes.second, Direct),
    };
    let fresh = Setup::new(Suite::Gcm, &homes.first, None);
    for home in [&homes.first, &homes.second] {
        for answers in 2.. {
            let setup = fresh.left();
            let volume = setup.open(homes.all()).unwrap();
            home.answers.store(answers, SeqCst);
            let before = home.calls();
            let ended = step.run(&volume);
            let asked = home.calls() - before;
            home.answers.store(u64::MAX, SeqCst);
            home.away.store(false, SeqCst);
            if ended.is_ok() {
                assert!(answers >= FILES as u64);
                volume.close().unwrap();
                break;
            }
            assert!(
                matches!(ended, Err(Error::Key(KeyError::Unavailable(_)))),
                "{ended:?}"
            );
            assert_eq!(asked, answers + 1, "no other file waited for it");
            assert_readable(&volume);
            assert_proven(&step.run(&volume).unwrap());
            volume.close().unwrap();
            setup.assert_whole(only(&homes.second));
        }
    }
}

/// A header may look re-wrapped and not be durable: it was left in the page cache by a run that was killed.
#[test]
fn a_rewrap_that_cannot_be_made_durable_keeps_the_key_before() {
    let homes = Homes::new();
    let step = Move {
        from: (&homes.first, Direct),
        to: (&homes.second, Direct),
    };
    let setup = Setup::new(Suite::Gcm, &homes.first, None);
    let both_areas = |left: &Setup| {
        let two = |n: &usize| areas(left, *n).iter().flatten().count() == 2;
        (0..FILES).step_by(2).any(|n| two(&n))
    };
    let left = (0..)
        .map(|at| killed_at(&setup, &step, &homes, at, false).0)
        .find(|left| left.info().keys.len() == 2 && both_areas(left))
        .unwrap();
    let store = Arc::new(FailingStore::new(left.store.clone()));
    let volume = open(store.clone(), homes.all(), &left.options()).unwrap();
    // Only the write of the one area that is there already fails.
    store.fail_once(&[Call::Write], 0, libc::EIO);
    let report = volume
        .rekey(target(&homes.second, Direct), &mut |_| {})
        .unwrap();
    assert_eq!(store.failed(), 1);
    assert_proven(&report); // a later round made it durable
    assert!(!volume.env.ring.chain().is_unfinished());
    volume.close().unwrap();
    assert!(
        !both_areas(&left),
        "it was written once more, then the other zeroed"
    );
    left.assert_whole(only(&homes.second));
}

#[test]
fn the_key_before_stays_until_what_was_removed_is_durable() {
    let homes = Homes::new();
    let setup = Setup::new(Suite::Gcm, &homes.first, None);
    let store = Arc::new(FailingStore::new(setup.store.clone()));
    let volume = open(store.clone(), homes.all(), &setup.options()).unwrap();
    let (dir, _) = volume.lookup(&volume.root(), b"d").unwrap();
    for n in 0..FILES {
        let parent = if n % 2 == 0 {
            volume.root()
        } else {
            dir.clone()
        };
        volume.unlink(&parent, name(n).as_bytes()).unwrap();
    }
    // No header is left that a walk would sync for.
    store.fail_from(&[Call::SyncStore], 0, libc::EIO);
    let to = || target(&homes.second, Direct);
    let refused = volume.rekey(to(), &mut |_| {}).unwrap_err();
    assert_eq!(refused.code(), libc::EIO);
    assert!(volume.env.ring.chain().is_unfinished());
    assert_eq!(
        setup.info().keys.len(),
        2,
        "a power cut may bring them back"
    );
    store.heal();
    let done = volume.rekey(to(), &mut |_| {}).unwrap();
    assert_eq!((done.headers, done.remaining), (0, 0));
    assert_eq!(setup.info().keys.len(), 1);
    volume.close().unwrap();
}
