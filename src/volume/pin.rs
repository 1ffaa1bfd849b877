//! What this host saw of a volume last: a value that only who holds the volume secret can know, the master key, the
//! libraries that served its tokens, and how far the volume had come. A backing directory swapped for another volume, or
//! put back to an older state, differs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::ids::{KeyId, VolumeId};
use crate::keys::pkcs11::Module;
use crate::store::Dir;
use crate::volume::error::{Error, Result};
use crate::volume::replace::{read_small, replace};

const LIMIT: usize = 1 << 16;

/// A host's record of one volume, one JSON line in the host's state directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// HKDF(volume secret, volume id, "pin", 16) in hex: the same for ever.
    pub value: String,
    /// The master key, in hex.
    pub key: String,
    /// Generation of the volume file; only grows.
    pub generation: u64,
    /// Epoch of the last mount; only grows.
    pub epoch: u64,
    /// The master key, in hex, that the volume was about to move to when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coming: Option<String>,
    /// The library of each key that is in a token, by the key in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub modules: BTreeMap<String, Module>,
}

impl Pin {
    pub(crate) fn new(value: &[u8; 16], key: &KeyId, generation: u64, epoch: u64) -> Self {
        Self {
            value: VolumeId(*value).to_string(),
            key: key.to_string(),
            generation,
            epoch,
            coming: None,
            modules: BTreeMap::new(),
        }
    }

    /// With the libraries that serve the volume's tokens.
    pub(crate) fn with_modules(mut self, modules: &BTreeMap<KeyId, Module>) -> Self {
        self.modules = modules
            .iter()
            .map(|(key, module)| (key.to_string(), module.clone()))
            .collect();
        self
    }

    /// For the moment in which the volume gets another master key: it may show this one, too.
    pub(crate) fn coming(mut self, key: &KeyId) -> Self {
        self.coming = Some(key.to_string());
        self
    }

    /// The libraries that serve the volume's tokens; ids that are none are left out.
    pub(crate) fn modules(&self) -> BTreeMap<KeyId, Module> {
        let parsed = self.modules.iter();
        parsed
            .filter_map(|(key, module)| Some((key.parse().ok()?, module.clone())))
            .collect()
    }

    /// Reads the pin of a volume; `None` if this host never mounted it.
    pub(crate) fn read(state: &Arc<dyn Dir>, volume: &VolumeId) -> Result<Option<Self>> {
        let Some(bytes) = read_small(state, &file_name(volume), LIMIT)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| {
            Error::Pinned(format!(
                "the pin of volume {volume} in this host's state directory is damaged; if you trust the volume as it is, \
                 remove that file"
            ))
        })
    }

    /// Puts it in place of the pin before, durably.
    pub(crate) fn write(&self, state: &Arc<dyn Dir>, volume: &VolumeId) -> Result<()> {
        let mut bytes = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
        Ok(replace(state, &file_name(volume), &bytes)?)
    }

    /// Whether a volume that shows `self` may follow what this host saw as `before`.
    pub(crate) fn follows(&self, before: &Self) -> Result<()> {
        let refused = if self.value != before.value {
            "it has another volume secret than the one that this host mounted under the same id"
        } else if self.key != before.key && Some(&self.key) != before.coming.as_ref() {
            "its master key is another one than at the last mount on this host"
        } else if self.generation < before.generation || self.epoch < before.epoch {
            "it is older than at the last mount on this host (a restored backup?)"
        } else if self.loads_otherwise(before) {
            "its token would be served by another library than at the last mount on this host"
        } else {
            return Ok(());
        };
        Err(Error::Pinned(format!(
            "the volume is not what it was: {refused}; if that is what you want, give --expect-volume {}",
            self.value
        )))
    }

    fn loads_otherwise(&self, before: &Self) -> bool {
        self.modules.iter().any(|(key, module)| {
            before
                .modules
                .get(key)
                .is_some_and(|pinned| pinned != module)
        })
    }
}

/// The libraries that this host remembers for the tokens of a volume; none where it never mounted it.
///
/// # Errors
/// Pinned for a pin that cannot be read.
pub fn pinned_modules(state: &Arc<dyn Dir>, volume: &VolumeId) -> Result<BTreeMap<KeyId, Module>> {
    Ok(Pin::read(state, volume)?.map_or_else(BTreeMap::new, |pin| pin.modules()))
}

/// The volumes that this host remembers under a master key, or on their way to it.
///
/// # Errors
/// Pinned for a pin that cannot be read.
pub fn volumes_under(state: &Arc<dyn Dir>, key: &KeyId) -> Result<Vec<VolumeId>> {
    let key = Some(key.to_string());
    let mut under = Vec::new();
    let mut from = 0;
    loop {
        let entries = state.entries(from)?;
        let Some(last) = entries.last() else {
            return Ok(under);
        };
        from = last.next;
        for entry in &entries {
            let Some(volume) = volume_of(&entry.name) else {
                continue;
            };
            let pin = Pin::read(state, &volume)?;
            if pin.is_some_and(|pin| Some(&pin.key) == key.as_ref() || pin.coming == key) {
                under.push(volume);
            }
        }
    }
}

fn volume_of(file_name: &[u8]) -> Option<VolumeId> {
    let name = file_name.strip_suffix(b".pin")?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn file_name(volume: &VolumeId) -> Vec<u8> {
    format!("{volume}.pin").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_under_a_key_are_found() {
        let state = crate::store::MemoryStore::default();
        let state = crate::store::Store::root(&state);
        let volume = |byte: u8| VolumeId([byte; 16]);
        let key = |byte: u8| KeyId([byte; 16]);
        let write = |pin: Pin, id: u8| pin.write(&state, &volume(id)).unwrap();
        write(Pin::new(&[1; 16], &key(2), 1, 1), 1);
        write(Pin::new(&[1; 16], &key(3), 1, 1), 2);
        write(Pin::new(&[1; 16], &key(3), 1, 1).coming(&key(2)), 3);
        replace(&state, b"mount.log", b"x").unwrap();
        let mut under = volumes_under(&state, &key(2)).unwrap();
        under.sort();
        assert_eq!(under, [volume(1), volume(3)]);
        assert_eq!(volumes_under(&state, &key(9)).unwrap(), []);
    }

    fn pin(generation: u64, epoch: u64) -> Pin {
        Pin::new(&[1; 16], &KeyId([2; 16]), generation, epoch)
    }

    #[test]
    fn only_a_volume_that_went_forward_follows() {
        assert!(pin(3, 5).follows(&pin(3, 5)).is_ok());
        assert!(pin(4, 6).follows(&pin(3, 5)).is_ok());
        assert!(pin(2, 6).follows(&pin(3, 5)).is_err());
        assert!(pin(4, 4).follows(&pin(3, 5)).is_err());
        assert!(
            Pin::new(&[9; 16], &KeyId([2; 16]), 3, 5)
                .follows(&pin(3, 5))
                .is_err()
        );
        assert!(
            Pin::new(&[1; 16], &KeyId([9; 16]), 3, 5)
                .follows(&pin(3, 5))
                .is_err()
        );
    }
}
