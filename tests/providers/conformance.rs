//! The suite: one function for each demand, each with a key of its own, all run before the first failure is told.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use strongroom::crypto::Secret;
use strongroom::format::ids::{FileId, KeyId, KeyVersion, VolumeId};
use strongroom::format::wrap::{self, MAX_WRAPPED, Purpose, WrapAlgorithm};
use strongroom::keys::{KeyError, KeyProvider, KeyState, Wrapped};

/// A provider and a key of it.
pub type Opened = (Arc<dyn KeyProvider>, KeyId);

/// Where keys are made for the suite.
pub trait Home {
    /// Makes a key of this name.
    fn make(&self, name: &str) -> Opened;
    /// Opens it once more, as another program would: nothing is shared that need not be.
    fn open(&self, name: &str) -> Opened;
    /// How it has to wrap.
    fn algorithm(&self) -> WrapAlgorithm;
    /// Objects in the home, keys included.
    fn objects(&self) -> usize;
    /// Disables or enables the key; false where the home has no such thing.
    fn enable(&self, name: &str, key: &KeyId, enabled: bool) -> bool;
    /// Asserts that no program can read the key out.
    fn assert_unreadable(&self, name: &str, key: &KeyId);
    /// How many calls a check may make.
    fn calls(&self) -> usize;
}

type Check = (&'static str, fn(&dyn Home));

const CHECKS: [Check; 16] = [
    ("unwraps_what_it_generated", unwraps_what_it_generated),
    ("batches_keep_their_order", batches_keep_their_order),
    ("refuses_another_context", refuses_another_context),
    ("refuses_every_flipped_byte", refuses_every_flipped_byte),
    ("refuses_every_other_length", refuses_every_other_length),
    ("refuses_another_keys_wrap", refuses_another_keys_wrap),
    ("refuses_another_algorithm", refuses_another_algorithm),
    (
        "knows_no_other_key_or_version",
        knows_no_other_key_or_version,
    ),
    (
        "old_versions_unwrap_after_rotations",
        old_versions_unwrap_after_rotations,
    ),
    ("a_destroyed_version_is_gone", a_destroyed_version_is_gone),
    ("a_disabled_key_does_nothing", a_disabled_key_does_nothing),
    ("the_key_cannot_be_read_out", the_key_cannot_be_read_out),
    ("serves_eight_threads", serves_eight_threads),
    (
        "no_data_key_stays_and_nothing_leaks",
        no_data_key_stays_and_nothing_leaks,
    ),
    ("no_two_wraps_begin_alike", no_two_wraps_begin_alike),
    ("two_providers_share_a_key", two_providers_share_a_key),
];

/// Runs all checks, and fails with the names of those that failed.
pub fn assert_conforms(home: &dyn Home) {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        let begun = std::time::Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| check(home))).is_ok();
        println!(
            "{name}: {} in {:?}",
            if passed { "ok" } else { "FAILED" },
            begun.elapsed()
        );
        if !passed {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

const V1: KeyVersion = KeyVersion(1);

/// Contexts as the volume makes them.
fn context(n: usize) -> Vec<u8> {
    let (volume, mut file) = (VolumeId([3; 16]), FileId([0; 16]));
    file.0[..8].copy_from_slice(&n.to_le_bytes());
    wrap::context(Purpose::DataKey, &volume, Some(&file), 0).to_vec()
}

fn one(home: &dyn Home, name: &str) -> (Opened, Secret<32>, Wrapped) {
    let (provider, key) = home.make(name);
    let (secret, wrapped) = provider.generate(&key, V1, &context(0)).unwrap();
    ((provider, key), secret, wrapped)
}

#[track_caller]
fn assert_damaged(answer: Result<Secret<32>, KeyError>, what: &str) {
    match answer {
        Err(KeyError::InvalidCiphertext | KeyError::IncorrectKey) => {}
        Err(error) => panic!("{what}: {error:?}"),
        Ok(_) => panic!("{what}: unwrapped"),
    }
}

#[track_caller]
fn assert_not_found<T>(answer: Result<T, KeyError>, what: &str) {
    match answer {
        Err(KeyError::NotFound(_)) => {}
        Err(error) => panic!("{what}: {error:?}"),
        Ok(_) => panic!("{what}: found"),
    }
}

fn unwraps_what_it_generated(home: &dyn Home) {
    let ((provider, key), secret, wrapped) = one(home, "generated");
    let described = provider.describe(&key).unwrap();
    assert_eq!(described.key, key);
    assert_eq!(described.state, KeyState::Enabled);
    assert_eq!(
        (described.current, &described.versions[..]),
        (V1, &[V1][..])
    );
    assert_eq!(described.algorithm, home.algorithm());
    assert_eq!(described.home.is_some(), provider.kind() == "pkcs11");
    assert_eq!((wrapped.version, wrapped.algorithm), (V1, home.algorithm()));
    assert!(wrapped.bytes.len() <= MAX_WRAPPED);
    assert!(
        provider
            .unwrap(&key, &context(0), &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
    let (second, _) = provider.generate(&key, V1, &context(0)).unwrap();
    assert!(!second.ct_eq(&secret));
    let given = Secret::random();
    let wrapped = provider.wrap(&key, V1, &context(1), &given).unwrap();
    assert!(
        provider
            .unwrap(&key, &context(1), &wrapped)
            .unwrap()
            .ct_eq(&given)
    );
}

fn batches_keep_their_order(home: &dyn Home) {
    let (provider, key) = home.make("batches");
    assert_eq!(provider.generate_batch(&key, V1, &[]).unwrap().len(), 0);
    assert_eq!(provider.unwrap_batch(&key, &[]).len(), 0);
    let contexts: Vec<_> = (0..50).map(context).collect();
    let borrowed: Vec<&[u8]> = contexts.iter().map(Vec::as_slice).collect();
    let mut made = provider.generate_batch(&key, V1, &borrowed).unwrap();
    assert_eq!(made.len(), 50);
    made[20].1.bytes[14] ^= 1;
    let items: Vec<_> = borrowed
        .iter()
        .copied()
        .zip(made.iter().map(|(_, wrapped)| wrapped))
        .collect();
    for (n, (answer, (secret, _))) in provider
        .unwrap_batch(&key, &items)
        .into_iter()
        .zip(&made)
        .enumerate()
    {
        if n == 20 {
            assert_damaged(answer, "the damaged one of a batch");
        } else {
            assert!(answer.unwrap().ct_eq(secret), "number {n}");
        }
    }
    assert_not_found(
        provider.generate_batch(&key, KeyVersion(9), &borrowed),
        "a batch under no version",
    );
}

fn refuses_another_context(home: &dyn Home) {
    let ((provider, key), _, wrapped) = one(home, "context");
    let (volume, file) = (VolumeId([3; 16]), FileId([0; 16]));
    let same = wrap::context(Purpose::DataKey, &volume, Some(&file), 0);
    assert!(provider.unwrap(&key, &same, &wrapped).is_ok());
    let another = FileId([1; 16]);
    for other in [
        wrap::context(Purpose::VolumeKey, &volume, Some(&file), 0),
        wrap::context(Purpose::VolumeSecret, &volume, Some(&file), 0),
        wrap::context(Purpose::DataKey, &VolumeId([4; 16]), Some(&file), 0),
        wrap::context(Purpose::DataKey, &volume, Some(&another), 0),
        wrap::context(Purpose::DataKey, &volume, Some(&file), 1),
    ] {
        assert_damaged(provider.unwrap(&key, &other, &wrapped), "another context");
    }
    for other in [&same[1..], b"\0"] {
        assert_damaged(provider.unwrap(&key, other, &wrapped), "a shorter context");
    }
}

fn refuses_every_flipped_byte(home: &dyn Home) {
    let ((provider, key), secret, wrapped) = one(home, "flipped");
    let step = 1 + wrapped.bytes.len() / home.calls().min(100);
    let last = wrapped.bytes.len() - 1;
    for at in (0..last).step_by(step).chain([last]) {
        for bit in [0x01, 0x80] {
            let mut damaged = wrapped.clone();
            damaged.bytes[at] ^= bit;
            assert_damaged(
                provider.unwrap(&key, &context(0), &damaged),
                &format!("byte {at}, bit {bit:#x}"),
            );
        }
    }
    // None of that spoilt a session for what is right.
    for _ in 0..8 {
        assert!(
            provider
                .unwrap(&key, &context(0), &wrapped)
                .unwrap()
                .ct_eq(&secret)
        );
    }
}

fn refuses_every_other_length(home: &dyn Home) {
    let ((provider, key), _, wrapped) = one(home, "length");
    let length = wrapped.bytes.len();
    for cut in (0..length).filter(|cut| length <= 100 || cut % 37 == 0 || cut + 1 == length) {
        let mut damaged = wrapped.clone();
        damaged.bytes.truncate(cut);
        assert_damaged(
            provider.unwrap(&key, &context(0), &damaged),
            &format!("{cut} bytes"),
        );
    }
    for more in [1, 16, MAX_WRAPPED - length, 4096] {
        let mut damaged = wrapped.clone();
        damaged.bytes.resize(length + more, 0);
        assert_damaged(
            provider.unwrap(&key, &context(0), &damaged),
            &format!("{more} bytes more"),
        );
    }
}

fn refuses_another_keys_wrap(home: &dyn Home) {
    let ((provider, key), _, wrapped) = one(home, "this");
    let (other, other_key) = home.make("that");
    assert_ne!(key, other_key);
    assert_damaged(
        other.unwrap(&other_key, &context(0), &wrapped),
        "another key's wrap",
    );
    drop(provider);
}

fn refuses_another_algorithm(home: &dyn Home) {
    let ((provider, key), _, wrapped) = one(home, "algorithm");
    for algorithm in [
        WrapAlgorithm::AesGcmSiv,
        WrapAlgorithm::AesGcm,
        WrapAlgorithm::RsaOaepSha256,
        WrapAlgorithm::RsaOaepSha1,
        WrapAlgorithm::AesCbcHmac,
    ] {
        if algorithm != home.algorithm() {
            let renamed = Wrapped {
                algorithm,
                ..wrapped.clone()
            };
            assert_damaged(
                provider.unwrap(&key, &context(0), &renamed),
                &format!("as {algorithm:?}"),
            );
        }
    }
}

fn knows_no_other_key_or_version(home: &dyn Home) {
    let ((provider, key), secret, wrapped) = one(home, "unknown");
    let other = KeyId([7; 16]);
    assert_not_found(provider.describe(&other), "another key described");
    assert_not_found(
        provider.wrap(&other, V1, &context(0), &secret),
        "another key wraps",
    );
    assert_not_found(
        provider.unwrap(&other, &context(0), &wrapped),
        "another key unwraps",
    );
    assert_not_found(provider.rotate(&other), "another key rotated");
    assert_not_found(provider.destroy(&other, V1), "another key destroyed");
    for version in [KeyVersion(2), KeyVersion(u32::MAX)] {
        assert_not_found(
            provider.wrap(&key, version, &context(0), &secret),
            "a version to come",
        );
        let renamed = Wrapped {
            version,
            ..wrapped.clone()
        };
        assert_not_found(
            provider.unwrap(&key, &context(0), &renamed),
            "a version to come",
        );
        assert_not_found(provider.destroy(&key, version), "a version to come");
    }
}

fn old_versions_unwrap_after_rotations(home: &dyn Home) {
    let ((provider, key), secret, wrapped) = one(home, "rotated");
    let mut all = vec![(V1, secret, wrapped)];
    for version in [KeyVersion(2), KeyVersion(3)] {
        assert_eq!(provider.rotate(&key).unwrap(), version);
        let (secret, wrapped) = provider.generate(&key, version, &context(0)).unwrap();
        assert_eq!(wrapped.version, version);
        all.push((version, secret, wrapped));
    }
    let versions: Vec<_> = all.iter().map(|(version, ..)| *version).collect();
    for (provider, key) in [(provider, key), home.open("rotated")] {
        let described = provider.describe(&key).unwrap();
        assert_eq!(
            (described.current, &described.versions),
            (KeyVersion(3), &versions)
        );
        for (version, secret, wrapped) in &all {
            assert!(
                provider
                    .unwrap(&key, &context(0), wrapped)
                    .unwrap()
                    .ct_eq(secret)
            );
            let (_, again) = provider.generate(&key, *version, &context(0)).unwrap();
            assert_eq!(again.version, *version, "the caller chooses");
            for other in versions.iter().filter(|other| *other != version) {
                let renamed = Wrapped {
                    version: *other,
                    ..wrapped.clone()
                };
                assert_damaged(
                    provider.unwrap(&key, &context(0), &renamed),
                    "another version's wrap",
                );
            }
        }
    }
}

fn a_destroyed_version_is_gone(home: &dyn Home) {
    let ((provider, key), secret, first) = one(home, "destroyed");
    assert!(
        matches!(provider.destroy(&key, V1), Err(KeyError::InvalidState(_))),
        "the newest stays"
    );
    assert!(provider.unwrap(&key, &context(0), &first).is_ok());
    let second = provider.rotate(&key).unwrap();
    let (_, wrapped) = provider.generate(&key, second, &context(0)).unwrap();
    provider.destroy(&key, V1).unwrap();
    for (provider, key) in [(provider, key), home.open("destroyed")] {
        assert_not_found(provider.unwrap(&key, &context(0), &first), "unwraps");
        assert_not_found(provider.wrap(&key, V1, &context(0), &secret), "wraps");
        assert_not_found(provider.destroy(&key, V1), "destroyed again");
        assert!(provider.unwrap(&key, &context(0), &wrapped).is_ok());
        assert_eq!(provider.describe(&key).unwrap().versions, [second]);
    }
    let (provider, reopened) = home.open("destroyed");
    assert_eq!(reopened, key, "the key's id outlives its first version");
    assert_eq!(
        provider.rotate(&key).unwrap(),
        KeyVersion(3),
        "no number is given twice"
    );
}

fn a_disabled_key_does_nothing(home: &dyn Home) {
    let ((provider, key), secret, wrapped) = one(home, "disabled");
    if !home.enable("disabled", &key, false) {
        let kind = home.algorithm();
        assert_eq!(kind, WrapAlgorithm::RsaOaepSha256, "only a TPM cannot");
        return;
    }
    assert_eq!(provider.describe(&key).unwrap().state, KeyState::Disabled);
    let unwrapped = provider.unwrap(&key, &context(0), &wrapped);
    assert!(
        matches!(unwrapped, Err(KeyError::Disabled(_))),
        "{unwrapped:?}"
    );
    let again = provider.wrap(&key, V1, &context(0), &secret);
    assert!(matches!(again, Err(KeyError::Disabled(_))), "{again:?}");
    assert!(home.enable("disabled", &key, true));
    assert_eq!(provider.describe(&key).unwrap().state, KeyState::Enabled);
    assert!(
        provider
            .unwrap(&key, &context(0), &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
}

fn the_key_cannot_be_read_out(home: &dyn Home) {
    let (provider, key) = home.make("unreadable");
    provider.rotate(&key).unwrap();
    home.assert_unreadable("unreadable", &key);
}

fn serves_eight_threads(home: &dyn Home) {
    let (provider, key) = home.make("threads");
    let rounds = home.calls() / 8;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let provider = &provider;
            scope.spawn(move || {
                for round in 0..rounds {
                    let context = context(1000 * thread + round);
                    let (secret, mut wrapped) = provider.generate(&key, V1, &context).unwrap();
                    assert!(
                        provider
                            .unwrap(&key, &context, &wrapped)
                            .unwrap()
                            .ct_eq(&secret)
                    );
                    if round % 5 == 0 {
                        wrapped.bytes[20] ^= 4;
                        assert_damaged(provider.unwrap(&key, &context, &wrapped), "damaged");
                    }
                }
            });
        }
    });
}

fn no_data_key_stays_and_nothing_leaks(home: &dyn Home) {
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let ((provider, key), _, mut damaged) = one(home, "leaks");
    damaged.bytes[13] ^= 1;
    let work = |times: usize| {
        for n in 0..times {
            let (secret, wrapped) = provider.generate(&key, V1, &context(n)).unwrap();
            assert!(
                provider
                    .unwrap(&key, &context(n), &wrapped)
                    .unwrap()
                    .ct_eq(&secret)
            );
            if n % 10 == 0 {
                assert_damaged(provider.unwrap(&key, &context(0), &damaged), "damaged");
            }
        }
    };
    work(10);
    let (objects, files) = (home.objects(), open_files());
    work(home.calls());
    assert_eq!(home.objects(), objects);
    assert!(
        open_files() <= files + 2,
        "{files} open files before, {} after",
        open_files()
    );
}

fn no_two_wraps_begin_alike(home: &dyn Home) {
    let (provider, key) = home.make("vectors");
    let (secret, mut seen) = (Secret::random(), BTreeSet::new());
    for _ in 0..home.calls() {
        let bytes = provider.wrap(&key, V1, &context(0), &secret).unwrap().bytes;
        assert_ne!(bytes[..12], [0; 12], "a vector of zeros");
        assert!(seen.insert(bytes[..12].to_vec()), "the same vector twice");
    }
}

fn two_providers_share_a_key(home: &dyn Home) {
    let (first, key) = home.make("shared");
    let (second, same) = home.open("shared");
    assert_eq!(key, same);
    std::thread::scope(|scope| {
        for (wraps, unwraps) in [(&first, &second), (&second, &first)] {
            scope.spawn(move || {
                for n in 0..50 {
                    let (secret, wrapped) = wraps.generate(&key, V1, &context(n)).unwrap();
                    assert!(
                        unwraps
                            .unwrap(&key, &context(n), &wrapped)
                            .unwrap()
                            .ct_eq(&secret)
                    );
                }
            });
        }
    });
    let version = first.rotate(&key).unwrap();
    assert_eq!(second.describe(&key).unwrap().current, version);
    let (secret, wrapped) = second.generate(&key, version, &context(0)).unwrap();
    assert!(
        first
            .unwrap(&key, &context(0), &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
    second.destroy(&key, V1).unwrap();
    assert_eq!(first.describe(&key).unwrap().versions, [version]);
    assert_not_found(
        first.wrap(&key, V1, &context(0), &secret),
        "what the other destroyed",
    );
    drop(second);
    assert!(
        first
            .unwrap(&key, &context(0), &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
}
