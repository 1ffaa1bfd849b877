//! The volume file in memory, with the secret that it wraps: what changes when the master key rotates.
//!
//! Invariant: memory follows the disk. The ring allows a version only after the volume file that does is durable.

use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto::Secret;
use crate::format::ids::KeyVersion;
use crate::format::names;
use crate::format::volume_file::{VolumeFile, WrappedSecret};
use crate::format::wrap::{Purpose, context};
use crate::store::Dir;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::keyring::Allowed;
use crate::volume::pin::Pin;
use crate::volume::replace::replace_keeping;

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
    secret: Secret<32>,
}

impl Master {
    pub(crate) fn new(file: VolumeFile, secret: Secret<32>, state: Option<Arc<dyn Dir>>) -> Self {
        Self {
            held: Mutex::new(Held { file, secret }),
            state,
        }
    }

    /// Has the provider make a new version, wraps the volume secret under it, and allows it beside the older ones.
    pub(crate) fn new_version(&self, env: &Env) -> Result<KeyVersion> {
        let version = env.ring.provider().rotate(env.ring.key())?;
        self.use_version(env, version)?;
        Ok(version)
    }

    /// Makes a version of the key, which exists already, the one that wraps.
    fn use_version(&self, env: &Env, version: KeyVersion) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = context(Purpose::VolumeSecret, &env.volume, None, 0);
        let wrapped = env
            .ring
            .provider()
            .wrap(env.ring.key(), version, &bound, &held.secret)?;
        let mut next = held.file.clone();
        let entry = current_entry(&mut next)?;
        if !entry.versions.contains(&version) {
            entry.versions.push(version);
            entry.versions.sort_unstable();
        }
        entry.wraps_with = version;
        if !entry.algorithms.contains(&wrapped.algorithm) {
            entry.algorithms.push(wrapped.algorithm);
        }
        next.volume_secret = WrappedSecret {
            version: wrapped.version,
            algorithm: wrapped.algorithm,
            bytes: wrapped.bytes,
        };
        self.replace(env, &mut held, next)
    }

    /// Forgets every version but the one that wraps: no header names another.
    pub(crate) fn forget_older(&self, env: &Env) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = held.file.clone();
        let entry = current_entry(&mut next)?;
        if entry.versions.len() == 1 {
            return Ok(());
        }
        entry.versions = vec![entry.wraps_with];
        self.replace(env, &mut held, next)
    }

    fn replace(&self, env: &Env, held: &mut Held, mut next: VolumeFile) -> Result<()> {
        next.generation += 1;
        let bytes = next.encode(&env.keys()?.mac)?;
        replace_keeping(
            &env.root,
            names::VOLUME,
            names::VOLUME_OLD,
            &bytes,
            VOLUME_FILE_LIMIT,
        )?;
        env.ring.allow(allowed(&next)?);
        if let Some(state) = &self.state {
            Pin::new(
                &env.keys()?.pin,
                env.ring.key(),
                next.generation,
                env.epochs.running,
            )
            .write(state, &env.volume)?;
        }
        held.file = next;
        Ok(())
    }
}

/// The versions that headers may name, as the volume file says.
pub(crate) fn allowed(file: &VolumeFile) -> Result<Allowed> {
    let entry = file.current_key()?;
    Ok(Allowed {
        current: entry.wraps_with,
        versions: entry.versions.clone(),
        algorithms: entry.algorithms.clone(),
    })
}

fn current_entry(file: &mut VolumeFile) -> Result<&mut crate::format::volume_file::KeyEntry> {
    file.keys
        .iter_mut()
        .find(|entry| entry.current)
        .ok_or_else(|| Error::Damaged("the volume file has no current key".to_owned()))
}
