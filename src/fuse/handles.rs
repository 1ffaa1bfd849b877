//! Open files by the handle numbers that the kernel holds, and the buffers that reads fill.
//!
//! Invariant: a handle number is never given twice; a handle lives until the kernel released it and no request uses it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::FileHandle;

use crate::volume::{Error, OpenFile, Result};

/// Locks among which the table is divided.
const SHARDS: usize = 16;

/// All open files.
#[derive(Default)]
pub(super) struct Handles {
    last: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<OpenFile>>>; SHARDS],
}

impl Handles {
    /// A number for an open file that is to be `put`, from 1 up.
    pub(super) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a file in under `next`, or back under the number that the kernel has for it.
    pub(super) fn put(&self, number: u64, file: OpenFile) {
        self.last.fetch_max(number, Ordering::Relaxed);
        self.shard(number).insert(number, Arc::new(file));
    }

    /// Every open file with its number.
    pub(super) fn all(&self) -> Vec<(u64, Arc<OpenFile>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(
                shard
                    .iter()
                    .map(|(number, file)| (*number, Arc::clone(file))),
            );
        }
        all
    }

    /// The last number given.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Gives only numbers after this one.
    pub(super) fn go_on_after(&self, last: u64) {
        self.last.fetch_max(last, Ordering::Relaxed);
    }

    /// The open file of a number; EBADF if there is none.
    pub(super) fn find(&self, handle: FileHandle) -> Result<Arc<OpenFile>> {
        self.shard(handle.0)
            .get(&handle.0)
            .cloned()
            .ok_or_else(|| Error::errno(libc::EBADF))
    }

    /// Takes a file out; the last request that uses it closes it.
    pub(super) fn release(&self, handle: FileHandle) {
        let released = self.shard(handle.0).remove(&handle.0);
        drop(released); // after the lock: closing may call the store
    }

    /// Takes out every file that was opened on this node: for a kernel that has begun to open files by itself, and releases none
    /// any more that it had before.
    pub(super) fn release_all_of(&self, node: u64) {
        if self.last() == 0 {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let released: Vec<_> = shard
                .extract_if(|_, file| file.node().id() == node)
                .collect();
            drop(shard);
            drop(released);
        }
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<OpenFile>>> {
        let [first, ..] = &self.shards;
        let shard = self.shards.get(number as usize % SHARDS).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a page of memory. The kernel takes an answer page by page: one that begins within a page costs it two for each.
const PAGE: usize = 4096;

/// Runs `work` on this thread's read buffer, `len` bytes of it from the beginning of a page; what they hold is of no meaning.
pub(super) fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len + PAGE {
            buffer.resize(len + PAGE, 0);
        }
        let start = buffer.as_ptr().align_offset(PAGE).min(PAGE); // or anywhere: it is only slower
        let (_, room) = buffer.split_at_mut(start);
        let (room, _) = room.split_at_mut(len);
        work(room)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_with_a_page_however_it_grows() {
        for len in [1, 4096, 5000, 131_072, 1 << 20, 100] {
            let (start, size) = with_buffer(len, |buffer| (buffer.as_ptr().addr(), buffer.len()));
            assert_eq!((start % PAGE, size), (0, len));
        }
    }
}
