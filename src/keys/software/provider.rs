//! The keystore as a provider of wraps: AES-256-GCM-SIV under the version that is named, with keys expanded in memory.

use super::Keystore;
use super::state::{LiveKey, State};
use crate::crypto::{GcmSiv, Secret};
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::wrap::{WrapAlgorithm, software_unwrap, software_wrap};
use crate::keys::{KeyDescription, KeyError, KeyProvider, KeyState, Wrapped};

impl KeyProvider for Keystore {
    fn kind(&self) -> &'static str {
        "software"
    }

    fn is_at_hand(&self) -> bool {
        true
    }

    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError> {
        self.refresh()?;
        let state = self.look();
        let live = state.live(key)?;
        let versions: Vec<_> = live.versions.keys().copied().map(KeyVersion).collect();
        let current = versions
            .last()
            .copied()
            .ok_or_else(|| KeyError::NotFound(key.to_string()))?;
        Ok(KeyDescription {
            key: *key,
            state: live.state,
            current,
            versions,
            algorithm: WrapAlgorithm::AesGcmSiv,
            home: None,
        })
    }

    fn wrap(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, KeyError> {
        let bytes = self.with_version(key, version, |kek| software_wrap(kek, context, secret))?;
        Ok(Wrapped {
            version,
            algorithm: WrapAlgorithm::AesGcmSiv,
            bytes,
        })
    }

    fn unwrap(
        &self,
        key: &KeyId,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, KeyError> {
        if wrapped.algorithm != WrapAlgorithm::AesGcmSiv {
            return Err(KeyError::IncorrectKey);
        }
        self.with_version(key, wrapped.version, |kek| {
            software_unwrap(kek, context, &wrapped.bytes)
        })?
        .map_err(|_| KeyError::InvalidCiphertext)
    }

    fn rotate(&self, key: &KeyId) -> Result<KeyVersion, KeyError> {
        Ok(self.new_version(key)?)
    }

    fn destroy(&self, key: &KeyId, version: KeyVersion) -> Result<(), KeyError> {
        Ok(self.destroy_version(key, version)?)
    }
}

impl Keystore {
    /// Uses one version; where it is not known, looks once whether another process made it meanwhile.
    fn with_version<T>(
        &self,
        key: &KeyId,
        version: KeyVersion,
        operation: impl FnOnce(&GcmSiv) -> T,
    ) -> Result<T, KeyError> {
        // A statement of its own, so that the guard is gone before `refresh` takes the state for writing.
        let unknown = matches!(
            self.look().version(key, version),
            Err(KeyError::NotFound(_))
        );
        if unknown {
            self.refresh()?;
        }
        let state = self.look();
        state.version(key, version).map(operation)
    }
}

impl State {
    fn live(&self, key: &KeyId) -> Result<&LiveKey, KeyError> {
        self.keys
            .get(key)
            .ok_or_else(|| KeyError::NotFound(key.to_string()))
    }

    fn version(&self, key: &KeyId, version: KeyVersion) -> Result<&GcmSiv, KeyError> {
        let live = self.live(key)?;
        if live.state == KeyState::Disabled {
            return Err(KeyError::Disabled(key.to_string()));
        }
        live.versions
            .get(&version.0)
            .ok_or_else(|| KeyError::NotFound(format!("{key} version {version}")))
    }
}
