//! The volume file in memory, with the secret that it wraps: what changes when the master key rotates or the volume moves
//! to another one.
//!
//! Invariant: what is newer is durable first, what is older goes last. A key or version exists in its provider, then the
//! host's pin lets it come, then the volume file allows it, then memory wraps with it and the pin says so; a volume file
//! without an older one is written only after every header was read and named none. So whatever a kill leaves, the volume
//! file allows all that headers name, and the pin accepts the volume file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::names;
use crate::format::suite::Envelope;
use crate::format::volume_file::{KeyEntry, TokenObject, VolumeFile, WrappedSecret};
use crate::format::wrap::{Purpose, context};
use crate::keys::pkcs11::Module;
use crate::keys::{KeyError, KeyProvider};
use crate::store::Dir;
use crate::volume::chain::{AtHand, Chain};
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::pin::Pin;
use crate::volume::replace::replace_keeping;
use crate::volume::volume_key::VolumeKey;

/// The longest volume file that is read, bytes.
pub(crate) const VOLUME_FILE_LIMIT: usize = 1 << 20;

/// Keeper of the volume file. Its lock is held over the replacement of that file, and by nothing on the path of a read or
/// a write.
pub(crate) struct Master {
    held: Mutex<Held>,
    /// Where this host keeps its pins.
    state: Option<Arc<dyn Dir>>,
}

struct Held {
    file: VolumeFile,
    /// None in a locked volume.
    secret: Option<Secret<32>>,
    /// Libraries of the tokens that have the keys of `file`.
    modules: Modules,
}

/// The libraries that serve tokens, by the key in them.
pub(crate) type Modules = BTreeMap<KeyId, Module>;

/// A master key that is to wrap: new files, and the volume secret.
pub(crate) struct Under<'a> {
    /// Who has it.
    pub(crate) provider: &'a dyn KeyProvider,
    /// The key.
    pub(crate) key: KeyId,
    /// Where a token keeps it.
    pub(crate) home: Option<TokenObject>,
    /// What wraps data keys.
    pub(crate) envelope: Envelope,
    /// Its version, which exists.
    pub(crate) version: KeyVersion,
}

impl Master {
    pub(crate) fn new(
        file: VolumeFile,
        secret: Secret<32>,
        state: Option<Arc<dyn Dir>>,
        modules: Modules,
    ) -> Self {
        let held = Mutex::new(Held {
            file,
            secret: Some(secret),
            modules,
        });
        Self { held, state }
    }

    /// What the volume file says.
    pub(crate) fn file(&self) -> VolumeFile {
        self.lock().file.clone()
    }

    /// Lets go of the volume secret: no key changes any more.
    pub(crate) fn forget_secret(&self) {
        self.lock().secret = None;
    }

    /// Has the provider make a new version of the current key, which then wraps new files; older ones stay allowed.
    pub(crate) fn new_version(&self, env: &Env) -> Result<()> {
        let chain = env.ring.chain();
        let entry = chain.current();
        let provider = Arc::clone(env.ring.provider(entry)?);
        let stored = &entry.stored;
        let version = provider.rotate(&stored.key)?;
        let under = Under {
            provider: &*provider,
            key: stored.key,
            home: stored.home.clone(),
            envelope: stored.envelope,
            version,
        };
        self.wrap_under(env, &under, chain.at_hand(), None)
    }

    /// Makes another key, or the same under another envelope, the one that wraps new files; the keys before stay allowed.
    pub(crate) fn move_to(
        &self,
        env: &Env,
        provider: &Arc<dyn KeyProvider>,
        under: &Under<'_>,
        module: Option<Module>,
    ) -> Result<()> {
        let mut at_hand = env.ring.chain().at_hand();
        // First, so that it serves this key from now on.
        at_hand
            .providers
            .insert(0, (under.key, Arc::clone(provider)));
        self.wrap_under(env, under, at_hand, module)
    }

    /// Forgets all but what wraps new files: no header names anything else.
    pub(crate) fn forget_others(&self, env: &Env) -> Result<()> {
        if !env.ring.chain().is_unfinished() {
            return Ok(());
        }
        let mut held = self.lock();
        let mut next = held.file.clone();
        next.keys.retain(|entry| entry.current);
        for entry in &mut next.keys {
            entry.versions = vec![entry.wraps_with];
        }
        let kept = next.current_key()?.clone();
        next.volume_keys
            .retain(|key| kept.envelope == Envelope::Volume && key.version == kept.wraps_with.0);
        let modules = held.modules.clone();
        self.replace(env, &mut held, next, &env.ring.chain().at_hand(), modules)
    }

    /// The current key and the version of it that wraps.
    ///
    /// # Errors
    /// InvalidState while headers may name anything else.
    pub(crate) fn sole_version(&self) -> Result<(KeyId, KeyVersion)> {
        let held = self.lock();
        let entry = held.file.current_key()?;
        if held.file.keys.len() > 1 || entry.versions.len() > 1 {
            return Err(KeyError::InvalidState(
                "headers of this volume may still name an older version or another key: run \"strongroom rotate\" to \
                 finish first"
                    .to_owned(),
            )
            .into());
        }
        Ok((entry.key, master_version(&held.file, entry)))
    }

    fn wrap_under(
        &self,
        env: &Env,
        under: &Under<'_>,
        mut at_hand: AtHand,
        module: Option<Module>,
    ) -> Result<()> {
        let mut held = self.lock();
        let mut next = held.file.clone();
        let secret = held.secret.as_ref();
        let secret = secret.ok_or_else(|| Error::errno(libc::EIO))?;
        if let Some(made) = make_current(&mut next, secret, under)? {
            at_hand.volume_keys.push(Arc::new(made));
        }
        let mut modules = held.modules.clone();
        modules.extend(module.map(|module| (under.key, module)));
        self.replace(env, &mut held, next, &at_hand, modules)
    }

    fn replace(
        &self,
        env: &Env,
        held: &mut Held,
        mut next: VolumeFile,
        at_hand: &AtHand,
        mut modules: Modules,
    ) -> Result<()> {
        next.generation += 1;
        modules.retain(|key, _| next.keys.iter().any(|entry| entry.key == *key));
        let chain = Chain::new(&next, at_hand)?;
        let keys = env.keys()?;
        let bytes = next.encode(&keys.mac)?;
        let (before, after) = (held.file.current_key()?.key, next.current_key()?.key);
        if before != after {
            let mut both = held.modules.clone();
            both.extend(modules.clone());
            let pin = Pin::new(&keys.pin, &before, held.file.generation, env.epochs.running);
            self.pin(env, pin.with_modules(&both).coming(&after))?;
        }
        replace_keeping(
            &env.root,
            names::VOLUME,
            names::VOLUME_OLD,
            &bytes,
            VOLUME_FILE_LIMIT,
        )?;
        env.ring.adopt(chain);
        held.file = next;
        held.modules = modules;
        let pin = Pin::new(&keys.pin, &after, held.file.generation, env.epochs.running);
        self.pin(env, pin.with_modules(&held.modules))
    }

    fn pin(&self, env: &Env, pin: Pin) -> Result<()> {
        match &self.state {
            Some(state) => pin.write(state, &env.volume),
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version of the master key that wraps now, be it data keys or the newest volume key.
pub(crate) fn master_version(file: &VolumeFile, current: &KeyEntry) -> KeyVersion {
    match (current.envelope, file.volume_keys.last()) {
        (Envelope::Volume, Some(newest)) => newest.key_version,
        _ => current.wraps_with,
    }
}

/// Has a volume file say that this key wraps, with the volume secret wrapped anew; the volume key if one was made.
pub(crate) fn make_current(
    file: &mut VolumeFile,
    secret: &Secret<32>,
    under: &Under<'_>,
) -> Result<Option<VolumeKey>> {
    let (wrapped, made) = match under.envelope {
        Envelope::Direct => (wrap_secret(file, secret, under)?, None),
        Envelope::Volume => {
            let made = new_volume_key(file, under)?;
            (made.wrap_secret(&file.volume, secret)?, Some(made))
        }
    };
    file.volume_keys
        .extend(made.as_ref().map(|made| made.stored().clone()));
    file.keys.iter_mut().for_each(|entry| entry.current = false);
    let entry = entry_of(file, under, wrapped.version);
    entry.home = under.home.clone();
    entry.current = true;
    entry.wraps_with = wrapped.version;
    if !entry.versions.contains(&wrapped.version) {
        entry.versions.push(wrapped.version);
        entry.versions.sort_unstable();
    }
    if !entry.algorithms.contains(&wrapped.algorithm) {
        entry.algorithms.push(wrapped.algorithm);
    }
    file.volume_secret = wrapped;
    Ok(made)
}

fn wrap_secret(file: &VolumeFile, secret: &Secret<32>, under: &Under<'_>) -> Result<WrappedSecret> {
    let bound = context(Purpose::VolumeSecret, &file.volume, None, 0);
    let wrapped = under
        .provider
        .wrap(&under.key, under.version, &bound, secret)?;
    Ok(WrappedSecret {
        version: wrapped.version,
        algorithm: wrapped.algorithm,
        bytes: wrapped.bytes,
    })
}

fn new_volume_key(file: &VolumeFile, under: &Under<'_>) -> Result<VolumeKey> {
    let newest = file.volume_keys.last().map_or(0, |key| key.version);
    let version = newest
        .checked_add(1)
        .ok_or_else(|| Error::Damaged("there is no further version of a volume key".to_owned()))?;
    Ok(VolumeKey::make(
        &file.volume,
        version,
        under.provider,
        &under.key,
        under.version,
    )?)
}

/// The entry of a key under an envelope, made if it is not there.
fn entry_of<'a>(
    file: &'a mut VolumeFile,
    under: &Under<'_>,
    version: KeyVersion,
) -> &'a mut KeyEntry {
    let kind = under.provider.kind();
    let is_it = |entry: &KeyEntry| {
        entry.provider == kind && entry.key == under.key && entry.envelope == under.envelope
    };
    if !file.keys.iter().any(is_it) {
        file.keys.push(KeyEntry {
            provider: kind.to_owned(),
            key: under.key,
            home: under.home.clone(),
            envelope: under.envelope,
            versions: vec![version],
            wraps_with: version,
            algorithms: Vec::new(),
            current: true,
        });
    }
    let found = file.keys.iter_mut().find(|entry| is_it(entry));
    found.expect("it was there or was just put there")
}
