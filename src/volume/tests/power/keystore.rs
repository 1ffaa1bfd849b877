//! The keystore alone, and `init`, cut after every change.

use std::sync::Arc;

use crate::format::ids::KeyVersion;
use crate::keys::software::{KeyInfo, SlotInfo};
use crate::keys::{KeyState, Keystore};
use crate::store::power::{Journal, PowerStore, Rng};
use crate::store::{MemoryStore, Store};

use super::Setup;
use super::machine::{empty_disk, init, key, key_file, mount, place, slot};
use super::session::both;

/// What a keystore holds, as far as a cut could change it.
type Contents = (u64, Vec<KeyInfo>, Vec<SlotInfo>);

fn contents(keys: &Keystore) -> Contents {
    (keys.generation(), keys.list(), keys.slots())
}

fn opened(image: MemoryStore) -> Result<Keystore, String> {
    let disk: Arc<dyn Store> = Arc::new(image);
    let place = place(&disk).map_err(|error| error.to_string())?;
    Keystore::open(&place, &[key_file(1)])
        .map_err(|error| format!("after a power cut the keystore does not open: {error}"))
}

/// Every kind of change; after each cut the keystore is as before or as after, and can be changed again.
pub(super) fn both_journals(rounds: u64) -> Result<u64, String> {
    let mut cuts = 0;
    for setup in both(Setup::GCM) {
        for seed in 0..rounds {
            cuts += changes(setup.journal, setup, seed)?;
        }
    }
    Ok(cuts)
}

fn changes(journal: Journal, setup: Setup, seed: u64) -> Result<u64, String> {
    let made = PowerStore::over(&empty_disk(&setup), journal, setup.rules(), seed);
    let disk: Arc<dyn Store> = Arc::new(made.clone());
    let keys = Keystore::create(&place(&disk).unwrap(), vec![slot(1), slot(2)]).unwrap();
    let default = key(&keys);
    made.watch(1000, 8);
    let mut cuts = 0;
    for change in 0..14 {
        let before = contents(&keys);
        let done = match change {
            0 | 7 => keys.create_key(Some(&format!("alias/k{change}"))).map(drop),
            1 | 3 | 8 => keys.new_version(&default).map(drop),
            2 => keys.set_key_state(&default, KeyState::Disabled),
            4 | 10 => keys.add_slot(&slot(3 + change)).map(drop),
            5 => keys.destroy_version(&default, KeyVersion(1)),
            6 => keys.remove_slot(keys.slots()[1].id),
            9 => keys.change_slot(keys.slots()[1].id, &slot(9)),
            11 => keys.destroy_version(&default, KeyVersion(2)),
            12 => keys.remove_slot(keys.slots()[1].id),
            _ => keys.set_key_state(&default, KeyState::Enabled),
        };
        if change == 3 {
            assert!(done.is_err(), "the key is disabled");
            keys.set_key_state(&default, KeyState::Enabled).unwrap();
            made.taken();
            continue;
        }
        done.unwrap();
        let after = contents(&keys);
        for image in made.taken() {
            cuts += 1;
            let left = opened(image)?;
            let shown = contents(&left);
            if shown != before && shown != after {
                return Err(format!(
                    "change {change}: after a power cut the keystore is neither as before nor as after"
                ));
            }
            left.create_key(None)
                .map_err(|error| format!("change {change}: {error}"))?;
        }
        for _ in 0..8 {
            if contents(&opened(made.cut())?) != after {
                return Err(format!(
                    "change {change} was durable, and a power cut lost it"
                ));
            }
        }
    }
    Ok(cuts)
}

#[test]
fn a_keystore_is_as_before_or_as_after() {
    let cuts = both_journals(3).unwrap();
    println!("{cuts} cuts");
    assert!(cuts > 1000);
}

#[test]
fn an_interrupted_init_is_no_volume_or_a_whole_one_and_can_be_repeated() {
    for setup in [both(Setup::GCM), both(Setup::XTS)].concat() {
        let made = PowerStore::over(&empty_disk(&setup), setup.journal, setup.rules(), 1);
        made.watch(1000, 20);
        let disk: Arc<dyn Store> = Arc::new(made.clone());
        init(&disk, &setup).unwrap();
        let (mut whole, images) = (0, made.taken());
        let total = images.len();
        for image in images {
            let disk: Arc<dyn Store> =
                Arc::new(PowerStore::over(&image, setup.journal, setup.rules(), 2));
            if mount(&disk, &setup).is_err() {
                init(&disk, &setup).unwrap();
                mount(&disk, &setup).unwrap().0.close().unwrap();
            } else {
                whole += 1;
            }
        }
        assert!(whole > 0 && whole < total);
        let mut rng = Rng(3);
        for _ in 0..50 {
            rng.next();
            mount(&(Arc::new(made.cut()) as Arc<dyn Store>), &setup).unwrap();
        }
    }
}
