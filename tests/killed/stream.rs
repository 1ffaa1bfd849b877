//! A program that writes files from one end to the other, in calls of 1 MiB: what it was told to be written is there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::random::{Random, pattern};

/// Bytes of a call.
const CALL: usize = 1 << 20;
/// Calls that go through a file.
const CALLS: usize = 40;

/// The file, and which version of each call's bytes it may have.
pub struct Stream {
    random: Random,
    /// The pass over the file.
    pass: u64,
    /// For each call the pass whose bytes are there; `None` before the first.
    acknowledged: Vec<Option<u64>>,
}

impl Stream {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            pass: 0,
            acknowledged: vec![None; CALLS],
        }
    }

    /// Passes over the file until the daemon is dead: the first time new, then over what is there, now and then read or synced.
    pub fn work(&mut self, path: &Path, acknowledged: &AtomicUsize) {
        let how = || {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
        };
        let Ok(file) = how() else { return };
        let mut work = || -> io::Result<()> {
            loop {
                self.pass += 1;
                for call in 0..CALLS {
                    file.write_all_at(&bytes(self.pass, call), (call * CALL) as u64)?;
                    self.acknowledged[call] = Some(self.pass);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    match self.random.below(60) {
                        0 => file.sync_data()?,
                        1 => drop_cache_and_read(&file, call)?,
                        _ => {}
                    }
                }
            }
        };
        let dead = work().unwrap_err().raw_os_error();
        assert!(
            [
                Some(libc::ENOTCONN),
                Some(libc::ECONNABORTED),
                Some(libc::EIO)
            ]
            .contains(&dead),
            "{dead:?}"
        );
    }

    /// All that was acknowledged is there; the call that was under way may have come to any part of itself, by blocks.
    pub fn verify(&mut self, path: &Path, when: &str) {
        let Ok(file) = File::open(path) else {
            assert!(
                self.acknowledged.iter().all(Option::is_none),
                "{when}: no file"
            );
            return;
        };
        let under_way = self
            .acknowledged
            .iter()
            .position(|pass| *pass != Some(self.pass));
        for call in 0..CALLS {
            let Some(pass) = self.acknowledged[call] else {
                continue;
            };
            let mut found = vec![0; CALL];
            file.read_exact_at(&mut found, (call * CALL) as u64)
                .unwrap_or_else(|error| panic!("{when}: MiB {call}: {error}"));
            let (old, new) = (bytes(pass, call), bytes(self.pass, call));
            let blocks = found
                .chunks(4096)
                .zip(old.chunks(4096).zip(new.chunks(4096)));
            for (block, (found, (old, new))) in blocks.enumerate() {
                let is_new = under_way == Some(call) && found == new;
                assert!(
                    found == old || is_new,
                    "{when}: MiB {call}, block {block}, of pass {pass}"
                );
            }
        }
        // What the call under way left is overwritten before anything else: the pass begins again with a new number.
        if let Some(call) = under_way {
            self.acknowledged[call] = None;
        }
    }
}

fn bytes(pass: u64, call: usize) -> Vec<u8> {
    pattern(CALL, pass << 8 | call as u64)
}

/// Has the store read what was just written.
fn drop_cache_and_read(file: &File, call: usize) -> io::Result<()> {
    let offset = (call * CALL) as u64;
    let len = std::num::NonZeroU64::new(CALL as u64);
    rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::DontNeed)?;
    file.read_exact_at(&mut vec![0; CALL], offset)
}
