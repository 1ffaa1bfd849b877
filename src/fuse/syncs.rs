//! Syncs beside the serving threads: a sync waits for the disk, and the store's journal commits those that wait together as
//! one. Were only as many under way as threads serve, many clients would wait for each other, and readers for them.
//!
//! Invariant: of several serving threads at least half are free of syncs while there is room for threads beside them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Threads beside the serving ones at most.
const BESIDE: usize = 64;

/// The syncs under way.
#[derive(Clone)]
pub(super) struct Syncs {
    serving: usize,
    running: Arc<AtomicUsize>,
}

/// One of them, until it is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Syncs {
    /// For so many serving threads.
    pub(super) fn new(serving: usize) -> Self {
        Self {
            serving,
            running: Arc::default(),
        }
    }

    /// Runs a sync on this thread, or on one of its own where half of the serving threads have one already.
    pub(super) fn run(&self, sync: impl FnOnce() + Send + 'static) {
        let before = self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(Arc::clone(&self.running));
        if before < (self.serving / 2).max(1) || before >= self.serving + BESIDE {
            return sync();
        }
        let waiting = Arc::new(Mutex::new(Some(sync)));
        let taken = Arc::clone(&waiting);
        let spawned = thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || {
                run_once(&taken);
                drop(running);
            });
        if spawned.is_err() {
            run_once(&waiting); // no thread to be had
        }
    }
}

fn run_once(sync: &Mutex<Option<impl FnOnce()>>) {
    let sync = sync.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(sync) = sync {
        sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn own_name() -> Option<String> {
        thread::current().name().map(str::to_owned)
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
                    ran.send(own_name()).unwrap();
                    wait.recv().unwrap();
                });
            });
            assert_eq!(where_it_ran.recv().unwrap(), None, "where it came");
            syncs.run(move || ran_too.send(own_name()).unwrap());
            assert_eq!(where_it_ran.recv().unwrap().as_deref(), Some("sync"));
            done.send(()).unwrap();
        });
        while syncs.running.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
    }
}
