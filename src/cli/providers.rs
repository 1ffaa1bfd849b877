//! Opens every provider that a volume's headers may name: the keystore, tokens. First what opens them is gathered (here, or
//! in the process that starts a daemon), then they are opened.
//!
//! Invariant: what a volume says of its keys only chooses among what the user and this host name; it never names a
//! library. A provider that only older headers need may be missing, which is said.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::args::{Global, Trust};
use super::exit::{self, Code, failure};
use super::secrets::{self, Secrets};
use super::token_choice::{self, InPlay, Remembered};
use super::{mounts, places};
use crate::format::volume_file::{KeyEntry, TOKEN_PROVIDER, TokenObject};
use crate::keys::pkcs11::{KeyUri, Module, Token, TokenKey};
use crate::keys::software::Place;
use crate::keys::{KeyError, Keystore, Providers, SecretBytes};
use crate::store::{Dir, RealStore, Store};
use crate::volume::{self, Info};

/// The kind of the keystore as a provider.
pub(super) const KEYSTORE: &str = "software";

/// What is known of a volume's keys before one is opened.
pub(super) struct Known {
    /// As the volume file shows it, not verified.
    pub(super) info: Info,
    /// The libraries that this host remembers.
    pub(super) remembered: Remembered,
}

impl Known {
    /// Of a backing directory.
    pub(super) fn of(vault: &Path) -> anyhow::Result<Self> {
        let info = volume::info(&mounts::store(vault)?)?;
        let remembered = volume::pinned_modules(&state()?, &info.volume)?;
        Ok(Self { info, remembered })
    }

    /// As `of`, also where only the older generation of the volume file can be read.
    pub(super) fn anyway(store: &Arc<dyn Store>) -> anyhow::Result<Self> {
        let info = volume::info_anyway(store)?;
        let remembered = volume::pinned_modules(&state()?, &info.volume)?;
        Ok(Self { info, remembered })
    }

    /// The tokens that hold its keys.
    pub(super) fn in_play(&self) -> InPlay {
        InPlay::of(&self.info.keys)
    }

    /// The library of a token that holds one of its keys.
    pub(super) fn module_of(
        &self,
        global: &Global,
        in_play: &InPlay,
        label: &str,
    ) -> anyhow::Result<Module> {
        let in_token = |entry: &&KeyEntry| {
            let home = entry.home.as_ref();
            home.is_some_and(|home| home.token == label)
        };
        let mut entries = self.info.keys.iter().filter(in_token);
        let remembered = entries.find_map(|entry| self.remembered.get(&entry.key));
        token_choice::module(global, in_play, label, remembered, false)
    }

    fn module(
        &self,
        global: &Global,
        trust: &Trust,
        entry: &KeyEntry,
        home: &TokenObject,
    ) -> anyhow::Result<Module> {
        let remembered = self.remembered.get(&entry.key);
        let accept = trust.expect_volume.is_some();
        token_choice::module(global, &self.in_play(), &home.token, remembered, accept)
    }

    fn entries(&self) -> impl Iterator<Item = &KeyEntry> {
        let (current, others): (Vec<_>, Vec<_>) =
            self.info.keys.iter().partition(|entry| entry.current);
        current.into_iter().chain(others)
    }
}

/// This host's state directory, with its pins.
pub(super) fn state() -> anyhow::Result<Arc<dyn Dir>> {
    Ok(RealStore::open(&places::state_dir()?)?.root())
}

/// What opens the providers of a volume's keys. Asks for no PIN of a token that cannot be reached.
pub(super) fn gather(global: &Global, known: &Known, trust: &Trust) -> anyhow::Result<Secrets> {
    let mut gathered = Secrets::default();
    let mut asked = Vec::new();
    for entry in known.entries() {
        let done = match &entry.home {
            Some(home) if asked.contains(&&home.token) => Ok(()),
            Some(home) => {
                asked.push(&home.token);
                pin_of(global, known, trust, entry, home)
                    .map(|pin| gathered.pins.put(&home.token, pin))
            }
            None if entry.provider == KEYSTORE && gathered.unlocks.is_empty() => {
                secrets::gather(global).map(|unlocks| gathered.unlocks = unlocks)
            }
            None => Ok(()),
        };
        match done {
            Err(error) if entry.current => return Err(error),
            _ => {} // of another key it is said when it is opened
        }
    }
    Ok(gathered)
}

fn pin_of(
    global: &Global,
    known: &Known,
    trust: &Trust,
    entry: &KeyEntry,
    home: &TokenObject,
) -> anyhow::Result<Option<SecretBytes>> {
    known.module(global, trust, entry, home)?;
    token_choice::pin(global, &known.in_play(), &home.token, None)
}

/// Tokens that are open in this process; who uses one keeps it open, so that a volume that locks lets go of its PIN.
#[derive(Default)]
pub(super) struct OpenTokens(Mutex<Vec<(Module, Weak<Token>)>>);

impl OpenTokens {
    /// The token that a URI names, opened once.
    pub(super) fn open(
        &self,
        module: &Module,
        uri: &KeyUri,
        pin: Option<SecretBytes>,
    ) -> anyhow::Result<Arc<Token>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let label = uri.token.as_deref().unwrap_or_default();
        open.retain(|(_, token)| token.strong_count() > 0);
        let is_it = |token: &Arc<Token>| {
            let serial = uri.serial.as_deref();
            token.label() == label && serial.is_none_or(|serial| serial == token.serial())
        };
        let of_module = open.iter().filter(|(of, _)| of == module);
        let mut usable = of_module.filter_map(|(_, token)| token.upgrade());
        if let Some(token) = usable.find(is_it) {
            return Ok(token);
        }
        if !module.path.is_file() {
            let sentence = format!(
                "there is no library {}, which is to reach the token {label:?}: install it, or name another with --module",
                module.path.display()
            );
            return Err(failure(Code::Usage, sentence));
        }
        let with_pin = pin.is_some();
        let token = Token::open(module, uri, pin)
            .map_err(|error| unopened(error, label, module, with_pin))?;
        open.push((module.clone(), Arc::downgrade(&token)));
        Ok(token)
    }
}

fn unopened(error: KeyError, label: &str, module: &Module, with_pin: bool) -> anyhow::Error {
    let library = module.path.display();
    match error {
        KeyError::NotFound(_) => failure(
            Code::NoSuchKey,
            format!(
                "there is no token {label:?} where {library} looks: plug it in, or name another library with --module"
            ),
        ),
        KeyError::AccessDenied(_) if !with_pin => failure(
            Code::Secret,
            format!(
                "the token {label:?} wants a PIN, and there was none: give --pin-file, --pin-fd or STRONGROOM_PIN_FILE"
            ),
        ),
        KeyError::AccessDenied(said) => failure(
            Code::Secret,
            format!(
                "{said}; it was tried once, and tokens lock after a few wrong ones: make sure before you try again"
            ),
        ),
        other => other.into(),
    }
}

/// The providers of a volume's keys.
pub(super) struct Opened {
    pub(super) providers: Providers,
    /// The libraries that serve the tokens among them.
    pub(super) modules: Remembered,
    pub(super) tokens: Arc<OpenTokens>,
}

/// Opens the providers of a volume's keys.
///
/// # Errors
/// Whatever keeps the current key's provider from being opened.
pub(super) fn open(
    global: &Global,
    known: &Known,
    secrets: &Secrets,
    trust: &Trust,
) -> anyhow::Result<Opened> {
    let mut opening = Opening {
        global,
        known,
        secrets,
        trust,
        has_keystore: false,
        opened: Opened {
            providers: Providers::default(),
            modules: BTreeMap::new(),
            tokens: Arc::default(),
        },
    };
    for entry in known.entries() {
        match opening.entry(entry) {
            Err(error) if entry.current => return Err(error),
            Err(error) => {
                let (_, why) = exit::explain(&error);
                tracing::warn!(
                    "files that key {} still wraps cannot be read, as it is not at hand: {why}",
                    entry.key
                );
            }
            Ok(()) => {}
        }
    }
    Ok(opening.opened)
}

struct Opening<'a> {
    global: &'a Global,
    known: &'a Known,
    secrets: &'a Secrets,
    trust: &'a Trust,
    has_keystore: bool,
    opened: Opened,
}

impl Opening<'_> {
    fn entry(&mut self, entry: &KeyEntry) -> anyhow::Result<()> {
        match (&entry.home, entry.provider.as_str()) {
            (Some(home), TOKEN_PROVIDER) => self.token(entry, home),
            (None, KEYSTORE) if self.has_keystore => Ok(()),
            (None, KEYSTORE) => self.keystore(),
            (_, other) => Err(failure(
                Code::NotAVolume,
                format!(
                    "the volume's master key is kept by {other:?}, which this program does not know: use a newer strongroom"
                ),
            )),
        }
    }

    fn keystore(&mut self) -> anyhow::Result<()> {
        let place = Place::at(&places::keystore(self.global)?)?;
        let keystore = if self.secrets.unlocks.is_empty() {
            Keystore::open(&place, &secrets::gather(self.global)?)? // or it says why there are none
        } else {
            Keystore::open(&place, &self.secrets.unlocks)?
        };
        self.opened.providers.add(Arc::new(keystore));
        self.has_keystore = true;
        Ok(())
    }

    fn token(&mut self, entry: &KeyEntry, home: &TokenObject) -> anyhow::Result<()> {
        let module = self.known.module(self.global, self.trust, entry, home)?;
        let uri = KeyUri::from(home);
        let pin = self.secrets.pins.of(&home.token);
        let token = self.opened.tokens.open(&module, &uri, pin)?;
        let algorithm = self.known.info.algorithm(entry);
        let key = TokenKey::find(&token, &home.object, algorithm)
            .map_err(|error| unfound(error, home))?;
        if key.key() != entry.key {
            let sentence = format!(
                "the key {:?} in the token {:?} is another one than the volume's, {}: is this the token that the volume was made \
                 with?",
                home.object, home.token, entry.key
            );
            return Err(failure(Code::NoSuchKey, sentence));
        }
        self.opened.modules.insert(entry.key, module);
        self.opened.providers.add(Arc::new(key));
        Ok(())
    }
}

/// Says of a key that is not in its token where it was looked for.
pub(super) fn unfound(error: KeyError, home: &TokenObject) -> anyhow::Error {
    match error {
        KeyError::NotFound(_) => failure(
            Code::NoSuchKey,
            format!(
                "the token {:?} has no key {:?} that this PIN shows: put it back from the token's backup, or plug in the token \
                 that has it",
                home.token, home.object
            ),
        ),
        other => other.into(),
    }
}
