//! A sync that runs beside the writer, so that slots are free before one runs out of them (FORMAT.md section 4, rule 4).
//!
//! Invariants: only versions that stood in the store when it began, and are as they were, count as durable by it, and only if nothing
//! but versions in free slots was written since. Nobody is promised anything by it. No other sync of the file runs at the same
//! time: whichever of the two is told of a failure, the next one must know.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::store::File;
use crate::volume::file::permits::Permits;

use super::block::Group;
use super::choose::Job;
use super::{GcmBody, Turn};

/// Looks that find none ended: in tests, so that writes fall into it.
const LATE: u32 = if cfg!(test) { 3 } else { 0 };

/// At a time: a device that is slow must not be met by a thread for each file.
static PERMITS: Permits = Permits::of_process(16);

/// One under way, or at its end and not looked at. Who drops it waits for its end: the file may get other contents, whose failures it
/// must not be told.
pub(super) struct Beside {
    /// Taken by who waits for it.
    sync: Option<JoinHandle<io::Result<()>>>,
    /// The groups with anything that was not durable when it began, as they were.
    groups: Vec<(u32, Arc<Group>)>,
    /// `Ledger::unusual` when it began.
    unusual: u64,
    /// How often was looked whether it has ended.
    looks: u32,
}

impl Beside {
    fn is_over(&mut self) -> bool {
        self.looks += 1;
        self.looks > LATE && self.sync.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn wait(&mut self) -> io::Result<()> {
        let ended = self.sync.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.wait(); // of contents that are gone
    }
}

/// `None`: there can be none now.
fn begin(file: Arc<dyn File>, permits: &'static Permits) -> Option<JoinHandle<io::Result<()>>> {
    let permit = permits.take()?;
    let sync = move || {
        let _permit = permit;
        file.sync_data()
    };
    let thread = thread::Builder::new().name("beside".to_owned());
    thread.spawn(sync).ok()
}

impl GcmBody {
    /// Begins one after a change of a group that left it few free slots.
    pub(super) fn sync_beside(&self, _turn: &Turn<'_>, job: &Job) {
        let mut beside = self.lock_beside();
        if beside.is_some() || !job.is_scarce() {
            return;
        }
        let (groups, unusual) = {
            let memory = self.memory();
            if memory.ledger.failed {
                return;
            }
            (memory.table.all_unsynced(), memory.ledger.unusual())
        };
        let Some(sync) = begin(Arc::clone(&self.backing), &PERMITS) else {
            return; // the writer syncs when it has to
        };
        while cfg!(test) && !sync.is_finished() {
            thread::yield_now();
        }
        *beside = Some(Beside {
            sync: Some(sync),
            groups,
            unusual,
            looks: 0,
        });
    }

    /// Takes in what one that ended made durable.
    pub(super) fn look_beside(&self, _turn: &Turn<'_>) {
        let mut beside = self.lock_beside();
        if beside.as_mut().is_some_and(Beside::is_over) {
            self.take_in_beside(beside.take());
        }
    }

    /// As `look_beside`, once the one under way has ended; false if there is none.
    pub(super) fn wait_beside(&self, _turn: &Turn<'_>) -> bool {
        let beside = self.lock_beside().take();
        let any = beside.is_some();
        self.take_in_beside(beside);
        any
    }

    fn take_in_beside(&self, beside: Option<Beside>) {
        let Some(mut beside) = beside else { return };
        if let Err(error) = beside.wait() {
            tracing::warn!("a sync failed; the next one writes again what it was of: {error}");
            self.memory().ledger.failed = true;
            self.env.mark_unclean();
            return;
        }
        for (number, group) in std::mem::take(&mut beside.groups) {
            let mut memory = self.memory(); // not for all of them: readers wait
            if memory.ledger.failed || memory.ledger.unusual() != beside.unusual {
                return;
            }
            memory.table.synced_as(number, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::store::{MemoryStore, Store};

    #[test]
    fn there_are_so_many_at_a_time() {
        static NONE: Permits = Permits::new(0);
        static ONE: Permits = Permits::new(1);
        let file = MemoryStore::new().root().create(b"f", 0o600).unwrap();
        assert!(begin(Arc::clone(&file), &NONE).is_none());
        for _ in 0..3 {
            let sync = begin(Arc::clone(&file), &ONE).expect("the one before gave it back");
            sync.join().unwrap().unwrap();
        }
    }

    #[test]
    fn who_drops_one_waits_for_its_end() {
        let (end, ends) = mpsc::channel::<()>();
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let beside = Beside {
            sync: Some(thread::spawn(move || {
                let _ = ends.recv();
                told.store(true, Ordering::SeqCst);
                Ok(())
            })),
            groups: Vec::new(),
            unusual: 0,
            looks: 0,
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(30)); // who does not wait is past it by then
                end.send(()).unwrap();
            });
            drop(beside);
            assert!(ended.load(Ordering::SeqCst));
        });
    }
}
