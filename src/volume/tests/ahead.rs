//! The thread that settles ahead, in a whole volume.

use std::thread;
use std::time::Duration;

use super::*;
use crate::volume::fixture::USER;

#[test]
fn a_volume_has_its_thread_woken_for_waiting_files_also_for_what_came_while_there_was_none() {
    let volume = Bench::new(Suite::Gcm).open();
    volume.settler.set_room(2);
    // Each file is half of the room.
    let make = |name: &str| {
        let (_, _, file) = volume
            .create(&volume.root(), name.as_bytes(), 0o644, &USER, READ_WRITE)
            .unwrap();
        volume.write(&file, 0, b"data").unwrap();
    };
    // That nobody is woken would show in that this does not end.
    let wait_for = |passes: usize| {
        while volume.settler.passes_ahead() < passes {
            thread::sleep(Duration::from_millis(1));
        }
    };
    assert_eq!(volume.settler.passes_ahead(), 0);
    make("a");
    wait_for(1);
    volume.housekeeping.stop();
    make("b");
    assert_eq!(volume.settler.passes_ahead(), 1);
    volume.housekeeping.start(&volume).unwrap();
    wait_for(2);
    volume.close().unwrap();
    assert_eq!(volume.settler.passes_ahead(), 2);
}
