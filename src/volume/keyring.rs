//! How this volume wraps data keys. Every header must name an entry of the authenticated volume file, in full, before any
//! provider is called. The entries are one [`Chain`], swapped whole: a call works with the one it began with.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::crypto::{Secret, random_bytes};
use crate::format::header::KeyArea;
use crate::format::ids::{FileId, KeyVersion, VolumeId};
use crate::format::suite::Envelope;
use crate::format::volume_file::VolumeFile;
use crate::format::wrap::{self, MAX_WRAPPED, Purpose};
use crate::keys::{KeyError, KeyProvider, Providers, Wrapped};
use crate::volume::chain::{AtHand, Chain, Entry};
use crate::volume::error::Result;
use crate::volume::ready::{Ready, ReadyHeader};
use crate::volume::sync::{reading, writing};

/// Threads of a walk at the most.
const MOST_PARALLEL: usize = 16;

/// The master keys of a volume, ready to wrap and unwrap data keys.
pub(crate) struct KeyRing {
    volume: VolumeId,
    /// Where a key is looked for that was not at hand when the volume was opened.
    /// None in a volume that was locked.
    providers: RwLock<Providers>,
    chain: RwLock<Arc<Chain>>,
    /// Held shared from the choice of a version to the writing of the header that names it.
    making: RwLock<()>,
    /// Made ahead of their files.
    pub(crate) ready: Ready,
}

impl KeyRing {
    pub(crate) fn new(volume: VolumeId, providers: Providers, chain: Chain) -> Self {
        Self {
            ready: Ready::new(chain.wraps()),
            volume,
            providers: RwLock::new(providers),
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

    /// Lets go of the providers with what opened them, of the volume keys that are unlocked and of ready headers. For a volume
    /// that locks: its calls end before they come here.
    pub(crate) fn forget(&self) {
        *writing(&self.providers) = Providers::default();
        *writing(&self.chain) = Arc::new(self.chain().without_keys());
        self.ready.change(None);
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
        let wraps = chain.wraps();
        *writing(&self.chain) = Arc::new(chain);
        self.ready.change(Some(wraps));
    }

    /// How many headers to unwrap or wrap at a time: what the providers that do it serve at once, where one of them has a limit.
    pub(crate) fn parallel(&self) -> Option<usize> {
        let chain = self.chain();
        let direct = chain.entries().iter();
        let served = direct
            .filter(|entry| entry.stored.envelope == Envelope::Direct)
            .filter_map(|entry| entry.provider_at_hand())
            .filter_map(|provider| provider.parallel());
        served.max().map(|served| served.clamp(1, MOST_PARALLEL))
    }

    /// Whether every data key can be unwrapped without the master key's home.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.chain().entries().iter().all(|entry| {
            let provider = || self.provider(entry);
            entry.stored.envelope == Envelope::Volume
                || provider().is_ok_and(|provider| provider.is_at_hand())
        })
    }

    /// The provider of an entry.
    pub(crate) fn provider<'a>(
        &self,
        entry: &'a Entry,
    ) -> std::result::Result<&'a Arc<dyn KeyProvider>, KeyError> {
        entry.provider(&reading(&self.providers))
    }

    /// What a new file starts with. The caller holds `making`.
    pub(crate) fn generate(&self) -> Result<ReadyHeader> {
        let chain = self.chain();
        let entry = chain.current();
        if entry.stored.envelope == Envelope::Volume {
            let (file, data_key) = (random_file(), Secret::random());
            let area = area(entry, 1, self.wrap_under(entry, &file, &data_key)?)?;
            return Ok(ReadyHeader {
                file,
                data_key,
                area,
            });
        }
        let provider = self.provider(entry)?;
        if let Some(header) = self.ready.take(&chain.wraps(), provider.ready_ahead()) {
            return Ok(header);
        }
        let file = random_file();
        let stored = &entry.stored;
        let (data_key, wrapped) =
            provider.generate(&stored.key, stored.wraps_with, &self.context(&file))?;
        Ok(ReadyHeader {
            file,
            data_key,
            area: area(entry, 1, wrapped)?,
        })
    }

    /// Makes so many headers ready; none under an envelope that needs no provider for them.
    pub(crate) fn make_ready(&self, count: usize) -> Result<()> {
        let chain = self.chain();
        let entry = chain.current();
        if entry.stored.envelope == Envelope::Volume {
            return Ok(());
        }
        let files: Vec<_> = (0..count).map(|_| random_file()).collect();
        let contexts: Vec<_> = files.iter().map(|file| self.context(file)).collect();
        let contexts: Vec<&[u8]> = contexts.iter().map(<[u8; _]>::as_slice).collect();
        let stored = &entry.stored;
        let made =
            self.provider(entry)?
                .generate_batch(&stored.key, stored.wraps_with, &contexts)?;
        let headers = files.into_iter().zip(made);
        let headers = headers
            .map(|(file, (data_key, wrapped))| {
                Ok(ReadyHeader {
                    file,
                    data_key,
                    area: area(entry, 1, wrapped)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        self.ready.put(&chain.wraps(), headers);
        Ok(())
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
            let key =
                entry.volume_key(&self.volume, area.key_version, &reading(&self.providers))?;
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
            match entry.unlock(&self.volume, &reading(&self.providers)) {
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
                .volume_key(&self.volume, stored.wraps_with.0, &reading(&self.providers))?
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

fn random_file() -> FileId {
    let mut id = [0; 16];
    random_bytes(&mut id);
    FileId(id)
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
