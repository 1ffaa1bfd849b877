//! A module that hangs, loses its token or its sessions, or makes vectors of zeros.

use std::time::{Duration, Instant};

use strongroom::format::ids::KeyVersion;
use strongroom::keys::pkcs11::TokenKey;
use strongroom::keys::{KeyError, KeyProvider, KeyState};

use super::homes::open_token;
use super::support::tokens::{Access, Shim, behind_shim};

const CONTEXT: &[u8] = b"a context of the volume's kind\0";
const V1: KeyVersion = KeyVersion(1);
const CKR_OK: u64 = 0;
const CKR_PIN_INCORRECT: u64 = 0xa0;

fn key_on(access: &Access) -> TokenKey {
    let token = open_token(access, &access.pin).unwrap();
    TokenKey::make_or_take(&token, "faulty", None).unwrap().0
}

/// A key behind the shim, and a wrap that it made while all was well.
fn with_key(test: &str, body: impl FnOnce(&Shim, &TokenKey, &dyn Fn() -> Result<bool, KeyError>)) {
    behind_shim(test, |access| {
        let key = key_on(access);
        let (secret, wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
        let unwraps = || {
            key.unwrap(&key.key(), CONTEXT, &wrapped)
                .map(|same| same.ct_eq(&secret))
        };
        body(&access.shim(), &key, &unwraps);
        access.shim().say("");
    });
}

#[test]
fn a_token_that_hangs_holds_no_caller_for_ever() {
    with_key(
        "faults::a_token_that_hangs_holds_no_caller_for_ever",
        |shim, key, unwraps| {
            shim.say("hang");
            let begun = Instant::now();
            // More callers than sessions: those behind the first wait no longer than they do.
            std::thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| {
                        let described = key.describe(&key.key());
                        assert!(
                            matches!(described, Err(KeyError::Unavailable(_))),
                            "{described:?}"
                        );
                    });
                }
            });
            let unavailable = unwraps();
            assert!(
                matches!(unavailable, Err(KeyError::Unavailable(_))),
                "{unavailable:?}"
            );
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "each waits ten seconds: {:?}",
                begun.elapsed()
            );
            shim.say("");
            assert!(comes_back(unwraps));
        },
    );
}

/// Whether it answers within a minute: the calls that hung return first.
fn comes_back(unwraps: &dyn Fn() -> Result<bool, KeyError>) -> bool {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match unwraps() {
            Ok(same) => return same,
            Err(_) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn lost_sessions_and_a_device_removed_once_are_not_noticed() {
    let name = "faults::lost_sessions_and_a_device_removed_once_are_not_noticed";
    with_key(name, |shim, key, unwraps| {
        // CKR_DEVICE_REMOVED, _SESSION_HANDLE_INVALID, _OBJECT_HANDLE_INVALID, _KEY_HANDLE_INVALID, _TOKEN_NOT_PRESENT,
        // _USER_NOT_LOGGED_IN, _CRYPTOKI_NOT_INITIALIZED
        for code in ["32", "b3", "82", "60", "e0", "101", "190"] {
            shim.say(&format!("rv {code} 1"));
            assert!(unwraps().unwrap(), "after {code}");
            shim.say(&format!("rv {code} 1"));
            assert_eq!(
                key.describe(&key.key()).unwrap().state,
                KeyState::Enabled,
                "after {code}"
            );
        }
        let before = shim.calls("C_Initialize").len();
        shim.say("stale");
        assert!(unwraps().unwrap());
        assert!(
            shim.calls("C_Initialize").len() > before,
            "only that makes sessions good again"
        );
        assert!(
            shim.calls("C_Login")
                .iter()
                .all(|code| *code != CKR_PIN_INCORRECT)
        );
    });
}

#[test]
fn a_removed_token_is_not_found_until_it_is_back() {
    with_key(
        "faults::a_removed_token_is_not_found_until_it_is_back",
        |shim, key, unwraps| {
            shim.say("absent");
            for _ in 0..3 {
                assert!(matches!(unwraps(), Err(KeyError::NotFound(_))));
                assert!(matches!(
                    key.describe(&key.key()),
                    Err(KeyError::NotFound(_))
                ));
            }
            shim.say("");
            assert!(unwraps().unwrap());
        },
    );
}

#[test]
fn a_device_that_fails_is_an_outage_and_no_tampering() {
    with_key(
        "faults::a_device_that_fails_is_an_outage_and_no_tampering",
        |shim, _key, unwraps| {
            shim.say("decrypt 5");
            let before = shim.calls("C_Decrypt").len();
            let answer = unwraps();
            assert!(
                matches!(answer, Err(KeyError::Unavailable(_))),
                "{answer:?}"
            );
            let tried = shim.calls("C_Decrypt").len() - before;
            assert!(tried <= 8, "one unwrap made {tried} calls");
            shim.say("");
            assert!(unwraps().unwrap());
        },
    );
}

#[test]
fn damage_costs_a_bounded_number_of_calls() {
    behind_shim("faults::damage_costs_a_bounded_number_of_calls", |access| {
        let key = key_on(access);
        let (_, mut damaged) = key.generate(&key.key(), V1, CONTEXT).unwrap();
        damaged.bytes[30] ^= 1;
        let before = access.shim().calls("C_Decrypt").len();
        for _ in 0..5 {
            assert!(matches!(
                key.unwrap(&key.key(), CONTEXT, &damaged),
                Err(KeyError::InvalidCiphertext)
            ));
        }
        let tried = access.shim().calls("C_Decrypt").len() - before;
        assert!(tried <= 5 * 4, "{tried} calls for five unwraps");
    });
}

#[test]
fn a_vector_of_zeros_is_refused() {
    with_key(
        "faults::a_vector_of_zeros_is_refused",
        |shim, key, _unwraps| {
            shim.say("zero_iv");
            for _ in 0..3 {
                let made = key.generate(&key.key(), V1, CONTEXT);
                assert!(made.is_err(), "a wrap under a vector of zeros");
            }
            shim.say("");
            assert!(key.generate(&key.key(), V1, CONTEXT).is_ok());
        },
    );
}

#[test]
fn a_token_that_makes_its_own_vectors_works() {
    let name = "faults::a_token_that_makes_its_own_vectors_works";
    behind_shim(name, |access| {
        access.shim().say("own_iv");
        let key = key_on(access);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let (secret, wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
            assert!(wrapped.bytes[..12] != [0; 12] && seen.insert(wrapped.bytes[..12].to_vec()));
            assert!(
                key.unwrap(&key.key(), CONTEXT, &wrapped)
                    .unwrap()
                    .ct_eq(&secret)
            );
        }
    });
}

#[test]
fn a_wrong_pin_is_tried_once() {
    behind_shim("faults::a_wrong_pin_is_tried_once", |access| {
        for _ in 0..5 {
            let refused = open_token(access, "00000000").map(|_| ());
            assert!(
                matches!(refused, Err(KeyError::AccessDenied(_))),
                "{refused:?}"
            );
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(open_token(access, "00000000").is_err()));
            }
        });
        assert_eq!(access.shim().calls("C_Login"), [CKR_PIN_INCORRECT]);
        assert!(open_token(access, &access.pin).is_ok());
        assert_eq!(access.shim().calls("C_Login"), [CKR_PIN_INCORRECT, CKR_OK]);
    });
}

#[test]
fn thousands_of_wraps_make_no_object_and_few_sessions() {
    let name = "faults::thousands_of_wraps_make_no_object_and_few_sessions";
    with_key(name, |shim, key, unwraps| {
        let made = |name: &str| shim.calls(name).len();
        let before = [
            made("C_CreateObject"),
            made("C_GenerateKey"),
            made("C_OpenSession"),
        ];
        for n in 0..2_000 {
            let (_, mut wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
            assert!(unwraps().unwrap());
            if n % 100 == 0 {
                wrapped.bytes[15] ^= 1;
                assert!(key.unwrap(&key.key(), CONTEXT, &wrapped).is_err());
            }
        }
        assert_eq!([made("C_CreateObject"), made("C_GenerateKey")], before[..2]);
        assert!(
            made("C_OpenSession") - before[2] < 100,
            "sessions are kept, but for those that saw an error"
        );
        assert!(
            made("C_OpenSession") - made("C_CloseSession") <= 8,
            "and closed"
        );
    });
}
