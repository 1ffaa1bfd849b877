//! One disk with a keystore, a host's pins and a backing directory on it, and how they are opened.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::crypto::Secret;
use crate::format::ids::KeyId;
use crate::format::mount_file::MountFile;
use crate::format::names;
use crate::format::suite::{Envelope, Suite};
use crate::keys::software::{Argon2Cost, NewSlot, Place};
use crate::keys::{KeyProvider, Keystore, Providers, Unlock};
use crate::store::power::{Journal, Rules};
use crate::store::{Dir, Host, MemoryStore, Store, Traits, Usage};
use crate::volume::replace::{read_small, replace};
use crate::volume::{CreateOptions, InPlace, KeyLoss, OpenOptions, Result, Volume, create, open};

const KEYS: &[u8] = b"keys";
const STATE: &[u8] = b"state";
pub(super) const VOLUME: &[u8] = b"volume";
/// An empty directory, for a copy of the volume.
pub(super) const COPY: &[u8] = b"copy";
const CHEAP: Argon2Cost = Argon2Cost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

/// What does not change over one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) suite: Suite,
    pub(super) journal: Journal,
    /// Pages are written whole, and groups overwritten in place.
    pub(super) whole_pages: bool,
    pub(super) sparse: bool,
    pub(super) bind_names: bool,
    pub(super) envelope: Envelope,
    /// A sync of the store tells of every file.
    pub(super) syncfs: bool,
}

impl Setup {
    pub(super) const GCM: Self = Self {
        suite: Suite::Gcm,
        journal: Journal::Global,
        whole_pages: true,
        sparse: true,
        bind_names: true,
        envelope: Envelope::Direct,
        syncfs: true,
    };
    pub(super) const XTS: Self = Self {
        suite: Suite::Xts,
        whole_pages: false,
        ..Self::GCM
    };

    /// No sync of the store tells of files.
    pub(super) const FILE_SYNCS: Self = Self {
        syncfs: false,
        ..Self::GCM
    };
    /// Each directory reaches the disk by itself.
    pub(super) const EACH_DIR: Self = Self {
        journal: Journal::PerDir,
        ..Self::GCM
    };

    pub(super) fn rules(&self) -> Rules {
        let gcm = self.suite == Suite::Gcm;
        Rules {
            whole_pages: self.whole_pages,
            is_metadata: if gcm { gcm_metadata } else { |page| page == 0 },
            drops_cache: false,
        }
    }
}

/// Whether a page of a file holds records or its header.
fn gcm_metadata(page: u64) -> bool {
    page == 0 || page >= 38 && (page - 38).is_multiple_of(74)
}

/// A directory of a store as a store.
struct Below {
    inner: Arc<dyn Store>,
    root: Arc<dyn Dir>,
}

impl Store for Below {
    fn root(&self) -> Arc<dyn Dir> {
        Arc::clone(&self.root)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn usage(&self) -> io::Result<Usage> {
        self.inner.usage()
    }
    fn traits(&self) -> Traits {
        self.inner.traits()
    }
}

/// The directories, durable, and nothing in them.
pub(super) fn empty_disk(setup: &Setup) -> MemoryStore {
    let disk = MemoryStore::with_traits(Traits {
        syncfs_reports: setup.syncfs,
        atomic_page: true,
        unsafe_journal: false,
    });
    for name in [KEYS, STATE, VOLUME, COPY] {
        disk.root().make_dir(name, 0o700).unwrap();
    }
    disk
}

/// A directory of the disk, as what a volume lies in.
pub(super) fn backing(disk: &Arc<dyn Store>, name: &[u8]) -> io::Result<Arc<dyn Store>> {
    Ok(Arc::new(Below {
        inner: Arc::clone(disk),
        root: disk.root().open_dir(name)?,
    }))
}

pub(super) fn key_file(byte: u8) -> Unlock {
    Unlock::KeyFile(Secret::from_bytes(&mut [byte; 32]))
}

pub(super) fn slot(byte: u8) -> NewSlot {
    NewSlot {
        label: format!("slot {byte}"),
        secret: key_file(byte),
        cost: CHEAP,
    }
}

pub(super) fn place(disk: &Arc<dyn Store>) -> io::Result<Place> {
    Ok(Place::new(disk.root().open_dir(KEYS)?, b"keystore"))
}

/// A keystore and a volume, as `init` makes them.
pub(super) fn init(disk: &Arc<dyn Store>, setup: &Setup) -> Result<()> {
    let place = place(disk)?;
    let keys = match Keystore::create(&place, vec![slot(1)]) {
        Err(crate::keys::KeystoreError::Exists(_)) => Keystore::open(&place, &[key_file(1)]),
        created => created,
    };
    let keys = keys.map_err(crate::keys::KeyError::from)?;
    let options = CreateOptions {
        suite: setup.suite,
        bind_names: setup.bind_names,
        sparse: setup.sparse,
        envelope: Some(setup.envelope),
    };
    create(
        &backing(disk, VOLUME)?,
        &keys,
        &key(&keys),
        &options,
        &host(),
    )
    .map(drop)
}

pub(super) fn key(keys: &Keystore) -> KeyId {
    keys.resolve("alias/default").unwrap()
}

/// Opens the keystore, then the volume, for writing.
pub(super) fn mount(disk: &Arc<dyn Store>, setup: &Setup) -> Result<(Arc<Volume>, Arc<Keystore>)> {
    mount_in(disk, setup, VOLUME)
}

/// As `mount`, of the volume in this directory.
pub(super) fn mount_in(
    disk: &Arc<dyn Store>,
    setup: &Setup,
    name: &[u8],
) -> Result<(Arc<Volume>, Arc<Keystore>)> {
    mount_for(disk, setup, name, false)
}

/// As `mount`, for reading only.
pub(super) fn mount_to_read(disk: &Arc<dyn Store>, setup: &Setup) -> Result<Arc<Volume>> {
    Ok(mount_for(disk, setup, VOLUME, true)?.0)
}

fn mount_for(
    disk: &Arc<dyn Store>,
    setup: &Setup,
    name: &[u8],
    read_only: bool,
) -> Result<(Arc<Volume>, Arc<Keystore>)> {
    let keys = Keystore::open(&place(disk)?, &[key_file(1)]);
    let keys = Arc::new(keys.map_err(crate::keys::KeyError::from)?);
    let options = OpenOptions {
        read_only,
        in_place: if setup.whole_pages {
            InPlace::Auto
        } else {
            InPlace::Never
        },
        host: host(),
        state: Some(disk.root().open_dir(STATE)?),
        expect: None,
        take_over: false,
        modules: BTreeMap::new(),
        on_key_loss: KeyLoss::default(),
        key_check: std::time::Duration::from_secs(3600),
    };
    let volume = open(
        backing(disk, name)?,
        Providers::from(keys.clone() as Arc<dyn KeyProvider>),
        &options,
    )?;
    // Idle time is a step of the scripts, so that a seed repeats all of it.
    volume.housekeeping.stop();
    Ok((volume, keys))
}

/// Empties the list of epochs that ended uncleanly, as a repair does: everything that was settled is strict then.
pub(super) fn empty_list(disk: &Arc<dyn Store>, closed: &Volume) {
    let root = disk.root().open_dir(VOLUME).unwrap();
    let mac = &closed.env.keys().unwrap().mac;
    let bytes = read_small(&root, names::MOUNT, 1 << 20).unwrap().unwrap();
    let mut mount = MountFile::parse(&bytes, mac).unwrap();
    assert!(mount.clean, "the mount did not end clean");
    mount.listed.clear();
    replace(&root, names::MOUNT, &mount.encode(mac).unwrap()).unwrap();
}

pub(super) fn host() -> Host {
    Host {
        name: "host".into(),
        boot_id: "boot".into(),
        pid: 1,
        since: 1,
    }
}
