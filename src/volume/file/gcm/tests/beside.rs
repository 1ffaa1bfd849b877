//! Syncs that run while blocks are overwritten one by one. In tests each ends at once and is looked at by the fourth writer after
//! it, or by one who needs a slot.

use std::sync::Arc;

use super::{Rng, all, gcm};
use crate::store::{Call, FailingStore, MemoryStore};
use crate::volume::file::FileState;
use crate::volume::fixture::{Fixture, Mounted};

const BLOCK: usize = 4096;
/// The first block of group 1, and what it has: 64 blocks and nine spare slots.
const FIRST: usize = 32;
const SPARE: usize = 9;
/// Overwritten blocks after which less than a quarter of them is free.
const SCARCE: usize = 7;

/// A durable file of groups 0 to 2, and what it is to hold.
struct Written {
    memory: Arc<MemoryStore>,
    store: Arc<FailingStore>,
    fixture: Fixture,
    mounted: Mounted,
    file: Arc<FileState>,
    plain: Vec<u8>,
    rng: Rng,
}

impl Written {
    fn new() -> Self {
        Self::with(FIRST + 2 * 64)
    }

    fn with(blocks: usize) -> Self {
        let fixture = gcm();
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FailingStore::new(memory.clone()));
        let mounted = fixture.mount(store.clone(), 1, &[]);
        let file = mounted.file("f");
        let mut rng = Rng(7);
        let plain = rng.bytes((blocks * BLOCK) as u64);
        file.write(0, &plain).unwrap();
        file.sync(false).unwrap();
        Self {
            memory,
            store,
            fixture,
            mounted,
            file,
            plain,
            rng,
        }
    }

    /// Overwrites blocks of group 1 from this one on.
    fn overwrite(&mut self, index: usize, blocks: usize) {
        let start = (FIRST + index) * BLOCK;
        let data = self.rng.bytes((blocks * BLOCK) as u64);
        self.file.write(start as u64, &data).unwrap();
        let end = start + data.len();
        self.plain.resize(self.plain.len().max(end), 0);
        self.plain[start..end].copy_from_slice(&data);
    }

    fn syncs(&self) -> u64 {
        self.memory.calls().of(Call::SyncFile)
    }

    /// Readers see it, who comes after a kill, and who comes after a clean end.
    fn holds(self) {
        assert!(all(&self.file) == self.plain);
        let killed = Arc::new(self.memory.snapshot());
        let killed = self.fixture.mount(killed, 2, &[1]).file("f");
        assert!(all(&killed) == self.plain, "killed");
        self.mounted.settler.settle_all().unwrap();
        let strict = self.fixture.mount(self.memory, 2, &[]).file("f");
        assert!(all(&strict) == self.plain, "strict");
    }
}

#[test]
fn it_begins_while_there_are_slots_and_gives_back_those_of_what_it_covered() {
    let mut f = Written::new();
    let before = f.syncs();
    (0..SCARCE - 1).for_each(|index| f.overwrite(index, 1));
    assert_eq!(f.syncs(), before);
    f.overwrite(SCARCE - 1, 1);
    assert_eq!(f.syncs(), before + 1, "two slots are free");
    // Two more into those, and then it is needed: it gave back seven, which make it scarce again after five.
    (SCARCE..SPARE).for_each(|index| f.overwrite(index, 1));
    (0..4).for_each(|index| f.overwrite(20 + index, 1));
    assert_eq!(f.syncs(), before + 1);
    f.overwrite(24, 1);
    assert_eq!(f.syncs(), before + 2);
    f.holds();
}

#[test]
fn a_block_that_was_written_again_meanwhile_keeps_its_durable_version() {
    let mut f = Written::new();
    let before = f.syncs();
    (0..SCARCE).for_each(|index| f.overwrite(index, 1));
    (0..3).for_each(|index| f.overwrite(index, 1));
    // It covered four: three of the seven are not as they were. So six of nine are free, and four more make it scarce.
    (0..3).for_each(|index| f.overwrite(20 + index, 1));
    assert_eq!(f.syncs(), before + 1);
    f.overwrite(23, 1);
    assert_eq!(f.syncs(), before + 2);
    f.holds();
}

#[test]
fn it_counts_for_nothing_where_the_file_grew_meanwhile() {
    for grows in [false, true] {
        let mut f = Written::new();
        (0..SCARCE).for_each(|index| f.overwrite(index, 1));
        if grows {
            f.file.set_size(f.plain.len() as u64 + 1).unwrap();
            f.plain.push(0);
        } else {
            f.overwrite(64 + 20, 1);
        }
        (SCARCE..SPARE).for_each(|index| f.overwrite(index, 1));
        let before = f.syncs();
        f.overwrite(20, 1);
        assert_eq!(
            f.syncs(),
            before + u64::from(grows),
            "a sync of the writer's own"
        );
        f.holds();
    }
}

#[test]
fn one_that_fails_is_repaired_by_the_next_sync() {
    let mut f = Written::new();
    (0..SCARCE - 1).for_each(|index| f.overwrite(index, 1));
    f.store.fail_once(&[Call::SyncFile], 0, libc::EIO);
    (SCARCE - 1..SPARE).for_each(|index| f.overwrite(index, 1));
    let before = f.memory.writes();
    f.file.sync(false).unwrap();
    let again = f.memory.writes().since(&before).of(Call::Write);
    assert!(again > SPARE as u64, "{again} writes");
    assert!(!f.mounted.env.may_end_clean());
    f.holds();
}

/// 40 blocks and six spare slots in group 1, which a write goes over and grows.
#[test]
fn one_that_fails_is_repaired_before_records_and_data_of_a_write_in_place() {
    let mut f = Written::with(FIRST + 40);
    (0..4).for_each(|index| f.overwrite(index, 1));
    f.store.fail_once(&[Call::SyncFile], 0, libc::EIO);
    let before = f.syncs();
    f.overwrite(4, 1);
    assert_eq!((f.store.failed(), f.syncs()), (1, before));
    f.overwrite(5, 40);
    assert_eq!(f.syncs(), before + 2, "one that repairs, and one between");
    f.holds();
}
