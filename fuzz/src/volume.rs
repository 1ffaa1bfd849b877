//! Whole volumes in memory whose backing bytes the input changes: what is read is what was written, or an error.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex};

use strongroom::crypto::{GcmSiv, Secret};
use strongroom::format::ids::{FileId, KeyId, KeyVersion};
use strongroom::format::redo::{ENTRY_LEN, Entry, LEN, copy_offset, entry_offset};
use strongroom::format::suite::Suite;
use strongroom::format::wrap::{WrapAlgorithm, software_unwrap, software_wrap};
use strongroom::keys::{KeyDescription, KeyError, KeyProvider, KeyState, Wrapped};
use strongroom::store::{Host, MemoryStore, Store};
use strongroom::volume::{
    CHECK_EVERY, Caller, CheckOptions, CreateOptions, InPlace, KeyLoss, OpenFlags, OpenOptions,
    Volume, create, open,
};

const KEY: KeyId = KeyId([7; 16]);
const SIZE: usize = 40 * 4096 + 77;

/// One master key in memory.
struct OneKey(GcmSiv);

impl KeyProvider for OneKey {
    fn kind(&self) -> &'static str {
        "software"
    }

    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError> {
        Ok(KeyDescription {
            key: *key,
            state: KeyState::Enabled,
            current: KeyVersion(1),
            versions: vec![KeyVersion(1)],
            algorithm: WrapAlgorithm::AesGcmSiv,
            home: None,
        })
    }

    fn wrap(
        &self,
        _: &KeyId,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, KeyError> {
        Ok(Wrapped {
            version,
            algorithm: WrapAlgorithm::AesGcmSiv,
            bytes: software_wrap(&self.0, context, secret),
        })
    }

    fn unwrap(&self, _: &KeyId, context: &[u8], wrapped: &Wrapped) -> Result<Secret<32>, KeyError> {
        software_unwrap(&self.0, context, &wrapped.bytes).map_err(|_| KeyError::InvalidCiphertext)
    }

    fn rotate(&self, _: &KeyId) -> Result<KeyVersion, KeyError> {
        Err(KeyError::InvalidState("not in a fuzz target".to_owned()))
    }

    fn destroy(&self, _: &KeyId, _: KeyVersion) -> Result<(), KeyError> {
        Err(KeyError::InvalidState("not in a fuzz target".to_owned()))
    }
}

/// A volume with one file, a moved directory and a link, ended clean or cut off.
struct Sample {
    store: MemoryStore,
    keys: Arc<OneKey>,
    content: Vec<u8>,
    file: Vec<u8>,
    dir: Vec<u8>,
}

fn host() -> Host {
    Host {
        name: "here".into(),
        boot_id: "boot".into(),
        pid: 1,
        since: 1,
    }
}

fn options(read_only: bool) -> OpenOptions {
    OpenOptions {
        read_only,
        in_place: InPlace::Auto,
        host: host(),
        state: None,
        expect: None,
        take_over: true,
        modules: Default::default(),
        on_key_loss: KeyLoss::Keep,
        key_check: CHECK_EVERY,
    }
}

const WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
};

impl Sample {
    fn new(suite: Suite, clean: bool) -> Self {
        let store = Arc::new(MemoryStore::new());
        let keys = Arc::new(OneKey(GcmSiv::new(&Secret::from_bytes(&mut [3; 32]))));
        let shared: Arc<dyn Store> = store.clone();
        let made = CreateOptions {
            suite,
            bind_names: true,
            sparse: true,
            envelope: None,
        };
        create(&shared, &*keys, &KEY, &made, &host()).expect("an empty store");
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
        let me = Caller {
            uid: 0,
            gid: 0,
            umask: 0,
        };
        let provider: Arc<dyn KeyProvider> = keys.clone();
        let volume = open(shared, provider.into(), &options(false)).expect("it was just made");
        let root = volume.root();
        let (_, _, file) = volume
            .create(&root, b"file", 0o600, &me, WRITE)
            .expect("free");
        volume.write(&file, 0, &content).expect("memory");
        let names = store_names(&store);
        volume.make_dir(&root, b"dir", 0o700, &me).expect("free");
        let dirs = store_names(&store);
        let dir = dirs
            .into_iter()
            .find(|name| !names.contains(name))
            .expect("the directory");
        if clean {
            drop(file);
            volume.close().expect("memory");
        } else {
            volume.fsync(&file, false).expect("memory");
            volume
                .write(&file, 100, &content[100..9000])
                .expect("memory");
        }
        let snapshot = store.snapshot();
        let file = names
            .into_iter()
            .find(|name| !name.starts_with(b"strongroom."))
            .expect("the file");
        Self {
            store: snapshot,
            keys,
            content,
            file,
            dir,
        }
    }
}

impl Sample {
    /// Cut off amid overwrites on a full store: eight blocks are torn, and their copies are in the redo file.
    fn torn() -> Self {
        let sample = Self::new(Suite::Gcm, false);
        let mut copies = vec![0; LEN as usize];
        sample
            .store
            .edit(&[&sample.file], |bytes| {
                let file = FileId(bytes[32..48].try_into().expect("a header"));
                for number in 0..8 {
                    let block = 3 + number as u64; // in the slot of its own number
                    let slot = &mut bytes[4096 * (1 + block as usize)..][..4096];
                    let entry = Entry { file, block }.encode();
                    copies[entry_offset(number) as usize..][..ENTRY_LEN].copy_from_slice(&entry);
                    copies[copy_offset(number) as usize..][..4096].copy_from_slice(slot);
                    slot[2048..].fill(0);
                }
            })
            .expect("a file");
        let redo = sample.store.root().create(b"strongroom.redo", 0o600);
        redo.expect("free").write_at(&copies, 0).expect("memory");
        sample
    }
}

fn store_names(store: &MemoryStore) -> Vec<Vec<u8>> {
    let entries = store.root().entries(0).expect("memory");
    entries.into_iter().map(|entry| entry.name).collect()
}

/// Changes: 2 bytes of offset in units of 32 (or of its last pages), 1 of length, 1 of what is done, then bytes.
fn patch(bytes: &mut Vec<u8>, mut data: &[u8]) {
    while let Some((head, rest)) = data.split_first_chunk::<5>() {
        let at =
            usize::from(u16::from_le_bytes([head[0], head[1]])) * 16 + usize::from(head[2] % 16);
        let length = usize::from(head[3] % 65);
        match head[4] % 5 {
            0 => {
                let from = &rest[..length.min(rest.len())];
                if at + from.len() <= bytes.len() {
                    bytes[at..at + from.len()].copy_from_slice(from);
                }
                data = &rest[from.len()..];
                continue;
            }
            1 if at + length <= bytes.len() => bytes[at..at + length].fill(0),
            2 if at < bytes.len() => bytes[at] ^= 1 << (head[3] % 8),
            3 => bytes.resize(at.min(1 << 20), 0),
            4 if at + 4096 <= bytes.len() => {
                let to = usize::from(head[3]) * 64 % bytes.len();
                let piece = bytes[at..at + 64].to_vec();
                if to + 64 <= bytes.len() {
                    bytes[to..to + 64].copy_from_slice(&piece);
                }
            }
            _ => {}
        }
        data = rest;
    }
}

fn read_all(volume: &Volume, name: &[u8]) -> Option<Vec<u8>> {
    let (node, attr) = volume.lookup(&volume.root(), name).ok()?;
    let flags = OpenFlags {
        write: false,
        ..WRITE
    };
    let file = volume.open(&node, flags).ok()?;
    let mut bytes = vec![0; usize::try_from(attr.size).ok()?.min(1 << 22)];
    let mut at = 0;
    while at < bytes.len() {
        match volume.read(&file, at as u64, &mut bytes[at..]).ok()? {
            0 => break,
            read => at += read,
        }
    }
    bytes.truncate(at);
    Some(bytes)
}

thread_local! {
    static SETTLED: OnceCell<Sample> = const { OnceCell::new() };
    static IN_DOUBT: OnceCell<Sample> = const { OnceCell::new() };
    static XTS: OnceCell<Sample> = const { OnceCell::new() };
    static TORN: OnceCell<Sample> = const { OnceCell::new() };
}

/// A settled file and one in doubt, changed: read whole it is what was written, and the check says so too.
pub fn gcm(data: &[u8]) {
    SETTLED.with(|sample| {
        changed_file(
            sample.get_or_init(|| Sample::new(Suite::Gcm, true)),
            data,
            |sample, read, sound| {
                if let Some(read) = read {
                    // Cut to nothing it reads as empty: that is documented.
                    assert!(
                        read.is_empty() || read == sample.content,
                        "other bytes than were written"
                    );
                } else {
                    assert!(
                        !sound,
                        "the check finds nothing wrong with what cannot be read"
                    );
                }
            },
        );
    });
    IN_DOUBT.with(|sample| {
        changed_file(
            sample.get_or_init(|| Sample::new(Suite::Gcm, false)),
            data,
            |sample, read, _| {
                let Some(read) = read else { return };
                // Whatever is read was written at that place, or is a hole that an unclean end may leave.
                for (page, was) in read.chunks(4096).zip(sample.content.chunks(4096)) {
                    let same = page == was || page.iter().all(|byte| *byte == 0);
                    assert!(
                        same || page.len() != was.len(),
                        "other bytes than were written"
                    );
                }
            },
        );
    });
}

/// The header of an XTS file: what it says is authentic; its blocks cannot be.
pub fn xts(data: &[u8]) {
    XTS.with(|sample| {
        changed_file(
            sample.get_or_init(|| Sample::new(Suite::Xts, true)),
            data,
            |_, _, _| {},
        );
    });
}

fn changed_file(sample: &Sample, data: &[u8], judge: impl Fn(&Sample, Option<Vec<u8>>, bool)) {
    let store = Arc::new(sample.store.snapshot());
    store
        .edit(&[&sample.file], |bytes| patch(bytes, data))
        .expect("a file");
    let provider: Arc<dyn KeyProvider> = sample.keys.clone();
    let volume = open(store, provider.into(), &options(true)).expect("its own files are sound");
    let read = read_all(&volume, b"file");
    let report = volume.check(
        &CheckOptions {
            threads: 1,
            ..CheckOptions::default()
        },
        &mut |_| {},
    );
    judge(sample, read, report.expect("memory").is_sound());
    volume.close().expect("memory");
}

/// The redo file of an unclean end: a block that was torn is what was written, or cannot be read; no other one minds.
pub fn redo(data: &[u8]) {
    TORN.with(|sample| {
        let sample = sample.get_or_init(Sample::torn);
        let store = Arc::new(sample.store.snapshot());
        store
            .edit(&[b"strongroom.redo"], |bytes| patch(bytes, data))
            .expect("a file");
        let provider: Arc<dyn KeyProvider> = sample.keys.clone();
        let volume = open(store, provider.into(), &options(true)).expect("its own files are sound");
        let (node, attr) = volume.lookup(&volume.root(), b"file").expect("its name");
        let flags = OpenFlags {
            write: false,
            ..WRITE
        };
        let file = volume.open(&node, flags).expect("its header");
        assert_eq!(attr.size, SIZE as u64);
        let mut page = [0; 4096];
        for (block, was) in sample.content.chunks(4096).enumerate() {
            let torn = (3..11).contains(&block) && !data.is_empty();
            match volume.read(&file, block as u64 * 4096, &mut page) {
                // One that a growth cut off may have left without data is a hole.
                Ok(read) if torn && page[..read].iter().all(|byte| *byte == 0) => {}
                Ok(read) => assert_eq!(&page[..read], was, "block {block}"),
                Err(_) => assert!(torn, "block {block} is whole, or its copy is"),
            }
        }
        drop(file);
        volume.close().expect("memory");
    });
}

/// A planted `strongroom.dir`, volume file and mount file: opening says so, listing does not panic.
pub fn tree(data: &[u8]) {
    static TURN: Mutex<()> = Mutex::new(());
    let _one = TURN.lock();
    SETTLED.with(|sample| {
        let sample = sample.get_or_init(|| Sample::new(Suite::Gcm, true));
        let Some((which, data)) = data.split_first() else {
            return;
        };
        let store = Arc::new(sample.store.snapshot());
        let root = store.root();
        match which % 3 {
            0 => {
                let dir = root.open_dir(&sample.dir).expect("the directory");
                let file = dir.create(b"strongroom.dir", 0o600).expect("free");
                file.write_at(data, 0).expect("memory");
            }
            1 => store
                .edit(&[b"strongroom.volume"], |bytes| patch(bytes, data))
                .expect("a file"),
            _ => store
                .edit(&[b"strongroom.mount"], |bytes| patch(bytes, data))
                .expect("a file"),
        }
        let provider: Arc<dyn KeyProvider> = sample.keys.clone();
        let Ok(volume) = open(store, provider.into(), &options(true)) else {
            return;
        };
        assert_eq!(read_all(&volume, b"file").as_ref(), Some(&sample.content));
        if let Ok((dir, _)) = volume.lookup(&volume.root(), b"dir") {
            let _ = volume.read_dir(&dir, 0);
        }
        volume.close().expect("memory");
    });
}
