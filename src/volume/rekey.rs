//! Moving a volume to another master key or envelope, and destroying what a rotation left behind. A move is the walk of a
//! rotation: it is finished by running it again, and may be turned to yet another key before that, since the volume file
//! allows every key that a header still names.

use std::sync::Arc;

use crate::format::ids::{KeyId, KeyVersion};
use crate::format::suite::Envelope;
use crate::keys::pkcs11::Module;
use crate::keys::{KeyDescription, KeyError, KeyProvider, KeyState};
use crate::volume::Volume;
use crate::volume::create::envelope_for;
use crate::volume::error::Result;
use crate::volume::master::Under;
use crate::volume::rotate::{Progress, Rotation};

/// The master key that a volume is to move to.
pub struct Target {
    /// Who has it.
    pub provider: Arc<dyn KeyProvider>,
    /// The key; it exists.
    pub key: KeyId,
    /// What is to wrap data keys; `None`: as before, if the key can.
    pub envelope: Option<Envelope>,
    /// The library of a key in a token, for this host's pin.
    pub module: Option<Module>,
}

impl Volume {
    /// Re-wraps the volume to another key or envelope, online, with the proof of a rotation; the keys before are forgotten
    /// only after it. Run again after a kill, it goes on. Towards the key that wraps already it changes nothing, but
    /// finishes what was not finished.
    ///
    /// # Errors
    /// InvalidState for the direct envelope where the key cannot wrap data keys, and while a rotation runs; Disabled.
    pub fn rekey(&self, target: Target, progress: &mut dyn FnMut(Progress)) -> Result<Rotation> {
        let description = target.provider.describe(&target.key)?;
        if description.state != KeyState::Enabled {
            return Err(KeyError::Disabled(target.key.to_string()).into());
        }
        self.rewrap_to(progress, &mut || self.begin_move(&target, &description))
    }

    /// Destroys, in its provider, every version of the current key that is older than the one that wraps, and returns them.
    /// Whatever else they wrapped (another volume, a backup of this one) is lost with them.
    ///
    /// # Errors
    /// InvalidState while a header may still name anything but that version; what the provider says, with those before it
    /// destroyed.
    pub fn destroy_old(&self) -> Result<Vec<KeyVersion>> {
        self.require_writable()?;
        let _one = self.only_rotation()?;
        let (key, current) = self.master.sole_version()?;
        let chain = self.env.ring.chain();
        let provider = self.env.ring.provider(chain.current())?;
        let mut older = provider.describe(&key)?.versions;
        older.retain(|version| *version < current);
        for version in &older {
            provider.destroy(&key, *version)?;
            tracing::info!("version {version} of key {key} is destroyed");
        }
        Ok(older)
    }

    fn begin_move(&self, target: &Target, description: &KeyDescription) -> Result<()> {
        let chain = self.env.ring.chain();
        let current = &chain.current().stored;
        let same_id = chain.entries().iter().map(|entry| &entry.stored);
        if same_id
            .filter(|entry| entry.key == target.key)
            .any(|entry| entry.provider != target.provider.kind())
        {
            return Err(KeyError::InvalidState(format!(
                "two providers have a key {}: headers could not tell one from the other",
                target.key
            ))
            .into());
        }
        let envelope = envelope_for(
            target.envelope,
            Some(current.envelope),
            description.algorithm,
        )?;
        if current.key == target.key && current.envelope == envelope {
            return Ok(());
        }
        let under = Under {
            provider: &*target.provider,
            key: target.key,
            home: description.home.clone(),
            envelope,
            version: description.current,
        };
        self.master
            .move_to(&self.env, &target.provider, &under, target.module.clone())
    }
}
