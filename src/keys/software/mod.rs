//! The software keystore: master keys in one file that a passphrase, a key file or a recovery key opens. It calls
//! `crypto`, `format::wrap` and `store`; it knows no volume.
//!
//! Invariants: memory holds only what a verified file said; every change re-reads the file under its lock first, so that
//! two processes cannot lose each other's; a change is durable before its call returns.

mod bytes;
mod calibrate;
mod disk;
mod error;
mod file;
mod hex;
mod key_calls;
mod provider;
mod recovery;
mod seal;
mod slot_calls;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

pub use calibrate::calibrate;
pub use disk::Place;
pub use error::KeystoreError;
pub use file::{Argon2Cost, SlotId, SlotKind};
pub use key_calls::{KeyInfo, VersionInfo};
pub use recovery::{parse_recovery, recovery_text};
pub use slot_calls::{NewSlot, SlotInfo};

use self::disk::Lock;
use self::file::Body;
use self::state::State;
use super::secret_bytes::SecretBytes;
use crate::crypto::Secret;

/// The alias that is made with a keystore.
pub const DEFAULT_ALIAS: &str = "alias/default";

/// A secret that may open a slot.
#[derive(Debug)]
pub enum Unlock {
    /// A passphrase, as typed, without the newline.
    Passphrase(SecretBytes),
    /// The 32 bytes of a key file.
    KeyFile(Secret<32>),
    /// A recovery key ([`parse_recovery`]).
    RecoveryKey(Secret<32>),
}

impl Unlock {
    /// Its name in sentences.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::KeyFile(_) => "key file",
            Self::RecoveryKey(_) => "recovery key",
        }
    }

    fn fits(&self, kind: &SlotKind) -> bool {
        matches!(
            (self, kind),
            (Self::Passphrase(_), SlotKind::Passphrase(_))
                | (Self::KeyFile(_), SlotKind::KeyFile)
                | (Self::RecoveryKey(_), SlotKind::RecoveryKey)
        )
    }
}

/// An open keystore.
pub struct Keystore {
    place: Place,
    /// Taken before `state`, for a whole change; the file's lock is inside it.
    changing: Mutex<()>,
    /// Held only to look or to swap, never across I/O.
    state: RwLock<State>,
}

impl Keystore {
    /// Makes a keystore with these slots and one key, `alias/default`, at version 1. The file is durable on return.
    ///
    /// # Errors
    /// `Exists`, `InvalidSecret` (no slot but recovery keys, an empty passphrase), or the file system's.
    pub fn create(place: &Place, slots: Vec<NewSlot>) -> Result<Self, KeystoreError> {
        let (state, bytes) = State::first(slots)?;
        let lock = place.lock()?;
        place.create(&lock, &bytes)?;
        Ok(Self {
            place: place.clone(),
            changing: Mutex::new(()),
            state: RwLock::new(state),
        })
    }

    /// Opens a keystore with the first of these secrets that fits a slot.
    ///
    /// # Errors
    /// `Missing`, `NotAKeystore`, `NewerFormat`, `Damaged`, `WrongSecret`, `NoSuchSlotKind`, `NoMemory`, `Io`.
    pub fn open(place: &Place, secrets: &[Unlock]) -> Result<Self, KeystoreError> {
        let state = State::unlock(file::parse(&place.read()?, &place.label())?, secrets)?;
        if let Err(error) = place.sync() {
            tracing::warn!("the directory of the keystore cannot be synced: {error}");
        }
        Ok(Self {
            place: place.clone(),
            changing: Mutex::new(()),
            state: RwLock::new(state),
        })
    }

    /// The kinds of the slots, without opening one and so not authentic: to know what to ask for.
    ///
    /// # Errors
    /// As `open`, but for secrets.
    pub fn slot_kinds(place: &Place) -> Result<Vec<SlotKind>, KeystoreError> {
        let parsed = file::parse(&place.read()?, &place.label())?;
        Ok(parsed
            .body
            .slots
            .into_iter()
            .map(|slot| slot.kind)
            .collect())
    }

    /// Counts changes of the file.
    pub fn generation(&self) -> u64 {
        self.look().body.generation
    }

    /// Takes over what other processes changed since.
    ///
    /// # Errors
    /// As `open`; `SlotRevoked` when the slot that opened it is gone, `RolledBack` when the file is older than what was seen.
    pub fn refresh(&self) -> Result<(), KeystoreError> {
        let _changing = self.changing();
        self.reload()?;
        Ok(())
    }

    /// Changes the file under its lock, keeping the root key.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Body, &State) -> Result<T, KeystoreError>,
    ) -> Result<T, KeystoreError> {
        let _changing = self.changing();
        let (lock, old) = self.begin()?;
        let (state, bytes, result) = {
            let state = self.look();
            let mut body = state.body.clone();
            let result = change(&mut body, &state)?;
            body.generation += 1;
            let (state, bytes) = state.with(body)?;
            (state, bytes, result)
        };
        self.place.replace(&lock, &old, &bytes)?;
        self.adopt(state);
        Ok(result)
    }

    /// Changes the file and gives it a new root key; no copy of the old one stays.
    fn change_with_new_root<T>(
        &self,
        change: impl FnOnce(&mut Body, &mut State) -> Result<T, KeystoreError>,
    ) -> Result<T, KeystoreError> {
        let _changing = self.changing();
        let (lock, _) = self.begin()?;
        let (state, bytes, result) = {
            let mut state = self.look().share();
            let mut body = state.body.clone();
            let result = change(&mut body, &mut state)?;
            body.generation += 1;
            let (state, bytes) = state.with_new_root(body)?;
            (state, bytes, result)
        };
        self.place.replace_and_erase(&lock, &bytes)?;
        self.adopt(state);
        Ok(result)
    }

    fn begin(&self) -> Result<(Lock, Vec<u8>), KeystoreError> {
        let lock = self.place.lock()?;
        let old = self.reload()?;
        self.place.tidy(&lock, self.look().body.root_generation)?;
        Ok((lock, old))
    }

    fn reload(&self) -> Result<Vec<u8>, KeystoreError> {
        let bytes = self.place.read()?;
        let parsed = file::parse(&bytes, &self.place.label())?;
        let state = self.look().follow(parsed)?;
        if state.body.generation != self.generation() {
            self.place.sync()?; // whoever changed it may have failed to, and what is used from now on must not go
        }
        self.adopt(state);
        Ok(bytes)
    }

    fn adopt(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn look(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
