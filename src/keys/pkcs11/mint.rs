//! Making, checking and destroying key objects on a token.
//!
//! Invariant: a key that could leave its token is neither made nor taken.

use cryptoki::mechanism::Mechanism as Generate;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};

use super::fault::Fault;
use super::object::{Chain, Kind};
use super::token::Live;
use crate::format::ids::KeyVersion;
use crate::keys::KeyError;

/// RSA keys, bits: below is too weak, above does not fit a header.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=3072;
/// Bits of the RSA keys that we make.
const RSA_MADE: u64 = 2048;

impl Live {
    /// Makes this version on the token, unless it is there: the call before may have made it and lost its answer.
    pub fn make(&mut self, chain: &Chain, version: KeyVersion) -> Result<(), Fault> {
        if self.find_one(chain, version)?.is_some() {
            return self.check(chain, version);
        }
        let made = match chain.kind {
            Kind::Aes => vec![self.make_aes(chain, version)?],
            Kind::Rsa => self.make_rsa(chain, version)?.to_vec(),
        };
        // Where two made the same version at the same time, each takes its own away again, and none is used.
        let checked = self.check(chain, version);
        if checked.is_err() {
            self.handles.clear();
            for object in made {
                let _ = self.session.destroy_object(object);
            }
        }
        checked
    }

    fn make_aes(&self, chain: &Chain, version: KeyVersion) -> Result<ObjectHandle, Fault> {
        let own = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Encrypt(true),
        ];
        let template = [&named(chain, version)[..], &KEPT, &own].concat();
        Ok(self.session.generate_key(&Generate::AesKeyGen, &template)?)
    }

    fn make_rsa(&self, chain: &Chain, version: KeyVersion) -> Result<[ObjectHandle; 2], Fault> {
        let own = [
            Attribute::ModulusBits(RSA_MADE.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
            Attribute::Encrypt(true),
        ];
        let public = [&named(chain, version)[..], &own].concat();
        let private = [&named(chain, version)[..], &KEPT].concat();
        let how = Generate::RsaPkcsKeyPairGen;
        let (public, private) = self.session.generate_key_pair(&how, &public, &private)?;
        Ok([public, private])
    }

    /// C_DestroyObject of everything of this version.
    pub fn destroy(&mut self, chain: &Chain, version: KeyVersion) -> Result<(), Fault> {
        let handle = self.object(chain, version)?;
        let beside = match chain.kind {
            Kind::Aes => Vec::new(),
            Kind::Rsa => self.public_objects(chain, version, handle)?,
        };
        self.handles.remove(&chain.id(version));
        self.session.destroy_object(handle)?;
        // The private key is gone, which is what counts; a public one left over opens nothing.
        for public in beside {
            let _ = self.session.destroy_object(public);
        }
        Ok(())
    }

    /// Refuses a key that could leave its token, or that is not of a kind and size that we use.
    pub fn check(&mut self, chain: &Chain, version: KeyVersion) -> Result<(), Fault> {
        let handle = self.object(chain, version)?;
        let attributes = self.session.get_attributes(
            handle,
            &[
                AttributeType::KeyType,
                AttributeType::Sensitive,
                AttributeType::Extractable,
            ],
        )?;
        let refuse = |why: &str| {
            let text = format!("the {} {} {why}", chain.kind.name(), chain.what(version));
            Err(KeyError::InvalidState(text).into())
        };
        let kind = match chain.kind {
            Kind::Aes => KeyType::AES,
            Kind::Rsa => KeyType::RSA,
        };
        if !attributes.contains(&Attribute::KeyType(kind)) {
            return refuse("is a key of another type");
        }
        if !attributes.contains(&Attribute::Sensitive(true)) {
            return refuse("is not sensitive: its value can be read out of the token");
        }
        if !attributes.contains(&Attribute::Extractable(false)) {
            return refuse("is extractable: it can be taken out of the token");
        }
        match chain.kind {
            Kind::Aes => match self.number(handle, AttributeType::ValueLen)? {
                Some(32) | None => Ok(()),
                Some(bytes) => refuse(&format!("has {bytes} bytes, and must have 32")),
            },
            Kind::Rsa => self.check_rsa(handle, refuse),
        }
    }

    fn check_rsa(
        &self,
        handle: ObjectHandle,
        refuse: impl Fn(&str) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let each = self
            .session
            .get_attributes(handle, &[AttributeType::AlwaysAuthenticate])?;
        if each.contains(&Attribute::AlwaysAuthenticate(true)) {
            return refuse("wants the PIN anew for every use");
        }
        let bits = self
            .session
            .get_attributes(handle, &[AttributeType::Modulus])?
            .into_iter()
            .find_map(|attribute| match attribute {
                Attribute::Modulus(modulus) => Some(8 * modulus.len()),
                _ => None,
            });
        match bits {
            Some(bits) if !RSA_BITS.contains(&bits) => {
                refuse(&format!("has {bits} bits, and must have 2048 to 3072"))
            }
            _ => Ok(()),
        }
    }

    fn number(&self, handle: ObjectHandle, wanted: AttributeType) -> Result<Option<u64>, Fault> {
        let found = self.session.get_attributes(handle, &[wanted])?;
        Ok(found.into_iter().find_map(|attribute| match attribute {
            Attribute::ValueLen(number) | Attribute::ModulusBits(number) => Some(*number),
            _ => None,
        }))
    }
}

/// What keeps a key in its token.
const KEPT: [Attribute; 4] = [
    Attribute::Private(true),
    Attribute::Sensitive(true),
    Attribute::Extractable(false),
    Attribute::Decrypt(true),
];

fn named(chain: &Chain, version: KeyVersion) -> [Attribute; 3] {
    [
        Attribute::Token(true),
        Attribute::Label(chain.label(version).into_bytes()),
        Attribute::Id(chain.id(version)),
    ]
}
