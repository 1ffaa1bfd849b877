//! What an open keystore holds in memory: the verified body, the root key, the slot key that opened it, and each key
//! version ready to wrap. Does no I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bytes::Bytes;
use super::file::{self, Body, KeyRecord, Parsed, SlotId, VersionRecord};
use super::seal::{RootKey, SEALED_KEY, SlotKey};
use super::slot_calls::{NewSlot, daily_slots, make_slot};
use super::{DEFAULT_ALIAS, KeystoreError, Unlock, now};
use crate::crypto::{GcmSiv, Secret, random_bytes};
use crate::format::ids::{KeyId, KeyVersion};
use crate::keys::KeyState;

/// One master key, ready for use.
pub(super) struct LiveKey {
    pub(super) state: KeyState,
    /// Expanded keys by version; each in locked memory.
    pub(super) versions: BTreeMap<u32, GcmSiv>,
}

pub(super) struct State {
    pub(super) body: Body,
    pub(super) root: Arc<RootKey>,
    /// The slot by which this process follows changes of the root key.
    pub(super) slot: SlotId,
    pub(super) slot_key: Arc<SlotKey>,
    pub(super) keys: HashMap<KeyId, LiveKey>,
}

impl State {
    /// A new keystore's state and bytes.
    pub(super) fn first(slots: Vec<NewSlot>) -> Result<(Self, Vec<u8>), KeystoreError> {
        let root = Arc::new(RootKey::random());
        let authenticator = Secret::<32>::random();
        let mut made = Vec::new();
        for new in &slots {
            made.push(make_slot(new, &root, &authenticator)?);
        }
        let (records, keys): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let (slot, slot_key) = records
            .first()
            .map(|slot| slot.id)
            .zip(keys.into_iter().next())
            .filter(|_| daily_slots(&records) > 0)
            .ok_or_else(|| {
                KeystoreError::InvalidSecret(
                    "a keystore needs a passphrase or a key file beside its recovery key".into(),
                )
            })?;
        let body = Body {
            generation: 1,
            root_generation: 1,
            authenticator: root.wrap_authenticator(&authenticator),
            slots: records,
            keys: vec![new_key(&root, vec![DEFAULT_ALIAS.to_owned()])],
        };
        let bytes = file::encode(&body, &root)?;
        Ok((Self::build(body, root, slot, Arc::new(slot_key))?, bytes))
    }

    /// Opens a file with the first secret that fits one of its slots.
    pub(super) fn unlock(parsed: Parsed, secrets: &[Unlock]) -> Result<Self, KeystoreError> {
        let mut tried = Vec::new();
        for secret in secrets {
            for slot in parsed
                .body
                .slots
                .iter()
                .filter(|slot| secret.fits(&slot.kind))
            {
                if !tried.contains(&secret.kind()) {
                    tried.push(secret.kind());
                }
                if let Some(slot_key) = SlotKey::open(slot, secret)? {
                    let root = slot_key
                        .open_root(slot)
                        .ok_or_else(|| damaged("a slot's root key does not open"))?;
                    let slot = slot.id;
                    return Self::verified(parsed, Arc::new(root), slot, Arc::new(slot_key));
                }
            }
        }
        match (tried.is_empty(), secrets.first()) {
            (true, Some(secret)) => Err(KeystoreError::NoSuchSlotKind(secret.kind())),
            (true, None) => Err(KeystoreError::WrongSecret("empty list of secrets".into())),
            (false, _) => Err(KeystoreError::WrongSecret(tried.join(" or "))),
        }
    }

    /// Takes over a file that another process may have changed.
    pub(super) fn follow(&self, parsed: Parsed) -> Result<Self, KeystoreError> {
        let root = if parsed.verify(&self.root) {
            Arc::clone(&self.root)
        } else {
            Arc::new(self.new_root(&parsed)?)
        };
        if parsed.body.generation < self.body.generation {
            return Err(KeystoreError::RolledBack);
        }
        Self::verified(parsed, root, self.slot, Arc::clone(&self.slot_key))
    }

    fn new_root(&self, parsed: &Parsed) -> Result<RootKey, KeystoreError> {
        let slot = parsed
            .body
            .slots
            .iter()
            .find(|slot| slot.id == self.slot && slot.public.0 == self.slot_key.public());
        let slot = slot.ok_or(KeystoreError::SlotRevoked)?;
        self.slot_key
            .open_root(slot)
            .ok_or_else(|| damaged("a slot's root key does not open"))
    }

    fn verified(
        parsed: Parsed,
        root: Arc<RootKey>,
        slot: SlotId,
        slot_key: Arc<SlotKey>,
    ) -> Result<Self, KeystoreError> {
        if !parsed.verify(&root) {
            return Err(damaged("its MAC does not fit"));
        }
        Self::build(parsed.body, root, slot, slot_key)
    }

    fn build(
        body: Body,
        root: Arc<RootKey>,
        slot: SlotId,
        slot_key: Arc<SlotKey>,
    ) -> Result<Self, KeystoreError> {
        let mut keys = HashMap::new();
        for record in &body.keys {
            keys.insert(KeyId(record.id), LiveKey::expand(record, &root)?);
        }
        Ok(Self {
            body,
            root,
            slot,
            slot_key,
            keys,
        })
    }

    /// A copy for a change that may replace the slot key; the expanded keys are not copied.
    pub(super) fn share(&self) -> Self {
        Self {
            body: self.body.clone(),
            root: Arc::clone(&self.root),
            slot: self.slot,
            slot_key: Arc::clone(&self.slot_key),
            keys: HashMap::new(),
        }
    }

    /// The state and bytes of this body under the same root key.
    pub(super) fn with(&self, body: Body) -> Result<(Self, Vec<u8>), KeystoreError> {
        let bytes = file::encode(&body, &self.root)?;
        Ok((
            Self::build(
                body,
                Arc::clone(&self.root),
                self.slot,
                Arc::clone(&self.slot_key),
            )?,
            bytes,
        ))
    }

    /// The state and bytes of this body under a new root key, sealed to the slots it has.
    pub(super) fn with_new_root(&self, mut body: Body) -> Result<(Self, Vec<u8>), KeystoreError> {
        let root = RootKey::random();
        let authenticator = self.authenticator()?;
        body.root_generation = body.generation;
        body.authenticator = root.wrap_authenticator(&authenticator);
        for slot in &mut body.slots {
            slot.root_key = root
                .seal_to(slot, &authenticator)
                .ok_or_else(|| damaged("a slot's public key"))?;
        }
        for record in &mut body.keys {
            let key = KeyId(record.id);
            for version in &mut record.versions {
                let number = KeyVersion(version.version);
                let secret = unwrap_version(&self.root, &key, number, &version.key)?;
                version.key = root.wrap_version(&key, number, &secret);
            }
        }
        let bytes = file::encode(&body, &root)?;
        Ok((
            Self::build(body, Arc::new(root), self.slot, Arc::clone(&self.slot_key))?,
            bytes,
        ))
    }

    pub(super) fn authenticator(&self) -> Result<Secret<32>, KeystoreError> {
        let opened = self.root.unwrap_authenticator(&self.body.authenticator);
        opened.ok_or_else(|| damaged("its authenticator does not open"))
    }
}

impl LiveKey {
    fn expand(record: &KeyRecord, root: &RootKey) -> Result<Self, KeystoreError> {
        let key = KeyId(record.id);
        let mut versions = BTreeMap::new();
        for version in &record.versions {
            let secret = unwrap_version(root, &key, KeyVersion(version.version), &version.key)?;
            versions.insert(version.version, GcmSiv::new(&secret));
        }
        Ok(Self {
            state: record.state,
            versions,
        })
    }
}

/// A new key with one version.
pub(super) fn new_key(root: &RootKey, aliases: Vec<String>) -> KeyRecord {
    let mut id = [0; 16];
    random_bytes(&mut id);
    let versions = vec![new_version(root, &KeyId(id), 1)];
    KeyRecord {
        id,
        aliases,
        state: KeyState::Enabled,
        created: now(),
        versions,
    }
}

/// A new random version of a key.
pub(super) fn new_version(root: &RootKey, key: &KeyId, version: u32) -> VersionRecord {
    let wrapped = root.wrap_version(key, KeyVersion(version), &Secret::random());
    VersionRecord {
        version,
        created: now(),
        key: wrapped,
    }
}

fn unwrap_version(
    root: &RootKey,
    key: &KeyId,
    version: KeyVersion,
    wrapped: &Bytes<SEALED_KEY>,
) -> Result<Secret<32>, KeystoreError> {
    root.unwrap_version(key, version, wrapped)
        .ok_or_else(|| damaged(&format!("version {version} of key {key} does not open")))
}

fn damaged(why: &str) -> KeystoreError {
    KeystoreError::Damaged(why.to_owned())
}
