//! What a rotation costs: calls of the store for each file, and syncs for each batch of them.

use super::*;
use crate::store::Counts;
use crate::volume::rotate::batch_limit;

/// A volume with so many more files in one directory, all settled.
fn with_files(files: usize) -> (Setup, Arc<TestKeys>) {
    let keys = Homes::new().first;
    let setup = Setup::new(Suite::Gcm, &keys, None);
    let volume = setup.open(only(&keys)).unwrap();
    let (dir, _) = volume
        .make_dir(&volume.root(), b"many", 0o755, &USER)
        .unwrap();
    for n in 0..files {
        let (_, _, file) = volume
            .create(&dir, name(n).as_bytes(), 0o644, &USER, READ_WRITE)
            .unwrap();
        volume.write(&file, 0, b"x").unwrap();
    }
    volume.close().unwrap();
    (setup, keys)
}

/// What the store was asked for, and the most files and nodes that were held at the end of a batch.
struct Cost {
    calls: Counts,
    syncs: u64,
    files: usize,
    nodes: usize,
}

fn rotated(files: usize) -> Cost {
    let (setup, keys) = with_files(files);
    let volume = setup.open(only(&keys)).unwrap();
    volume.housekeeping.stop(); // whose passes are no part of this
    let before = (setup.store.calls(), setup.store.syncs());
    let (mut held, mut nodes) = (0, 0);
    let report = volume
        .rotate(&mut |_| {
            held = held.max(volume.settler.len());
            nodes = nodes.max(volume.nodes.len());
        })
        .unwrap();
    let (calls, syncs) = (setup.store.calls(), setup.store.syncs());
    assert_eq!(
        (report.rewrapped, report.headers, report.remaining),
        ((files + FILES) as u64, (files + FILES) as u64, 0)
    );
    volume.close().unwrap();
    Cost {
        calls: calls.since(&before.0),
        syncs: syncs - before.1,
        files: held,
        nodes,
    }
}

#[test]
fn a_rotation_makes_the_same_few_calls_for_each_file() {
    let (few, more) = (30, 90);
    assert!(more + FILES <= batch_limit());
    let (less, cost) = (rotated(few), rotated(more));
    let each = [
        (Call::Stat, 9),
        (Call::Open, 1), // two where the proof comes to it after another batch
        (Call::Read, 4),
        (Call::Write, 2),
        (Call::SetTimes, 2),
    ];
    for (call, times) in each {
        let grown = cost.calls.of(call) - less.calls.of(call);
        assert_eq!(grown, times * (more - few) as u64, "{call:?}");
    }
    assert_eq!(cost.syncs, less.syncs, "the files of a batch share them");
}

#[test]
fn a_rotation_syncs_once_a_batch_and_holds_no_more_than_two() {
    let (one, limit) = (rotated(1), batch_limit());
    let cost = rotated(3 * limit);
    assert_eq!(cost.syncs - one.syncs, 3);
    assert!(cost.files <= 2 * limit, "{} files held", cost.files);
    // Besides those of a batch: of the listing that the walk is at.
    assert!(
        cost.nodes <= 2 * limit + 2_000,
        "{} nodes of {limit} files",
        cost.nodes
    );
}
