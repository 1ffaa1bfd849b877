//! Opening a volume for reading whose own files may be damaged: by the older generation of the volume file, and with every
//! file in doubt where the mount file does not hold. For `check` and `repair` only.

use std::sync::Arc;

use super::{Accepted, Unlocked, accept, read_mount_file, read_volume_file, unlock};
use crate::format::ids::VolumeId;
use crate::format::mount_file::MountFile;
use crate::format::names::VOLUME_OLD;
use crate::format::volume_file::VolumeFile;
use crate::format::volume_keys::VolumeKeys;
use crate::keys::{KeyError, Providers};
use crate::store::{Dir, Store};
use crate::volume::OpenOptions;
use crate::volume::check::{Note, Part};
use crate::volume::env::{Env, Epochs};
use crate::volume::error::{Error, Result};
use crate::volume::facade::{Closer, Volume};
use crate::volume::keyring::KeyRing;
use crate::volume::lock::VolumeLock;
use crate::volume::master::{Master, VOLUME_FILE_LIMIT};
use crate::volume::redo::{Redo, Use};
use crate::volume::replace::read_small;

/// What does not hold of a volume's own files, by their names.
pub(in crate::volume) type Notes = Vec<(&'static str, Note)>;

/// Which of a volume's own files hold.
pub(in crate::volume) struct Sound {
    /// The volume.
    pub(in crate::volume) volume: VolumeId,
    /// Its keys.
    pub(in crate::volume) keys: VolumeKeys,
    /// The older generation of the volume file, where only that holds.
    pub(in crate::volume) older: Option<VolumeFile>,
    /// Whether the mount file holds.
    pub(in crate::volume) mount: bool,
}

impl Sound {
    /// Whether nothing is to be restored.
    pub(in crate::volume) fn is_whole(&self) -> bool {
        self.older.is_none() && self.mount
    }
}

/// Looks which of a volume's own files hold.
///
/// # Errors
/// The newer volume file's, where neither generation can be used.
pub(in crate::volume) fn look(root: &Arc<dyn Dir>, providers: &Providers) -> Result<Sound> {
    let (unlocked, older, _) = unlock_either(root, providers)?;
    Ok(Sound {
        volume: unlocked.file.volume,
        mount: read_mount_file(root, &unlocked.keys.mac).is_ok(),
        older: older.then(|| unlocked.file.clone()),
        keys: unlocked.keys,
    })
}

/// Opens a volume for reading, and says what of its own files does not hold. `locked`: with the shared lock, else the caller
/// holds the other one.
pub(in crate::volume) fn open(
    store: Arc<dyn Store>,
    providers: Providers,
    options: &OpenOptions,
    locked: bool,
) -> Result<(Arc<Volume>, Notes)> {
    let root = store.root();
    let mut notes = Vec::new();
    let lock = if locked {
        VolumeLock::shared(&root)?
    } else {
        None
    };
    let (unlocked, older, why) = unlock_either(&root, &providers)?;
    if older {
        let what = format!("it does not hold, its older generation does: {why}");
        notes.push(("strongroom.volume", Note::damaged(Part::VolumeFile, what)));
    }
    let Unlocked {
        file,
        secret,
        keys,
        at_hand,
    } = unlocked;
    let key = file.current_key()?.key;
    let mut accepted = file.clone();
    accepted.generation += u64::from(older); // what was lost is not old
    let (shown, epochs) = match read_mount_file(&root, &keys.mac) {
        Ok(mount) => {
            let epochs = super::next_epoch(&read_only(options), mount.clone(), 0).0;
            (mount, epochs)
        }
        Err(error) => {
            let note = Note::damaged(Part::MountFile, error.to_string());
            notes.push(("strongroom.mount", note));
            (
                any_mount(),
                Epochs {
                    running: u64::MAX,
                    listed: vec![u64::MAX],
                },
            )
        }
    };
    let Accepted { modules, .. } = accept(options, &accepted, &keys, &key, &shown)?;
    let ring = KeyRing::of(&file, providers, &at_hand)?;
    let how = Use {
        writes: false,
        makes: false,
        in_doubt: epochs.any_listed(),
    };
    let env = Arc::new(Env::new(
        store,
        file.volume,
        file.suite,
        file.bind_names,
        !file.no_sparse,
        true,
        false,
        Redo::open(&root, how),
        keys,
        ring,
        epochs,
    ));
    let master = Master::new(file, secret, None, modules);
    let volume = Volume::start(env, master, Box::new(Unlock(lock)))?;
    Ok((volume, notes))
}

/// Lets the lock go.
struct Unlock(Option<VolumeLock>);

impl Closer for Unlock {
    fn finish(&mut self, _: &Env) -> Result<()> {
        self.0 = None;
        Ok(())
    }
}

fn read_only(options: &OpenOptions) -> OpenOptions {
    OpenOptions {
        read_only: true,
        ..options.clone()
    }
}

/// Newer than anything that this host saw: what is lost is not old.
fn any_mount() -> MountFile {
    MountFile {
        epoch: u64::MAX,
        clean: false,
        boot_id: String::new(),
        start: 0,
        listed: Vec::new(),
    }
}

/// The volume file, or, where that does not hold, its older generation (true), and why.
fn unlock_either(root: &Arc<dyn Dir>, providers: &Providers) -> Result<(Unlocked, bool, String)> {
    let error = match read_volume_file(root).and_then(|file| unlock(file, providers)) {
        Ok(unlocked) => return Ok((unlocked, false, String::new())),
        Err(error @ (Error::Damaged(_) | Error::NotAVolume(_))) => error,
        Err(error @ Error::Key(KeyError::InvalidCiphertext)) => error,
        Err(error) => return Err(error),
    };
    let Ok(Some(older)) = read_small(root, VOLUME_OLD, VOLUME_FILE_LIMIT) else {
        return Err(error);
    };
    let unlocked = VolumeFile::parse_unverified(&older)
        .map_err(Error::from)
        .and_then(|file| unlock(file, providers));
    match unlocked {
        Ok(unlocked) => Ok((unlocked, true, error.to_string())),
        Err(_) => Err(error),
    }
}
