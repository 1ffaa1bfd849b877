//! A volume key: wraps data keys and the volume secret in software; the master key wraps it once, in the volume file.
//! Knows no file and no ring. Invariant: every wrap is bound to the version of the volume key that made it or lies in it.

use std::sync::OnceLock;

use crate::crypto::{GcmSiv, Secret};
use crate::format::ids::{FileId, KeyId, KeyVersion, VolumeId};
use crate::format::volume_file::{WrappedSecret, WrappedVolumeKey};
use crate::format::wrap::{Purpose, WrapAlgorithm, context, software_unwrap, software_wrap};
use crate::keys::{KeyError, KeyProvider, Wrapped};

/// How every volume key wraps.
pub(crate) const ALGORITHM: WrapAlgorithm = WrapAlgorithm::AesGcmSiv;

/// A volume key as the volume file has it, and, from its first use on, the expanded key in locked memory.
pub(crate) struct VolumeKey {
    stored: WrappedVolumeKey,
    cipher: OnceLock<GcmSiv>,
}

impl VolumeKey {
    /// One that the volume file has.
    pub(crate) fn of(stored: &WrappedVolumeKey) -> Self {
        Self {
            stored: stored.clone(),
            cipher: OnceLock::new(),
        }
    }

    /// A new one of this version, wrapped by a version of a master key.
    pub(crate) fn make(
        volume: &VolumeId,
        version: u32,
        provider: &dyn KeyProvider,
        key: &KeyId,
        key_version: KeyVersion,
    ) -> Result<Self, KeyError> {
        let bound = context(Purpose::VolumeKey, volume, None, version);
        let (secret, wrapped) = provider.generate(key, key_version, &bound)?;
        Ok(Self {
            stored: WrappedVolumeKey {
                version,
                provider: provider.kind().to_owned(),
                key: *key,
                key_version: wrapped.version,
                algorithm: wrapped.algorithm,
                bytes: wrapped.bytes,
            },
            cipher: OnceLock::from(GcmSiv::new(&secret)),
        })
    }

    /// As the volume file has it.
    pub(crate) fn stored(&self) -> &WrappedVolumeKey {
        &self.stored
    }

    /// Has it unwrapped if it was not yet: one call of the provider, once.
    pub(crate) fn unlock(
        &self,
        volume: &VolumeId,
        provider: &dyn KeyProvider,
    ) -> Result<(), KeyError> {
        if self.cipher.get().is_some() {
            return Ok(());
        }
        let wrapped = Wrapped {
            version: self.stored.key_version,
            algorithm: self.stored.algorithm,
            bytes: self.stored.bytes.clone(),
        };
        let bound = context(Purpose::VolumeKey, volume, None, self.stored.version);
        let secret = provider.unwrap(&self.stored.key, &bound, &wrapped)?;
        let _ = self.cipher.set(GcmSiv::new(&secret)); // another thread had the same key unwrapped meanwhile
        Ok(())
    }

    /// Whether it can be used without its provider.
    pub(crate) fn is_unlocked(&self) -> bool {
        self.cipher.get().is_some()
    }

    /// Wraps the data key of a file.
    pub(crate) fn wrap(
        &self,
        volume: &VolumeId,
        file: &FileId,
        data_key: &Secret<32>,
    ) -> Result<Wrapped, KeyError> {
        let bound = context(Purpose::DataKey, volume, Some(file), self.stored.version);
        Ok(Wrapped {
            version: KeyVersion(self.stored.version),
            algorithm: ALGORITHM,
            bytes: software_wrap(self.cipher()?, &bound, data_key),
        })
    }

    /// Unwraps the data key of a file.
    pub(crate) fn unwrap(
        &self,
        volume: &VolumeId,
        file: &FileId,
        bytes: &[u8],
    ) -> Result<Secret<32>, KeyError> {
        let bound = context(Purpose::DataKey, volume, Some(file), self.stored.version);
        software_unwrap(self.cipher()?, &bound, bytes).map_err(|_| KeyError::InvalidCiphertext)
    }

    /// Wraps the volume secret.
    pub(crate) fn wrap_secret(
        &self,
        volume: &VolumeId,
        secret: &Secret<32>,
    ) -> Result<WrappedSecret, KeyError> {
        let bound = context(Purpose::VolumeSecret, volume, None, self.stored.version);
        Ok(WrappedSecret {
            version: KeyVersion(self.stored.version),
            algorithm: ALGORITHM,
            bytes: software_wrap(self.cipher()?, &bound, secret),
        })
    }

    /// Unwraps the volume secret.
    pub(crate) fn unwrap_secret(
        &self,
        volume: &VolumeId,
        bytes: &[u8],
    ) -> Result<Secret<32>, KeyError> {
        let bound = context(Purpose::VolumeSecret, volume, None, self.stored.version);
        software_unwrap(self.cipher()?, &bound, bytes).map_err(|_| KeyError::InvalidCiphertext)
    }

    fn cipher(&self) -> Result<&GcmSiv, KeyError> {
        self.cipher
            .get()
            .ok_or_else(|| KeyError::NotFound(self.stored.key.to_string()))
    }
}
