//! Files under GCM-SIV: damage in every region, counts of calls, stores that fail. Power cuts: `volume::tests::power`.

mod beside;
mod calls;
mod damage;
mod faults;
mod shrink;

use std::sync::Arc;

use crate::format::suite::Suite;
use crate::store::{File, MemoryStore, Store, Traits};
use crate::volume::file::FileState;
use crate::volume::fixture::{Fixture, Mounted, place};

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    /// Bytes that differ from those of other calls, in every block.
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![self.below(255) as u8 + 1; len as usize];
        for piece in bytes.chunks_mut(512) {
            let mark = self.below(1 << 30).to_le_bytes();
            piece
                .iter_mut()
                .zip(mark)
                .for_each(|(byte, mark)| *byte = mark);
        }
        bytes
    }
}

/// A mount over a store that cannot sync as a whole, so that each file is synced by itself.
fn mount(fixture: &Fixture, epoch: u64, listed: &[u64]) -> Mounted {
    let traits = Traits {
        syncfs_reports: false,
        atomic_page: true,
        unsafe_journal: false,
    };
    fixture.mount(Arc::new(MemoryStore::with_traits(traits)), epoch, listed)
}

fn open(mounted: &Mounted, backing: Arc<dyn File>) -> Arc<FileState> {
    FileState::new(
        &mounted.env,
        &mounted.settler,
        backing,
        true,
        place("f"),
        mounted.env.root.clone(),
    )
}

/// A file in memory that holds this.
fn holding(bytes: &[u8]) -> Arc<dyn File> {
    let file = MemoryStore::new().root().create(b"f", 0o600).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn bytes_of(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.stat().unwrap().size as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn gcm() -> Fixture {
    Fixture::new(Suite::Gcm)
}

fn all(file: &FileState) -> Vec<u8> {
    let size = file.size().unwrap();
    let mut out = vec![0xEE; size as usize];
    assert_eq!(file.read(0, &mut out).unwrap() as u64, size);
    out
}
