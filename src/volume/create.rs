//! Making a volume in an empty directory.
//!
//! Invariant: `strongroom.volume` appears last, whole and durable; a directory without it is no volume, and what an
//! interrupted `create` left in it is taken over by the next one.

use std::sync::Arc;

use crate::crypto::{Secret, random_bytes};
use crate::format::ids::{KeyId, KeyVersion, VolumeId};
use crate::format::mount_file::MountFile;
use crate::format::names::{self, EntryClass};
use crate::format::suite::{Envelope, Suite};
use crate::format::volume_file::{VolumeFile, WrappedSecret};
use crate::format::volume_keys::VolumeKeys;
use crate::format::wrap::WrapAlgorithm;
use crate::keys::{KeyError, KeyProvider, KeyState};
use crate::store::{Dir, Host, Store};
use crate::volume::chain::AtHand;
use crate::volume::error::{Error, Result};
use crate::volume::lock::VolumeLock;
use crate::volume::master::{Under, make_current};
use crate::volume::replace::replace;

/// What cannot be changed after `create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// The cipher suite of every file.
    pub suite: Suite,
    /// Whether files are bound to their names (GCM-SIV; without effect under XTS).
    pub bind_names: bool,
    /// Whether growth leaves sparse groups; else they are filled.
    pub sparse: bool,
    /// What wraps data keys; `None`: the master key itself where it can, else a volume key.
    pub envelope: Option<Envelope>,
}

/// Makes a volume under this master key. Refuses a directory that holds anything (NotAVolume), a key that is not enabled or
/// cannot wrap as asked (Key).
pub fn create(
    store: &Arc<dyn Store>,
    provider: &dyn KeyProvider,
    key: &KeyId,
    options: &CreateOptions,
    host: &Host,
) -> Result<VolumeId> {
    NewVolume::begin(&store.root(), provider, key, options, host)?.publish(host)
}

/// A volume of which nothing but the lock is on the store yet.
pub(crate) struct NewVolume {
    /// What its volume file will say.
    pub(crate) file: VolumeFile,
    /// The volume secret.
    pub(crate) secret: Secret<32>,
    /// What derives from it.
    pub(crate) keys: VolumeKeys,
    /// The volume key, under that envelope.
    pub(crate) at_hand: AtHand,
    root: Arc<dyn Dir>,
    /// Held until it is a volume.
    pub(crate) lock: VolumeLock,
}

impl NewVolume {
    /// Draws id and secret and has the secret wrapped.
    ///
    /// # Errors
    /// As `create`.
    pub(crate) fn begin(
        root: &Arc<dyn Dir>,
        provider: &dyn KeyProvider,
        key: &KeyId,
        options: &CreateOptions,
        host: &Host,
    ) -> Result<Self> {
        must_be_empty(root)?;
        let description = provider.describe(key)?;
        if description.state != KeyState::Enabled {
            return Err(KeyError::Disabled(key.to_string()).into());
        }
        let envelope = envelope_for(options.envelope, None, description.algorithm)?;
        let lock = VolumeLock::exclusive(root, host, false)?;
        let mut id = [0; 16];
        random_bytes(&mut id);
        let mut file = unwrapped(VolumeId(id), options, description.algorithm, host);
        let secret = Secret::random();
        let under = Under {
            provider,
            key: *key,
            home: description.home,
            envelope,
            version: description.current,
        };
        let made = make_current(&mut file, &secret, &under)?;
        Ok(Self {
            keys: VolumeKeys::derive(&secret, &file.volume),
            at_hand: AtHand {
                providers: Vec::new(),
                volume_keys: made.map(Arc::new).into_iter().collect(),
            },
            file,
            secret,
            root: Arc::clone(root),
            lock,
        })
    }

    /// Makes it a volume: the mount file, then the volume file, each whole and durable.
    pub(crate) fn publish(self, host: &Host) -> Result<VolumeId> {
        let mount = MountFile {
            epoch: 0,
            clean: true,
            boot_id: String::new(),
            start: host.since,
            listed: Vec::new(),
        };
        let mac = &self.keys.mac;
        replace(&self.root, names::MOUNT, &mount.encode(mac)?)?;
        replace(&self.root, names::VOLUME, &self.file.encode(mac)?)?;
        Ok(self.file.volume)
    }
}

/// The file of a new volume but for its keys; it cannot be written before it has them.
fn unwrapped(
    volume: VolumeId,
    options: &CreateOptions,
    algorithm: WrapAlgorithm,
    host: &Host,
) -> VolumeFile {
    VolumeFile {
        format: VolumeFile::FORMAT,
        volume,
        suite: options.suite,
        bind_names: options.bind_names && options.suite == Suite::Gcm,
        no_sparse: !options.sparse,
        generation: 1,
        keys: Vec::new(),
        volume_secret: WrappedSecret {
            version: KeyVersion(0),
            algorithm,
            bytes: Vec::new(),
        },
        volume_keys: Vec::new(),
        created: host.since,
    }
}

/// The envelope that is asked for, else the one before, as far as this algorithm allows it.
///
/// # Errors
/// InvalidState where the direct envelope is asked for and the key cannot wrap data keys.
pub(crate) fn envelope_for(
    asked: Option<Envelope>,
    before: Option<Envelope>,
    algorithm: WrapAlgorithm,
) -> Result<Envelope> {
    match (asked, before) {
        (Some(Envelope::Volume), _) | (None, Some(Envelope::Volume)) => Ok(Envelope::Volume),
        _ if algorithm.wraps_data_keys() => Ok(Envelope::Direct),
        (Some(Envelope::Direct), _) => Err(KeyError::InvalidState(
            "this key cannot wrap data keys itself (envelope \"direct\" needs AES-GCM): take envelope \"volume\""
                .to_owned(),
        )
        .into()),
        (None, _) => Ok(Envelope::Volume),
    }
}

/// Whether a volume can be made in this directory, as `create` will ask. NotAVolume where something is in it.
pub fn suitable(store: &Arc<dyn Store>) -> Result<()> {
    must_be_empty(&store.root())
}

fn must_be_empty(root: &Arc<dyn Dir>) -> Result<()> {
    if root.stat_at(names::VOLUME).is_ok() {
        return Err(Error::NotAVolume(
            "there is a volume in this directory already".to_owned(),
        ));
    }
    let begun = root.stat_at(names::LOCK).is_ok();
    let mut from = 0;
    loop {
        let entries = root.entries(from)?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        from = last.next;
        for entry in &entries {
            if entry.name == names::VOLUME {
                return Err(Error::NotAVolume(
                    "there is a volume in this directory already".to_owned(),
                ));
            }
            let ours = names::classify(&entry.name) == EntryClass::Internal;
            if !ours && entry.name != b"lost+found" {
                let sentence = if begun {
                    "the directory is not empty; if that is what an interrupted copy left, it is no volume and can be \
                     read by nobody: empty the directory and copy again, or choose another"
                } else {
                    "the directory is not empty: make the volume in an empty one, then copy your files into the mount"
                };
                return Err(Error::NotAVolume(sentence.to_owned()));
            }
        }
    }
}
