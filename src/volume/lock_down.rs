//! Locking an open volume whose key was lost: what can be settled is settled, then every key goes from memory.
//!
//! Invariant: once the keys are gone no call reads or writes a byte of any file, until the volume is closed; and the
//! volume ends clean only if everything was settled before.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::sync::locked;

/// What is run once a volume has locked.
pub type LockHook = Box<dyn Fn() + Send + Sync>;

/// Whether a volume is locked.
#[derive(Default)]
pub(crate) struct LockDown {
    on: AtomicBool,
    hook: Mutex<Option<LockHook>>,
}

impl Volume {
    /// Whether it was locked because its key was lost: every call is EIO until it is closed.
    pub fn is_locked(&self) -> bool {
        self.lockdown.on.load(Ordering::Acquire)
    }

    /// Has this run once the volume has locked, in place of what was to run before: whoever caches plaintext drops it.
    pub fn when_locked(&self, hook: Option<LockHook>) {
        *locked(&self.lockdown.hook) = hook;
    }

    /// EIO in a locked volume.
    pub(crate) fn require_unlocked(&self) -> Result<()> {
        if self.is_locked() {
            Err(Error::errno(libc::EIO))
        } else {
            Ok(())
        }
    }

    /// Locks it for this reason, for good.
    pub(crate) fn lock_down(&self, why: &str) {
        self.doom("the volume is locked, since its master key was lost");
        if self.lockdown.on.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            "volume {} is locked, since its master key was lost: {why}; every call fails until it is unmounted",
            self.env.volume
        );
        // No provider is needed for it: the keys of files that wait are in memory.
        if !self.env.read_only
            && let Err(error) = self.settle()
        {
            self.env.mark_unclean();
            tracing::warn!("locked before everything was settled: {error}");
        }
        self.env.drop_keys();
        self.master.forget_secret();
        self.env.ring.forget();
        let busy = self.files.unload();
        if busy > 0 {
            self.env.mark_unclean();
            tracing::warn!("{busy} files were written while the volume locked and are not settled");
        }
        if let Some(hook) = &*locked(&self.lockdown.hook) {
            hook();
        }
    }
}
