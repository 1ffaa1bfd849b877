//! The thread that settles what was idle for a while: files, and directories that moved; and files sooner, where so many
//! wait that it was rung for. It gives memory back, too, after many objects were forgotten.

use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::volume::bell::{Bell, Woken};
use crate::volume::dir_id::settle_moves;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::heap;
use crate::volume::sync::locked;

/// Time between two passes.
const EVERY: Duration = Duration::from_secs(2);
/// How long a file must have been left alone to be settled.
const IDLE: Duration = Duration::from_secs(5);
/// The same, where so many wait that it was rung for. A program that makes files is done with each within milliseconds
/// (write, times, owner, rename: each would wait for a step of settling, and a rename costs more after it); one that
/// makes ten thousand a second has no more than a thousand so young, a fifth of the room where 20,000 descriptors are.
const IDLE_AHEAD: Duration = Duration::from_millis(100);
/// Forgotten objects whose memory, about 2 MiB, is worth a look through the heap.
const MANY: u64 = 10_000;

/// A thread that works until it is told to stop.
#[derive(Default)]
pub(crate) struct Housekeeping {
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Housekeeping {
    /// What has it settle at once; also before it is started.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Starts it for a volume, which it does not keep alive; also again after `stop`.
    pub(crate) fn start(&self, volume: &Arc<Volume>) -> Result<()> {
        self.bell.resume();
        let (bell, volume) = (Arc::clone(&self.bell), Arc::downgrade(volume));
        let thread = thread::Builder::new()
            .name("housekeeping".to_owned())
            .spawn(move || work(&bell, &volume))?;
        *locked(&self.thread) = Some(thread);
        Ok(())
    }

    /// Stops it and waits until it has.
    pub(crate) fn stop(&self) {
        self.bell.stop();
        // The last reference to a volume may be the thread's own: that one is not waited for.
        let thread = locked(&self.thread)
            .take()
            .filter(|thread| thread.thread().id() != thread::current().id());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the housekeeping thread panicked");
        }
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
    let mut next = Instant::now() + EVERY;
    loop {
        let woken = bell.wait(next);
        if woken == Woken::Stop {
            return;
        }
        let Some(volume) = volume.upgrade() else {
            return;
        };
        if woken == Woken::Rung {
            if let Some(error) = volume.settler.pass_ahead(IDLE_AHEAD).error {
                tell(&mut told, &error);
            }
            continue;
        }
        match pass(&volume) {
            Some(error) => tell(&mut told, &error),
            None => told.clear(),
        }
        if memory.is_free(volume.nodes.forgotten()) {
            heap::give_back();
        }
        next = Instant::now() + EVERY;
    }
}

/// Says what went wrong, once as long as it is the same.
fn tell(told: &mut String, error: &Error) {
    let trouble = error.to_string();
    if trouble != *told {
        tracing::warn!("something could not be settled and waits: {trouble}");
    }
    *told = trouble;
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
    volume.held.close_idle();
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
