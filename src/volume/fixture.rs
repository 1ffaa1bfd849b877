//! For tests: the surroundings of an open volume, without its files and keystore. The keys stay the same over any number
//! of "mounts" of a store or of its snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::Secret;
use crate::format::ids::{DirId, KeyVersion, VolumeId};
use crate::format::suite::{Envelope, Suite};
use crate::format::volume_file::{KeyEntry, VolumeFile, WrappedSecret};
use crate::format::volume_keys::VolumeKeys;
use crate::format::wrap::WrapAlgorithm;
use crate::keys::KeyProvider;
use crate::store::{Access, Dir, Host, Store};
use crate::volume::bell::Bell;
use crate::volume::chain::{AtHand, Chain};
use crate::volume::env::{Env, Epochs};
use crate::volume::error::Result;
use crate::volume::file::FileState;
use crate::volume::file::body::Place;
use crate::volume::keyring::KeyRing;
use crate::volume::redo::Redo;
use crate::volume::settle::Settler;
use crate::volume::test_keys::KEY;
pub(crate) use crate::volume::test_keys::TestKeys;
use crate::volume::{CHECK_EVERY, Caller, InPlace, KeyLoss, Node, OpenFlags, OpenOptions, Volume};

const VOLUME: VolumeId = VolumeId([9; 16]);

/// Who asks.
pub(crate) const USER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o022,
};

/// An open file for everything but appending.
pub(crate) const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
};

/// A host, as this process of it.
pub(crate) fn host(pid: u32) -> Host {
    Host {
        name: "here".into(),
        boot_id: "boot".into(),
        pid,
        since: 1_700_000_000,
    }
}

/// Writable, by a host that keeps its pins there.
pub(crate) fn options(state: Option<Arc<dyn Dir>>) -> OpenOptions {
    OpenOptions {
        read_only: false,
        in_place: InPlace::Auto,
        host: host(2),
        state,
        expect: None,
        take_over: false,
        modules: BTreeMap::new(),
        on_key_loss: KeyLoss::Keep,
        key_check: CHECK_EVERY,
    }
}

/// The contents of a file.
pub(crate) fn read(volume: &Volume, parent: &Arc<Node>, name: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    let (node, attr) = volume.lookup(parent, name.as_ref())?;
    let file = volume.open(
        &node,
        OpenFlags {
            write: false,
            ..READ_WRITE
        },
    )?;
    let mut bytes = vec![0; attr.size as usize];
    let length = volume.read(&file, 0, &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// What every mount of one volume has in common.
pub(crate) struct Fixture {
    pub(crate) suite: Suite,
    pub(crate) keys: Arc<TestKeys>,
    /// Whether the store writes a page whole, so that groups may be overwritten in place.
    pub(crate) in_place: bool,
    /// Whether growth may leave sparse groups.
    pub(crate) sparse: bool,
    secret: Secret<32>,
}

/// One mount.
pub(crate) struct Mounted {
    pub(crate) env: Arc<Env>,
    pub(crate) settler: Arc<Settler>,
    /// Rung for who settles ahead: nobody, unless a test does.
    pub(crate) bell: Arc<Bell>,
}

impl Fixture {
    pub(crate) fn new(suite: Suite) -> Self {
        let keys = Arc::new(TestKeys::with_one_version());
        Self {
            suite,
            keys,
            in_place: true,
            sparse: true,
            secret: Secret::random(),
        }
    }

    /// Mounts `store` writable in this epoch, the epochs of `listed` having ended uncleanly.
    pub(crate) fn mount(&self, store: Arc<dyn Store>, running: u64, listed: &[u64]) -> Mounted {
        let provider: Arc<dyn KeyProvider> = self.keys.clone();
        let versions = self.keys.versions();
        let chain = chain(self.suite, &versions, AtHand::default());
        let ring = KeyRing::new(VOLUME, provider.into(), chain);
        let env = Arc::new(Env::new(
            store,
            VOLUME,
            self.suite,
            self.suite == Suite::Gcm,
            self.sparse,
            false,
            self.in_place,
            Redo::default(),
            VolumeKeys::derive(&self.secret, &VOLUME),
            ring,
            Epochs {
                running,
                listed: listed.to_vec(),
            },
        ));
        let bell = Arc::<Bell>::default();
        let settler = Settler::new(env.clone(), bell.clone());
        Mounted { env, settler, bell }
    }
}

impl Mounted {
    /// Has headers name these versions of the one key, the last of which wraps.
    pub(crate) fn allow(&self, versions: &[KeyVersion]) {
        let ring = &self.env.ring;
        ring.adopt(chain(self.env.suite, versions, ring.chain().at_hand()));
    }

    /// The state of the file with this name in the top directory, which is made if it is not there.
    pub(crate) fn file(&self, name: &str) -> Arc<FileState> {
        let dir = self.env.root.clone();
        let backing = dir.open(name.as_bytes(), Access::ReadWrite);
        let backing = backing.unwrap_or_else(|_| dir.create(name.as_bytes(), 0o600).unwrap());
        FileState::new(&self.env, &self.settler, backing, true, place(name), dir)
    }
}

/// A volume file that allows these versions of the one key, the last of which wraps.
pub(crate) fn volume_file(suite: Suite, versions: &[KeyVersion]) -> VolumeFile {
    let current = *versions.last().unwrap();
    let algorithm = WrapAlgorithm::AesGcmSiv;
    VolumeFile {
        format: VolumeFile::FORMAT,
        volume: VOLUME,
        suite,
        bind_names: suite == Suite::Gcm,
        no_sparse: false,
        generation: 1,
        keys: vec![KeyEntry {
            provider: "test".to_owned(),
            key: KEY,
            home: None,
            envelope: Envelope::Direct,
            versions: versions.to_vec(),
            wraps_with: current,
            algorithms: vec![algorithm],
            current: true,
        }],
        volume_secret: WrappedSecret {
            version: current,
            algorithm,
            bytes: vec![0; 60],
        },
        volume_keys: Vec::new(),
        created: 0,
    }
}

fn chain(suite: Suite, versions: &[KeyVersion], at_hand: AtHand) -> Chain {
    Chain::new(&volume_file(suite, versions), &at_hand).unwrap()
}

/// A name in the top directory.
pub(crate) fn place(name: &str) -> Place {
    Place {
        dir: DirId([1; 16]),
        stored: name.into(),
    }
}
