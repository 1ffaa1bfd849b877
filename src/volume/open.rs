//! Opening a volume: lock, volume file, secret, mount file, pin, epoch, in that order. What is wrong is said before a
//! byte is written.

pub(in crate::volume) mod anyway;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::broken::{Rule, broken};
use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion, VolumeId};
use crate::format::mount_file::MountFile;
use crate::format::names;
use crate::format::suite::{Envelope, Suite};
use crate::format::volume_file::{KeyEntry, UnverifiedVolumeFile, VolumeFile, WrappedVolumeKey};
use crate::format::volume_keys::VolumeKeys;
use crate::format::wrap::{Purpose, WrapAlgorithm, context};
use crate::keys::pkcs11::Module;
use crate::keys::{KeyProvider, Providers, Wrapped};
use crate::store::{Dir, File, Host, Store};
use crate::volume::chain::AtHand;
use crate::volume::env::{Env, Epochs};
use crate::volume::error::{Error, Result};
use crate::volume::facade::{Closer, Volume};
use crate::volume::key_loss::KeyLoss;
use crate::volume::keyring::KeyRing;
use crate::volume::lock::{self, VolumeLock};
use crate::volume::master::{Master, Modules, VOLUME_FILE_LIMIT};
use crate::volume::pin::Pin;
use crate::volume::redo::{Redo, Use};
use crate::volume::replace::{read_small, replace_always};
use crate::volume::volume_key::VolumeKey;

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
    /// The libraries that serve the tokens at hand, by the key in them: compared with what this host saw, and remembered.
    pub modules: BTreeMap<KeyId, Module>,
    /// What happens when the master key goes away.
    pub on_key_loss: KeyLoss,
    /// How often it is asked whether the key is still there.
    pub key_check: Duration,
}

/// Opens a volume with the providers at hand. A second writer: InUse. No volume here: NotAVolume. Another one than this host
/// saw: Pinned. The current key's provider is needed; without that of another key, files that it still wraps are not read.
pub fn open(
    store: Arc<dyn Store>,
    providers: Providers,
    options: &OpenOptions,
) -> Result<Arc<Volume>> {
    open_from(store, providers, options, &Start::Fresh)
}

/// What a process leaves to the one that goes on with its volume.
pub struct Predecessor {
    /// The file by whose descriptor the lock is held.
    pub lock: Option<Arc<dyn File>>,
    /// Whether something failed that forbids a clean end.
    pub unclean: bool,
}

/// Opens a volume that another process has open and stops using, at rest: its epoch goes on, nothing is written. The lock is
/// that process's until `Volume::take_over`; a failure before that, and then `Volume::leave`, changes nothing for it. The key
/// is not watched before `Volume::watch`.
pub fn open_after(
    store: Arc<dyn Store>,
    providers: Providers,
    options: &OpenOptions,
    predecessor: Predecessor,
) -> Result<Arc<Volume>> {
    open_from(store, providers, options, &Start::After(predecessor))
}

/// Opens a volume again whose process died, by the lock that was kept: a new epoch begins, as after any other death, but nobody
/// else came in between.
pub fn open_again(
    store: Arc<dyn Store>,
    providers: Providers,
    options: &OpenOptions,
    lock: Arc<dyn File>,
) -> Result<Arc<Volume>> {
    open_from(store, providers, options, &Start::Again(lock))
}

enum Start {
    Fresh,
    Again(Arc<dyn File>),
    After(Predecessor),
}

impl Start {
    fn lock(&self, root: &Arc<dyn Dir>, options: &OpenOptions) -> Result<Option<VolumeLock>> {
        match self {
            // As long as one has it, that no writer came in between is sure.
            Self::Again(lock) if options.read_only => {
                VolumeLock::inherited_in(root, Arc::clone(lock)).map(Some)
            }
            _ if options.read_only => VolumeLock::shared(root),
            Self::Fresh => VolumeLock::exclusive(root, &options.host, options.take_over).map(Some),
            Self::Again(lock) => {
                let mut lock = VolumeLock::inherited_in(root, Arc::clone(lock))?;
                lock.record(&options.host)?;
                Ok(Some(lock))
            }
            Self::After(Predecessor { lock, .. }) => match lock {
                Some(lock) => VolumeLock::inherited_in(root, Arc::clone(lock)).map(Some),
                None => Err(Error::InUse(
                    "the process that has this volume gives no lock".to_owned(),
                )),
            },
        }
    }
}

fn open_from(
    store: Arc<dyn Store>,
    providers: Providers,
    options: &OpenOptions,
    start: &Start,
) -> Result<Arc<Volume>> {
    let root = store.root();
    read_volume_file(&root)?; // a directory that is no volume gets no lock file
    let lock = start.lock(&root, options)?;
    let Unlocked {
        file,
        secret,
        keys,
        at_hand,
    } = unlock(read_volume_file(&root)?, &providers)?;
    let mount = read_mount_file(&root, &keys.mac)?;
    let key = file.current_key()?.key;
    let accepted = accept(options, &file, &keys, &key, &mount)?;
    let modules = accepted.modules;
    let ring = KeyRing::of(&file, providers, &at_hand)?;
    let fresh = matches!(start, Start::Fresh | Start::Again(_));
    let (epochs, mount) = if fresh || options.read_only {
        next_epoch(options, mount, accepted.epoch)
    } else {
        same_epoch(mount)?
    };
    if fresh && !options.read_only && !broken(Rule::EpochNotWritten) {
        replace_always(&root, names::MOUNT, &mount.encode(&keys.mac)?)?;
    }
    if let Some(state) = &options.state {
        Pin::new(&keys.pin, &key, file.generation, mount.epoch)
            .with_modules(&modules)
            .write(state, &file.volume)?;
    }
    if store.traits().unsafe_journal && !options.read_only {
        tracing::warn!(
            "the backing file system does not journal data in order: a power cut may damage files"
        );
    }
    let mac = Arc::clone(&keys.mac);
    let in_place = in_place(options.in_place, &store);
    let how = Use {
        writes: !options.read_only,
        makes: fresh && !options.read_only && !in_place && file.suite == Suite::Gcm,
        in_doubt: epochs.any_listed(),
    };
    let redo = Redo::open(&root, how);
    let env = Arc::new(Env::new(
        store.clone(),
        file.volume,
        file.suite,
        file.bind_names,
        !file.no_sparse,
        options.read_only,
        in_place,
        redo,
        keys,
        ring,
        epochs,
    ));
    if let Start::After(Predecessor { unclean: true, .. }) = start {
        env.mark_unclean();
    }
    let closer = Finish {
        mount,
        mac,
        lock,
        writes: !options.read_only,
    };
    let volume = Volume::start(
        env,
        Master::new(file, secret, options.state.clone(), modules),
        Box::new(closer),
    )?;
    volume.set_watch(options.on_key_loss, options.key_check);
    if fresh {
        volume.watch()?;
    }
    Ok(volume)
}

/// Ends a mount: the clean mark, then the lock.
struct Finish {
    mount: MountFile,
    /// Also a volume that was locked ends clean.
    mac: Arc<Secret<32>>,
    lock: Option<VolumeLock>,
    /// Whether the mount is a writer's.
    writes: bool,
}

impl Closer for Finish {
    fn finish(&mut self, env: &Env) -> Result<()> {
        if !env.read_only && (env.may_end_clean() || broken(Rule::CleanUnearned)) {
            // A file that was removed or cut to nothing is back after a power cut, unsettled, until that is durable.
            if !broken(Rule::CleanUnsynced) {
                env.store.sync()?;
            }
            self.mount.clean = true;
            if env.is_all_settled() {
                self.mount.listed.clear();
            }
            replace_always(&env.root, names::MOUNT, &self.mount.encode(&self.mac)?)?;
        }
        self.lock = None;
        Ok(())
    }

    fn lock(&self) -> Option<Arc<dyn File>> {
        self.lock.as_ref().map(VolumeLock::file)
    }

    fn take_over(&mut self, host: &Host) -> Result<()> {
        match &mut self.lock {
            Some(lock) if self.writes => Ok(lock.record(host)?),
            _ => Ok(()),
        }
    }

    fn leave(&mut self) {
        self.lock.iter_mut().for_each(VolumeLock::leave);
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

/// A volume file that turned out authentic.
struct Unlocked {
    file: VolumeFile,
    secret: Secret<32>,
    keys: VolumeKeys,
    at_hand: AtHand,
}

fn unlock(file: UnverifiedVolumeFile, providers: &Providers) -> Result<Unlocked> {
    let entry = file.current_key()?;
    if !providers.have_kind(&entry.provider) {
        return Err(Error::NotAVolume(format!(
            "the volume's master key is kept by provider \"{}\", and none such is at hand",
            entry.provider
        )));
    }
    let provider = providers.having(&entry.provider, &entry.key)?;
    let mut at_hand = AtHand::default();
    let secret = match (entry.envelope, file.volume_keys().last()) {
        (Envelope::Volume, Some(newest)) => {
            let volume_key = VolumeKey::of(newest);
            volume_key.unlock(&file.volume(), &*provider)?;
            let secret = volume_key.unwrap_secret(&file.volume(), &file.volume_secret().bytes)?;
            at_hand.volume_keys.push(Arc::new(volume_key));
            secret
        }
        _ => unwrap_secret(&file, entry, &*provider)?,
    };
    at_hand.providers.push((entry.key, provider));
    let keys = VolumeKeys::derive(&secret, &file.volume());
    let file = file.verify(&keys.mac)?;
    Ok(Unlocked {
        file,
        secret,
        keys,
        at_hand,
    })
}

fn unwrap_secret(
    file: &UnverifiedVolumeFile,
    entry: &KeyEntry,
    provider: &dyn KeyProvider,
) -> Result<Secret<32>> {
    let stored = file.volume_secret();
    let wrapped = Wrapped {
        version: stored.version,
        algorithm: stored.algorithm,
        bytes: stored.bytes.clone(),
    };
    let bound = context(Purpose::VolumeSecret, &file.volume(), None, 0);
    Ok(provider.unwrap(&entry.key, &bound, &wrapped)?)
}

fn read_mount_file(root: &Arc<dyn Dir>, mac_key: &Secret<32>) -> Result<MountFile> {
    let bytes = read_small(root, names::MOUNT, MOUNT_FILE_LIMIT)?.ok_or_else(|| {
        Error::Damaged(
            "strongroom.mount is missing: which epochs ended well is not known".to_owned(),
        )
    })?;
    Ok(MountFile::parse(&bytes, mac_key)?)
}

/// What this host remembers of a volume that it may mount.
struct Accepted {
    /// The newest epoch that it saw; 0 where it saw none.
    epoch: u64,
    /// The libraries to remember: those at hand, and, of keys that the volume still names, those that are not.
    modules: Modules,
}

/// Compares with what this host saw, unless the user accepts what the volume shows.
fn accept(
    options: &OpenOptions,
    file: &VolumeFile,
    keys: &VolumeKeys,
    key: &KeyId,
    mount: &MountFile,
) -> Result<Accepted> {
    let shown =
        Pin::new(&keys.pin, key, file.generation, mount.epoch).with_modules(&options.modules);
    let before = match &options.state {
        Some(state) => Pin::read(state, &file.volume)?,
        None => None,
    };
    match (&options.expect, &before) {
        (Some(expected), _) if *expected != shown.value => {
            return Err(Error::Pinned(
                "the volume does not show the pin that --expect-volume gives".to_owned(),
            ));
        }
        (None, Some(before)) => shown.follows(before)?,
        _ => {}
    }
    let mut modules = before.as_ref().map_or_else(Modules::new, Pin::modules);
    modules.extend(options.modules.clone());
    modules.retain(|key, _| file.keys.iter().any(|entry| entry.key == *key));
    Ok(Accepted {
        epoch: before.map_or(0, |pin| pin.epoch),
        modules,
    })
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

/// The epoch that runs, for a process that goes on in it.
fn same_epoch(running: MountFile) -> Result<(Epochs, MountFile)> {
    if running.clean {
        return Err(Error::InUse(
            "the process that had this volume ended its mount".to_owned(),
        ));
    }
    let epochs = Epochs {
        running: running.epoch,
        listed: running.listed.clone(),
    };
    Ok((epochs, running))
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
    /// The version that wraps data keys: of the master key, or, under the volume envelope, of the volume key.
    pub current: KeyVersion,
    /// The version of the master key that wraps.
    pub master_version: KeyVersion,
    /// What wraps data keys.
    pub envelope: Envelope,
    /// Every version that headers may name beside `current`; more than one during a rotation.
    pub versions: Vec<KeyVersion>,
    /// Every key that headers may name; more than one while the volume moves to another key.
    pub keys: Vec<KeyEntry>,
    /// Volume keys, as the master keys wrap them; none under the direct envelope.
    pub volume_keys: Vec<WrappedVolumeKey>,
    /// The cipher suite.
    pub suite: Suite,
    /// Whether files are bound to their names.
    pub bind_names: bool,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Who has it mounted for writing.
    pub holder: Option<Host>,
}

impl Info {
    /// How the master key of an entry wraps.
    pub fn algorithm(&self, entry: &KeyEntry) -> Option<WrapAlgorithm> {
        match entry.envelope {
            Envelope::Direct => entry.algorithms.last().copied(),
            Envelope::Volume => {
                let newest = self.volume_keys.iter().rfind(|key| key.is_of(entry));
                newest.map(|key| key.algorithm)
            }
        }
    }

    /// Whether a rotation or a move is to be finished.
    pub fn is_unfinished(&self) -> bool {
        self.keys.len() > 1 || self.versions.len() > 1
    }
}

/// Reads what can be read without the key. NotAVolume where there is none.
pub fn info(store: &Arc<dyn Store>) -> Result<Info> {
    let root = store.root();
    info_of(&root, &read_volume_file(&root)?)
}

/// As `info`, of the older generation of the volume file where the newer one cannot be read.
pub fn info_anyway(store: &Arc<dyn Store>) -> Result<Info> {
    let root = store.root();
    let newer = read_volume_file(&root);
    let older = match &newer {
        Err(Error::Damaged(_) | Error::NotAVolume(_)) => {
            read_small(&root, names::VOLUME_OLD, VOLUME_FILE_LIMIT)?
                .and_then(|bytes| VolumeFile::parse_unverified(&bytes).ok())
        }
        _ => None,
    };
    match older {
        Some(older) => info_of(&root, &older),
        None => info_of(&root, &newer?),
    }
}

fn info_of(root: &Arc<dyn Dir>, file: &UnverifiedVolumeFile) -> Result<Info> {
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
        master_version: match (entry.envelope, file.volume_keys().last()) {
            (Envelope::Volume, Some(newest)) => newest.key_version,
            _ => entry.wraps_with,
        },
        envelope: entry.envelope,
        versions: entry.versions.clone(),
        keys: file.shown_keys().to_vec(),
        volume_keys: file.volume_keys().to_vec(),
        holder: lock::holder(root)?,
    })
}
