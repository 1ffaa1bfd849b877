//! What every part of an open volume shares: the store, the keys, the epochs. Read-only after opening, but for the mark
//! that a sync failed and was not repaired, and for the keys, which go when the volume locks.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use crate::format::ids::VolumeId;
use crate::format::suite::Suite;
use crate::format::volume_keys::VolumeKeys;
use crate::store::{Dir, Store};
use crate::volume::error::{Error, Result};
use crate::volume::keyring::KeyRing;
use crate::volume::redo::Redo;
use crate::volume::sync::{reading, writing};

/// Who is told why another process must not take what is on the store for whole.
type Told = Box<dyn Fn(&str) + Send + Sync>;

/// An open volume's surroundings.
pub(crate) struct Env {
    /// The backing store.
    pub(crate) store: Arc<dyn Store>,
    /// Its top directory.
    pub(crate) root: Arc<dyn Dir>,
    /// The volume.
    pub(crate) volume: VolumeId,
    /// The cipher suite of every file in it.
    pub(crate) suite: Suite,
    /// Whether files are bound to their names (GCM-SIV only).
    pub(crate) bind_names: bool,
    /// Whether growth may leave sparse groups; else skipped groups are filled with holes.
    pub(crate) sparse: bool,
    /// Whether nothing may be written.
    pub(crate) read_only: bool,
    /// Whether a full group may be overwritten in place (FORMAT.md section 4, rule 3): the store writes 4 KiB atomically.
    pub(crate) in_place: bool,
    /// Copies for overwrites in place where that is not so, on a full store.
    pub(crate) redo: Redo,
    /// Keys derived from the volume secret; none in a locked volume.
    keys: RwLock<Option<Arc<VolumeKeys>>>,
    /// Wraps and unwraps data keys under the master key.
    pub(crate) ring: KeyRing,
    /// The running epoch and those that ended uncleanly.
    pub(crate) epochs: Epochs,
    /// A sync failed and was not repaired yet by a later one, or a file could not be settled: no clean mark.
    unclean: AtomicBool,
    /// Told once something of that kind happened.
    distrusted: OnceLock<Told>,
    /// The errno of a sync of the store that failed; 0: none did.
    store_failed: AtomicI32,
    /// Every file in doubt was settled: a clean end empties the list of unclean epochs.
    all_settled: AtomicBool,
}

impl Env {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        store: Arc<dyn Store>,
        volume: VolumeId,
        suite: Suite,
        bind_names: bool,
        sparse: bool,
        read_only: bool,
        in_place: bool,
        redo: Redo,
        keys: VolumeKeys,
        ring: KeyRing,
        epochs: Epochs,
    ) -> Self {
        let root = store.root();
        let unclean = AtomicBool::new(false);
        Self {
            store,
            root,
            volume,
            suite,
            bind_names,
            sparse,
            read_only,
            in_place,
            redo,
            keys: RwLock::new(Some(Arc::new(keys))),
            ring,
            epochs,
            unclean,
            distrusted: OnceLock::new(),
            store_failed: AtomicI32::new(0),
            all_settled: AtomicBool::new(false),
        }
    }

    /// The keys derived from the volume secret; EIO in a locked volume.
    pub(crate) fn keys(&self) -> Result<Arc<VolumeKeys>> {
        reading(&self.keys)
            .clone()
            .ok_or_else(|| Error::errno(libc::EIO))
    }

    /// Lets the keys go: they are wiped with the last call that still uses them.
    pub(crate) fn drop_keys(&self) {
        *writing(&self.keys) = None;
    }

    /// Notes that this mount must not end clean.
    pub(crate) fn mark_unclean(&self) {
        self.unclean.store(true, Ordering::Relaxed);
        self.distrust("something could not be made durable or settled");
    }

    /// Has this told, once, why what is on the store must not be taken for whole by another process.
    pub(crate) fn when_distrusted(&self, told: Told) {
        let _ = self.distrusted.set(told);
    }

    /// Something failed of which only this process knows.
    pub(crate) fn distrust(&self, why: &str) {
        if let Some(told) = self.distrusted.get() {
            told(why);
        }
    }

    /// Notes that a sync of the store failed, which another may not tell of again.
    pub(crate) fn note_store_failed(&self, error: &io::Error) {
        let code = error.raw_os_error().unwrap_or(libc::EIO);
        self.store_failed.store(code, Ordering::Relaxed);
    }

    /// Whether all syncs of the store went well: else the first thing that is lost may be what no `FileState` remembers and
    /// writes again.
    pub(crate) fn store_never_failed(&self) -> io::Result<()> {
        match self.store_failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Notes that every file in doubt was settled, durably.
    pub(crate) fn mark_all_settled(&self) {
        self.all_settled.store(true, Ordering::Relaxed);
    }

    /// Whether a clean end may empty the list of unclean epochs.
    pub(crate) fn is_all_settled(&self) -> bool {
        self.all_settled.load(Ordering::Relaxed)
    }

    /// Whether this mount may still end clean.
    pub(crate) fn may_end_clean(&self) -> bool {
        !self.unclean.load(Ordering::Relaxed)
    }
}

/// The epochs of `strongroom.mount` as this mount counts them.
#[derive(Debug, Clone)]
pub(crate) struct Epochs {
    /// The epoch that every state written now carries.
    pub(crate) running: u64,
    /// Epochs that ended uncleanly and were not repaired since; ascending.
    pub(crate) listed: Vec<u64>,
}

impl Epochs {
    /// Whether a file last settled in this epoch (0: never) may hold the traces of a crash.
    pub(crate) fn in_doubt(&self, settled: u64) -> bool {
        self.listed.last().is_some_and(|newest| settled <= *newest)
    }

    /// Whether this epoch ended uncleanly.
    pub(crate) fn is_listed(&self, epoch: u64) -> bool {
        self.listed.binary_search(&epoch).is_ok()
    }

    /// Whether any epoch ended uncleanly.
    pub(crate) fn any_listed(&self) -> bool {
        !self.listed.is_empty()
    }
}
