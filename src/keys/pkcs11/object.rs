//! Key objects on a token: how versions of a key are named and found, and what they say of themselves.
//!
//! Invariant: a key is the one object of its class with its label or CKA_ID; where two have it, neither is used.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use sha2::{Digest, Sha256};

use super::fault::Fault;
use super::token::Live;
use crate::crypto::{LABEL_PREFIX, random_bytes};
use crate::format::ids::{KeyId, KeyVersion};
use crate::keys::{KeyError, KeyState};

/// Bytes of the CKA_ID of a version that we made: key id ‖ version, big endian.
const OWN_ID: usize = 20;
/// What kind of key unwraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Aes,
    Rsa,
}

/// A key with all its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub key: KeyId,
    /// Label of the first version.
    pub object: String,
    pub kind: Kind,
    /// The first version was there before; it has another CKA_ID than ours, and is found by its label.
    pub taken: bool,
}

/// An RSA public key, big endian.
#[derive(Debug, Default)]
pub(super) struct PublicParts {
    pub modulus: Vec<u8>,
    pub exponent: Vec<u8>,
}

impl Kind {
    fn class(self) -> ObjectClass {
        match self {
            Self::Aes => ObjectClass::SECRET_KEY,
            Self::Rsa => ObjectClass::PRIVATE_KEY,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "AES key",
            Self::Rsa => "RSA key",
        }
    }
}

impl Chain {
    /// A new key.
    pub fn new(object: &str, kind: Kind) -> Self {
        let mut key = [0; 16];
        random_bytes(&mut key);
        Self {
            key: KeyId(key),
            object: object.to_owned(),
            kind,
            taken: false,
        }
    }

    pub fn label(&self, version: KeyVersion) -> String {
        match version.0 {
            1 => self.object.clone(),
            n => format!("{}.v{n}", self.object),
        }
    }

    pub fn id(&self, version: KeyVersion) -> Vec<u8> {
        [&self.key.0[..], &version.0.to_be_bytes()].concat()
    }

    fn template(&self, class: ObjectClass, version: KeyVersion) -> Vec<Attribute> {
        let name = if self.taken && version.0 == 1 {
            Attribute::Label(self.object.clone().into_bytes())
        } else {
            Attribute::Id(self.id(version))
        };
        vec![Attribute::Class(class), Attribute::Token(true), name]
    }

    /// That no version of it is there.
    pub fn missing(&self) -> Fault {
        Fault::Missing(format!("`{}` ({})", self.object, self.key))
    }

    pub fn what(&self, version: KeyVersion) -> String {
        format!("`{}` version {version} ({})", self.object, self.key)
    }
}

/// Refuses a label that no volume can name, or that is another key's version.
pub(super) fn check_label(object: &str) -> Result<(), KeyError> {
    if !(1..=200).contains(&object.len()) {
        let text = format!(
            "the label of a key has 1 to 200 bytes, this one has {}",
            object.len()
        );
        return Err(KeyError::InvalidState(text));
    }
    if version_of_label(object).is_some() {
        let text =
            format!("`{object}` ends as the label of a later version of a key does: take another");
        return Err(KeyError::InvalidState(text));
    }
    Ok(())
}

/// The base and the number of a label that ends in `.v<number>`.
fn version_of_label(label: &str) -> Option<(&str, u32)> {
    let (base, number) = label.rsplit_once(".v")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| number.parse().ok()).flatten()?;
    (number > 1).then_some((base, number))
}

/// The key id and the version in a CKA_ID of ours.
fn own_id(id: &[u8]) -> Option<(KeyId, KeyVersion)> {
    let (key, version) = id.split_first_chunk::<16>()?;
    let version: [u8; OWN_ID - 16] = version.try_into().ok()?;
    Some((KeyId(*key), KeyVersion(u32::from_be_bytes(version))))
}

/// The id of a key that was there before: what its token says of it.
fn taken_id(token: &str, serial: &str, object: &str, id: &[u8]) -> KeyId {
    let mut hash = Sha256::new();
    hash.update(LABEL_PREFIX);
    hash.update(b"pkcs11");
    for part in [token.as_bytes(), serial.as_bytes(), object.as_bytes(), id] {
        // A label, a serial number and a CKA_ID are far shorter than 4 GiB.
        hash.update((part.len() as u32).to_le_bytes());
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut key = [0; 16];
    key.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    KeyId(key)
}

impl Live {
    /// The key of this label; `None` where no version of it is there.
    pub fn find_chain(&self, object: &str, kind: Kind) -> Result<Option<Chain>, Fault> {
        let by_label = [
            Attribute::Class(kind.class()),
            Attribute::Token(true),
            Attribute::Label(object.as_bytes().to_vec()),
        ];
        let chain = |key, taken| Chain {
            key,
            object: object.to_owned(),
            kind,
            taken,
        };
        match self.session.find_objects(&by_label)?.as_slice() {
            [] => {}
            [one] => {
                let id = self.id_of(*one)?;
                return Ok(Some(match own_id(&id) {
                    Some((key, KeyVersion(1))) => chain(key, false),
                    _ => chain(taken_id(&self.label, &self.serial, object, &id), true),
                }));
            }
            _ => return Err(ambiguous(object, kind)),
        }
        let mut found = None;
        for handle in self.all(kind)? {
            let Some(label) = self.label_of(handle)? else {
                continue;
            };
            let id = self.id_of(handle)?;
            if let Some((base, number)) = version_of_label(&label)
                && let Some((key, version)) = own_id(&id)
                && base == object
                && number == version.0
                && found.replace(key).is_some_and(|other| other != key)
            {
                return Err(ambiguous(object, kind));
            }
        }
        Ok(found.map(|key| chain(key, false)))
    }

    /// Which of these versions are there; `None` where a look at all objects is needed to tell.
    pub fn versions_among(
        &self,
        chain: &Chain,
        known: &[KeyVersion],
    ) -> Result<Option<Vec<KeyVersion>>, Fault> {
        let Some(KeyVersion(newest)) = known.last() else {
            return Ok(None);
        };
        // What another host made since then.
        for later in [newest + 1, newest + 2] {
            if self.find_one(chain, KeyVersion(later))?.is_some() {
                return Ok(None);
            }
        }
        let mut there = Vec::new();
        for version in known {
            if self.find_one(chain, *version)?.is_some() {
                there.push(*version);
            }
        }
        Ok((!there.is_empty()).then_some(there))
    }

    /// Every version that is there, ascending. Reads an attribute of every key on the token.
    pub fn versions(&self, chain: &Chain) -> Result<Vec<KeyVersion>, Fault> {
        let mut versions = Vec::new();
        if chain.taken && self.find_one(chain, KeyVersion(1))?.is_some() {
            versions.push(KeyVersion(1));
        }
        for handle in self.all(chain.kind)? {
            if let Some((key, version)) = own_id(&self.id_of(handle)?)
                && key == chain.key
            {
                versions.push(version);
            }
        }
        versions.sort_unstable();
        versions.dedup();
        Ok(versions)
    }

    /// The newest version.
    pub fn current(&self, chain: &Chain) -> Result<KeyVersion, Fault> {
        self.versions(chain)?.pop().ok_or_else(|| chain.missing())
    }

    /// The object that unwraps what this version wrapped.
    pub fn object(&mut self, chain: &Chain, version: KeyVersion) -> Result<ObjectHandle, Fault> {
        let name = chain.id(version);
        if let Some(known) = self.handles.get(&name) {
            return Ok(*known);
        }
        let found = self.find_one(chain, version)?;
        let handle = found.ok_or_else(|| Fault::Missing(chain.what(version)))?;
        self.handles.insert(name, handle);
        Ok(handle)
    }

    pub fn find_one(
        &self,
        chain: &Chain,
        version: KeyVersion,
    ) -> Result<Option<ObjectHandle>, Fault> {
        let template = chain.template(chain.kind.class(), version);
        match self.session.find_objects(&template)?.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(ambiguous(&chain.label(version), chain.kind)),
        }
    }

    fn all(&self, kind: Kind) -> Result<Vec<ObjectHandle>, Fault> {
        let template = [Attribute::Class(kind.class()), Attribute::Token(true)];
        Ok(self.session.find_objects(&template)?)
    }

    fn id_of(&self, handle: ObjectHandle) -> Result<Vec<u8>, Fault> {
        let id = self.session.get_attributes(handle, &[AttributeType::Id])?;
        Ok(id
            .into_iter()
            .find_map(|attribute| match attribute {
                Attribute::Id(id) => Some(id),
                _ => None,
            })
            .unwrap_or_default())
    }

    fn label_of(&self, handle: ObjectHandle) -> Result<Option<String>, Fault> {
        let label = self
            .session
            .get_attributes(handle, &[AttributeType::Label])?;
        Ok(label.into_iter().find_map(|attribute| match attribute {
            Attribute::Label(label) => String::from_utf8(label).ok(),
            _ => None,
        }))
    }

    /// Whether the key may be used: its token has no other word for a disabled key than its usage.
    pub fn state(&mut self, chain: &Chain, version: KeyVersion) -> Result<KeyState, Fault> {
        let handle = self.object(chain, version)?;
        let wanted: &[_] = match chain.kind {
            Kind::Aes => &[AttributeType::Decrypt, AttributeType::Encrypt],
            Kind::Rsa => &[AttributeType::Decrypt],
        };
        let barred = self
            .session
            .get_attributes(handle, wanted)?
            .iter()
            .any(|attribute| {
                matches!(
                    attribute,
                    Attribute::Decrypt(false) | Attribute::Encrypt(false)
                )
            });
        Ok(if barred {
            KeyState::Disabled
        } else {
            KeyState::Enabled
        })
    }

    /// Modulus and exponent, big endian: of the object that decrypts where it has them, else of the public one beside it.
    pub fn public_key(&mut self, chain: &Chain, version: KeyVersion) -> Result<PublicParts, Fault> {
        let private = self.object(chain, version)?;
        if let Some(found) = self.public_parts(private)? {
            return Ok(found);
        }
        if let [one] = self.public_objects(chain, version, private)?.as_slice()
            && let Some(found) = self.public_parts(*one)?
        {
            return Ok(found);
        }
        let text = format!(
            "the public key of {} is not on the token",
            chain.what(version)
        );
        Err(KeyError::InvalidState(text).into())
    }

    /// The public objects beside this private one: of the same CKA_ID, or of the same label where it has none.
    pub fn public_objects(
        &self,
        chain: &Chain,
        version: KeyVersion,
        private: ObjectHandle,
    ) -> Result<Vec<ObjectHandle>, Fault> {
        let id = self.id_of(private)?;
        let name = if id.is_empty() {
            Attribute::Label(chain.label(version).into_bytes())
        } else {
            Attribute::Id(id)
        };
        let class = Attribute::Class(ObjectClass::PUBLIC_KEY);
        let template = [class, Attribute::Token(true), name];
        Ok(self.session.find_objects(&template)?)
    }

    fn public_parts(&self, handle: ObjectHandle) -> Result<Option<PublicParts>, Fault> {
        let wanted = [AttributeType::Modulus, AttributeType::PublicExponent];
        let mut parts = PublicParts::default();
        for attribute in self.session.get_attributes(handle, &wanted)? {
            match attribute {
                Attribute::Modulus(bytes) => parts.modulus = bytes,
                Attribute::PublicExponent(bytes) => parts.exponent = bytes,
                _ => {}
            }
        }
        let both = !parts.modulus.is_empty() && !parts.exponent.is_empty();
        Ok(both.then_some(parts))
    }
}

fn ambiguous(label: &str, kind: Kind) -> Fault {
    let text = format!(
        "the token has two of the {} `{label}`: which is meant cannot be told",
        kind.name()
    );
    Fault::Decided(KeyError::InvalidState(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_versions_by_key_id_and_number() {
        let chain = Chain::new("disk", Kind::Aes);
        assert_eq!(chain.label(KeyVersion(1)), "disk");
        assert_eq!(chain.label(KeyVersion(12)), "disk.v12");
        let id = chain.id(KeyVersion(258));
        assert_eq!(id.len(), OWN_ID);
        assert_eq!(id[16..], [0, 0, 1, 2]);
        assert_eq!(own_id(&id), Some((chain.key, KeyVersion(258))));
        assert_eq!(own_id(&id[..19]), None);
        assert_eq!(own_id(&[id, vec![0]].concat()), None);
    }

    #[test]
    fn refuses_labels_that_later_versions_have() {
        assert!(check_label("a").is_ok());
        assert!(check_label("a.v").is_ok());
        assert!(check_label("a.v1").is_ok());
        assert!(check_label("a.vx2").is_ok());
        for bad in ["", "a.v2", "a.v1.v17", &"x".repeat(201)] {
            assert!(check_label(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_id_of_a_taken_key_tells_its_parts_apart() {
        // Computed with Python's hashlib from docs/FORMAT.md.
        let computed = taken_id("strong", "0001", "disk", &[1, 2]);
        assert_eq!(computed.to_string(), "76106ea0a8a7fdd6ee7b0d0817045980");
        let id = taken_id("t", "s", "o", b"i");
        for other in [
            taken_id("ts", "", "o", b"i"),
            taken_id("t", "so", "", b"i"),
            taken_id("t", "s", "oi", b""),
            taken_id("t", "s", "o", b""),
        ] {
            assert_ne!(id, other);
        }
    }
}
