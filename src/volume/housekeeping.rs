//! The thread that settles what was idle for a while: files, and directories that moved. It gives memory back, too, after
//! many objects were forgotten.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::volume::dir_id::settle_moves;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::heap;
use crate::volume::sync::locked;

/// Time between two passes.
const EVERY: Duration = Duration::from_secs(2);
/// How long a file must have been left alone to be settled.
const IDLE: Duration = Duration::from_secs(5);
/// Forgotten objects whose memory, about 2 MiB, is worth a look through the heap.
const MANY: u64 = 10_000;

/// A thread that works until it is told to stop.
#[derive(Default)]
pub(crate) struct Housekeeping {
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Bell {
    stopping: Mutex<bool>,
    rung: Condvar,
}

impl Housekeeping {
    /// Starts it for a volume, which it does not keep alive; also again after `stop`.
    pub(crate) fn start(&self, volume: &Arc<Volume>) -> Result<()> {
        *locked(&self.bell.stopping) = false;
        let (bell, volume) = (Arc::clone(&self.bell), Arc::downgrade(volume));
        let thread = thread::Builder::new()
            .name("housekeeping".to_owned())
            .spawn(move || work(&bell, &volume))?;
        *locked(&self.thread) = Some(thread);
        Ok(())
    }

    /// Stops it and waits until it has.
    pub(crate) fn stop(&self) {
        self.tell();
        // The last reference to a volume may be the thread's own: that one is not waited for.
        let thread = locked(&self.thread)
            .take()
            .filter(|thread| thread.thread().id() != thread::current().id());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the housekeeping thread panicked");
        }
    }

    fn tell(&self) {
        *locked(&self.bell.stopping) = true;
        self.bell.rung.notify_all();
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(bell: &Bell, volume: &Weak<Volume>) {
    let mut told = String::new();
    let mut memory = Memory::default();
    loop {
        let stopping = locked(&bell.stopping);
        let waited = bell
            .rung
            .wait_timeout_while(stopping, EVERY, |stopping| !*stopping);
        let (stopping, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if *stopping {
            return;
        }
        drop(stopping);
        let Some(volume) = volume.upgrade() else {
            return;
        };
        let trouble = pass(&volume).map_or(String::new(), |error| error.to_string());
        if !trouble.is_empty() && trouble != told {
            tracing::warn!("something could not be settled and waits: {trouble}");
        }
        told = trouble;
        if memory.is_free(volume.nodes.forgotten()) {
            heap::give_back();
        }
    }
}

/// How many objects had been forgotten when memory was last given back, and at the last look.
#[derive(Default)]
struct Memory {
    given_back: u64,
    seen: u64,
}

impl Memory {
    /// Whether to give memory back, `forgotten` objects being forgotten by now: many, and no longer many more each time.
    fn is_free(&mut self, forgotten: u64) -> bool {
        let since = forgotten - self.seen;
        self.seen = forgotten;
        let free = forgotten - self.given_back >= MANY && since < MANY;
        if free {
            self.given_back = forgotten;
        }
        free
    }
}

/// One pass over what is idle; what failed is tried again in the next.
fn pass(volume: &Volume) -> Option<Error> {
    let files = volume.settler.pass(IDLE).error;
    let moves = settle_moves(volume).err();
    files.or(moves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_memory_back_once_after_many_were_forgotten() {
        let mut memory = Memory::default();
        let looks = [
            (MANY - 1, false),
            (MANY, true),
            (MANY, false),
            (3 * MANY, false), // they are still going
            (4 * MANY, false),
            (4 * MANY + 1, true),
            (4 * MANY + 1, false),
        ];
        for (forgotten, free) in looks {
            assert_eq!(memory.is_free(forgotten), free, "{forgotten}");
        }
    }
}
