//! Contents of a file through the shell, over a store in memory. What holds for both suites runs for both.

mod ahead;
mod calls;
mod headers;
mod random;
mod settling;

use std::sync::Arc;

use super::FileState;
use crate::format::ids::KeyVersion;
use crate::format::suite::Suite;
use crate::store::{FailingStore, MemoryStore};
use crate::volume::fixture::{Fixture, Mounted};

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    /// Often near the edge of a block.
    fn offset(&mut self, bound: u64) -> u64 {
        let at = self.below(bound);
        if self.below(2) == 0 {
            at
        } else {
            (at / 4096 * 4096 + self.below(3))
                .saturating_sub(1)
                .min(bound)
        }
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn all(file: &FileState) -> Vec<u8> {
    let size = file.size().unwrap();
    let mut out = vec![0xEE; size as usize + 5000];
    let read = file.read(0, &mut out).unwrap();
    assert_eq!(read as u64, size);
    out.truncate(read);
    out
}

struct Broken {
    fixture: Fixture,
    memory: Arc<MemoryStore>,
    store: Arc<FailingStore>,
    mounted: Mounted,
}

fn breakable(suite: Suite) -> Broken {
    let fixture = Fixture::new(suite);
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FailingStore::new(memory.clone()));
    let mounted = fixture.mount(store.clone(), 1, &[]);
    Broken {
        fixture,
        memory,
        store,
        mounted,
    }
}

impl Broken {
    /// A file of a later mount of the same store.
    fn reopened(&self) -> Arc<FileState> {
        self.fixture.mount(self.memory.clone(), 2, &[1]).file("f")
    }
}

fn rotate(fixture: &Fixture, mounted: &Mounted) {
    let current = fixture.keys.add_version();
    let versions: Vec<_> = (1..=current.0).map(KeyVersion).collect();
    mounted.allow(&versions);
}
