//! What a volume does when its key goes away: with a real keystore, and with a provider that answers as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{READ_WRITE, code, me};
use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::suite::{Envelope, Suite};
use crate::keys::software::{Argon2Cost, NewSlot, Place};
use crate::keys::{KeyDescription, KeyError, KeyProvider, KeyState, Keystore, Unlock, Wrapped};
use crate::store::{MemoryStore, Store};
use crate::volume::fixture::{self, TestKeys, host, options};
use crate::volume::key_loss::Verdict;
use crate::volume::key_watch::KeyWatch;
use crate::volume::{CHECK_EVERY, CreateOptions, KeyLoss, SetAttr, Volume, create, open};

const KEY: KeyId = KeyId([7; 16]);
const SOON: Duration = Duration::from_millis(10);

/// What the provider does.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Yes,
    Disabled,
    Removed,
    Unavailable,
    Hangs,
}

/// A provider in memory that does as it is told.
struct Told {
    keys: TestKeys,
    says: Mutex<Says>,
    changed: Condvar,
    asked: AtomicUsize,
}

impl Told {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: TestKeys::with_one_version(),
            says: Mutex::new(Says::Yes),
            changed: Condvar::new(),
            asked: AtomicUsize::new(0),
        })
    }

    fn tell(&self, says: Says) {
        *self.says.lock().unwrap() = says;
        self.changed.notify_all();
    }

    fn answer(&self) -> Result<(), KeyError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let says = self.says.lock().unwrap();
        let says = self
            .changed
            .wait_while(says, |says| *says == Says::Hangs)
            .unwrap();
        match *says {
            Says::Yes | Says::Hangs => Ok(()),
            Says::Disabled => Err(KeyError::Disabled("k".to_owned())),
            Says::Removed => Err(KeyError::NotFound("k".to_owned())),
            Says::Unavailable => Err(KeyError::Unavailable("no answer".to_owned())),
        }
    }
}

impl KeyProvider for Told {
    fn kind(&self) -> &'static str {
        self.keys.kind()
    }

    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError> {
        self.keys.describe(key)
    }

    fn wrap(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, KeyError> {
        self.answer()?;
        self.keys.wrap(key, version, context, secret)
    }

    fn unwrap(
        &self,
        key: &KeyId,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, KeyError> {
        self.answer()?;
        self.keys.unwrap(key, context, wrapped)
    }

    fn rotate(&self, key: &KeyId) -> Result<KeyVersion, KeyError> {
        self.keys.rotate(key)
    }

    fn destroy(&self, key: &KeyId, version: KeyVersion) -> Result<(), KeyError> {
        KeyProvider::destroy(&self.keys, key, version)
    }
}

struct Kept {
    store: Arc<MemoryStore>,
    provider: Arc<dyn KeyProvider>,
}

impl Kept {
    fn new(provider: Arc<dyn KeyProvider>, key: &KeyId, suite: Suite, envelope: Envelope) -> Self {
        let store = Arc::new(MemoryStore::new());
        let options = CreateOptions {
            suite,
            bind_names: true,
            sparse: true,
            envelope: Some(envelope),
        };
        let shared: Arc<dyn Store> = store.clone();
        create(&shared, &*provider, key, &options, &host(1)).unwrap();
        Self { store, provider }
    }

    fn told(told: &Arc<Told>, suite: Suite, envelope: Envelope) -> Self {
        Self::new(told.clone(), &KEY, suite, envelope)
    }

    fn open(&self) -> Arc<Volume> {
        open(
            self.store.clone(),
            self.provider.clone().into(),
            &options(None),
        )
        .unwrap()
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn put(volume: &Volume, name: &[u8], data: &[u8]) -> crate::volume::OpenFile {
    let (_, _, file) = volume
        .create(&volume.root(), name, 0o644, &me(), READ_WRITE)
        .unwrap();
    volume.write(&file, 0, data).unwrap();
    file
}

fn read(volume: &Volume, name: &[u8]) -> Result<Vec<u8>, i32> {
    fixture::read(volume, &volume.root(), name).map_err(|error| error.code())
}

const ALL: [(Suite, Envelope); 4] = [
    (Suite::Gcm, Envelope::Direct),
    (Suite::Gcm, Envelope::Volume),
    (Suite::Xts, Envelope::Direct),
    (Suite::Xts, Envelope::Volume),
];

#[test]
fn a_lost_key_locks_every_call_keeps_what_was_written_and_ends_clean() {
    for (suite, envelope) in ALL {
        for loss in [Says::Disabled, Says::Removed] {
            let told = Told::new();
            let kept = Kept::told(&told, suite, envelope);
            let volume = kept.open();
            let file = put(&volume, b"a", b"written and not synced");
            let (node, _) = volume.lookup(&volume.root(), b"a").unwrap();
            let dropped = Arc::new(AtomicUsize::new(0));
            let seen = dropped.clone();
            volume.when_locked(Some(Box::new(move || {
                seen.fetch_add(1, Ordering::SeqCst);
            })));
            told.tell(loss);
            let watch = KeyWatch::new(KeyLoss::Lock, CHECK_EVERY);
            assert!(matches!(watch.check(&volume, at(0)), Verdict::Lock(_)));
            assert!(volume.is_locked());
            assert_eq!(dropped.load(Ordering::SeqCst), 1, "caches are told once");
            told.tell(Says::Yes);
            let asked = told.asked.load(Ordering::SeqCst);
            let root = volume.root();
            let mut buffer = [0; 8];
            let codes = [
                code(&volume.lookup(&root, b"a")),
                code(&volume.attr(&node)),
                code(&volume.set_attr(&node, &SetAttr::default(), Some(&file))),
                code(&volume.open(&node, READ_WRITE)),
                code(&volume.read(&file, 0, &mut buffer)),
                code(&volume.write(&file, 0, b"x")),
                code(&volume.fsync(&file, false)),
                code(&volume.create(&root, b"b", 0o644, &me(), READ_WRITE)),
                code(&volume.make_dir(&root, b"d", 0o755, &me())),
                code(&volume.unlink(&root, b"a")),
                code(&volume.read_dir(&root, 0)),
                code(&volume.xattr_names(&node)),
                code(&volume.usage()),
                code(&volume.rotate(&mut |_| {})),
                code(&volume.rekey_data(&[b"a".to_vec()], &mut |_| {})),
            ];
            assert_eq!(codes, [libc::EIO; 15]);
            // Not only at the door: nothing is left to read with.
            assert!(volume.env.keys().is_err());
            assert!(file.state().loaded_size().is_none());
            assert_eq!(code(&file.state().read(0, &mut buffer)), libc::EIO);
            assert_eq!(code(&file.state().write(0, b"x")), libc::EIO);
            assert_eq!(
                told.asked.load(Ordering::SeqCst),
                asked,
                "a key that comes back is not asked: the volume stays locked"
            );
            drop(file);
            volume.close().unwrap();
            drop((volume, node));
            let volume = kept.open();
            assert!(!volume.env.epochs.any_listed(), "it ended clean");
            assert_eq!(read(&volume, b"a").unwrap(), b"written and not synced");
            volume.close().unwrap();
        }
    }
}

#[test]
fn an_outage_and_a_provider_that_hangs_lock_nothing_and_hold_up_nobody() {
    let told = Told::new();
    let kept = Kept::told(&told, Suite::Gcm, Envelope::Direct);
    let volume = kept.open();
    put(&volume, b"a", b"data");
    let watch = KeyWatch::with_patience(KeyLoss::Lock, SOON);
    told.tell(Says::Hangs);
    for second in 0..3 {
        assert_eq!(watch.check(&volume, at(second)), Verdict::GoOn);
    }
    assert!(!volume.is_locked());
    assert_eq!(read(&volume, b"a").unwrap(), b"data");
    told.tell(Says::Unavailable);
    let watch = KeyWatch::new(KeyLoss::Lock, CHECK_EVERY);
    assert_eq!(watch.check(&volume, at(1_000_000)), Verdict::GoOn);
    told.tell(Says::Yes);
    assert_eq!(watch.check(&volume, at(1_000_001)), Verdict::GoOn);
    volume.close().unwrap();
}

#[test]
fn the_volume_closes_while_the_provider_hangs() {
    let told = Told::new();
    let kept = Kept::told(&told, Suite::Gcm, Envelope::Direct);
    let volume = kept.open();
    let asked = told.asked.load(Ordering::SeqCst);
    told.tell(Says::Hangs);
    volume.set_watch(KeyLoss::Lock, Duration::from_millis(1));
    volume.watch().unwrap();
    while told.asked.load(Ordering::SeqCst) == asked {
        std::thread::yield_now(); // until the thread waits for its answer
    }
    volume.close().unwrap();
    told.tell(Says::Yes);
}

#[test]
fn the_thread_locks_by_itself() {
    let told = Told::new();
    let kept = Kept::told(&told, Suite::Gcm, Envelope::Direct);
    let volume = kept.open();
    told.tell(Says::Removed);
    volume.set_watch(
        KeyLoss::Grace(Duration::from_millis(1)),
        Duration::from_millis(1),
    );
    volume.watch().unwrap();
    volume.stop_watching();
    volume.watch().unwrap(); // again
    while !volume.is_locked() || volume.env.keys().is_ok() {
        std::thread::yield_now();
    }
    volume.close().unwrap();
}

#[test]
fn a_grace_that_the_key_comes_back_in_locks_nothing() {
    let told = Told::new();
    let kept = Kept::told(&told, Suite::Gcm, Envelope::Volume);
    let volume = kept.open();
    let watch = KeyWatch::new(KeyLoss::Grace(at(60)), CHECK_EVERY);
    told.tell(Says::Disabled);
    assert_eq!(watch.check(&volume, at(0)), Verdict::GoOn);
    assert_eq!(watch.check(&volume, at(59)), Verdict::GoOn);
    told.tell(Says::Yes);
    assert_eq!(watch.check(&volume, at(61)), Verdict::GoOn);
    told.tell(Says::Disabled);
    assert_eq!(watch.check(&volume, at(62)), Verdict::GoOn);
    told.tell(Says::Unavailable);
    assert_eq!(watch.check(&volume, at(1000)), Verdict::GoOn);
    told.tell(Says::Disabled);
    assert!(matches!(watch.check(&volume, at(1001)), Verdict::Lock(_)));
    volume.close().unwrap();
}

#[test]
fn a_key_that_another_process_disables_in_the_keystore_is_lost() {
    let place = Place::new(MemoryStore::new().root(), b"keystore");
    let unlock = || Unlock::KeyFile(Secret::from_bytes(&mut [1; 32]));
    let slot = NewSlot {
        label: "test".into(),
        secret: unlock(),
        cost: Argon2Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        },
    };
    let keystore = Keystore::create(&place, vec![slot]).unwrap();
    let key = keystore.create_key(None).unwrap();
    let kept = Kept::new(Arc::new(keystore), &key, Suite::Gcm, Envelope::Direct);
    let volume = kept.open();
    put(&volume, b"a", b"data");
    let watch = KeyWatch::new(KeyLoss::Lock, CHECK_EVERY);
    assert_eq!(watch.check(&volume, at(0)), Verdict::GoOn);
    let other = Keystore::open(&place, &[unlock()]).unwrap();
    other.set_key_state(&key, KeyState::Disabled).unwrap();
    assert!(matches!(watch.check(&volume, at(1)), Verdict::Lock(_)));
    assert_eq!(read(&volume, b"a"), Err(libc::EIO));
    volume.close().unwrap();
    other.set_key_state(&key, KeyState::Enabled).unwrap();
    let volume = kept.open();
    assert_eq!(read(&volume, b"a").unwrap(), b"data");
    volume.close().unwrap();
}

#[test]
fn what_is_written_while_the_volume_locks_survives() {
    let told = Told::new();
    for suite in [Suite::Gcm, Suite::Xts] {
        let kept = Kept::told(&told, suite, Envelope::Direct);
        let volume = kept.open();
        let file = put(&volume, b"a", &[0; 4096]);
        let written = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                for count in 1_u64.. {
                    if volume.write(&file, 0, &count.to_le_bytes()).is_err() {
                        return count - 1;
                    }
                    written.fetch_add(1, Ordering::SeqCst);
                }
                0
            });
            while written.load(Ordering::SeqCst) < 50 {
                std::thread::yield_now();
            }
            volume.lock_down("a test says so");
            let last = writing.join().unwrap();
            assert!(last >= 50);
            volume.close().unwrap();
            let again = Kept {
                store: Arc::new(kept.store.snapshot()),
                provider: kept.provider.clone(),
            };
            let volume = again.open();
            let found = read(&volume, b"a").unwrap();
            // A write that the lock refused halfway may be there or not.
            let found = u64::from_le_bytes(*found.first_chunk().unwrap());
            assert!(found == last || found == last + 1, "{found} {last}");
            volume.close().unwrap();
        });
    }
}
