//! The gate that each request of this process goes through, and that is shut when the mount goes to another process.
//!
//! Invariants: while it is shut nobody works for a request; one that was read then is not begun, and gets its answer only after the
//! gate is open again, or from the process that goes on. One gate for the whole process: it leaves as a whole.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const OPEN: u8 = 0;
/// Requests wait.
const SHUT: u8 = 1;
/// Requests are let go without an answer.
const LEFT: u8 = 2;

/// Between two looks at who is still inside.
const LOOK: Duration = Duration::from_micros(200);

static GATE: Gate = Gate::new();

struct Gate {
    state: AtomicU8,
    inside: AtomicUsize,
    lock: Mutex<()>,
    moved: Condvar,
}

/// Somebody at work for a request.
pub(super) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Goes in, as soon as the gate is open. `None`: this process answers no more, and the request must be left as it is.
pub(super) fn enter() -> Option<Inside<'static>> {
    GATE.enter()
}

/// Shuts the gate and waits until nobody is inside; false, and open again, if that takes longer.
pub(super) fn shut(patience: Duration) -> bool {
    GATE.shut(patience)
}

/// Lets those who wait go without an answer.
pub(super) fn leave() {
    GATE.set(LEFT);
}

/// Opens it.
pub(super) fn open() {
    GATE.set(OPEN);
}

impl Gate {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(OPEN),
            inside: AtomicUsize::new(0),
            lock: Mutex::new(()),
            moved: Condvar::new(),
        }
    }

    fn enter(&self) -> Option<Inside<'_>> {
        loop {
            // First counted, then looked: whoever shuts the gate does it the other way round.
            self.inside.fetch_add(1, Ordering::SeqCst);
            let inside = Inside(self);
            match self.state.load(Ordering::SeqCst) {
                OPEN => return Some(inside),
                LEFT => return None,
                _ => {
                    drop(inside);
                    self.wait();
                }
            }
        }
    }

    fn wait(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.state.load(Ordering::SeqCst) == SHUT {
            lock = self
                .moved
                .wait(lock)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn shut(&self, patience: Duration) -> bool {
        self.set(SHUT);
        let begun = Instant::now();
        while self.inside.load(Ordering::SeqCst) > 0 {
            if begun.elapsed() > patience {
                self.set(OPEN);
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    fn set(&self, state: u8) {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(state, Ordering::SeqCst);
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_inside_a_gate_that_is_shut() {
        let gate = Gate::new();
        let inside = gate.enter().unwrap();
        assert!(!gate.shut(Duration::from_millis(20)), "one is inside");
        drop((inside, gate.enter().expect("it is open again")));
        assert!(gate.shut(Duration::from_secs(10)));
        thread::scope(|scope| {
            let waits = scope.spawn(|| gate.enter().is_some());
            thread::sleep(Duration::from_millis(30));
            assert!(!waits.is_finished());
            gate.set(OPEN);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn who_waits_when_the_process_leaves_goes_without_an_answer() {
        let gate = Gate::new();
        assert!(gate.shut(Duration::from_secs(10)));
        thread::scope(|scope| {
            let waits = scope.spawn(|| gate.enter().is_none());
            gate.set(LEFT);
            assert!(waits.join().unwrap());
        });
    }
}
