//! `strongroom.volume`: what a volume is and which keys may wrap in it. It never says which library to load or which
//! server to ask.
//!
//! Its MAC key derives from the secret that it wraps itself: [`UnverifiedVolumeFile`] shows only what unwrapping needs,
//! [`UnverifiedVolumeFile::verify`] gives the rest.

use serde::{Deserialize, Serialize};

use super::error::{FormatError, Result};
use super::ids::{KeyId, KeyVersion, VolumeId};
use super::json::{self, Unverified, as_text, hex_bytes};
use super::suite::{Envelope, Suite};
use super::wrap::{MAX_WRAPPED, WrapAlgorithm};
use crate::crypto::Secret;

const WHAT: &str = "strongroom.volume";
const LABEL: &[u8] = b"volume";

/// The kind of the provider whose keys have a [`TokenObject`].
pub const TOKEN_PROVIDER: &str = "pkcs11";

/// The content of an authentic volume file, in the order in which it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeFile {
    /// [`VolumeFile::FORMAT`].
    pub format: u64,
    /// The volume's id.
    #[serde(with = "as_text")]
    pub volume: VolumeId,
    /// The suite of all its files.
    pub suite: Suite,
    /// Whether files are bound to their names.
    pub bind_names: bool,
    /// Whether skipped groups are filled instead of left sparse.
    pub no_sparse: bool,
    /// Grows by one with every replacement; from 1.
    pub generation: u64,
    /// The master keys that headers may name; exactly one is current.
    pub keys: Vec<KeyEntry>,
    /// The volume secret, wrapped by the current key (direct) or by the newest volume key (volume envelope).
    pub volume_secret: WrappedSecret,
    /// Volume keys, ascending by version; none under the direct envelope.
    pub volume_keys: Vec<WrappedVolumeKey>,
    /// When the volume was made, in seconds since 1970.
    pub created: u64,
}

/// A master key that headers of this volume may name, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The provider's kind: "software", "pkcs11", later "aws-kms".
    pub provider: String,
    /// The key within the provider.
    #[serde(with = "as_text")]
    pub key: KeyId,
    /// Where a token keeps it; exactly for provider "pkcs11".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<TokenObject>,
    /// What wraps data keys.
    pub envelope: Envelope,
    /// Versions that headers may name, ascending; not empty. Of this key, or, under the volume envelope, of the volume
    /// keys that it wraps.
    pub versions: Vec<KeyVersion>,
    /// The version that wraps; one of `versions`.
    pub wraps_with: KeyVersion,
    /// Algorithms that headers may name; not empty.
    pub algorithms: Vec<WrapAlgorithm>,
    /// Whether new files are wrapped by this key.
    pub current: bool,
}

/// Names a key in a PKCS#11 token; never a module, never a PIN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenObject {
    /// Label of the token (CK_TOKEN_INFO), without the blanks at its end; 1 to 32 bytes.
    pub token: String,
    /// Label of the key's first version (CKA_LABEL); 1 to 200 bytes.
    pub object: String,
}

impl TokenObject {
    fn is_fine(&self) -> bool {
        (1..=32).contains(&self.token.len()) && (1..=200).contains(&self.object.len())
    }
}

/// The wrapped volume secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedSecret {
    /// Version of the current key (direct envelope), or of the volume key (volume envelope).
    pub version: KeyVersion,
    /// How it was wrapped.
    pub algorithm: WrapAlgorithm,
    /// The wrapped bytes, at most 400.
    #[serde(with = "hex_bytes")]
    pub bytes: Vec<u8>,
}

/// A volume key, wrapped by a master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedVolumeKey {
    /// Version of the volume key itself; from 1.
    pub version: u32,
    /// Provider of the master key.
    pub provider: String,
    /// The master key.
    #[serde(with = "as_text")]
    pub key: KeyId,
    /// Version of the master key.
    pub key_version: KeyVersion,
    /// How it was wrapped.
    pub algorithm: WrapAlgorithm,
    /// The wrapped bytes, at most 400.
    #[serde(with = "hex_bytes")]
    pub bytes: Vec<u8>,
}

/// A volume file whose MAC was not yet compared: only what is needed to unwrap the volume secret.
#[derive(Debug)]
pub struct UnverifiedVolumeFile(Unverified<VolumeFile>);

impl UnverifiedVolumeFile {
    /// Reads the file's bytes; every rule of its content but the MAC is checked.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let unverified = Unverified::<VolumeFile>::parse(bytes, WHAT)?;
        unverified.value.check()?;
        Ok(Self(unverified))
    }

    /// The volume's id, which the wraps are bound to.
    pub fn volume(&self) -> VolumeId {
        self.0.value.volume
    }

    /// The key to ask for.
    pub fn current_key(&self) -> Result<&KeyEntry> {
        current(&self.0.value.keys)
    }

    /// Every key that it names: to be shown, and to see which providers to have at hand.
    pub fn shown_keys(&self) -> &[KeyEntry] {
        &self.0.value.keys
    }

    /// The wrapped volume secret.
    pub fn volume_secret(&self) -> &WrappedSecret {
        &self.0.value.volume_secret
    }

    /// The wrapped volume keys.
    pub fn volume_keys(&self) -> &[WrappedVolumeKey] {
        &self.0.value.volume_keys
    }

    /// Suite, bound names and time of creation (seconds since 1970): to be shown, never to be acted on.
    pub fn shown(&self) -> (Suite, bool, u64) {
        let file = &self.0.value;
        (file.suite, file.bind_names, file.created)
    }

    /// The content, if it was written with this key (`VolumeKeys::mac` of the unwrapped secret).
    pub fn verify(self, mac_key: &Secret<32>) -> Result<VolumeFile> {
        self.0.verify(mac_key, LABEL, WHAT)
    }
}

impl VolumeFile {
    /// The format that this program writes and reads.
    pub const FORMAT: u64 = 1;

    /// The file's bytes. Refuses content that [`UnverifiedVolumeFile::parse`] would refuse.
    pub fn encode(&self, mac_key: &Secret<32>) -> Result<Vec<u8>> {
        self.check()?;
        json::encode(self, mac_key, LABEL, WHAT)
    }

    /// Reads bytes without believing them; see [`UnverifiedVolumeFile`].
    pub fn parse_unverified(bytes: &[u8]) -> Result<UnverifiedVolumeFile> {
        UnverifiedVolumeFile::parse(bytes)
    }

    /// The key that wraps new files.
    pub fn current_key(&self) -> Result<&KeyEntry> {
        current(&self.keys)
    }

    /// The envelope of new files.
    pub fn envelope(&self) -> Result<Envelope> {
        self.current_key().map(|key| key.envelope)
    }

    /// Every rule of its content.
    fn check(&self) -> Result<()> {
        if self.format != Self::FORMAT {
            return Err(FormatError::UnknownFormat(self.format));
        }
        let key = current(&self.keys)?;
        let secret_version = match key.envelope {
            Envelope::Direct => key.versions.contains(&self.volume_secret.version),
            Envelope::Volume => self.volume_keys.last().is_some_and(|newest| {
                newest.version == self.volume_secret.version.0
                    && newest.version == key.wraps_with.0
                    && newest.is_of(key)
            }),
        };
        let fine = [
            (self.generation > 0, "the generation of strongroom.volume"),
            (
                self.keys.iter().all(KeyEntry::is_fine),
                "a key of strongroom.volume",
            ),
            (distinct(&self.keys), "the keys of strongroom.volume"),
            (
                self.keys.iter().all(|key| self.has_volume_keys_of(key)),
                "the volume keys of a key of strongroom.volume",
            ),
            (secret_version, "the version that wraps the volume secret"),
            (
                is_wrapped(&self.volume_secret.bytes),
                "the wrapped volume secret",
            ),
            (
                self.volume_keys
                    .iter()
                    .all(|key| is_wrapped(&key.bytes) && key.version > 0),
                "a wrapped volume key",
            ),
            (
                self.volume_keys.is_sorted_by(|a, b| a.version < b.version),
                "the versions of volume keys",
            ),
        ];
        fine.iter()
            .find(|(fine, _)| !fine)
            .map_or(Ok(()), |(_, what)| Err(FormatError::Range(what)))
    }

    /// Under the volume envelope, versions are those of volume keys, each wrapped by that master key.
    fn has_volume_keys_of(&self, key: &KeyEntry) -> bool {
        key.envelope == Envelope::Direct
            || key.versions.iter().all(|version| {
                let named = |volume_key: &&WrappedVolumeKey| volume_key.version == version.0;
                let found = self.volume_keys.iter().find(named);
                found.is_some_and(|volume_key| volume_key.is_of(key))
            })
    }
}

impl WrappedVolumeKey {
    /// Whether this master key wraps it.
    pub fn is_of(&self, key: &KeyEntry) -> bool {
        self.provider == key.provider && self.key == key.key
    }
}

impl KeyEntry {
    fn is_fine(&self) -> bool {
        (match &self.home {
            Some(home) => self.provider == TOKEN_PROVIDER && home.is_fine(),
            None => self.provider != TOKEN_PROVIDER && !self.provider.is_empty(),
        }) && !self.algorithms.is_empty()
            && self.versions.contains(&self.wraps_with)
            && self.versions.is_sorted_by(|a, b| a < b)
    }
}

fn current(keys: &[KeyEntry]) -> Result<&KeyEntry> {
    let mut current = keys.iter().filter(|key| key.current);
    match (current.next(), current.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(FormatError::Range(
            "the number of current keys in strongroom.volume",
        )),
    }
}

fn distinct(keys: &[KeyEntry]) -> bool {
    let mut named: Vec<_> = keys
        .iter()
        .map(|key| (&key.provider, key.key, key.envelope.number()))
        .collect();
    named.sort();
    named.is_sorted_by(|a, b| a < b)
}

fn is_wrapped(bytes: &[u8]) -> bool {
    (1..=MAX_WRAPPED).contains(&bytes.len())
}
