//! The volume layer without FUSE: streams, random blocks, small files and re-wraps, on a store in memory (what the code itself
//! costs) and on a directory of this disk (in the target directory, or STRONGROOM_BENCH_DIR). Prints tables in Markdown.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that fails has no result

mod timing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom::crypto::Secret;
use strongroom::format::suite::Suite;
use strongroom::keys::software::{Argon2Cost, DEFAULT_ALIAS, NewSlot, Place};
use strongroom::keys::{Keystore, Unlock};
use strongroom::store::{Host, MemoryStore, RealStore, Store};
use strongroom::volume::{
    CHECK_EVERY, Caller, CreateOptions, InPlace, KeyLoss, Node, OpenFlags, OpenOptions, Volume,
    create, open,
};
use timing::random::Random;
use timing::{elapsed, median};

/// Bytes of the large file.
const LARGE: usize = 64 << 20;
const REQUEST: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Random accesses of a round.
const ACCESSES: usize = 4096;
/// Small files of a round.
const FILES: usize = 2000;
/// Files of a rotation.
const HEADERS: usize = 20_000;
const ROUNDS: usize = 5;
const USER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o022,
};
const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
};

fn main() {
    println!(
        "Medians of {ROUNDS}; a file of {} MiB, {FILES} files of 4 KiB, no sync but where it says so.\n",
        LARGE >> 20
    );
    println!(
        "| | {} |\n|---|---|---|---|---|",
        STORES.map(|(name, ..)| name).join(" | ")
    );
    let mut columns = STORES.map(|(_, suite, on_disk)| measure(suite, on_disk));
    for row in 0..columns[0].len() {
        let name = columns[0][row].0;
        let cells = columns
            .each_mut()
            .map(|column| format!("{:.0}", column[row].1));
        timing::row(name, &cells);
    }
}

const STORES: [(&str, Suite, bool); 4] = [
    ("GCM-SIV, memory", Suite::Gcm, false),
    ("GCM-SIV, disk", Suite::Gcm, true),
    ("XTS, memory", Suite::Xts, false),
    ("XTS, disk", Suite::Xts, true),
];

/// A volume of its own, with its keystore in memory.
struct Bench {
    volume: Arc<Volume>,
    root: Arc<Node>,
    /// Goes with everything in it.
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.volume.close().unwrap();
    }
}

impl Bench {
    fn new(suite: Suite, on_disk: bool) -> Self {
        let dir = on_disk.then(|| {
            let place = std::env::var_os("STRONGROOM_BENCH_DIR").map(PathBuf::from);
            tempfile::tempdir_in(place.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()))
                .unwrap()
        });
        let store: Arc<dyn Store> = match &dir {
            Some(dir) => Arc::new(RealStore::open(dir.path()).unwrap()),
            None => Arc::new(MemoryStore::new()),
        };
        let place = Place::new(MemoryStore::new().root(), b"keystore");
        let slot = NewSlot {
            label: "bench".to_owned(),
            secret: Unlock::KeyFile(Secret::random()),
            cost: Argon2Cost {
                memory_kib: 8,
                passes: 1,
                lanes: 1,
            },
        };
        let keystore = Arc::new(Keystore::create(&place, vec![slot]).unwrap());
        let key = keystore.resolve(DEFAULT_ALIAS).unwrap();
        let host = Host::here().unwrap();
        let new = CreateOptions {
            suite,
            bind_names: true,
            sparse: true,
            envelope: None,
        };
        create(&store, &*keystore, &key, &new, &host).unwrap();
        let options = OpenOptions {
            read_only: false,
            in_place: InPlace::Auto,
            host,
            state: None,
            expect: None,
            take_over: false,
            modules: BTreeMap::new(),
            on_key_loss: KeyLoss::Keep,
            key_check: CHECK_EVERY,
        };
        let provider: Arc<dyn strongroom::keys::KeyProvider> = keystore;
        let volume = open(store, provider.into(), &options).unwrap();
        let root = volume.root();
        Self {
            volume,
            root,
            _dir: dir,
        }
    }

    /// Makes small files, each written and closed; the first is `from`.
    fn make_files(&self, from: usize, count: usize) {
        let block = [7; BLOCK];
        for number in from..from + count {
            let name = name(number);
            let (_, _, file) = self
                .volume
                .create(&self.root, &name, 0o644, &USER, READ_WRITE)
                .unwrap();
            self.volume.write(&file, 0, &block).unwrap();
        }
    }

    fn large(&self) -> strongroom::volume::OpenFile {
        let (node, _) = self.volume.lookup(&self.root, b"large").unwrap();
        self.volume.open(&node, READ_WRITE).unwrap()
    }
}

fn name(number: usize) -> Vec<u8> {
    format!("file number {number}").into_bytes()
}

/// Every row of a store and suite, in its unit.
fn measure(suite: Suite, on_disk: bool) -> Rows {
    let mut rows: BTreeMap<usize, (&'static str, Vec<f64>)> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let bench = Bench::new(suite, on_disk);
        for (place, (name, figure)) in round(&bench).into_iter().enumerate() {
            rows.entry(place)
                .or_insert((name, Vec::new()))
                .1
                .push(figure);
        }
    }
    let mut rows: Rows = rows
        .into_values()
        .map(|(name, figures)| (name, median(figures)))
        .collect();
    let bench = Bench::new(suite, on_disk);
    bench.make_files(0, HEADERS);
    let spent = elapsed(|| {
        let done = bench.volume.rotate(&mut |_| ()).unwrap();
        assert!(done.rewrapped >= HEADERS as u64 && done.remaining == 0);
    });
    rows.push((
        "re-wraps a second, with the proof (20,000 files)",
        HEADERS as f64 / spent,
    ));
    rows
}

type Rows = Vec<(&'static str, f64)>;

fn round(bench: &Bench) -> Rows {
    let mut rows = streams(bench);
    rows.extend(blocks(bench));
    rows.extend(small_files(bench));
    rows
}

fn streams(bench: &Bench) -> Rows {
    let volume = &bench.volume;
    let (_, _, file) = volume
        .create(&bench.root, b"large", 0o644, &USER, READ_WRITE)
        .unwrap();
    let mut request = vec![9; REQUEST];
    let offsets = || (0..LARGE as u64).step_by(REQUEST);
    let write = || {
        elapsed(|| {
            offsets().for_each(|offset| {
                assert_eq!(volume.write(&file, offset, &request).unwrap(), REQUEST)
            })
        })
    };
    let sync = || elapsed(|| volume.fsync(&file, false).unwrap());
    let first = write();
    let synced = first + sync();
    let again = write() + sync();
    drop(file);
    let file = bench.large();
    let read = elapsed(|| {
        offsets().for_each(|offset| {
            assert_eq!(volume.read(&file, offset, &mut request).unwrap(), REQUEST)
        });
    });
    let rate = |spent: f64| LARGE as f64 / 1e6 / spent;
    vec![
        ("write 1 MiB requests, MB/s", rate(first)),
        ("the same with its fsync, MB/s", rate(synced)),
        ("overwrite 1 MiB requests + fsync, MB/s", rate(again)),
        ("read 1 MiB requests, warm, MB/s", rate(read)),
    ]
}

fn blocks(bench: &Bench) -> Rows {
    let (volume, file) = (&bench.volume, bench.large());
    let mut block = [0; BLOCK];
    let read = elapsed(|| {
        places()
            .for_each(|offset| assert_eq!(volume.read(&file, offset, &mut block).unwrap(), BLOCK));
    });
    let write = elapsed(|| {
        places().for_each(|offset| assert_eq!(volume.write(&file, offset, &block).unwrap(), BLOCK));
        volume.fsync(&file, true).unwrap();
    });
    let rate = |spent: f64| (ACCESSES * BLOCK) as f64 / 1e6 / spent;
    vec![
        ("read random 4 KiB, warm, MB/s", rate(read)),
        ("write random 4 KiB + fsync, MB/s", rate(write)),
    ]
}

fn small_files(bench: &Bench) -> Rows {
    let (volume, root) = (&bench.volume, &bench.root);
    let mut block = [0; BLOCK];
    let rate = |spent: f64| FILES as f64 / spent;
    vec![
        (
            "create, write, close, files/s",
            rate(elapsed(|| bench.make_files(0, FILES))),
        ),
        (
            "look up, files/s",
            rate(each(|name| drop(volume.lookup(root, name).unwrap()))),
        ),
        (
            "look up, open, read, close, files/s",
            rate(each(|name| {
                let (node, _) = volume.lookup(root, name).unwrap();
                let file = volume.open(&node, READ_WRITE).unwrap();
                assert_eq!(volume.read(&file, 0, &mut block).unwrap(), BLOCK);
            })),
        ),
        (
            "unlink, files/s",
            rate(each(|name| volume.unlink(root, name).unwrap())),
        ),
    ]
}

/// How long it takes for all small files, seconds.
fn each(mut what: impl FnMut(&[u8])) -> f64 {
    elapsed(|| (0..FILES).for_each(|number| what(&name(number))))
}

/// Offsets of blocks, the same in each round.
fn places() -> impl Iterator<Item = u64> {
    let mut random = Random::new();
    std::iter::repeat_with(move || random.next() % (LARGE / BLOCK) as u64 * BLOCK as u64)
        .take(ACCESSES)
}
