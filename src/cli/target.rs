//! The key that a new volume gets, or that a volume moves to: named on the command line, told to a daemon without a secret
//! in the words, opened.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{Destination, Global, Use};
use super::exit::{self, Code, at, failure};
use super::providers::{Known, OpenTokens, unfound};
use super::secrets::{self, Secrets};
use super::token_choice::{self, InPlay};
use super::{places, unlock};
use crate::format::ids::KeyId;
use crate::format::suite::Envelope;
use crate::format::volume_file::TokenObject;
use crate::format::wrap::WrapAlgorithm;
use crate::fuse::control::{OpenTarget, Refusal};
use crate::keys::pkcs11::{KeyUri, Mechanism, Module, TokenKey, UriError};
use crate::keys::software::Place;
use crate::keys::source::Source;
use crate::keys::{KeyProvider, Keystore, Unlock};
use crate::volume::Target;

/// A key and where it is; no secret.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    home: Home,
    envelope: Option<Envelope>,
    /// What opens it, in the order of the descriptors that come with this.
    secrets: Vec<SecretKind>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Home {
    Keystore {
        file: PathBuf,
        key: String,
    },
    Token {
        uri: String,
        module: Module,
        mechanism: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SecretKind {
    Passphrase,
    KeyFile,
    RecoveryKey,
    Pin,
}

/// The key that a new volume shall have, which no other volume of this host needs to know.
pub(super) fn for_new(
    global: &Global,
    key: &str,
    uri: Option<&str>,
    using: &Use,
) -> anyhow::Result<(Wanted, Secrets)> {
    let text = uri.unwrap_or(key);
    if !is_token(key, uri) {
        return in_keystore(global, text, using, false);
    }
    let uri = parse(text)?;
    let home = home_of(&uri)?;
    let in_play = InPlay::default().with_target(&home.token);
    let module = token_choice::new_module(global, &in_play, &home.token, uri.module.as_ref())?;
    let mut secrets = Secrets::default();
    let pin = token_choice::pin(global, &in_play, &home.token, uri.pin_source.as_deref())?;
    secrets.pins.put(&home.token, pin);
    Ok((in_token(&uri, module, using)?, secrets))
}

/// The key that a volume moves to; `has_unlocks`: what opens the keystore is at hand already.
pub(super) fn for_move(
    global: &Global,
    known: &Known,
    to: &Destination,
    has_unlocks: bool,
) -> anyhow::Result<(Wanted, Secrets)> {
    if !is_token(&to.to, None) {
        return in_keystore(global, &to.to, &to.using, has_unlocks);
    }
    let uri = parse(&to.to)?;
    let home = home_of(&uri)?;
    let held = known.in_play();
    let is_held = held.held.contains(&home.token);
    let in_play = held.with_target(&home.token);
    let module = match (&to.to_module, &uri.module) {
        (Some(path), None) => token_choice::checked(path.clone(), to.to_module_init.clone())?,
        (Some(_), Some(_)) => {
            return Err(failure(
                Code::Usage,
                "give --to-module or module-path of the PKCS#11 URI, not both",
            ));
        }
        (None, Some(module)) => module.clone(),
        (None, None) if is_held => known.module_of(global, &in_play, &home.token)?,
        (None, None) => token_choice::new_module(global, &in_play, &home.token, None)?,
    };
    let pin = match (&to.to_pin_file, to.to_pin_fd, &uri.pin_source) {
        (Some(file), _, _) => Some(Source::File(file.clone()).read()?),
        (None, Some(number), _) => Some(Source::Descriptor(number).read()?),
        (None, None, None) if is_held => None, // it is open already
        (None, None, of_uri) => {
            token_choice::pin(global, &in_play, &home.token, of_uri.as_deref())?
        }
    };
    let mut secrets = Secrets::default();
    secrets.pins.put(&home.token, pin);
    Ok((in_token(&uri, module, &to.using)?, secrets))
}

/// The key in a token that a URI names; it must be there.
pub(super) fn find(global: &Global, uri: &str) -> anyhow::Result<TokenKey> {
    let uri = parse(uri)?;
    let home = home_of(&uri)?;
    let in_play = InPlay::default().with_target(&home.token);
    let module = token_choice::new_module(global, &in_play, &home.token, uri.module.as_ref())?;
    let pin = token_choice::pin(global, &in_play, &home.token, uri.pin_source.as_deref())?;
    let token = OpenTokens::default().open(&module, &uri, pin)?;
    TokenKey::find(&token, &home.object, None).map_err(|error| unfound(error, &home))
}

/// Whether a new volume's key is in a token: it is named as `--key-uri`, or `--key` is a URI.
pub(super) fn is_token(key: &str, uri: Option<&str>) -> bool {
    uri.is_some() || KeyUri::is_one(key)
}

fn parse(text: &str) -> anyhow::Result<KeyUri> {
    text.parse().map_err(refused)
}

fn refused(error: UriError) -> anyhow::Error {
    failure(Code::Usage, error.to_string())
}

fn home_of(uri: &KeyUri) -> anyhow::Result<TokenObject> {
    uri.home().map_err(refused)
}

fn in_keystore(
    global: &Global,
    key: &str,
    using: &Use,
    has_unlocks: bool,
) -> anyhow::Result<(Wanted, Secrets)> {
    no_mechanism(using)?;
    let file = places::keystore(global)?;
    let mut secrets = Secrets::default();
    if !has_unlocks {
        secrets.unlocks = secrets::gather(global)?;
    }
    let file = std::path::absolute(&file).map_err(at(&file))?;
    let wanted = Wanted {
        home: Home::Keystore {
            file,
            key: key.to_owned(),
        },
        envelope: using.envelope.map(Into::into),
        secrets: Vec::new(),
    };
    Ok((wanted, secrets))
}

fn no_mechanism(using: &Use) -> anyhow::Result<()> {
    match using.mechanism {
        None => Ok(()),
        Some(_) => Err(failure(
            Code::Usage,
            "--mechanism is for keys in tokens; a key in the keystore wraps with AES-256-GCM-SIV",
        )),
    }
}

fn in_token(uri: &KeyUri, module: Module, using: &Use) -> anyhow::Result<Wanted> {
    let mechanism = using.mechanism.clone();
    mechanism_of(mechanism.as_deref())?;
    Ok(Wanted {
        home: Home::Token {
            uri: uri.to_string(),
            module,
            mechanism,
        },
        envelope: using.envelope.map(Into::into),
        secrets: Vec::new(),
    })
}

fn mechanism_of(name: Option<&str>) -> anyhow::Result<Option<Mechanism>> {
    name.map(|name| name.parse().map_err(refused)).transpose()
}

impl Wanted {
    /// Opens the key, and makes it in its token if it is not there.
    pub(super) fn open(&self, secrets: &Secrets, tokens: &OpenTokens) -> anyhow::Result<Target> {
        match &self.home {
            Home::Keystore { file, key } => {
                let keystore = Keystore::open(&Place::at(file)?, &secrets.unlocks)?;
                let key = keystore.resolve(key)?;
                Ok(self.target(Arc::new(keystore), key, None))
            }
            Home::Token {
                uri,
                module,
                mechanism,
            } => {
                let uri = parse(uri)?;
                let home = home_of(&uri)?;
                let pin = secrets.pins.of(&home.token);
                let token = tokens.open(module, &uri, pin)?;
                let mechanism = mechanism_of(mechanism.as_deref())?;
                let (key, made) = TokenKey::make_or_take(&token, &home.object, mechanism)?;
                let id = key.key();
                let how = if made { "made" } else { "taken" };
                tracing::info!("{how} in the token {:?}: key {id}", home.token);
                if key.algorithm() == WrapAlgorithm::RsaOaepSha1 {
                    tracing::warn!(
                        "the token {:?} does RSA-OAEP with SHA-1 and without a label only, so that is used: sound for this purpose, \
                         but an auditor may ask",
                        home.token
                    );
                }
                Ok(self.target(Arc::new(key), id, Some(module.clone())))
            }
        }
    }

    fn target(&self, provider: Arc<dyn KeyProvider>, key: KeyId, module: Option<Module>) -> Target {
        Target {
            provider,
            key,
            envelope: self.envelope,
            module,
        }
    }

    /// In words for a daemon, with pipes that hold the secrets.
    pub(super) fn told(mut self, secrets: &Secrets) -> anyhow::Result<(Value, Vec<OwnedFd>)> {
        let mut pipes = Vec::new();
        for unlock in &secrets.unlocks {
            let (kind, bytes): (_, &[u8]) = match unlock {
                Unlock::Passphrase(text) => (SecretKind::Passphrase, text.expose()),
                Unlock::KeyFile(key) => (SecretKind::KeyFile, key.expose()),
                Unlock::RecoveryKey(key) => (SecretKind::RecoveryKey, key.expose()),
            };
            self.secrets.push(kind);
            let is_text = matches!(kind, SecretKind::Passphrase);
            pipes.push(secrets::pipe_with(bytes, is_text)?);
        }
        for (_, pin) in secrets.pins.each() {
            self.secrets.push(SecretKind::Pin);
            pipes.push(secrets::pipe_with(pin.expose(), true)?);
        }
        Ok((serde_json::to_value(&self)?, pipes))
    }

    /// What `told` said, on the other side.
    fn heard(value: &Value, descriptors: Vec<OwnedFd>) -> anyhow::Result<(Self, Secrets)> {
        let wanted = Self::deserialize(value)?;
        if wanted.secrets.len() != descriptors.len() {
            let sentence = "the request does not have the descriptors that it speaks of";
            return Err(failure(Code::Usage, sentence));
        }
        let mut secrets = Secrets::default();
        for (kind, descriptor) in wanted.secrets.iter().zip(descriptors) {
            rustix::io::ioctl_fionbio(&descriptor, true)?; // who asks shall not keep us waiting
            let source = Source::Descriptor(descriptor.into_raw_fd()); // closed when it was read
            match kind {
                SecretKind::Passphrase => secrets.unlocks.push(Unlock::Passphrase(source.read()?)),
                SecretKind::KeyFile => secrets.unlocks.push(Unlock::KeyFile(source.read_key()?)),
                SecretKind::RecoveryKey => {
                    secrets
                        .unlocks
                        .push(Unlock::RecoveryKey(source.read_key()?));
                }
                SecretKind::Pin => secrets.pins.put(&wanted.token()?, Some(source.read()?)),
            }
        }
        Ok((wanted, secrets))
    }

    fn token(&self) -> anyhow::Result<String> {
        match &self.home {
            Home::Token { uri, .. } => Ok(home_of(&parse(uri)?)?.token),
            Home::Keystore { .. } => Err(failure(Code::Usage, "a PIN came for a keystore")),
        }
    }
}

/// For a daemon: opens what `told` said.
pub(super) fn opener(tokens: Arc<OpenTokens>) -> OpenTarget {
    Box::new(move |value, descriptors| {
        let opened = Wanted::heard(value, descriptors)
            .and_then(|(wanted, secrets)| wanted.open(&secrets, &tokens));
        opened.map_err(|error| {
            let (code, message) = exit::explain(&error);
            let kind = code.word().to_owned();
            Refusal { kind, message }
        })
    })
}

/// For a new volume: opens the key, after making the keystore where there is none.
pub(super) fn open_or_make(
    global: &Global,
    key: &str,
    uri: Option<&str>,
    using: &Use,
) -> anyhow::Result<(Target, Secrets)> {
    if !is_token(key, uri) && places::keystore(global)?.symlink_metadata().is_err() {
        no_mechanism(using)?;
        let keystore = unlock::open_or_make(global)?;
        let key = keystore.resolve(key)?;
        let envelope = using.envelope.map(Into::into);
        let target = Target {
            provider: Arc::new(keystore),
            key,
            envelope,
            module: None,
        };
        return Ok((target, Secrets::default()));
    }
    let (wanted, secrets) = for_new(global, key, uri, using)?;
    let target = wanted.open(&secrets, &OpenTokens::default())?;
    Ok((target, secrets))
}
