//! Copies of a volume: all that a tree holds, with data keys of their own and with shared ones; a kill at every write.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{READ_WRITE, me};
use crate::format::ids::KeyId;
use crate::format::suite::{Envelope, Suite};
use crate::format::wrap::WrapAlgorithm;
use crate::keys::KeyProvider;
use crate::store::{Access, Call, FailingStore, Kind, MemoryStore, Store, Time, TimeSpec, Traits};
use crate::volume::fixture::{TestKeys, host, options};
use crate::volume::{
    Attr, CopyOptions, CopyReport, CreateOptions, Error, Node, OpenFlags, OpenOptions, SetAttr,
    Volume, copy, create, open,
};

mod refused;

const FROM: KeyId = KeyId([7; 16]);
const TO: KeyId = KeyId([8; 16]);
const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
};
const SHARED: CopyOptions = CopyOptions {
    envelope: None,
    share_data_keys: true,
};
const ANEW: CopyOptions = CopyOptions {
    envelope: None,
    share_data_keys: false,
};

fn mount(store: &Arc<MemoryStore>, keys: &Arc<TestKeys>) -> Arc<Volume> {
    let provider: Arc<dyn KeyProvider> = keys.clone();
    open(store.clone(), provider.into(), &options(None)).unwrap()
}

/// A volume and a key that a copy of it gets.
struct Pair {
    from: Arc<MemoryStore>,
    keys: Arc<TestKeys>,
    others: Arc<TestKeys>,
}

impl Pair {
    fn new(suite: Suite) -> Self {
        let pair = Self {
            from: Arc::new(MemoryStore::new()),
            keys: Arc::new(TestKeys::with_one_version()),
            others: Arc::new(TestKeys::new("test", TO, WrapAlgorithm::AesGcmSiv)),
        };
        let options = CreateOptions {
            suite,
            bind_names: true,
            sparse: true,
            envelope: None,
        };
        let store: Arc<dyn Store> = pair.from.clone();
        create(&store, &*pair.keys, &FROM, &options, &host(1)).unwrap();
        pair
    }

    fn source(&self) -> Arc<Volume> {
        mount(&self.from, &self.keys)
    }

    fn copy(
        &self,
        source: &Arc<Volume>,
        to: Arc<dyn Store>,
        options: &CopyOptions,
    ) -> Result<CopyReport, Error> {
        let provider: Arc<dyn KeyProvider> = self.others.clone();
        copy(source, to, provider, &TO, options, &host(1), &mut |_| {})
    }
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed)
        .collect()
}

fn put(volume: &Volume, dir: &Arc<Node>, name: &[u8], data: &[u8]) -> Arc<Node> {
    let (node, _, file) = volume.create(dir, name, 0o640, &me(), READ_WRITE).unwrap();
    volume.write(&file, 0, data).unwrap();
    node
}

fn attrs(volume: &Volume, node: &Arc<Node>, seed: i64) {
    let set = SetAttr {
        mode: Some(0o2750),
        uid: Some(1000 + seed as u32),
        gid: Some(2000 + seed as u32),
        atime: Some(TimeSpec::At(Time {
            sec: 1_000_000 + seed,
            nsec: 123_456_789,
        })),
        mtime: Some(TimeSpec::At(Time {
            sec: -5 - seed,
            nsec: 1,
        })),
        ..SetAttr::default()
    };
    volume.set_attr(node, &set, None).unwrap();
}

/// A tree with one of everything.
fn plant(volume: &Volume) {
    let root = volume.root();
    let (dir, _) = volume.make_dir(&root, b"dir", 0o755, &me()).unwrap();
    let (deep, _) = volume.make_dir(&dir, &[b'd'; 200], 0o755, &me()).unwrap();
    put(volume, &root, b"small", b"small");
    let big = put(volume, &dir, b"big", &bytes(1, 1_500_001));
    volume
        .set_xattr(&big, b"user.comment", b"a comment", false, false)
        .unwrap();
    volume
        .set_xattr(&big, b"system.posix_acl_access", b"acl", false, false)
        .unwrap();
    let sparse = put(volume, &dir, b"sparse", b"start");
    let file = volume.open(&sparse, READ_WRITE).unwrap();
    volume.write(&file, 30_000_000, b"end").unwrap();
    volume
        .set_attr(
            &sparse,
            &SetAttr {
                size: Some(40_000_000),
                ..SetAttr::default()
            },
            Some(&file),
        )
        .unwrap();
    volume
        .create(&dir, b"empty", 0o600, &me(), READ_WRITE)
        .unwrap();
    let linked = put(volume, &root, b"one name", &bytes(2, 5000));
    volume.link(&linked, &deep, b"another").unwrap();
    volume.link(&linked, &deep, &[b'n'; 255]).unwrap();
    let (link, _) = volume
        .make_symlink(&deep, b"link", b"../../anywhere", &me())
        .unwrap();
    volume
        .make_node(&deep, b"device", Kind::CharDevice, 0o600, 0x103, &me())
        .unwrap();
    volume
        .make_node(&deep, b"fifo", Kind::Fifo, 0o622, 0, &me())
        .unwrap();
    volume
        .set_xattr(&dir, b"user.of-dir", &[0, 255], false, false)
        .unwrap();
    volume
        .set_xattr(
            &dir,
            b"system.posix_acl_default",
            b"inherited",
            false,
            false,
        )
        .unwrap();
    for (seed, node) in [&link, &linked, &sparse, &big, &deep, &dir, &root]
        .into_iter()
        .enumerate()
    {
        attrs(volume, node, seed as i64);
    }
}

/// What a user sees of one object.
type Seen = (
    Vec<u8>,
    Kind,
    [u32; 4],
    u64,
    u64,
    [Time; 2],
    Vec<(Vec<u8>, Vec<u8>)>,
    Vec<u8>,
);

fn look(volume: &Volume, node: &Arc<Node>, path: &[u8], all: &mut Vec<Seen>) {
    let attr: Attr = volume.attr(node).unwrap();
    let mut xattrs: Vec<_> = volume
        .xattr_names(node)
        .unwrap()
        .into_iter()
        .map(|name| {
            let value = volume.xattr(node, &name).unwrap();
            (name, value)
        })
        .collect();
    xattrs.sort();
    let content = match attr.kind {
        Kind::File => {
            let mut data = vec![0; attr.size as usize];
            let file = volume.open(node, READ).unwrap();
            assert_eq!(volume.read(&file, 0, &mut data).unwrap(), data.len());
            data
        }
        Kind::Symlink => volume.read_link(node).unwrap(),
        _ => Vec::new(),
    };
    let size = if attr.kind == Kind::Dir { 0 } else { attr.size };
    // Every mount replaces a file in the top directory.
    let times = if node.is_root() {
        [Time::default(); 2]
    } else {
        [attr.atime, attr.mtime]
    };
    let content = Sha256::digest(&content).to_vec();
    all.push((
        path.to_vec(),
        attr.kind,
        [attr.mode, attr.nlink, attr.uid, attr.gid],
        attr.rdev,
        size,
        times,
        xattrs,
        content,
    ));
    if attr.kind == Kind::Dir {
        let mut names = super::list(volume, node).unwrap();
        names.sort();
        for name in names {
            let (child, _) = volume.lookup(node, &name).unwrap();
            look(volume, &child, &[path, b"/", &name].concat(), all);
        }
    }
}

fn seen(volume: &Volume) -> Vec<Seen> {
    let mut all = Vec::new();
    look(volume, &volume.root(), b"", &mut all);
    all
}

fn change(volume: &Volume, path: &[u8], data: &[u8]) {
    let node = crate::volume::path::resolve(volume, path).unwrap();
    let file = volume.open(&node, READ_WRITE).unwrap();
    volume.write(&file, 0, data).unwrap();
}

fn whole(store: &Arc<MemoryStore>) -> bool {
    store.root().stat_at(b"strongroom.volume").is_ok()
}

const ALL: [(Suite, CopyOptions); 4] = [
    (Suite::Gcm, ANEW),
    (Suite::Gcm, SHARED),
    (Suite::Xts, ANEW),
    (Suite::Xts, SHARED),
];

#[test]
fn a_copy_has_all_that_the_source_has_and_both_go_their_own_ways() {
    for (suite, options) in ALL {
        let pair = Pair::new(suite);
        let source = pair.source();
        plant(&source);
        let before = seen(&source);
        let to = Arc::new(MemoryStore::new());
        let report = pair.copy(&source, to.clone(), &options).unwrap();
        assert_eq!(
            (
                report.files,
                report.links,
                report.dirs,
                report.symlinks,
                report.specials
            ),
            (5, 2, 2, 1, 2)
        );
        assert_eq!(seen(&source), before, "the source is as it was");
        let target = mount(&to, &pair.others);
        assert!(!target.env.epochs.any_listed());
        assert_ne!(target.env.volume, source.env.volume);
        assert_eq!(report.id(), Some(target.env.volume));
        for (ours, theirs) in seen(&target).iter().zip(&before) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(seen(&target).len(), before.len());
        // Holes stayed holes.
        let blocks = |volume: &Volume| {
            let node = crate::volume::path::resolve(volume, b"dir/sparse").unwrap();
            volume.attr(&node).unwrap().blocks
        };
        assert!(blocks(&target) <= blocks(&source) + 64);
        // Each goes its own way.
        change(&source, b"dir/big", b"in the source");
        change(&target, b"dir/big", b"in the copy");
        change(&target, b"one name", b"linked");
        put(&target, &target.root(), b"new", b"new");
        source.close().unwrap();
        target.close().unwrap();
        drop((source, target));
        let (source, target) = (pair.source(), mount(&to, &pair.others));
        let get = |volume: &Volume, path: &[u8]| {
            let node = crate::volume::path::resolve(volume, path).unwrap();
            let file = volume.open(&node, READ).unwrap();
            let mut data = [0; 11];
            volume.read(&file, 0, &mut data).unwrap();
            data
        };
        assert_eq!(&get(&source, b"dir/big"), b"in the sour");
        assert_eq!(&get(&target, b"dir/big"), b"in the copy");
        let deep = [b"dir/", &[b'd'; 200][..], b"/another"].concat();
        assert_eq!(&get(&target, &deep)[..6], b"linked");
        assert_ne!(&get(&source, &deep)[..6], b"linked");
        source.rotate(&mut |_| {}).unwrap();
        target.rotate(&mut |_| {}).unwrap();
    }
}

/// The first file of a top directory that has a header: bytes 0 to 2047, and the rest.
fn raw(store: &MemoryStore) -> (Vec<u8>, Vec<u8>) {
    let root = store.root();
    let entries = root.entries(0).unwrap();
    let entry = entries
        .iter()
        .find(|entry| !entry.name.starts_with(b"strongroom."));
    let file = root.open(&entry.unwrap().name, Access::Read).unwrap();
    let mut all = vec![0; file.stat().unwrap().size as usize];
    file.read_at(&mut all, 0).unwrap();
    let rest = all.split_off(2048);
    (all, rest)
}

#[test]
fn shared_data_keys_keep_the_ciphertext_and_nothing_else_of_the_header_but_the_file_id() {
    for (suite, options) in ALL {
        let pair = Pair::new(suite);
        let source = pair.source();
        put(&source, &source.root(), b"a", &bytes(3, 20_000));
        let to = Arc::new(MemoryStore::new());
        pair.copy(&source, to.clone(), &options).unwrap();
        source.close().unwrap();
        let ((theirs, data), (ours, copied)) = (raw(&pair.from), raw(&to));
        assert_eq!(data == copied, options.share_data_keys);
        assert_eq!(
            theirs[32..48] == ours[32..48],
            options.share_data_keys,
            "file id"
        );
        assert_ne!(theirs[16..32], ours[16..32], "volume id");
        assert_ne!(theirs[48..80], ours[48..80], "commitment");
        assert_ne!(theirs[544..700], ours[544..700], "wrap");
        assert_ne!(theirs[1584..1600], ours[1584..1600], "MAC of the state");
        // It is settled: one state, one area.
        assert!(ours[1024..1536].iter().all(|byte| *byte == 0));
        let halves = [&ours[1536..1792], &ours[1792..2048]];
        assert_eq!(
            halves
                .iter()
                .filter(|half| half.iter().all(|byte| *byte == 0))
                .count(),
            1
        );
    }
}

#[test]
fn not_a_byte_of_contents_is_decrypted_with_shared_data_keys() {
    let pair = Pair::new(Suite::Gcm);
    let source = pair.source();
    put(&source, &source.root(), b"a", &bytes(3, 20_000));
    source.close().unwrap();
    drop(source);
    // A block that no key opens.
    let root = pair.from.root();
    let entries = root.entries(0).unwrap();
    let name = entries
        .iter()
        .find(|entry| !entry.name.starts_with(b"strongroom."));
    let name = name.unwrap().name.clone();
    pair.from
        .edit(&[&name], |bytes| bytes[4096 + 7] ^= 1)
        .unwrap();
    let source = pair.source();
    let to = Arc::new(MemoryStore::new());
    let refused = pair.copy(&source, to.clone(), &ANEW).unwrap_err();
    assert!(refused.to_string().starts_with("a: "), "{refused}");
    assert!(!whole(&to));
    let to = Arc::new(MemoryStore::new());
    pair.copy(&source, to.clone(), &SHARED).unwrap();
    assert!(whole(&to));
}

#[test]
fn what_an_unclean_end_left_is_settled_before_it_is_shared() {
    let pair = Pair::new(Suite::Gcm);
    let source = pair.source();
    put(&source, &source.root(), b"a", &bytes(4, 300_000));
    change(&source, b"a", b"again");
    let killed = Pair {
        from: Arc::new(pair.from.snapshot()),
        keys: pair.keys.clone(),
        others: pair.others.clone(),
    };
    let source = killed.source();
    assert!(source.env.epochs.any_listed());
    let to = Arc::new(MemoryStore::new());
    killed.copy(&source, to.clone(), &SHARED).unwrap();
    let target = mount(&to, &killed.others);
    assert_eq!(seen(&target), seen(&source));
}

#[test]
fn a_source_for_reading_is_copied_and_shares_no_keys() {
    let pair = Pair::new(Suite::Gcm);
    let source = pair.source();
    plant(&source);
    let before = seen(&source);
    source.close().unwrap();
    drop(source);
    let writes = pair.from.writes();
    let read_only = OpenOptions {
        read_only: true,
        ..options(None)
    };
    let provider: Arc<dyn KeyProvider> = pair.keys.clone();
    let source = open(pair.from.clone(), provider.into(), &read_only).unwrap();
    let to = Arc::new(MemoryStore::new());
    pair.copy(&source, to.clone(), &ANEW).unwrap();
    assert_eq!(pair.from.writes(), writes, "not a write to the source");
    assert_eq!(seen(&mount(&to, &pair.others)), before);
    let refused = pair.copy(&source, Arc::new(MemoryStore::new()), &SHARED);
    assert_eq!(refused.unwrap_err().code(), libc::EROFS);
}

#[test]
fn the_envelope_can_be_another() {
    for options in [ANEW, SHARED] {
        let pair = Pair::new(Suite::Gcm);
        let source = pair.source();
        put(&source, &source.root(), b"a", b"data");
        let to = Arc::new(MemoryStore::new());
        let options = CopyOptions {
            envelope: Some(Envelope::Volume),
            ..options
        };
        pair.copy(&source, to.clone(), &options).unwrap();
        let target = mount(&to, &pair.others);
        assert_eq!(
            target.env.ring.chain().current().stored.envelope,
            Envelope::Volume
        );
        assert_eq!(seen(&target), seen(&source));
    }
}
