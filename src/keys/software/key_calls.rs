//! Master keys of an open keystore: list, make, resolve, enable, disable, new versions, the end of old ones.

use super::file::{Body, KeyRecord, is_alias};
use super::state::{new_key, new_version};
use super::{Keystore, KeystoreError};
use crate::format::ids::{KeyId, KeyVersion};
use crate::keys::KeyState;

/// A key as `describe` and `list` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub key: KeyId,
    /// The names that lead to it.
    pub aliases: Vec<String>,
    /// Whether it may be used.
    pub state: KeyState,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Its versions, ascending; the last one wraps. Never empty.
    pub versions: Vec<VersionInfo>,
}

/// One version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its number, from 1.
    pub version: KeyVersion,
    /// When it was made, seconds since 1970.
    pub created: u64,
}

impl Keystore {
    /// All keys, in the order in which they were made.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.look().body.keys.iter().map(info).collect()
    }

    /// One key.
    ///
    /// # Errors
    /// `NoSuchKey`.
    pub fn key(&self, key: &KeyId) -> Result<KeyInfo, KeystoreError> {
        let state = self.look();
        state
            .body
            .keys
            .iter()
            .find(|record| record.id == key.0)
            .map(info)
            .ok_or_else(|| no_key(key))
    }

    /// The key that an alias (`alias/x`) or a key id (32 hex digits) names.
    ///
    /// # Errors
    /// `NoSuchKey`.
    pub fn resolve(&self, name: &str) -> Result<KeyId, KeystoreError> {
        let state = self.look();
        let named = |record: &&KeyRecord| record.aliases.iter().any(|alias| alias == name);
        if let Some(record) = state.body.keys.iter().find(named) {
            return Ok(KeyId(record.id));
        }
        let by_id = name
            .parse::<KeyId>()
            .ok()
            .filter(|id| state.keys.contains_key(id));
        by_id.ok_or_else(|| KeystoreError::NoSuchKey(name.to_owned()))
    }

    /// Makes a key with version 1, durable on return.
    ///
    /// # Errors
    /// `InvalidAlias`, `AliasTaken`, `Full`.
    pub fn create_key(&self, alias: Option<&str>) -> Result<KeyId, KeystoreError> {
        if let Some(alias) = alias.filter(|alias| !is_alias(alias)) {
            return Err(KeystoreError::InvalidAlias(alias.to_owned()));
        }
        self.change(|body, state| {
            let taken = |alias: &&str| {
                body.keys
                    .iter()
                    .flat_map(|key| &key.aliases)
                    .any(|known| known == alias)
            };
            if let Some(alias) = alias.filter(taken) {
                return Err(KeystoreError::AliasTaken(alias.to_owned()));
            }
            let record = new_key(&state.root, alias.map(str::to_owned).into_iter().collect());
            let key = KeyId(record.id);
            body.keys.push(record);
            body.check()
                .map_err(|_| KeystoreError::Full("it has 1000 keys"))?;
            Ok(key)
        })
    }

    /// Lets a key be used, or not. To set the state it has is a success.
    ///
    /// # Errors
    /// `NoSuchKey`.
    pub fn set_key_state(&self, key: &KeyId, to: KeyState) -> Result<(), KeystoreError> {
        self.change(|body, _| {
            record(body, key)?.state = to;
            Ok(())
        })
    }

    /// Makes a new random version of a key, durable on return.
    ///
    /// # Errors
    /// `NoSuchKey`, `Disabled`, `Full`.
    pub fn new_version(&self, key: &KeyId) -> Result<KeyVersion, KeystoreError> {
        self.change(|body, state| {
            let record = record(body, key)?;
            if record.state == KeyState::Disabled {
                return Err(KeystoreError::Disabled(key.to_string()));
            }
            let newest = record.versions.last().map_or(0, |version| version.version);
            let version = newest
                .checked_add(1)
                .ok_or(KeystoreError::Full("the key has 2^32 versions"))?;
            record.versions.push(new_version(&state.root, key, version));
            Ok(KeyVersion(version))
        })
    }

    /// Destroys an old version for ever and makes a new root key; what it wrapped opens no more, backups included.
    ///
    /// # Errors
    /// `NoSuchKey`; `InvalidState` for the version that wraps.
    pub fn destroy_version(&self, key: &KeyId, version: KeyVersion) -> Result<(), KeystoreError> {
        self.change_with_new_root(|body, _| {
            let record = record(body, key)?;
            if record
                .versions
                .last()
                .is_some_and(|last| last.version == version.0)
            {
                let why = format!("version {version} of key {key} is the one that wraps");
                return Err(KeystoreError::InvalidState(why));
            }
            let count = record.versions.len();
            record.versions.retain(|known| known.version != version.0);
            if record.versions.len() == count {
                return Err(KeystoreError::NoSuchKey(format!(
                    "version {version} of key {key}"
                )));
            }
            Ok(())
        })
    }
}

fn record<'a>(body: &'a mut Body, key: &KeyId) -> Result<&'a mut KeyRecord, KeystoreError> {
    body.keys
        .iter_mut()
        .find(|record| record.id == key.0)
        .ok_or_else(|| no_key(key))
}

fn no_key(key: &KeyId) -> KeystoreError {
    KeystoreError::NoSuchKey(format!("key {key}"))
}

fn info(record: &KeyRecord) -> KeyInfo {
    let version = |known: &super::file::VersionRecord| VersionInfo {
        version: KeyVersion(known.version),
        created: known.created,
    };
    KeyInfo {
        key: KeyId(record.id),
        aliases: record.aliases.clone(),
        state: record.state,
        created: record.created,
        versions: record.versions.iter().map(version).collect(),
    }
}
