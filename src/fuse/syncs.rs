//! Syncs beside the serving threads: a sync waits for the disk, and the store's journal commits those that wait together as
//! one. Were only as many under way as threads serve, many clients would wait for each other, and readers for them.
//!
//! Invariant: of several serving threads at least half are free of syncs while there is room for threads beside them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::turns;

/// Threads beside the serving ones at most.
const BESIDE: usize = 64;
/// How long such a thread waits for another sync before it ends: starting one costs as much as all else about a request.
const PATIENCE: Duration = Duration::from_secs(2);

type Sync = Box<dyn FnOnce() + Send>;

/// The syncs under way.
#[derive(Clone)]
pub(super) struct Syncs {
    serving: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    /// Syncs that run on serving threads.
    here: usize,
    /// Syncs that no thread has begun.
    waiting: VecDeque<Sync>,
    /// Threads beside the serving ones.
    threads: usize,
    /// Those of them that wait for work; each of `waiting` has one.
    idle: usize,
}

impl Syncs {
    /// For so many serving threads.
    pub(super) fn new(serving: usize) -> Self {
        Self {
            serving,
            shared: Arc::default(),
        }
    }

    /// Runs a sync on this thread, or on one beside where half of the serving threads have one already.
    pub(super) fn run(&self, sync: impl FnOnce() + Send + 'static) {
        let _turn = turns::turn(); // which does not end while this thread still counts as one at a sync
        let mut state = self.shared.lock();
        if state.here < (self.serving / 2).max(1) {
            return self.run_here(state, sync);
        }
        if state.idle > state.waiting.len() {
            state.waiting.push_back(Box::new(sync));
            drop(state);
            return self.shared.more.notify_one();
        }
        if state.threads >= BESIDE || !self.shared.start_thread() {
            return self.run_here(state, sync);
        }
        // It counts as idle until it takes this one.
        state.threads += 1;
        state.idle += 1;
        state.waiting.push_back(Box::new(sync));
    }

    fn run_here(&self, mut state: MutexGuard<'_, State>, sync: impl FnOnce()) {
        state.here += 1;
        drop(state);
        let _here = Here(&self.shared);
        sync();
    }
}

/// A serving thread at a sync, until it is dropped.
struct Here<'a>(&'a Shared);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.lock().here -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: no thread is to be had.
    fn start_thread(self: &Arc<Self>) -> bool {
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("sync".to_owned());
        thread.spawn(move || shared.work()).is_ok()
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(sync) = state.waiting.pop_front() {
                state.idle -= 1;
                drop(state);
                sync(); // a panic in it is caught where the request is answered
                state = self.lock();
                state.idle += 1;
                continue;
            }
            let waited = self.more.wait_timeout(state, PATIENCE);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            if timeout.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                state.idle -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
impl State {
    fn all_idle(&self) -> bool {
        self.idle == self.threads && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread::ThreadId;

    fn own() -> (Option<String>, ThreadId) {
        let thread = thread::current();
        (thread.name().map(str::to_owned), thread.id())
    }

    #[test]
    fn the_second_half_of_the_serving_threads_stays_free() {
        let syncs = Syncs::new(2);
        let (done, wait) = mpsc::channel::<()>();
        let (ran, where_it_ran) = mpsc::channel();
        let ran_too = ran.clone();
        thread::scope(|scope| {
            let syncs = &syncs;
            scope.spawn(move || {
                syncs.run(move || {
                    ran.send(own()).unwrap();
                    wait.recv().unwrap();
                });
            });
            assert_eq!(where_it_ran.recv().unwrap().0, None, "where it came");
            syncs.run(move || ran_too.send(own()).unwrap());
            assert_eq!(where_it_ran.recv().unwrap().0.as_deref(), Some("sync"));
            done.send(()).unwrap();
        });
        assert_eq!(syncs.shared.lock().here, 0);
    }

    #[test]
    fn whoever_answers_within_a_sync_does_not_end_the_turn_of_its_thread() {
        let server = thread::Builder::new().name("fuser-0".to_owned());
        let (seen, saw) = mpsc::channel();
        let sync = move || Syncs::new(2).run(move || seen.send(turns::turn().is_none()).unwrap());
        server.spawn(sync).unwrap().join().unwrap();
        assert!(saw.recv().unwrap(), "it is in one already");
    }

    #[test]
    fn each_of_many_at_once_has_a_thread_that_the_next_ones_use_again() {
        let syncs = Syncs::new(1);
        let (hold, held) = mpsc::channel::<()>();
        let (ran, where_it_ran) = mpsc::channel();
        thread::scope(|scope| {
            let (syncs, first) = (&syncs, ran.clone());
            scope.spawn(move || {
                syncs.run(move || {
                    first.send(own()).unwrap();
                    held.recv().unwrap();
                });
            });
            where_it_ran.recv().unwrap();
            let threads = |many: usize| {
                let (open, gate) = mpsc::channel::<()>();
                let gate = Arc::new(Mutex::new(gate));
                for _ in 0..many {
                    let (ran, gate) = (ran.clone(), Arc::clone(&gate));
                    syncs.run(move || {
                        ran.send(own()).unwrap();
                        let _ = gate.lock().unwrap().recv(); // until `open` is gone
                    });
                }
                let mut ids: Vec<_> = (0..many).map(|_| where_it_ran.recv().unwrap().1).collect();
                drop(open);
                while !syncs.shared.lock().all_idle() {
                    thread::yield_now();
                }
                ids.sort_by_key(|id| format!("{id:?}"));
                ids.dedup();
                ids
            };
            let before = threads(8);
            assert_eq!(before.len(), 8, "all at once");
            assert_eq!(threads(8), before, "the same ones");
            hold.send(()).unwrap();
        });
    }
}
