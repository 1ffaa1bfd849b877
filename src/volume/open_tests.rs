//! Opening, ending and rotating a volume on a memory store.

use std::sync::Arc;

use crate::format::ids::KeyId;
use crate::format::suite::Suite;
use crate::keys::KeyProvider;
use crate::store::{Dir, MemoryStore, Store};
use crate::volume::fixture::{self, READ_WRITE, TestKeys, USER, host};
use crate::volume::{CreateOptions, Error, OpenOptions, Volume, create, open};

const KEY: KeyId = KeyId([7; 16]);
struct Setup {
    store: Arc<MemoryStore>,
    keys: Arc<TestKeys>,
    state: Arc<dyn Dir>,
}

impl Setup {
    fn new(suite: Suite) -> Self {
        let setup = Self {
            store: Arc::new(MemoryStore::new()),
            keys: Arc::new(TestKeys::with_one_version()),
            state: MemoryStore::new().root(),
        };
        setup.create(suite).unwrap();
        setup
    }

    fn create(&self, suite: Suite) -> Result<(), Error> {
        let options = CreateOptions {
            suite,
            bind_names: true,
            sparse: true,
            envelope: None,
        };
        create(&self.shared(), &*self.keys, &KEY, &options, &host(1)).map(|_| ())
    }

    fn shared(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn options(&self) -> OpenOptions {
        fixture::options(Some(self.state.clone()))
    }

    fn open_with(&self, options: &OpenOptions) -> Result<Arc<Volume>, Error> {
        let provider: Arc<dyn KeyProvider> = self.keys.clone();
        open(self.shared(), provider.into(), options)
    }

    fn open(&self) -> Arc<Volume> {
        self.open_with(&self.options()).unwrap()
    }

    fn read_only(&self) -> OpenOptions {
        OpenOptions {
            read_only: true,
            ..self.options()
        }
    }
}

fn write(volume: &Volume, name: &str, bytes: &[u8]) {
    let (_, _, file) = volume
        .create(&volume.root(), name.as_bytes(), 0o644, &USER, READ_WRITE)
        .unwrap();
    volume.write(&file, 0, bytes).unwrap();
}

fn read(volume: &Volume, name: &str) -> Result<Vec<u8>, Error> {
    fixture::read(volume, &volume.root(), name)
}

#[test]
fn what_was_written_is_there_at_the_next_mount() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let setup = Setup::new(suite);
        let volume = setup.open();
        write(&volume, "a", b"content");
        volume.close().unwrap();
        drop(volume);
        let volume = setup.open();
        assert_eq!(read(&volume, "a").unwrap(), b"content");
        assert!(
            !volume.env.epochs.any_listed(),
            "the mount before ended clean"
        );
        volume.close().unwrap();
    }
}

#[test]
fn a_mount_that_never_ended_is_listed_by_the_next() {
    let setup = Setup::new(Suite::Gcm);
    let volume = setup.open();
    write(&volume, "a", b"content");
    let killed = Setup {
        store: Arc::new(setup.store.snapshot()),
        keys: setup.keys.clone(),
        state: setup.state.clone(),
    };
    let after = killed.open();
    assert_eq!(after.env.epochs.listed, [volume.env.epochs.running]);
    assert_eq!(after.env.epochs.running, volume.env.epochs.running + 1);
    assert_eq!(read(&after, "a").unwrap(), b"content");
    after.close().unwrap();
    volume.close().unwrap();
}

#[test]
fn a_second_writer_is_refused_and_names_the_first() {
    let setup = Setup::new(Suite::Xts);
    let volume = setup.open();
    let refused = setup.open_with(&setup.options()).err().unwrap();
    assert!(
        matches!(&refused, Error::InUse(said) if said.contains("process 2 on host here")),
        "{refused}"
    );
    volume.close().unwrap();
    setup.open().close().unwrap();
}

#[test]
fn a_read_only_mount_writes_nothing() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let setup = Setup::new(suite);
        let volume = setup.open();
        write(&volume, "a", b"content");
        volume.close().unwrap();
        drop(volume);
        let before = setup.store.writes();
        let volume = setup.open_with(&setup.read_only()).unwrap();
        assert_eq!(read(&volume, "a").unwrap(), b"content");
        assert!(
            volume
                .create(&volume.root(), b"b", 0o644, &USER, READ_WRITE)
                .is_err()
        );
        assert!(volume.rotate(&mut |_| {}).is_err());
        volume.close().unwrap();
        assert_eq!(setup.store.writes().total(), before.total());
    }
}

#[test]
fn an_older_state_is_refused_until_it_is_expected() {
    let setup = Setup::new(Suite::Gcm);
    setup.open().close().unwrap();
    let backup = Arc::new(setup.store.snapshot());
    setup.open().close().unwrap();
    let restored = Setup {
        store: backup,
        keys: setup.keys.clone(),
        state: setup.state.clone(),
    };
    let refused = restored
        .open_with(&restored.options())
        .err()
        .unwrap()
        .to_string();
    let pin = refused.rsplit(' ').next().unwrap().to_owned();
    assert!(refused.contains("--expect-volume"), "{refused}");
    let wrong = OpenOptions {
        expect: Some("0".repeat(32)),
        ..restored.options()
    };
    assert!(matches!(restored.open_with(&wrong), Err(Error::Pinned(_))));
    let accepted = restored
        .open_with(&OpenOptions {
            expect: Some(pin),
            ..restored.options()
        })
        .unwrap();
    assert_eq!(accepted.env.epochs.running, 3, "above what this host saw");
    accepted.close().unwrap();
    restored.open().close().unwrap();
}

#[test]
fn a_volume_is_made_in_an_empty_directory_only() {
    let setup = Setup::new(Suite::Gcm);
    assert!(matches!(
        setup.create(Suite::Gcm),
        Err(Error::NotAVolume(_))
    ));
    let other = Setup {
        store: Arc::new(MemoryStore::new()),
        keys: setup.keys.clone(),
        state: setup.state.clone(),
    };
    assert!(matches!(
        other.open_with(&other.options()),
        Err(Error::NotAVolume(_))
    ));
    assert!(
        other.store.root().entries(0).unwrap().is_empty(),
        "a directory that is no volume is left alone"
    );
    other.store.root().create(b"something", 0o600).unwrap();
    assert!(matches!(
        other.create(Suite::Gcm),
        Err(Error::NotAVolume(_))
    ));
}

#[test]
fn every_bit_of_volume_and_mount_file_counts() {
    let setup = Setup::new(Suite::Gcm);
    for name in ["strongroom.volume", "strongroom.mount"] {
        let length = setup.store.root().stat_at(name.as_bytes()).unwrap().size as usize;
        for at in 0..length {
            let store = Arc::new(setup.store.snapshot());
            store
                .edit(&[name.as_bytes()], |bytes| bytes[at] ^= 1)
                .unwrap();
            let damaged = Setup {
                store,
                keys: setup.keys.clone(),
                state: setup.state.clone(),
            };
            assert!(
                damaged.open_with(&damaged.options()).is_err(),
                "{name}, byte {at}"
            );
        }
    }
}

#[test]
fn a_rotation_leaves_nothing_on_the_old_version() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let setup = Setup::new(suite);
        let volume = setup.open();
        for n in 0..700 {
            write(&volume, &format!("f{n}"), format!("content {n}").as_bytes());
        }
        let root = volume.root();
        volume
            .make_symlink(&root, b"link", b"target", &USER)
            .unwrap();
        volume
            .make_node(&root, b"fifo", crate::store::Kind::Fifo, 0o600, 0, &USER)
            .unwrap();
        let (node, _) = volume.lookup(&root, b"f7").unwrap();
        volume.link(&node, &root, b"a second name").unwrap();
        let before = setup.keys.describe(&KEY).unwrap().current;
        let report = volume.rotate(&mut |_| {}).unwrap();
        assert_eq!(
            (
                report.headers,
                report.rewrapped,
                report.remaining,
                report.damaged
            ),
            (700, 700, 0, 0)
        );
        assert_eq!(
            (report.from_version, report.to_version),
            (before.0, before.0 + 1)
        );
        assert!(!volume.env.ring.chain().is_unfinished());
        volume.close().unwrap();
        drop(volume);
        setup.keys.destroy(before);
        let volume = setup.open();
        for n in 0..700 {
            assert_eq!(
                read(&volume, &format!("f{n}")).unwrap(),
                format!("content {n}").as_bytes()
            );
        }
        volume.close().unwrap();
    }
}

#[test]
fn what_still_names_a_destroyed_version_opens_nothing() {
    let setup = Setup::new(Suite::Gcm);
    let volume = setup.open();
    write(&volume, "a", b"content");
    volume.close().unwrap();
    drop(volume);
    let old = Arc::new(setup.store.snapshot());
    let volume = setup.open();
    volume.rotate(&mut |_| {}).unwrap();
    volume.close().unwrap();
    setup.keys.destroy(crate::format::ids::KeyVersion(1));
    let old = Setup {
        store: old,
        keys: setup.keys.clone(),
        state: MemoryStore::new().root(),
    };
    assert!(matches!(old.open_with(&old.options()), Err(Error::Key(_))));
}

/// A deleted file must not hold its space until the next pass of settling.
#[test]
fn space_of_a_removed_file_is_free_at_once() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let setup = Setup::new(suite);
        let volume = setup.open();
        let root = volume.root();
        write(&volume, "a", b"content");
        assert_eq!(volume.settler.len(), 1, "it waits to be settled");
        volume.unlink(&root, b"a").unwrap();
        assert_eq!(volume.settler.len(), 0, "and not once it is deleted");
        let (_, _, open) = volume
            .create(&root, b"b", 0o644, &USER, READ_WRITE)
            .unwrap();
        volume.unlink(&root, b"b").unwrap();
        volume.write(&open, 0, b"still usable").unwrap();
        let mut bytes = [0; 12];
        assert_eq!(volume.read(&open, 0, &mut bytes).unwrap(), 12);
        assert_eq!(&bytes, b"still usable");
        volume.fsync(&open, false).unwrap();
        assert_eq!(volume.settler.len(), 0);
        drop(open);
        volume.close().unwrap();
    }
}
