//! How this volume wraps data keys. Every header must name an entry of the authenticated volume file, in full, before any
//! provider is called. The entries are one [`Chain`], swapped whole: a call works with the one it began with.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::crypto::Secret;
use crate::format::header::KeyArea;
use crate::format::ids::{FileId, KeyVersion, VolumeId};
use crate::format::suite::Envelope;
use crate::format::volume_file::VolumeFile;
use crate::format::wrap::{self, MAX_WRAPPED, Purpose};
use crate::keys::{KeyError, KeyProvider, Providers, Wrapped};
use crate::volume::chain::{AtHand, Chain, Entry};
use crate::volume::error::Result;
use crate::volume::sync::{reading, writing};

/// The master keys of a volume, ready to wrap and unwrap data keys.
pub(crate) struct KeyRing {
    volume: VolumeId,
    /// Where a key is looked for that was not at hand when the volume was opened.
    providers: Providers,
    chain: RwLock<Arc<Chain>>,
    /// Held shared from the choice of a version to the writing of the header that names it.
    making: RwLock<()>,
}

impl KeyRing {
    pub(crate) fn new(volume: VolumeId, providers: Providers, chain: Chain) -> Self {
        Self {
            volume,
            providers,
            chain: RwLock::new(Arc::new(chain)),
            making: RwLock::new(()),
        }
    }

    /// The ring of an authentic volume file, with what is at hand unlocked.
    ///
    /// # Errors
    /// Where the current key cannot be used. Of others that is logged, and they are asked for again when a header needs one.
    pub(crate) fn of(file: &VolumeFile, providers: Providers, at_hand: &AtHand) -> Result<Self> {
        let ring = Self::new(file.volume, providers, Chain::new(file, at_hand)?);
        ring.unlock()?;
        Ok(ring)
    }

    /// Lets go of the volume keys that are unlocked. For a volume that locks: its calls end before they come here.
    pub(crate) fn forget(&self) {
        let locked = self.chain().without_keys();
        self.adopt(locked);
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

    /// What headers may name now.
    pub(crate) fn chain(&self) -> Arc<Chain> {
        Arc::clone(&reading(&self.chain))
    }

    /// Changes what headers may name, after the volume file that says so is durable.
    pub(crate) fn adopt(&self, chain: Chain) {
        *writing(&self.chain) = Arc::new(chain);
    }

    /// The provider of an entry.
    pub(crate) fn provider<'a>(
        &self,
        entry: &'a Entry,
    ) -> std::result::Result<&'a Arc<dyn KeyProvider>, KeyError> {
        entry.provider(&self.providers)
    }

    /// Makes the data key of a new file; the area's sequence is 1.
    pub(crate) fn generate(&self, file: &FileId) -> Result<(Secret<32>, KeyArea)> {
        let chain = self.chain();
        let entry = chain.current();
        if entry.stored.envelope == Envelope::Volume {
            let secret = Secret::random();
            let wrapped = self.wrap_under(entry, file, &secret)?;
            return Ok((secret, area(entry, 1, wrapped)?));
        }
        let stored = &entry.stored;
        let bound = self.context(file);
        let (secret, wrapped) =
            self.provider(entry)?
                .generate(&stored.key, stored.wraps_with, &bound)?;
        Ok((secret, area(entry, 1, wrapped)?))
    }

    /// Wraps a file's data key under the current version, for the area with this sequence.
    pub(crate) fn wrap(
        &self,
        file: &FileId,
        data_key: &Secret<32>,
        sequence: u64,
    ) -> Result<KeyArea> {
        let chain = self.chain();
        let entry = chain.current();
        area(entry, sequence, self.wrap_under(entry, file, data_key)?)
    }

    /// Unwraps a header's data key. Damaged if the area names a key, envelope, version or algorithm that the volume file
    /// does not.
    pub(crate) fn unwrap(&self, file: &FileId, area: &KeyArea) -> Result<Secret<32>> {
        let chain = self.chain();
        let entry = chain.named_by(area)?;
        if entry.stored.envelope == Envelope::Volume {
            let key = entry.volume_key(&self.volume, area.key_version, &self.providers)?;
            return Ok(key.unwrap(&self.volume, file, &area.wrapped)?);
        }
        let wrapped = Wrapped {
            version: KeyVersion(area.key_version),
            algorithm: area.algorithm,
            bytes: area.wrapped.clone(),
        };
        let provider = self.provider(entry)?;
        Ok(provider.unwrap(&entry.stored.key, &self.context(file), &wrapped)?)
    }

    /// Whether a header with this area needs no re-wrap.
    pub(crate) fn is_current(&self, area: &KeyArea) -> bool {
        self.chain().is_current(area)
    }

    fn unlock(&self) -> Result<()> {
        for entry in self.chain().entries() {
            match entry.unlock(&self.volume, &self.providers) {
                Err(error) if entry.stored.current => return Err(error.into()),
                Err(error) => tracing::warn!(
                    "key {} ({}) is not at hand, and files that it still wraps cannot be read: {error}",
                    entry.stored.key,
                    entry.stored.provider
                ),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn wrap_under(
        &self,
        entry: &Entry,
        file: &FileId,
        data_key: &Secret<32>,
    ) -> std::result::Result<Wrapped, KeyError> {
        let stored = &entry.stored;
        match stored.envelope {
            Envelope::Volume => entry
                .volume_key(&self.volume, stored.wraps_with.0, &self.providers)?
                .wrap(&self.volume, file, data_key),
            Envelope::Direct => self.provider(entry)?.wrap(
                &stored.key,
                stored.wraps_with,
                &self.context(file),
                data_key,
            ),
        }
    }

    fn context(&self, file: &FileId) -> [u8; wrap::CONTEXT_LEN] {
        wrap::context(Purpose::DataKey, &self.volume, Some(file), 0)
    }
}

/// The key area for a wrap, if the volume file allows what the provider made of it.
fn area(entry: &Entry, sequence: u64, wrapped: Wrapped) -> Result<KeyArea> {
    let stored = &entry.stored;
    let allowed = wrapped.version == stored.wraps_with
        && stored.algorithms.contains(&wrapped.algorithm)
        && wrapped.bytes.len() <= MAX_WRAPPED;
    if !allowed {
        return Err(KeyError::InvalidState(format!(
            "the provider of key {} wraps under version {} or in a way that this volume does not allow: run \
             \"strongroom rotate\"",
            stored.key, wrapped.version
        ))
        .into());
    }
    Ok(KeyArea {
        sequence,
        envelope: stored.envelope,
        algorithm: wrapped.algorithm,
        key_version: wrapped.version.0,
        key_id: stored.key,
        wrapped: wrapped.bytes,
    })
}
