//! How this volume wraps data keys: which master key, which envelope, which versions are allowed. Every header must name
//! an entry of the authenticated volume file before any provider is called.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::crypto::Secret;
use crate::format::header::KeyArea;
use crate::format::ids::{FileId, KeyId, KeyVersion, VolumeId};
use crate::format::suite::Envelope;
use crate::format::wrap::{self, Purpose, WrapAlgorithm};
use crate::keys::{KeyProvider, Wrapped};
use crate::volume::error::{Error, Result};

/// The master key of a volume, ready to wrap and unwrap data keys.
pub(crate) struct KeyRing {
    provider: Arc<dyn KeyProvider>,
    volume: VolumeId,
    key: KeyId,
    allowed: RwLock<Allowed>,
    /// Held shared from the choice of a version to the writing of the header that names it.
    making: RwLock<()>,
}

/// Which versions of the key headers may name, and which one new headers get.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    /// The version that wraps.
    pub(crate) current: KeyVersion,
    /// Every version that a header may name, `current` among them.
    pub(crate) versions: Vec<KeyVersion>,
    /// Every algorithm that a header may name.
    pub(crate) algorithms: Vec<WrapAlgorithm>,
}

impl KeyRing {
    pub(crate) fn new(
        provider: Arc<dyn KeyProvider>,
        volume: VolumeId,
        key: KeyId,
        allowed: Allowed,
    ) -> Self {
        Self {
            provider,
            volume,
            key,
            allowed: RwLock::new(allowed),
            making: RwLock::new(()),
        }
    }

    /// To be held from `generate` until the header is written: a rotation that moved on to another version waits for it,
    /// so that no header appears behind its walk.
    pub(crate) fn making(&self) -> RwLockReadGuard<'_, ()> {
        self.making.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for every header that may name an older version to be written.
    pub(crate) fn wait_for_headers(&self) {
        drop(self.making.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes the data key of a new file; the area's sequence is 1.
    pub(crate) fn generate(&self, file: &FileId) -> Result<(Secret<32>, KeyArea)> {
        let (secret, wrapped) =
            self.provider
                .generate(&self.key, self.current(), &self.context(file))?;
        Ok((secret, self.area(1, wrapped)))
    }

    /// Wraps a file's data key under the current version, for the area with this sequence.
    pub(crate) fn wrap(
        &self,
        file: &FileId,
        data_key: &Secret<32>,
        sequence: u64,
    ) -> Result<KeyArea> {
        let wrapped =
            self.provider
                .wrap(&self.key, self.current(), &self.context(file), data_key)?;
        Ok(self.area(sequence, wrapped))
    }

    /// Unwraps a header's data key. Damaged if the area names a key, version or envelope that the volume file does not.
    pub(crate) fn unwrap(&self, file: &FileId, area: &KeyArea) -> Result<Secret<32>> {
        let version = KeyVersion(area.key_version);
        let allowed = self.allowed();
        if area.envelope != Envelope::Direct
            || area.key_id != self.key
            || !allowed.versions.contains(&version)
            || !allowed.algorithms.contains(&area.algorithm)
        {
            return Err(Error::Damaged(format!(
                "a header names key {} version {version}, which the volume file does not allow",
                area.key_id
            )));
        }
        let wrapped = Wrapped {
            version,
            algorithm: area.algorithm,
            bytes: area.wrapped.clone(),
        };
        Ok(self
            .provider
            .unwrap(&self.key, &self.context(file), &wrapped)?)
    }

    /// Whether a header with this area needs no re-wrap.
    pub(crate) fn is_current(&self, area: &KeyArea) -> bool {
        area.key_id == self.key
            && area.envelope == Envelope::Direct
            && area.key_version == self.allowed().current.0
    }

    /// The key's provider.
    pub(crate) fn provider(&self) -> &Arc<dyn KeyProvider> {
        &self.provider
    }

    /// The master key.
    pub(crate) fn key(&self) -> &KeyId {
        &self.key
    }

    /// The versions in force.
    pub(crate) fn allowed(&self) -> Allowed {
        self.allowed
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// Changes the versions in force, after the volume file that says so is durable.
    pub(crate) fn allow(&self, allowed: Allowed) {
        *self
            .allowed
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = allowed;
    }

    fn current(&self) -> KeyVersion {
        self.allowed().current
    }

    fn context(&self, file: &FileId) -> Vec<u8> {
        wrap::context(Purpose::DataKey, &self.volume, Some(file), 0).to_vec()
    }

    fn area(&self, sequence: u64, wrapped: Wrapped) -> KeyArea {
        KeyArea {
            sequence,
            envelope: Envelope::Direct,
            algorithm: wrapped.algorithm,
            key_version: wrapped.version.0,
            key_id: self.key,
            wrapped: wrapped.bytes,
        }
    }
}
