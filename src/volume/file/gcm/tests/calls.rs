//! What operations cost in calls of the store.

use std::sync::Arc;

use super::{all, gcm};
use crate::store::{Call, Counts, MemoryStore, Store};
use crate::volume::fixture::Fixture;

const BLOCK: u64 = 4096;
/// The first block of group 1.
const GROUP_1: u64 = 32 * BLOCK;

fn cost(store: &MemoryStore, act: impl FnOnce()) -> Counts {
    let before = store.calls();
    act();
    store.calls().since(&before)
}

fn made() -> (Fixture, Arc<MemoryStore>) {
    (gcm(), Arc::new(MemoryStore::new()))
}

#[test]
fn a_first_write_is_one_length_and_one_write() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    let counts = cost(&store, || file.write(0, &[1; 5000]).unwrap());
    assert_eq!((counts.of(Call::SetLen), counts.of(Call::Write)), (1, 1));
}

#[test]
fn an_overwritten_block_is_data_and_record() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &vec![1; 300 * BLOCK as usize]).unwrap();
    file.sync(false).unwrap();
    for block in [0, 31, 32, 95, 299] {
        let counts = cost(&store, || file.write(block * BLOCK, &[2; 4096]).unwrap());
        assert_eq!(
            (
                counts.of(Call::SetLen),
                counts.of(Call::Write),
                counts.of(Call::Read)
            ),
            (0, 2, 0),
            "block {block}"
        );
    }
}

#[test]
fn who_overwrites_on_has_the_next_records_asked_for_and_nobody_else() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &vec![1; 2048 * BLOCK as usize]).unwrap();
    mounted.settler.settle_all().unwrap();
    drop(file);
    let mounted = fixture.mount(store.clone(), 2, &[]);
    let file = mounted.file("f");
    let data = vec![2; 256 * BLOCK as usize];
    let asked = |block: u64| {
        let counts = cost(&store, || file.write(block * BLOCK, &data).unwrap());
        counts.of(Call::WillNeed)
    };
    assert_eq!(asked(1024), 0, "the first");
    assert_eq!(asked(1280), 4);
    assert_eq!(asked(1536), 4);
    assert_eq!(asked(256), 0, "elsewhere");
    assert_eq!(asked(1792), 0, "elsewhere again");
    assert_eq!(asked(768), 0);
    assert_eq!(asked(1024), 0, "they are known");
}

#[test]
fn who_comes_in_no_order_has_the_records_of_all_groups_asked_for_once() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &vec![1; (GROUP_1 + 31 * 64 * BLOCK) as usize])
        .unwrap();
    mounted.settler.settle_all().unwrap();
    drop(file);
    let file = fixture.mount(store.clone(), 2, &[]).file("f");
    let mut page = vec![0; BLOCK as usize];
    // Blocks that do not come with their group's records, from the last group to the first; each slot is asked for, too.
    let groups = || (1..32).rev();
    let mut asked = |group: u64| {
        let offset = GROUP_1 + (64 * (group - 1) + 1) * BLOCK;
        let counts = cost(&store, || {
            assert_eq!(file.read(offset, &mut page).unwrap(), page.len())
        });
        counts.of(Call::WillNeed)
    };
    let counts: Vec<u64> = groups().map(&mut asked).collect();
    // The own group and one more, then two more, until they meet those that were read; group 0 came with the header.
    assert_eq!(counts[..8], [1; 8]);
    assert_eq!(counts[8..15], [3; 7]);
    assert_eq!(counts[15..18], [4; 3]);
    assert_eq!(counts[18..], [1; 13]);
    assert!(groups().all(|group| asked(group) == 0), "all are known");
}

#[test]
fn an_appended_block_is_length_data_record_and_state() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &[1; 8192]).unwrap();
    let counts = cost(&store, || file.write(8192, &[2; 4096]).unwrap());
    assert_eq!((counts.of(Call::SetLen), counts.of(Call::Write)), (1, 3));
}

#[test]
fn new_groups_are_one_write_each_and_read_with_one_call_each() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &vec![1; GROUP_1 as usize]).unwrap();
    let data: Vec<u8> = (0..256 * BLOCK).map(|at| (at / 7) as u8).collect();
    let counts = cost(&store, || file.write(GROUP_1, &data).unwrap());
    assert_eq!(
        (counts.of(Call::SetLen), counts.of(Call::Write)),
        (1, 4 + 1)
    );
    let mut out = vec![0; data.len()];
    let warm = cost(&store, || {
        assert_eq!(file.read(GROUP_1, &mut out).unwrap(), data.len())
    });
    assert!(out == data);
    assert_eq!(warm.of(Call::Read), 4);
    mounted.settler.settle_all().unwrap();
    let again = fixture.mount(store.clone(), 2, &[]).file("f");
    again.size().unwrap();
    let cold = cost(&store, || {
        assert_eq!(again.read(GROUP_1, &mut out).unwrap(), data.len())
    });
    assert!(out == data);
    assert_eq!(cold.of(Call::Read), 4);
}

#[test]
fn a_last_block_is_read_with_those_before_it_where_it_has_room() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    let size = 3 * BLOCK as usize + 100;
    let data: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
    file.write(0, &data).unwrap();
    for (offset, room, calls) in [
        (0, 4 * BLOCK as usize, 1),
        (0, size, 2),
        (BLOCK as usize, 9 * BLOCK as usize, 1),
        (BLOCK as usize + 7, 9 * BLOCK as usize, 2),
        (size - 1, BLOCK as usize, 1),
        (size, BLOCK as usize, 0),
        (size + 5000, BLOCK as usize, 0),
    ] {
        let mut out = vec![0xEE; room];
        let read = size.saturating_sub(offset).min(room);
        let counts = cost(&store, || {
            assert_eq!(file.read(offset as u64, &mut out).unwrap(), read);
        });
        let said = format!("{room} bytes from {offset}");
        assert!(out[..read] == data[offset.min(size)..][..read], "{said}");
        assert_eq!(counts.total(), calls, "{said}");
    }
}

#[test]
fn settling_costs_seven_calls_a_file_and_three_syncs_a_pass() {
    let settled = |files: u64| {
        let (fixture, store) = made();
        let mounted = fixture.mount(store.clone(), 1, &[]);
        for n in 0..files {
            mounted.file(&n.to_string()).write(0, &[1; 3000]).unwrap();
        }
        let counts = cost(&store, || mounted.settler.settle_all().unwrap());
        assert_eq!(mounted.settler.len(), 0);
        counts
    };
    for files in [1, 40] {
        let counts = settled(files);
        let each = [
            (Call::Stat, 3), // its links; its mtime before each step
            (Call::Write, 2),
            (Call::SetTimes, 2),
        ];
        for (call, times) in each {
            assert_eq!(counts.of(call), times * files, "{call:?}");
        }
        assert_eq!(counts.of(Call::SyncStore), 3);
        assert_eq!(counts.total(), 7 * files + 3, "{counts:?}");
    }
}

#[test]
fn groups_overwritten_in_place_share_one_sync() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &vec![1; 288 * BLOCK as usize]).unwrap();
    file.sync(false).unwrap();
    let cost_of = |byte| {
        let data = vec![byte; 256 * BLOCK as usize];
        let counts = cost(&store, || file.write(GROUP_1, &data).unwrap());
        (counts.of(Call::SyncFile), counts.of(Call::Write))
    };
    // Four groups, each its records and its data.
    assert_eq!(cost_of(2), (1, 8));
    // Not again before a sync: one more, for all.
    assert_eq!(cost_of(3), (2, 8));
    assert!(all(&file) == [vec![1; GROUP_1 as usize], vec![3; 256 * 4096]].concat());
}

#[test]
fn a_stream_over_old_data_syncs_once_a_request() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    let (step, steps) = (256 * BLOCK as usize, 4);
    file.write(0, &vec![1; step * steps]).unwrap();
    file.sync(false).unwrap();
    for n in 0..steps {
        // Each ends within a group: the next one finds blocks of that group written in place, not durable, beside its own.
        let data = vec![n as u8 + 2; step];
        let counts = cost(&store, || file.write((n * step) as u64, &data).unwrap());
        assert_eq!(counts.of(Call::SyncFile), 1, "request {n}");
    }
    let expected: Vec<u8> = (0..steps).flat_map(|n| vec![n as u8 + 2; step]).collect();
    assert!(all(&file) == expected);
    file.sync(false).unwrap();
    mounted.settler.settle_all().unwrap();
    assert!(all(&fixture.mount(store, 2, &[]).file("f")) == expected);
}

#[test]
fn a_sparse_file_costs_nothing_for_what_was_skipped() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    let far = 1 << 40;
    let counts = cost(&store, || {
        file.write(0, b"start").unwrap();
        file.write(far, b"end").unwrap();
        file.set_size(far * 2).unwrap();
        assert_eq!(file.next_hole(0).unwrap(), BLOCK);
        assert_eq!(file.next_data(BLOCK).unwrap(), Some(far));
        file.zero(BLOCK, far - BLOCK, true).unwrap();
        file.sync(false).unwrap();
    });
    assert!(counts.total() < 60, "{counts:?}");
    mounted.settler.settle_all().unwrap();
    let again = fixture.mount(store.clone(), 2, &[]).file("f");
    let mut out = [9; 8];
    assert_eq!(again.read(far - 3, &mut out).unwrap(), 8);
    assert_eq!(&out, b"\0\0\0end\0\0");
    again.write(far / 2 + 100, b"middle").unwrap();
    assert_eq!(again.read(far / 2 + 98, &mut out).unwrap(), 8);
    assert_eq!(&out, b"\0\0middle");
    again.set_size(6).unwrap();
    assert_eq!(all(&again), b"start\0");
}

#[test]
fn punched_blocks_go_back_to_the_store() {
    let (fixture, store) = made();
    let mounted = fixture.mount(store.clone(), 1, &[]);
    let file = mounted.file("f");
    file.write(0, &vec![1; 100 * BLOCK as usize]).unwrap();
    let before = file.backing().stat().unwrap().blocks;
    file.zero(10 * BLOCK + 5, 60 * BLOCK, true).unwrap();
    let after = file.backing().stat().unwrap().blocks;
    assert!(before - after >= 55 * 8, "{before} to {after}");
    let mut plain = vec![1; 100 * BLOCK as usize];
    plain[10 * 4096 + 5..70 * 4096 + 5].fill(0);
    assert!(all(&file) == plain);
    let dyn_store: &dyn Store = store.as_ref();
    dyn_store.sync().unwrap();
}
