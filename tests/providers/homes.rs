//! The homes that the suite runs on.

use std::sync::Arc;

use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use strongroom::crypto::Secret;
use strongroom::format::ids::KeyId;
use strongroom::format::wrap::WrapAlgorithm;
use strongroom::keys::pkcs11::{KeyUri, Module, Token, TokenKey};
use strongroom::keys::software::{Argon2Cost, NewSlot, Place};
use strongroom::keys::{KeyError, KeyState, Keystore, SecretBytes, Unlock};

use super::conformance::{Home, Opened};
use super::support::tokens::{Access, Kind};

/// A software keystore, with a key for each name.
pub struct Software {
    dir: tempfile::TempDir,
    keystore: Arc<Keystore>,
}

impl Software {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::at(&dir.path().join("keystore")).unwrap();
        let slot = NewSlot {
            label: "key file".to_owned(),
            secret: Unlock::KeyFile(Secret::from_bytes(&mut [7; 32])),
            cost: Argon2Cost {
                memory_kib: 8,
                passes: 1,
                lanes: 1,
            },
        };
        let keystore = Arc::new(Keystore::create(&place, vec![slot]).unwrap());
        Self { dir, keystore }
    }
}

impl Home for Software {
    fn make(&self, name: &str) -> Opened {
        let key = self
            .keystore
            .create_key(Some(&format!("alias/{name}")))
            .unwrap();
        (self.keystore.clone(), key)
    }

    fn open(&self, name: &str) -> Opened {
        let place = Place::at(&self.dir.path().join("keystore")).unwrap();
        let secret = Unlock::KeyFile(Secret::from_bytes(&mut [7; 32]));
        let keystore = Keystore::open(&place, &[secret]).unwrap();
        let key = keystore.resolve(&format!("alias/{name}")).unwrap();
        (Arc::new(keystore), key)
    }

    fn algorithm(&self) -> WrapAlgorithm {
        WrapAlgorithm::AesGcmSiv
    }

    fn objects(&self) -> usize {
        self.keystore.list().len()
    }

    fn enable(&self, _name: &str, key: &KeyId, enabled: bool) -> bool {
        let state = if enabled {
            KeyState::Enabled
        } else {
            KeyState::Disabled
        };
        self.keystore.set_key_state(key, state).unwrap();
        true
    }

    fn assert_unreadable(&self, _name: &str, _key: &KeyId) {
        // What the keystore's file shows is tested with the keystore.
    }

    fn calls(&self) -> usize {
        3_000
    }
}

/// A token, with a key object for each name.
pub struct TokenHome<'a> {
    access: &'a Access,
}

/// Opens the token with this PIN.
pub fn open_token(access: &Access, pin: &str) -> Result<Arc<Token>, KeyError> {
    let module = Module {
        path: access.module.clone(),
        init: access.init.clone(),
    };
    let wanted: KeyUri = access.uri("any").parse().unwrap();
    let pin = SecretBytes::take(&mut pin.to_owned().into_bytes());
    Token::open(&module, &wanted, pin)
}

impl<'a> TokenHome<'a> {
    pub fn new(access: &'a Access) -> Self {
        Self { access }
    }

    fn token(&self) -> Arc<Token> {
        open_token(self.access, &self.access.pin).unwrap()
    }

    /// The objects that keep the key's secret, one for each version.
    fn secrets(&self, judge: &Session, key: &KeyId) -> Vec<ObjectHandle> {
        let all = self.access.objects(judge);
        all.into_iter()
            .filter(|object| {
                let read =
                    judge.get_attributes(*object, &[AttributeType::Id, AttributeType::Class]);
                let read = read.unwrap();
                let ours = read
                    .iter()
                    .any(|one| matches!(one, Attribute::Id(id) if id.starts_with(&key.0)));
                ours && !read.contains(&Attribute::Class(ObjectClass::PUBLIC_KEY))
            })
            .collect()
    }
}

impl Home for TokenHome<'_> {
    fn make(&self, name: &str) -> Opened {
        let (key, made) = TokenKey::make_or_take(&self.token(), name, None).unwrap();
        assert!(made, "{name} was there already");
        let id = key.key();
        (Arc::new(key), id)
    }

    fn open(&self, name: &str) -> Opened {
        let key = TokenKey::find(&self.token(), name, Some(self.algorithm())).unwrap();
        let id = key.key();
        (Arc::new(key), id)
    }

    fn algorithm(&self) -> WrapAlgorithm {
        match self.access.kind {
            Kind::SoftHsm | Kind::Kryoptic | Kind::Nss => WrapAlgorithm::AesGcm,
            Kind::Tpm => WrapAlgorithm::RsaOaepSha256,
            Kind::OpenCryptoki => WrapAlgorithm::AesCbcHmac,
        }
    }

    fn objects(&self) -> usize {
        self.access.objects(&self.access.look()).len()
    }

    fn enable(&self, _name: &str, key: &KeyId, enabled: bool) -> bool {
        if self.access.kind == Kind::Tpm {
            return false; // tpm2-pkcs11 takes the change and decrypts as before
        }
        let judge = self.access.look();
        let change = [Attribute::Encrypt(enabled), Attribute::Decrypt(enabled)];
        let [object] = self.secrets(&judge, key)[..] else {
            panic!("one version")
        };
        let changed = judge.update_attributes(object, &change);
        changed.unwrap();
        true
    }

    fn assert_unreadable(&self, name: &str, key: &KeyId) {
        let judge = self.access.look();
        let objects = self.secrets(&judge, key);
        assert_eq!(objects.len(), 2, "one for each version");
        let mut found = Vec::new();
        for object in objects {
            let secret = match self.algorithm() {
                WrapAlgorithm::RsaOaepSha256 => AttributeType::PrivateExponent,
                _ => AttributeType::Value,
            };
            let info = judge.get_attribute_info(object, &[secret]).unwrap();
            assert!(!matches!(info[0], AttributeInfo::Available(_)), "{info:?}");
            let read = judge.get_attributes(object, &[secret]).unwrap();
            assert!(read.is_empty(), "the token shows the key");
            let wanted = [
                AttributeType::Sensitive,
                AttributeType::Extractable,
                AttributeType::Token,
            ];
            let shown = judge.get_attributes(object, &wanted).unwrap();
            for is in [
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Token(true),
            ] {
                assert!(shown.contains(&is), "{shown:?} lacks {is:?}");
            }
            let names = [AttributeType::Id, AttributeType::Label];
            found.push(judge.get_attributes(object, &names).unwrap());
        }
        for (version, label) in [(1u32, name.to_owned()), (2, format!("{name}.v2"))] {
            let id = Attribute::Id([&key.0[..], &version.to_be_bytes()].concat());
            let label = Attribute::Label(label.into_bytes());
            let there = found
                .iter()
                .any(|names| names.contains(&id) && names.contains(&label));
            assert!(there, "version {version}: {found:?}");
        }
    }

    fn calls(&self) -> usize {
        match self.access.kind {
            Kind::Tpm => 24,
            Kind::Nss => 1_500,
            _ => 3_000,
        }
    }
}
