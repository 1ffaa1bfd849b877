//! After an answer its thread looks out a few microseconds for the next request before it sleeps for it: a program that asks one
//! thing after the other then waits for no thread to wake, which is much of what a small request costs (docs/PERFORMANCE.md).
//!
//! Invariants: one thread lingers at a time, none while another works for a request, and seldom where that led to nothing
//! lately. Nothing is read here: fuser reads. One post for the whole process, as there is one gate.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::gate;

/// Luck, at most; each request that came in time adds `WON`, each vain wait takes one.
const MOST: u32 = 64;
const WON: u32 = 8;
/// Without luck, one answer of so many is tried.
const SELDOM: u32 = 32;

static POST: OnceLock<Post> = OnceLock::new();

thread_local! {
    /// Whether this thread does not read requests itself.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// Has the serving threads of this process linger at a connection, each time for so long; not where there is one processor,
/// which the next request needs for itself.
pub(super) fn at(device: &Arc<OwnedFd>, time: Duration) {
    let alone = thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    if !alone && !time.is_zero() {
        let _there_already = POST.set(Post::new(Arc::clone(device), time));
    }
}

/// Waits for the next request, if this seems worth it.
pub(super) fn linger() {
    if let Some(post) = POST.get()
        && !ASIDE.get()
    {
        post.linger();
    }
}

/// Says that this thread answers requests, and reads none.
pub(super) fn never_here() {
    ASIDE.set(true);
}

struct Post {
    device: Arc<OwnedFd>,
    time: Duration,
    taken: AtomicBool,
    luck: AtomicU32,
    passed: AtomicU32,
}

impl Post {
    fn new(device: Arc<OwnedFd>, time: Duration) -> Self {
        Self {
            device,
            time,
            taken: AtomicBool::new(false),
            luck: AtomicU32::new(MOST),
            passed: AtomicU32::new(0),
        }
    }

    fn linger(&self) {
        if gate::is_used() || !self.is_worth_it() || self.taken.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(came) = self.look_out(gate::is_used) {
            self.learn(came);
        }
        self.taken.store(false, Ordering::Relaxed);
    }

    fn is_worth_it(&self) -> bool {
        self.luck.load(Ordering::Relaxed) > 0
            || self
                .passed
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(SELDOM)
    }

    /// Whether a request came in time; `None`: one that another thread took.
    fn look_out(&self, is_at_work: impl Fn() -> bool) -> Option<bool> {
        let begun = Instant::now();
        let now = Timespec::default();
        loop {
            let mut asked = [PollFd::from_borrowed_fd(self.device.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut asked, Some(&now)), Ok(0)) {
                return Some(true); // or the connection ended, which is the reader's to find
            }
            if is_at_work() {
                return None;
            }
            if begun.elapsed() >= self.time {
                return Some(false);
            }
        }
    }

    /// Only the thread that has the post changes its luck.
    fn learn(&self, came: bool) {
        let luck = self.luck.load(Ordering::Relaxed);
        let learned = match came {
            true => (luck + WON).min(MOST),
            false => luck.saturating_sub(1),
        };
        self.luck.store(learned, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn post(time: Duration) -> (Post, UnixStream) {
        let (device, kernel) = UnixStream::pair().unwrap();
        (Post::new(Arc::new(OwnedFd::from(device)), time), kernel)
    }

    #[test]
    fn whoever_lingers_goes_once_a_request_comes() {
        let (post, mut kernel) = post(Duration::MAX);
        thread::scope(|scope| {
            let lingers = scope.spawn(|| post.look_out(|| false));
            kernel.write_all(b"request").unwrap();
            assert_eq!(lingers.join().unwrap(), Some(true));
        });
    }

    #[test]
    fn a_connection_that_ended_is_waited_for_by_nobody() {
        let (post, kernel) = post(Duration::MAX);
        drop(kernel);
        assert_eq!(post.look_out(|| false), Some(true));
    }

    #[test]
    fn nobody_waits_longer_than_told_or_beside_one_at_work() {
        let (brief, _kernel) = post(Duration::ZERO);
        assert_eq!(brief.look_out(|| false), Some(false));
        let (long, _kernel) = post(Duration::MAX);
        assert_eq!(long.look_out(|| true), None);
    }

    #[test]
    fn vain_waits_become_seldom_and_one_request_in_time_brings_them_back() {
        let (post, _kernel) = post(Duration::ZERO);
        for _ in 0..MOST {
            assert!(post.is_worth_it());
            post.learn(false);
        }
        let tried = (0..10 * SELDOM).filter(|_| post.is_worth_it()).count();
        assert_eq!(tried, 10);
        post.learn(true);
        assert!((0..SELDOM).all(|_| post.is_worth_it()));
    }
}
