//! Room that is made before anybody has to wait for it. The test is the thread that hears the bell.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Broken, breakable};
use crate::format::suite::Suite;
use crate::store::Call;
use crate::volume::file::FileState;
use crate::volume::fixture::place;

const ROOM: usize = 16;
/// Nothing is left alone for so long.
const LONG: Duration = Duration::from_secs(3600);

/// A settler with room for so few files.
fn little_room(suite: Suite) -> Broken {
    let broken = breakable(suite);
    broken.mounted.settler.set_room(ROOM);
    broken
}

impl Broken {
    /// A new file with something in it, and the syncs of the store that its writer had to wait for.
    fn make(&self, n: usize) -> (Arc<FileState>, u64) {
        let file = self.mounted.file(&n.to_string());
        let syncs = self.counted(|| file.write(0, b"data").unwrap());
        (file, syncs)
    }

    /// The syncs of the store that this costs.
    fn counted(&self, act: impl FnOnce()) -> u64 {
        let before = self.memory.calls();
        act();
        self.memory.calls().since(&before).of(Call::SyncStore)
    }

    fn rung(&self) -> bool {
        self.mounted.bell.hear()
    }
}

#[test]
fn at_half_of_the_room_the_bell_is_rung_once_and_whoever_hears_it_spares_all_others_a_pass() {
    for (suite, syncs) in [(Suite::Gcm, 3), (Suite::Xts, 1)] {
        let broken = little_room(suite);
        let settler = &broken.mounted.settler;
        let mut rings = 0;
        for n in 1..=10 * ROOM {
            assert_eq!(broken.make(n).1, 0, "who makes file {n} waits for nothing");
            let rung = broken.rung();
            assert_eq!(rung, n % (ROOM / 2) == 0, "file {n}");
            if rung {
                rings += 1;
                let heard = broken.counted(|| {
                    let pass = settler.pass_ahead(Duration::ZERO);
                    assert!(pass.error.is_none() && pass.left == 0, "{pass:?}");
                });
                assert_eq!(heard, syncs);
            }
        }
        assert_eq!((rings, settler.passes_ahead()), (20, 20));
    }
}

#[test]
fn who_is_slow_to_hear_is_rung_for_once() {
    let broken = little_room(Suite::Gcm);
    let mut made = (1..ROOM).map(|n| broken.make(n).1);
    assert!(made.all(|syncs| syncs == 0));
    assert!(broken.rung());
    assert!(!broken.rung());
    broken.make(ROOM);
    assert!(!broken.rung(), "it knows that it was");
}

#[test]
fn files_in_use_have_no_pass_follow_another() {
    let broken = little_room(Suite::Gcm);
    let settler = &broken.mounted.settler;
    let mut files: Vec<_> = (1..=ROOM / 2).map(|n| broken.make(n).0).collect();
    assert!(broken.rung());
    let syncs = broken.counted(|| assert_eq!(settler.pass_ahead(LONG).left, ROOM / 2));
    assert_eq!(syncs, 0, "there was nothing to settle");
    for file in &files {
        file.write(0, b"more").unwrap();
    }
    for n in 1..ROOM / 4 {
        files.push(broken.make(ROOM / 2 + n).0);
        assert!(!broken.rung(), "{n} new ones");
    }
    files.push(broken.make(ROOM).0);
    assert!(broken.rung(), "a quarter of the room is new");
    // Settled, and written to again: they come, but are not new.
    for _ in 0..5 {
        assert_eq!(settler.pass_ahead(Duration::ZERO).left, 0);
        for file in &files {
            file.write(0, b"again").unwrap();
        }
        assert!(settler.len() > ROOM / 2);
        assert!(!broken.rung());
    }
}

#[test]
fn where_there_is_room_again_a_ring_costs_nothing() {
    let broken = little_room(Suite::Gcm);
    (1..=ROOM / 2).for_each(|n| drop(broken.make(n)));
    assert!(broken.rung());
    broken.mounted.settler.settle_all().unwrap();
    broken.make(ROOM);
    let before = broken.memory.calls();
    assert_eq!(broken.mounted.settler.pass_ahead(Duration::ZERO).left, 1);
    assert_eq!(broken.memory.calls().since(&before).total(), 0);
    let rings = (1..ROOM / 2).filter(|n| {
        broken.make(ROOM + n);
        broken.rung()
    });
    assert_eq!(rings.collect::<Vec<_>>(), [ROOM / 2 - 1], "it is rung anew");
}

#[test]
fn where_nobody_hears_who_finds_no_room_makes_it() {
    let broken = little_room(Suite::Gcm);
    for n in 1..=5 * ROOM {
        let full = n > 1 && n % ROOM == 1;
        assert_eq!(broken.make(n).1, if full { 3 } else { 0 }, "file {n}");
        assert_eq!(broken.mounted.settler.len(), (n - 1) % ROOM + 1);
    }
    assert_eq!(broken.mounted.settler.passes_ahead(), 0);
}

#[test]
fn of_many_that_find_no_room_one_makes_it() {
    let broken = little_room(Suite::Gcm);
    let files: Vec<_> = (1..=ROOM).map(|n| broken.make(n).0).collect();
    files[0].name_going(&place("1")); // it stays, so that each pass has something to sync
    let syncs = broken.counted(|| {
        thread::scope(|scope| {
            // The first pass gets no further than to this file before the others had time to come.
            let quiet = files[1].lock_quiet();
            for _ in 0..8 {
                scope.spawn(|| broken.mounted.settler.make_room());
            }
            thread::sleep(Duration::from_millis(50));
            drop(quiet);
        });
    });
    assert_eq!((syncs, broken.mounted.settler.len()), (3, 1));
}
