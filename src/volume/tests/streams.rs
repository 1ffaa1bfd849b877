//! Who reads a file from one end to the other, while others write it: past the store's cache, and never old bytes.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{Bench, me};
use crate::format::layout::PAGE;
use crate::format::suite::Suite;
use crate::repeated::Rng;
use crate::store::{Call, RealStore, Store};
use crate::volume::fixture::READ_WRITE;
use crate::volume::{OpenFile, Volume};

const SUITES: [Suite; 2] = [Suite::Gcm, Suite::Xts];
const BLOCKS: u64 = 3 << 10;
/// What the kernel asks for at a time.
const REQUEST: usize = 128 << 10;

fn block(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(PAGE as usize / 8)
}

fn file(volume: &Volume) -> OpenFile {
    let made = volume.create(&volume.root(), b"f", 0o600, &me(), READ_WRITE);
    let (_, _, file) = made.unwrap();
    let zeros: Vec<_> = (0..BLOCKS).flat_map(|_| block(0)).collect();
    for (index, part) in zeros.chunks(1 << 20).enumerate() {
        volume.write(&file, (index as u64) << 20, part).unwrap();
    }
    volume.fsync(&file, true).unwrap();
    file
}

/// Reads the file from one end to the other.
fn stream(volume: &Volume, file: &OpenFile, mut each: impl FnMut(u64, &[u8])) {
    let mut request = vec![0; REQUEST];
    for at in (0..BLOCKS * PAGE).step_by(REQUEST) {
        assert_eq!(volume.read(file, at, &mut request).unwrap(), REQUEST);
        each(at, &request);
    }
}

#[test]
fn a_stream_takes_few_calls() {
    for suite in SUITES {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let file = file(&volume);
        let before = bench.store.calls();
        stream(&volume, &file, |_, bytes| {
            assert!(bytes.iter().all(|&byte| byte == 0))
        });
        // 96 requests, of which the first few come before it is known to be a stream; pieces of 2 MiB after that.
        let reads = bench.store.calls().since(&before).of(Call::Read);
        assert!(reads < 20, "{suite:?}: {reads} reads");
    }
}

/// What each block was last begun to be overwritten with, and what that ended for.
struct Versions {
    begun: Vec<AtomicU64>,
    done: Vec<AtomicU64>,
}

impl Versions {
    fn new() -> Self {
        let none = || (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
        Self {
            begun: none(),
            done: none(),
        }
    }

    fn write(&self, volume: &Volume, file: &OpenFile, at: u64) {
        let index = at as usize;
        let version = self.begun[index].fetch_add(1, Ordering::SeqCst) + 1;
        volume.write(file, at * PAGE, &block(version)).unwrap();
        self.done[index].store(version, Ordering::SeqCst);
    }
}

/// Says that it is over when dropped.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Streams through the file again and again while a writer overwrites blocks in bursts; `drop_cache` is called between.
fn streams_see_every_write(volume: &Volume, drop_cache: &(impl Fn() + Sync)) {
    let file = file(volume);
    let versions = Versions::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&over); // also by a panic
        scope.spawn(|| {
            let mut rng = Rng(7);
            while !over.load(Ordering::SeqCst) {
                for _ in 0..rng.below(20) {
                    versions.write(volume, &file, rng.below(BLOCKS));
                }
                drop_cache();
                thread::sleep(Duration::from_millis(rng.below(12)));
            }
        });
        for _ in 0..30 {
            let done = || versions.done.iter().map(|done| done.load(Ordering::SeqCst));
            let mut before: Vec<_> = done().collect();
            stream(volume, &file, |at, bytes| {
                for (index, block) in bytes.chunks(PAGE as usize).enumerate() {
                    let index = (at / PAGE) as usize + index;
                    let version = u64::from_le_bytes(block[..8].try_into().unwrap());
                    assert!(
                        block.chunks(8).all(|part| part == version.to_le_bytes()),
                        "torn"
                    );
                    let begun = versions.begun[index].load(Ordering::SeqCst);
                    let (first, last) = (before[index], begun);
                    assert!(
                        (first..=last).contains(&version),
                        "{version} of {first} to {last}"
                    );
                }
                // For the request that comes next.
                before = done().collect();
            });
        }
    });
}

#[test]
fn a_stream_in_memory_sees_every_write_that_ended_before_its_request() {
    for suite in SUITES {
        let mut bench = Bench::new(suite);
        streams_see_every_write(&bench.open(), &|| {});
    }
}

/// Has the kernel forget the pages of all files here that are on the disk.
fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if let Ok(file) = std::fs::File::open(entry.path()) {
            let _best_effort =
                rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

#[test]
fn a_stream_on_a_disk_sees_every_write_that_ended_before_its_request() {
    for suite in SUITES {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(RealStore::open(folder.path()).unwrap());
        let volume = Bench::new(suite).open_on(store);
        streams_see_every_write(&volume, &|| forget(folder.path()));
    }
}
