//! For tests: a provider in memory that counts its calls, answers late or not at all as it is told, and destroys for good.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::crypto::{GcmSiv, Secret};
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::volume_file::{TOKEN_PROVIDER, TokenObject};
use crate::format::wrap::{WrapAlgorithm, software_unwrap, software_wrap};
use crate::keys::{KeyDescription, KeyError, KeyProvider, KeyState, Wrapped};

/// The key of [`TestKeys::with_one_version`].
pub(crate) const KEY: KeyId = KeyId([7; 16]);

/// One key in memory.
pub(crate) struct TestKeys {
    kind: &'static str,
    key: KeyId,
    algorithm: WrapAlgorithm,
    versions: Mutex<BTreeMap<u32, GcmSiv>>,
    calls: AtomicU64,
    /// What `ready_ahead` answers.
    pub(crate) ahead: AtomicUsize,
    /// What `parallel` answers.
    pub(crate) sessions: AtomicUsize,
    /// Whether it cannot be reached.
    pub(crate) away: AtomicBool,
    /// How many more wraps and unwraps it answers before it cannot be reached.
    pub(crate) answers: AtomicU64,
}

impl TestKeys {
    /// A provider "test" that wraps data keys.
    pub(crate) fn with_one_version() -> Self {
        Self::new("test", KEY, WrapAlgorithm::AesGcmSiv)
    }

    pub(crate) fn new(kind: &'static str, key: KeyId, algorithm: WrapAlgorithm) -> Self {
        let keys = Self {
            kind,
            key,
            algorithm,
            versions: Mutex::default(),
            calls: AtomicU64::new(0),
            ahead: AtomicUsize::new(0),
            sessions: AtomicUsize::new(1),
            away: AtomicBool::new(false),
            answers: AtomicU64::new(u64::MAX),
        };
        keys.add_version();
        keys
    }

    pub(crate) fn key(&self) -> KeyId {
        self.key
    }

    /// Wraps, unwraps and data keys made so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Forgets a version for ever.
    pub(crate) fn destroy(&self, version: KeyVersion) {
        self.lock().remove(&version.0);
    }

    /// Forgets the key for ever.
    pub(crate) fn destroy_all(&self) {
        self.lock().clear();
    }

    pub(crate) fn add_version(&self) -> KeyVersion {
        let mut versions = self.lock();
        let next = versions.keys().max().map_or(1, |newest| newest + 1);
        versions.insert(next, GcmSiv::new(&Secret::random()));
        KeyVersion(next)
    }

    pub(crate) fn versions(&self) -> Vec<KeyVersion> {
        self.lock().keys().copied().map(KeyVersion).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, GcmSiv>> {
        self.versions.lock().unwrap()
    }

    fn here(&self, key: &KeyId) -> Result<(), KeyError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(KeyError::Unavailable("not to be reached".to_owned()));
        }
        if *key != self.key || self.lock().is_empty() {
            return Err(KeyError::NotFound(key.to_string()));
        }
        Ok(())
    }

    fn with<T>(
        &self,
        key: &KeyId,
        version: KeyVersion,
        operation: impl FnOnce(&GcmSiv) -> T,
    ) -> Result<T, KeyError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let less = |left: u64| left.checked_sub(1);
        if self
            .answers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_err()
        {
            self.away.store(true, Ordering::SeqCst);
        }
        self.here(key)?;
        let versions = self.lock();
        let kek = versions.get(&version.0);
        kek.map(operation)
            .ok_or_else(|| KeyError::NotFound(format!("{key} version {version}")))
    }
}

impl KeyProvider for TestKeys {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError> {
        self.here(key)?;
        let versions = self.versions();
        Ok(KeyDescription {
            key: *key,
            state: KeyState::Enabled,
            current: *versions.last().unwrap(),
            versions,
            algorithm: self.algorithm,
            home: (self.kind == TOKEN_PROVIDER).then(|| TokenObject {
                token: "token".to_owned(),
                object: format!("key {key}"),
            }),
        })
    }

    fn wrap(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, KeyError> {
        let bytes = self.with(key, version, |kek| software_wrap(kek, context, secret))?;
        Ok(Wrapped {
            version,
            algorithm: self.algorithm,
            bytes,
        })
    }

    fn unwrap(
        &self,
        key: &KeyId,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, KeyError> {
        if wrapped.algorithm != self.algorithm {
            return Err(KeyError::IncorrectKey);
        }
        self.with(key, wrapped.version, |kek| {
            software_unwrap(kek, context, &wrapped.bytes)
        })?
        .map_err(|_| KeyError::InvalidCiphertext)
    }

    fn rotate(&self, key: &KeyId) -> Result<KeyVersion, KeyError> {
        self.here(key)?;
        Ok(self.add_version())
    }

    fn destroy(&self, key: &KeyId, version: KeyVersion) -> Result<(), KeyError> {
        self.here(key)?;
        if self.versions().last() == Some(&version) {
            return Err(KeyError::InvalidState(format!("version {version} wraps")));
        }
        self.lock().remove(&version.0);
        Ok(())
    }

    fn ready_ahead(&self) -> usize {
        self.ahead.load(Ordering::SeqCst)
    }

    fn parallel(&self) -> Option<usize> {
        Some(self.sessions.load(Ordering::SeqCst))
    }
}
