//! What wakes the housekeeping thread before its time, for who owns no thread. Invariant: a ring is kept until it is heard,
//! so none is lost, not even while no thread runs.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::volume::sync::locked;

/// Rung by anyone, heard by one thread. Its lock is the innermost of all.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    rung: bool,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The thread shall end.
    Stop,
    /// The time came.
    Time,
    /// Somebody rang since this was last heard.
    Rung,
}

impl Bell {
    /// Wakes the thread, or has its next wait end at once.
    pub(crate) fn ring(&self) {
        locked(&self.state).rung = true;
        self.changed.notify_all();
    }

    /// Ends every wait, until `resume`.
    pub(crate) fn stop(&self) {
        locked(&self.state).stopping = true;
        self.changed.notify_all();
    }

    /// After `stop`, for another thread.
    pub(crate) fn resume(&self) {
        locked(&self.state).stopping = false;
    }

    /// Waits for one of three. The time comes before a ring, so that many rings do not put off what is due.
    pub(crate) fn wait(&self, until: Instant) -> Woken {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self
            .changed
            .wait_timeout_while(locked(&self.state), left, |state| {
                !state.stopping && !state.rung
            });
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stopping {
            return Woken::Stop;
        }
        if !state.rung || Instant::now() >= until {
            return Woken::Time;
        }
        state.rung = false;
        Woken::Rung
    }

    /// Hears a ring, as `wait` does.
    #[cfg(test)]
    pub(crate) fn hear(&self) -> bool {
        std::mem::take(&mut locked(&self.state).rung)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// No test waits so long, unless what it waits for was lost.
    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_ring_is_heard_once_whenever_it_came() {
        let bell = Arc::new(Bell::default());
        bell.ring();
        bell.ring();
        assert_eq!(bell.wait(far()), Woken::Rung);
        assert_eq!(bell.wait(Instant::now()), Woken::Time);
        let waiting = Arc::clone(&bell);
        let thread = thread::spawn(move || waiting.wait(far()));
        bell.ring();
        assert_eq!(thread.join().unwrap(), Woken::Rung);
    }

    #[test]
    fn the_end_comes_before_all_and_the_time_before_a_ring_which_stays() {
        let bell = Arc::new(Bell::default());
        bell.ring();
        assert_eq!(bell.wait(Instant::now()), Woken::Time);
        bell.stop();
        assert_eq!(bell.wait(Instant::now()), Woken::Stop);
        assert_eq!(bell.wait(far()), Woken::Stop);
        bell.resume();
        assert_eq!(bell.wait(far()), Woken::Rung);
        let waiting = Arc::clone(&bell);
        let thread = thread::spawn(move || waiting.wait(far()));
        bell.stop();
        assert_eq!(thread.join().unwrap(), Woken::Stop);
    }
}
