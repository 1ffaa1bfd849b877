//! Several master keys in two envelopes: volumes made under each, moved from each to each, killed at every write on the
//! way; what a header may not name; keys that are away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::format::header::{AREAS_AT, KeyArea, SECTOR};
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::suite::{Envelope, Suite};
use crate::format::wrap::WrapAlgorithm;
use crate::keys::pkcs11::Module;
use crate::keys::{KeyError, KeyProvider, Providers};
use crate::store::{Call, FailingStore, MemoryStore, Store};
use crate::volume::fixture::{READ_WRITE, TestKeys, USER, host, options, read};
use crate::volume::{
    CreateOptions, Error, OpenOptions, Rotation, Target, Volume, create, info, open, pinned_modules,
};

use Envelope::{Direct, Volume as ByVolumeKey};

mod costs;
mod killed;
mod linked;
mod refused;

const FILES: usize = 5;
/// What a kill may come before.
const CHANGES: [Call; 15] = [
    Call::Write,
    Call::SetLen,
    Call::Create,
    Call::Link,
    Call::Rename,
    Call::Remove,
    Call::SetMode,
    Call::SetTimes,
    Call::SetXattr,
    Call::MakeDir,
    Call::Allocate,
    Call::RemoveXattr,
    Call::SyncFile,
    Call::SyncDir,
    Call::SyncStore,
];

/// Three keys of two kinds; the last wraps no data keys itself.
struct Homes {
    first: Arc<TestKeys>,
    second: Arc<TestKeys>,
    card: Arc<TestKeys>,
}

impl Homes {
    fn new() -> Self {
        let key = |kind, id, algorithm| Arc::new(TestKeys::new(kind, KeyId([id; 16]), algorithm));
        Self {
            first: key("test", 1, WrapAlgorithm::AesGcmSiv),
            second: key("pkcs11", 2, WrapAlgorithm::AesGcm),
            card: key("pkcs11", 3, WrapAlgorithm::RsaOaepSha256),
        }
    }

    fn all(&self) -> Providers {
        let mut all = Providers::default();
        for keys in [&self.first, &self.second, &self.card] {
            all.add(keys.clone());
        }
        all
    }
}

fn only(keys: &Arc<TestKeys>) -> Providers {
    let provider: Arc<dyn KeyProvider> = keys.clone();
    provider.into()
}

fn module(name: &str) -> Module {
    Module {
        path: PathBuf::from(format!("/lib/{name}.so")),
        init: None,
    }
}

fn target(keys: &Arc<TestKeys>, envelope: Envelope) -> Target {
    Target {
        provider: keys.clone(),
        key: keys.key(),
        envelope: Some(envelope),
        module: (keys.kind() == "pkcs11").then(|| module("token")),
    }
}

/// A volume in memory and what its host remembers.
struct Setup {
    store: Arc<MemoryStore>,
    state: Arc<MemoryStore>,
}

impl Setup {
    /// Made under this key, with some files and a directory.
    fn new(suite: Suite, keys: &Arc<TestKeys>, envelope: Option<Envelope>) -> Self {
        let setup = Self {
            store: Arc::new(MemoryStore::new()),
            state: Arc::new(MemoryStore::new()),
        };
        let options = CreateOptions {
            suite,
            bind_names: true,
            sparse: true,
            envelope,
        };
        let store: Arc<dyn Store> = setup.store.clone();
        create(&store, &**keys, &keys.key(), &options, &host(1)).unwrap();
        let volume = setup.open(only(keys)).unwrap();
        let (dir, _) = volume.make_dir(&volume.root(), b"d", 0o755, &USER).unwrap();
        for n in 0..FILES {
            let parent = if n % 2 == 0 {
                volume.root()
            } else {
                dir.clone()
            };
            let (_, _, file) = volume
                .create(&parent, name(n).as_bytes(), 0o644, &USER, READ_WRITE)
                .unwrap();
            volume.write(&file, 0, &content(n)).unwrap();
        }
        volume.close().unwrap();
        setup
    }

    fn options(&self) -> OpenOptions {
        options(Some(self.state.root()))
    }

    fn open(&self, providers: Providers) -> Result<Arc<Volume>, Error> {
        open(self.store.clone(), providers, &self.options())
    }

    /// What a kill leaves now.
    fn left(&self) -> Self {
        Self {
            store: Arc::new(self.store.snapshot()),
            state: Arc::new(self.state.snapshot()),
        }
    }

    fn info(&self) -> crate::volume::Info {
        let store: Arc<dyn Store> = self.store.clone();
        info(&store).unwrap()
    }

    /// Opens it with these keys alone and reads everything.
    fn assert_whole(&self, providers: Providers) {
        let volume = self.open(providers).unwrap();
        assert_readable(&volume);
        volume.close().unwrap();
    }
}

fn name(n: usize) -> String {
    format!("f{n}")
}

fn content(n: usize) -> Vec<u8> {
    format!("content {n} ").repeat(1 + 700 * n).into_bytes()
}

fn assert_readable(volume: &Volume) {
    let (dir, _) = volume.lookup(&volume.root(), b"d").unwrap();
    for n in 0..FILES {
        let parent = if n % 2 == 0 {
            volume.root()
        } else {
            dir.clone()
        };
        assert!(read(volume, &parent, name(n)).unwrap() == content(n), "{n}");
    }
}

fn assert_proven(rotation: &Rotation) {
    assert_eq!(
        (rotation.headers, rotation.remaining, rotation.damaged),
        (FILES as u64, 0, 0),
        "{rotation:?}"
    );
}

#[test]
fn the_envelope_is_what_the_key_can_do() {
    let homes = Homes::new();
    for (keys, asked, given) in [
        (&homes.first, None, Some(Direct)),
        (&homes.first, Some(ByVolumeKey), Some(ByVolumeKey)),
        (&homes.second, None, Some(Direct)),
        (&homes.card, None, Some(ByVolumeKey)),
        (&homes.card, Some(ByVolumeKey), Some(ByVolumeKey)),
        (&homes.card, Some(Direct), None),
    ] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let options = CreateOptions {
            suite: Suite::Gcm,
            bind_names: true,
            sparse: true,
            envelope: asked,
        };
        let made = create(&store, &**keys, &keys.key(), &options, &host(1));
        match given {
            Some(envelope) => {
                made.unwrap();
                let shown = info(&store).unwrap();
                assert_eq!((shown.envelope, shown.keys.len()), (envelope, 1));
                assert_eq!(shown.master_version, KeyVersion(1));
            }
            None => {
                let said = made.unwrap_err().to_string();
                assert!(said.contains("envelope"), "{said}");
                assert!(
                    store.root().entries(0).unwrap().is_empty(),
                    "nothing is left"
                );
            }
        }
    }
}

#[test]
fn under_the_volume_envelope_a_mount_asks_once() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let homes = Homes::new();
        let setup = Setup::new(suite, &homes.card, None);
        let before = homes.card.calls();
        let volume = setup.open(homes.all()).unwrap();
        assert_readable(&volume);
        let root = volume.root();
        let (_, _, file) = volume
            .create(&root, b"new", 0o644, &USER, READ_WRITE)
            .unwrap();
        volume.write(&file, 0, b"new").unwrap();
        assert_eq!(homes.card.calls() - before, 1);
        volume.unlink(&root, b"new").unwrap();
        drop(file);
        volume.close().unwrap();
    }
}

#[test]
fn a_rotation_under_the_volume_envelope_makes_a_new_volume_key() {
    let homes = Homes::new();
    let setup = Setup::new(Suite::Gcm, &homes.card, None);
    let volume = setup.open(homes.all()).unwrap();
    let before = homes.card.calls();
    let report = volume.rotate(&mut |_| {}).unwrap();
    assert_proven(&report);
    assert_eq!(
        (report.from_version, report.to_version, report.rewrapped),
        (1, 2, FILES as u64)
    );
    assert_eq!(homes.card.calls() - before, 1, "the new volume key's wrap");
    volume.close().unwrap();
    let shown = setup.info();
    assert_eq!(shown.master_version, KeyVersion(2));
    assert_eq!(shown.volume_keys.len(), 1);
    homes.card.destroy(KeyVersion(1));
    setup.assert_whole(only(&homes.card));
}

/// One way to change the keys of a volume, from one home to another.
struct Move<'a> {
    from: (&'a Arc<TestKeys>, Envelope),
    to: (&'a Arc<TestKeys>, Envelope),
}

impl Move<'_> {
    fn is_rotation(&self) -> bool {
        self.from.0.key() == self.to.0.key() && self.from.1 == self.to.1
    }

    fn run(&self, volume: &Volume) -> Result<Rotation, Error> {
        if self.is_rotation() {
            volume.rotate(&mut |_| {})
        } else {
            volume.rekey(target(self.to.0, self.to.1), &mut |_| {})
        }
    }

    /// Destroys what no header should need any more.
    fn burn(&self, setup: &Setup) {
        if self.from.0.key() != self.to.0.key() {
            self.from.0.destroy_all();
        } else {
            let current = setup.info().master_version;
            let versions = self.to.0.versions();
            versions
                .into_iter()
                .filter(|version| *version != current)
                .for_each(|version| self.to.0.destroy(version));
        }
    }

    fn said(&self) -> String {
        let end = |(keys, envelope): (&Arc<TestKeys>, Envelope)| {
            format!("{} {envelope:?}", keys.key().0[0])
        };
        format!("{} → {}", end(self.from), end(self.to))
    }
}

/// Every move there is between the three homes, rotations among them.
fn each_move(visit: impl Fn(&Homes, &Move<'_>)) {
    for from in 0..5 {
        for to in 0..5 {
            let homes = Homes::new();
            let ends = [
                (&homes.first, Direct),
                (&homes.first, ByVolumeKey),
                (&homes.second, Direct),
                (&homes.second, ByVolumeKey),
                (&homes.card, ByVolumeKey),
            ];
            let step = Move {
                from: ends[from],
                to: ends[to],
            };
            visit(&homes, &step);
        }
    }
}

#[test]
fn every_move_leaves_nothing_on_the_key_before() {
    each_move(|homes, step| {
        for suite in [Suite::Gcm, Suite::Xts] {
            let setup = Setup::new(suite, step.from.0, Some(step.from.1));
            let volume = setup.open(homes.all()).unwrap();
            let report = step.run(&volume).unwrap();
            assert_proven(&report);
            assert_eq!(report.rewrapped, FILES as u64);
            assert_eq!(report.from_key, step.from.0.key().to_string());
            assert_eq!(report.to_key, step.to.0.key().to_string());
            assert_eq!(report.envelope, step.to.1);
            assert_readable(&volume);
            volume.close().unwrap();
            let shown = setup.info();
            assert_eq!((shown.keys.len(), shown.versions.len()), (1, 1));
            assert_eq!(
                shown.volume_keys.len(),
                usize::from(step.to.1 == ByVolumeKey)
            );
            if suite == Suite::Xts {
                step.burn(&setup);
            }
            setup.assert_whole(only(step.to.0));
        }
    });
}

/// The store and the host's pins, of which one fails from some write on, as if the process was killed there.
fn killed_at(setup: &Setup, step: &Move<'_>, homes: &Homes, at: u64, pins: bool) -> (Setup, bool) {
    let killed = setup.left();
    let store = Arc::new(FailingStore::new(killed.store.clone()));
    let state = Arc::new(FailingStore::new(killed.state.clone()));
    let options = OpenOptions {
        state: Some(state.root()),
        ..killed.options()
    };
    let volume = open(store.clone(), homes.all(), &options).unwrap();
    let failing = if pins { &state } else { &store };
    failing.fail_from(&CHANGES, at, libc::EIO);
    let _ = step.run(&volume);
    let was_hit = failing.failed() > 0;
    let left = killed.left();
    drop(volume);
    (left, was_hit)
}

/// A volume between two keys: the volume file allows both, and headers name both.
fn halfway(homes: &Homes, step: &Move<'_>) -> Setup {
    let setup = Setup::new(Suite::Gcm, step.from.0, Some(step.from.1));
    for at in 0.. {
        let (left, was_hit) = killed_at(&setup, step, homes, at, false);
        assert!(was_hit, "no kill left it halfway");
        let of = |area: &KeyArea| area.key_id == step.to.0.key();
        let moved = (0..FILES)
            .filter(|n| n % 2 == 0)
            .filter(|n| of(&newest_area(&left, *n)));
        if left.info().keys.len() == 2 && moved.count() == 2 {
            return left;
        }
    }
    unreachable!()
}

/// Where the file with this (even) number lies on the store.
fn stored_name(setup: &Setup, n: usize) -> Vec<u8> {
    let wanted = {
        let store = Arc::new(setup.store.snapshot());
        store.root().entries(0).unwrap()
    };
    let size = |name: &[u8]| setup.store.root().stat_at(name).unwrap().size;
    let mut files: Vec<_> = wanted
        .into_iter()
        .filter(|entry| {
            !entry.name.starts_with(b"strongroom.") && entry.kind == Some(crate::store::Kind::File)
        })
        .map(|entry| (size(&entry.name), entry.name))
        .collect();
    files.sort();
    files[n / 2].1.clone()
}

fn areas(setup: &Setup, n: usize) -> [Option<KeyArea>; 2] {
    let file = setup
        .store
        .root()
        .open(&stored_name(setup, n), crate::store::Access::Read)
        .unwrap();
    AREAS_AT.map(|offset| {
        let mut bytes = [0; SECTOR];
        file.read_at(&mut bytes, offset as u64).unwrap();
        KeyArea::parse(&bytes).ok().flatten()
    })
}

fn newest_area(setup: &Setup, n: usize) -> KeyArea {
    let areas = areas(setup, n).into_iter().flatten();
    areas.max_by_key(|area| area.sequence).unwrap()
}
