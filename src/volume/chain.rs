//! The master keys that headers of a volume may name, as one authentic volume file says; never changed, replaced whole by
//! the next. Owns which provider serves which key and the volume keys that are unlocked. Knows no header's bytes.

use std::sync::{Arc, OnceLock};

use crate::format::header::KeyArea;
use crate::format::ids::{KeyId, KeyVersion, VolumeId};
use crate::format::suite::Envelope;
use crate::format::volume_file::{KeyEntry, VolumeFile};
use crate::keys::{KeyError, KeyProvider, Providers};
use crate::volume::error::{Error, Result};
use crate::volume::volume_key::VolumeKey;

/// How the error about a header ends whose key the volume file does not name.
pub(crate) const NOT_ALLOWED: &str = "which the volume file does not allow";

/// What headers may name.
pub(crate) struct Chain {
    entries: Vec<Arc<Entry>>,
    current: Arc<Entry>,
}

/// One master key under one envelope.
pub(crate) struct Entry {
    /// As the volume file has it.
    pub(crate) stored: KeyEntry,
    /// Found at its first use, so that a key whose home is away for the moment is looked for again.
    provider: OnceLock<Arc<dyn KeyProvider>>,
    /// Ascending; none under the direct envelope.
    volume_keys: Vec<Arc<VolumeKey>>,
}

/// Names what wraps new headers: key, envelope, version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wraps(KeyId, Envelope, KeyVersion);

/// What is at hand before a chain is made.
#[derive(Default)]
pub(crate) struct AtHand {
    /// Providers by the key that they have.
    pub(crate) providers: Vec<(KeyId, Arc<dyn KeyProvider>)>,
    /// Volume keys, those that are unlocked among them.
    pub(crate) volume_keys: Vec<Arc<VolumeKey>>,
}

impl Chain {
    /// The chain that an authentic volume file describes.
    ///
    /// # Errors
    /// Damaged for one in which two entries answer to the same header.
    pub(crate) fn new(file: &VolumeFile, at_hand: &AtHand) -> Result<Self> {
        let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(file.keys.len());
        for stored in &file.keys {
            if entries.iter().any(|entry| entry.answers_as(stored)) {
                return Err(Error::Damaged(format!(
                    "two providers have key {} in the volume file",
                    stored.key
                )));
            }
            entries.push(Arc::new(Entry::new(stored, file, at_hand)));
        }
        let current = entries.iter().find(|entry| entry.stored.current).cloned();
        let current = current
            .ok_or_else(|| Error::Damaged("the volume file has no current key".to_owned()))?;
        Ok(Self { entries, current })
    }

    /// The entry that wraps new files.
    pub(crate) fn current(&self) -> &Arc<Entry> {
        &self.current
    }

    /// Every entry.
    pub(crate) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Whether headers may name anything but what wraps new ones: a rotation or a move is not finished.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.entries.len() > 1 || self.current.stored.versions.len() > 1
    }

    /// The entry that a header names in full: key, envelope, version and algorithm.
    pub(crate) fn named_by(&self, area: &KeyArea) -> Result<&Arc<Entry>> {
        let named = self.entries.iter().find(|entry| entry.is_named_by(area));
        named.ok_or_else(|| {
            Error::Damaged(format!(
                "a header names key {} version {}, {NOT_ALLOWED}",
                area.key_id, area.key_version
            ))
        })
    }

    /// Whether a header with this area needs no re-wrap.
    pub(crate) fn is_current(&self, area: &KeyArea) -> bool {
        let current = &self.current.stored;
        self.current.is_named_by(area) && area.key_version == current.wraps_with.0
    }

    /// What new headers are wrapped under.
    pub(crate) fn wraps(&self) -> Wraps {
        let current = &self.current.stored;
        Wraps(current.key, current.envelope, current.wraps_with)
    }

    /// The same, with every volume key locked and no provider.
    pub(crate) fn without_keys(&self) -> Self {
        let locked = |entry: &Arc<Entry>| {
            let keys = entry.volume_keys.iter();
            Arc::new(Entry {
                stored: entry.stored.clone(),
                provider: OnceLock::new(),
                volume_keys: keys
                    .map(|key| Arc::new(VolumeKey::of(key.stored())))
                    .collect(),
            })
        };
        Self {
            entries: self.entries.iter().map(locked).collect(),
            current: locked(&self.current),
        }
    }

    /// What the next chain can take over.
    pub(crate) fn at_hand(&self) -> AtHand {
        let mut at_hand = AtHand::default();
        for entry in &self.entries {
            if let Some(provider) = entry.provider.get() {
                let known = (entry.stored.key, Arc::clone(provider));
                at_hand.providers.push(known);
            }
            at_hand
                .volume_keys
                .extend(entry.volume_keys.iter().cloned());
        }
        at_hand
    }
}

impl Entry {
    fn new(stored: &KeyEntry, file: &VolumeFile, at_hand: &AtHand) -> Self {
        let provider = at_hand
            .providers
            .iter()
            .find(|(key, provider)| *key == stored.key && provider.kind() == stored.provider);
        let volume_keys = file
            .volume_keys
            .iter()
            .filter(|key| stored.envelope == Envelope::Volume && key.is_of(stored));
        let known = |wanted| {
            let known = at_hand.volume_keys.iter();
            known
                .into_iter()
                .find(|key| key.stored() == wanted)
                .cloned()
        };
        Self {
            stored: stored.clone(),
            provider: provider.map_or_else(OnceLock::new, |(_, provider)| {
                OnceLock::from(Arc::clone(provider))
            }),
            volume_keys: volume_keys
                .map(|wanted| known(wanted).unwrap_or_else(|| Arc::new(VolumeKey::of(wanted))))
                .collect(),
        }
    }

    /// Its provider, looked for if it was not at hand so far.
    ///
    /// # Errors
    /// NotFound where none has the key; what the provider says where it cannot be asked.
    pub(crate) fn provider(
        &self,
        providers: &Providers,
    ) -> std::result::Result<&Arc<dyn KeyProvider>, KeyError> {
        if let Some(provider) = self.provider.get() {
            return Ok(provider);
        }
        let found = providers.having(&self.stored.provider, &self.stored.key)?;
        Ok(self.provider.get_or_init(|| found))
    }

    /// Its provider, if that was needed or found so far.
    pub(crate) fn provider_at_hand(&self) -> Option<&Arc<dyn KeyProvider>> {
        self.provider.get()
    }

    /// Its volume key of this version, unlocked.
    pub(crate) fn volume_key(
        &self,
        volume: &VolumeId,
        version: u32,
        providers: &Providers,
    ) -> std::result::Result<&VolumeKey, KeyError> {
        let wanted = |key: &&Arc<VolumeKey>| key.stored().version == version;
        let Some(key) = self.volume_keys.iter().find(wanted) else {
            return Err(KeyError::NotFound(format!("{} of the volume", version)));
        };
        if !key.is_unlocked() {
            key.unlock(volume, &**self.provider(providers)?)?;
        }
        Ok(key)
    }

    /// Makes everything ready that its headers need.
    pub(crate) fn unlock(
        &self,
        volume: &VolumeId,
        providers: &Providers,
    ) -> std::result::Result<(), KeyError> {
        if self.stored.envelope == Envelope::Direct {
            return self.provider(providers).map(|_| ());
        }
        self.volume_keys.iter().try_for_each(|key| {
            self.volume_key(volume, key.stored().version, providers)
                .map(|_| ())
        })
    }

    fn answers_as(&self, other: &KeyEntry) -> bool {
        self.stored.key == other.key && self.stored.envelope == other.envelope
    }

    fn is_named_by(&self, area: &KeyArea) -> bool {
        let stored = &self.stored;
        stored.key == area.key_id
            && stored.envelope == area.envelope
            && stored
                .versions
                .iter()
                .any(|version| version.0 == area.key_version)
            && stored.algorithms.contains(&area.algorithm)
    }
}
