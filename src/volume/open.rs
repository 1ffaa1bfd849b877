//! Opening a volume: lock, volume file, secret, mount file, pin, epoch, in that order. What is wrong is said before a
//! byte is written.

use std::io;
use std::sync::Arc;

use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion, VolumeId};
use crate::format::mount_file::MountFile;
use crate::format::names;
use crate::format::suite::{Envelope, Suite};
use crate::format::volume_file::{UnverifiedVolumeFile, VolumeFile};
use crate::format::volume_keys::VolumeKeys;
use crate::format::wrap::{Purpose, context};
use crate::keys::{KeyProvider, Wrapped};
use crate::store::{Dir, Host, Store};
use crate::volume::env::{Env, Epochs};
use crate::volume::error::{Error, Result};
use crate::volume::facade::{Closer, Volume};
use crate::volume::keyring::KeyRing;
use crate::volume::lock::{self, VolumeLock};
use crate::volume::master::{Master, VOLUME_FILE_LIMIT, allowed};
use crate::volume::pin::Pin;
use crate::volume::replace::{read_small, replace};

/// The longest mount file that is read, bytes.
const MOUNT_FILE_LIMIT: usize = 1 << 20;

/// Whether a whole group may be overwritten in place (FORMAT.md section 4, rule 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InPlace {
    /// Where the store is known to write 4 KiB atomically.
    #[default]
    Auto,
    /// Never: in rounds of spare slots.
    Never,
    /// The user vouches for the store.
    Always,
}

/// How a volume is opened.
#[derive(Clone)]
pub struct OpenOptions {
    /// Write nothing to the backing directory.
    pub read_only: bool,
    /// See [`InPlace`].
    pub in_place: InPlace,
    /// Who opens it.
    pub host: Host,
    /// Where this host keeps its pins; without it nothing is compared.
    pub state: Option<Arc<dyn Dir>>,
    /// The pin value (hex) that the user expects: a volume that shows it is accepted whatever this host saw before.
    pub expect: Option<String>,
    /// The user vouches that the host named by a stale lock is gone.
    pub take_over: bool,
}

/// Opens a volume. A second writer: InUse. No volume here: NotAVolume. Another one than this host saw: Pinned.
pub fn open(
    store: Arc<dyn Store>,
    provider: Arc<dyn KeyProvider>,
    options: &OpenOptions,
) -> Result<Arc<Volume>> {
    let root = store.root();
    read_volume_file(&root)?; // a directory that is no volume gets no lock file
    let lock = if options.read_only {
        VolumeLock::shared(&root)?
    } else {
        Some(VolumeLock::exclusive(
            &root,
            &options.host,
            options.take_over,
        )?)
    };
    let (file, secret, keys) = unlock(read_volume_file(&root)?, &*provider)?;
    let mount = read_mount_file(&root, &keys.mac)?;
    let key = file.current_key()?.key;
    let pinned = accept(options, &file, &keys, &key, &mount)?;
    let (epochs, mount) = next_epoch(options, mount, pinned);
    if !options.read_only {
        replace(&root, names::MOUNT, &mount.encode(&keys.mac)?)?;
    }
    if let Some(state) = &options.state {
        Pin::new(&keys.pin, &key, file.generation, mount.epoch).write(state, &file.volume)?;
    }
    if store.traits().unsafe_journal && !options.read_only {
        tracing::warn!(
            "the backing file system does not journal data in order: a power cut may damage files"
        );
    }
    let mac = Arc::clone(&keys.mac);
    let env = Arc::new(Env::new(
        store.clone(),
        file.volume,
        file.suite,
        file.bind_names,
        !file.no_sparse,
        options.read_only,
        in_place(options.in_place, &store),
        keys,
        KeyRing::new(provider, file.volume, key, allowed(&file)?),
        epochs,
    ));
    let closer = Finish { mount, mac, lock };
    Volume::start(
        env,
        Master::new(file, secret, options.state.clone()),
        Box::new(closer),
    )
}

/// Ends a mount: the clean mark, then the lock.
struct Finish {
    mount: MountFile,
    /// Also a volume that was locked ends clean.
    mac: Arc<Secret<32>>,
    lock: Option<VolumeLock>,
}

impl Closer for Finish {
    fn finish(&mut self, env: &Env) -> Result<()> {
        if !env.read_only && env.may_end_clean() {
            self.mount.clean = true;
            replace(&env.root, names::MOUNT, &self.mount.encode(&self.mac)?)?;
        }
        self.lock = None;
        Ok(())
    }
}

fn read_volume_file(root: &Arc<dyn Dir>) -> Result<UnverifiedVolumeFile> {
    match read_small(root, names::VOLUME, VOLUME_FILE_LIMIT) {
        Ok(Some(bytes)) => Ok(VolumeFile::parse_unverified(&bytes)?),
        Ok(None) => Err(Error::NotAVolume(
            "there is no volume in this directory (init makes one)".to_owned(),
        )),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Error::Damaged(format!("strongroom.volume: {error}")))
        }
        Err(error) => Err(error.into()),
    }
}

fn unlock(
    file: UnverifiedVolumeFile,
    provider: &dyn KeyProvider,
) -> Result<(VolumeFile, Secret<32>, VolumeKeys)> {
    let entry = file.current_key()?;
    if entry.provider != provider.kind() {
        return Err(Error::NotAVolume(format!(
            "the volume's master key is kept by provider \"{}\", not by \"{}\"",
            entry.provider,
            provider.kind()
        )));
    }
    if entry.envelope != Envelope::Direct {
        return Err(Error::NotAVolume(
            "the volume's envelope is not known to this program".to_owned(),
        ));
    }
    let stored = file.volume_secret();
    let wrapped = Wrapped {
        version: stored.version,
        algorithm: stored.algorithm,
        bytes: stored.bytes.clone(),
    };
    let bound = context(Purpose::VolumeSecret, &file.volume(), None, 0);
    let secret = provider.unwrap(&entry.key, &bound, &wrapped)?;
    let keys = VolumeKeys::derive(&secret, &file.volume());
    let file = file.verify(&keys.mac)?;
    Ok((file, secret, keys))
}

fn read_mount_file(root: &Arc<dyn Dir>, mac_key: &Secret<32>) -> Result<MountFile> {
    let bytes = read_small(root, names::MOUNT, MOUNT_FILE_LIMIT)?.ok_or_else(|| {
        Error::Damaged(
            "strongroom.mount is missing: which epochs ended well is not known".to_owned(),
        )
    })?;
    Ok(MountFile::parse(&bytes, mac_key)?)
}

/// Compares with what this host saw; the pin's epoch where the user accepts an older volume.
fn accept(
    options: &OpenOptions,
    file: &VolumeFile,
    keys: &VolumeKeys,
    key: &KeyId,
    mount: &MountFile,
) -> Result<u64> {
    let shown = Pin::new(&keys.pin, key, file.generation, mount.epoch);
    let before = match &options.state {
        Some(state) => Pin::read(state, &file.volume)?,
        None => None,
    };
    match &options.expect {
        Some(expected) if *expected == shown.value => return Ok(before.map_or(0, |pin| pin.epoch)),
        Some(_) => {
            return Err(Error::Pinned(
                "the volume does not show the pin that --expect-volume gives".to_owned(),
            ));
        }
        None => {}
    }
    match before {
        Some(before) => shown.follows(&before).map(|()| before.epoch),
        None => Ok(0),
    }
}

/// The epochs of this mount, and the mount file that says so. A read-only mount counts an epoch that did not end, or that
/// runs now, as listed, and writes nothing.
fn next_epoch(options: &OpenOptions, before: MountFile, pinned: u64) -> (Epochs, MountFile) {
    let mut listed = before.listed.clone();
    if !before.clean && !listed.contains(&before.epoch) {
        listed.push(before.epoch);
    }
    if options.read_only {
        return (
            Epochs {
                running: before.epoch,
                listed,
            },
            before,
        );
    }
    let epoch = before.epoch.max(pinned) + 1;
    let mount = MountFile {
        epoch,
        clean: false,
        boot_id: options.host.boot_id.clone(),
        start: options.host.since,
        listed: listed.clone(),
    };
    (
        Epochs {
            running: epoch,
            listed,
        },
        mount,
    )
}

fn in_place(asked: InPlace, store: &Arc<dyn Store>) -> bool {
    match asked {
        InPlace::Auto => store.traits().atomic_page,
        InPlace::Never => false,
        InPlace::Always => true,
    }
}

/// What a volume shows without its key: for display, not to be believed.
#[derive(Debug, Clone)]
pub struct Info {
    /// The volume.
    pub volume: VolumeId,
    /// Provider of the master key.
    pub provider: String,
    /// The master key.
    pub key: KeyId,
    /// The version that wraps.
    pub current: KeyVersion,
    /// Every version that headers may name; more than one during a rotation.
    pub versions: Vec<KeyVersion>,
    /// The cipher suite.
    pub suite: Suite,
    /// Whether files are bound to their names.
    pub bind_names: bool,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Who has it mounted for writing.
    pub holder: Option<Host>,
}

/// Reads what can be read without the key. NotAVolume where there is none.
pub fn info(store: &Arc<dyn Store>) -> Result<Info> {
    let root = store.root();
    let file = read_volume_file(&root)?;
    let entry = file.current_key()?;
    let (suite, bind_names, created) = file.shown();
    Ok(Info {
        suite,
        bind_names,
        created,
        volume: file.volume(),
        provider: entry.provider.clone(),
        key: entry.key,
        current: entry.wraps_with,
        versions: entry.versions.clone(),
        holder: lock::holder(&root)?,
    })
}
