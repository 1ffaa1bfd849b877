//! Cutting a file down: what is left of it is what was there.

use std::sync::Arc;

use super::{Rng, all, gcm};
use crate::store::MemoryStore;

const BLOCK: u64 = 4096;

#[test]
fn keeps_blocks_in_slots_past_the_new_end_of_a_group_that_was_not_loaded() {
    let (fixture, store) = (gcm(), Arc::new(MemoryStore::new()));
    let mut rng = Rng(1);
    let mut plain = rng.bytes(51 * BLOCK);
    {
        let mounted = fixture.mount(store.clone(), 1, &[]);
        let file = mounted.file("f");
        file.write(0, &plain).unwrap();
        file.sync(false).unwrap();
        // Into spare slots, the last of their group.
        for block in [33, 42, 44] {
            let bytes = rng.bytes(BLOCK);
            let at = block * BLOCK;
            file.write(at, &bytes).unwrap();
            plain[at as usize..(at + BLOCK) as usize].copy_from_slice(&bytes);
        }
        mounted.settler.settle_all().unwrap();
    }
    let mounted = fixture.mount(store.clone(), 2, &[]);
    let file = mounted.file("f");
    let size = 45 * BLOCK - 10;
    file.set_size(size).unwrap();
    plain.truncate(size as usize);
    assert!(all(&file) == plain);
    mounted.settler.settle_all().unwrap();
    drop(file);
    let again = fixture.mount(store, 3, &[]);
    assert!(all(&again.file("f")) == plain);
}
