//! How requests come, and what follows from it.
//!
//! While small requests follow each other, idle processors are kept awake (`awake`); while these come one at a time, one thread
//! serves (`turns`). A keeper begins both, looks every millisecond whether there still is reason for them, and sleeps when there is none.
//!
//! Invariant: when `keep` ends, however it does, no thread rests.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::awake::Wishes;
use super::mounted::Mounted;
use super::turns;

/// Requests between two looks at the clock.
const ROW: u32 = 16;
/// That many within this time follow each other.
const SOON: Duration = Duration::from_millis(4);
/// Bytes of content that count as one request more.
const LIKE_ONE: usize = 64 << 10;
/// Between two looks of the keeper.
const LOOK: Duration = Duration::from_millis(1);
/// With less than half of `ROW` in so many looks they do so no more.
const LOOKS: u32 = 4;
/// After so many looks in a row that saw at most one request under way they come one at a time.
const ALONE: u32 = 8;
/// After so many without a new request whoever has the last one may be held up by it.
const IDLE: u32 = 2;

/// One process serves one mount.
static PACE: Pace = Pace::new();

/// A request came.
pub(super) fn asked() {
    PACE.asked(1, Instant::now);
}

/// One with so many bytes of content came: a stream waits as often as many small requests do.
pub(super) fn moved(content: usize) {
    let more = u32::try_from(content / LIKE_ONE).unwrap_or(ROW);
    if more > 0 {
        PACE.asked(more, Instant::now);
    }
}

/// Does what follows from the pace of requests, until `end`.
pub(super) fn keep(means: &Means) {
    PACE.keep(means);
}

/// Ends `keep`, for good.
pub(super) fn end() {
    PACE.end();
}

/// What a keeper works with.
pub(super) trait Keeps {
    /// Idle processors stay awake, or no more.
    fn stay_awake(&self, awake: bool);
    /// How many requests are under way, if the kernel says.
    fn under_way(&self) -> Option<u32>;
    /// One thread is enough, or no more.
    fn one_is_enough(&self, enough: bool);
}

/// The real ones.
pub(super) struct Means {
    wishes: Wishes,
    /// The connection's directory in the control file system.
    connection: Option<OwnedFd>,
}

impl Means {
    /// `None`: nothing is to be won (see `Wishes::here`).
    pub(super) fn here(mounted: Option<&Mounted>) -> Option<Self> {
        Some(Self {
            wishes: Wishes::here()?,
            connection: mounted.and_then(|mounted| mounted.connection().ok()),
        })
    }
}

impl Keeps for Means {
    fn stay_awake(&self, awake: bool) {
        self.wishes.wish(awake);
    }

    fn under_way(&self) -> Option<u32> {
        // The kernel counts at the first read of an open file, and lets nobody go back in it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let connection = self.connection.as_ref()?;
        let file = rustix::fs::openat(connection, "waiting", flags, Mode::empty()).ok()?;
        let mut text = [0; 32];
        let len = rustix::io::read(&file, &mut text).ok()?;
        let text = std::str::from_utf8(text.get(..len)?).ok()?;
        text.trim_end().parse().ok()
    }

    fn one_is_enough(&self, enough: bool) {
        if enough {
            turns::one_is_enough();
        } else {
            turns::all_serve();
        }
    }
}

/// A time in which requests follow each other, until it is dropped.
struct Quick<'a, K: Keeps>(&'a K);

impl<'a, K: Keeps> Quick<'a, K> {
    fn begin(keeps: &'a K) -> Self {
        keeps.stay_awake(true);
        Self(keeps)
    }
}

impl<K: Keeps> Drop for Quick<'_, K> {
    fn drop(&mut self) {
        self.0.one_is_enough(false);
        self.0.stay_awake(false);
    }
}

struct Pace {
    requests: AtomicU32,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// When the last row ended.
    row: Option<Instant>,
    /// Requests follow each other.
    quick: bool,
    ended: bool,
}

impl Pace {
    const fn new() -> Self {
        Self {
            requests: AtomicU32::new(0),
            state: Mutex::new(State {
                row: None,
                quick: false,
                ended: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, many: u32, now: impl FnOnce() -> Instant) {
        let before = self.requests.fetch_add(many, Ordering::Relaxed);
        if before / ROW == before.wrapping_add(many) / ROW {
            return;
        }
        let now = now();
        let mut state = self.lock();
        let last = state.row.replace(now);
        if !state.quick && last.is_some_and(|last| now.saturating_duration_since(last) < SOON) {
            state.quick = true;
            self.changed.notify_all();
        }
    }

    fn keep(&self, keeps: &impl Keeps) {
        while self.is_quick() {
            let quick = Quick::begin(keeps);
            self.while_quick(keeps);
            drop(quick);
            self.lock().quick = false;
        }
    }

    /// Waits until requests follow each other; false: `end`.
    fn is_quick(&self) -> bool {
        let waited = self
            .changed
            .wait_while(self.lock(), |state| !state.quick && !state.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).ended
    }

    fn while_quick(&self, keeps: &impl Keeps) {
        let mut looks = Looks::from(self.requests.load(Ordering::Relaxed));
        while self.passes(LOOK) {
            let seen = looks.look(self.requests.load(Ordering::Relaxed), keeps.under_way());
            if seen == Seen::Few {
                return;
            }
            keeps.one_is_enough(seen == Seen::One);
        }
    }

    /// Waits so long; false: `end`.
    fn passes(&self, time: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), time, |state| !state.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// What the keeper saw so far.
struct Looks {
    /// Requests at the last look, and at the one from which `LOOKS` are counted.
    last: u32,
    first: u32,
    count: u32,
    /// In a row with at most one request under way.
    alone: u32,
    /// In a row without a new one.
    idle: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Requests that do not follow each other any more.
    Few,
    /// Requests one at a time.
    One,
    /// More, or none for a while.
    Some,
}

impl Looks {
    fn from(requests: u32) -> Self {
        Self {
            last: requests,
            first: requests,
            count: 0,
            alone: 0,
            idle: 0,
        }
    }

    fn look(&mut self, requests: u32, under_way: Option<u32>) -> Seen {
        let is_alone = under_way.is_some_and(|under_way| under_way <= 1);
        self.alone = if is_alone {
            self.alone.saturating_add(1)
        } else {
            0
        };
        let is_idle = requests == std::mem::replace(&mut self.last, requests);
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        self.count += 1;
        if self.count == LOOKS {
            let few = requests.wrapping_sub(self.first) < ROW / 2;
            (self.first, self.count) = (requests, 0);
            if few {
                return Seen::Few;
            }
        }
        if self.idle < IDLE && self.alone >= ALONE {
            Seen::One
        } else {
            Seen::Some
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    /// Requests at this distance from each other, and whether they follow each other then.
    fn quick(pace: &Pace, requests: u32, distance: Duration) -> bool {
        let begun = Instant::now();
        for count in 0..requests {
            pace.asked(1, || begun + distance * count);
        }
        pace.lock().quick
    }

    #[test]
    fn requests_follow_each_other_once_two_rows_come_in_time() {
        let distance = SOON / (ROW + 1);
        assert!(!quick(&Pace::new(), 2 * ROW - 1, distance));
        assert!(quick(&Pace::new(), 2 * ROW, distance));
        assert!(!quick(&Pace::new(), 100 * ROW, SOON / ROW));
    }

    #[test]
    fn a_stream_counts_as_the_small_requests_it_is_like() {
        let pace = Pace::new();
        let begun = Instant::now();
        for count in 0..2 {
            assert!(!pace.lock().quick);
            pace.asked(ROW, || begun + count * SOON / 2);
        }
        assert!(pace.lock().quick);
    }

    #[test]
    fn one_program_is_seen_as_one_until_another_comes_or_nothing() {
        let mut looks = Looks::from(7);
        let mut requests = 7;
        let mut look = |more: u32, under_way| {
            requests += more;
            looks.look(requests, under_way)
        };
        for _ in 1..ALONE {
            assert_eq!(look(5, Some(1)), Seen::Some);
        }
        assert_eq!(look(5, Some(0)), Seen::One);
        assert_eq!(look(50, Some(1)), Seen::One);
        assert_eq!(look(0, Some(1)), Seen::One, "once is nothing");
        assert_eq!(look(0, Some(1)), Seen::Some, "it may be held up");
        assert_eq!(look(5, Some(1)), Seen::One);
        assert_eq!(look(5, Some(2)), Seen::Some);
        for _ in 1..ALONE {
            assert_eq!(look(5, Some(1)), Seen::Some);
        }
        assert_eq!(look(5, Some(1)), Seen::One);
        assert_eq!(look(5, None), Seen::Some, "the kernel does not say");
    }

    #[test]
    fn few_requests_in_some_looks_are_the_end() {
        let mut looks = Looks::from(u32::MAX - 3);
        for _ in 1..LOOKS {
            assert_ne!(looks.look(ROW / 2, Some(1)), Seen::Few);
        }
        assert_ne!(looks.look(ROW / 2, Some(1)), Seen::Few, "wrapped around");
        for _ in 1..LOOKS {
            assert_ne!(looks.look(ROW - 1, Some(1)), Seen::Few);
        }
        assert_eq!(looks.look(ROW - 1, Some(1)), Seen::Few);
    }

    /// What a keeper did last.
    #[derive(Default)]
    struct Kept {
        awake: Mutex<Vec<bool>>,
        enough: Mutex<Vec<bool>>,
        fails: bool,
    }

    impl Keeps for Kept {
        fn stay_awake(&self, awake: bool) {
            self.awake.lock().unwrap().push(awake);
        }

        fn under_way(&self) -> Option<u32> {
            assert!(!self.fails, "a test's own panic");
            Some(1)
        }

        fn one_is_enough(&self, enough: bool) {
            self.enough.lock().unwrap().push(enough);
        }
    }

    #[test]
    fn a_keeper_begins_and_ends_with_the_requests() {
        let (pace, kept) = (Pace::new(), Kept::default());
        let is_last =
            |said: &Mutex<Vec<bool>>, wanted| said.lock().unwrap().last() == Some(&wanted);
        thread::scope(|scope| {
            scope.spawn(|| pace.keep(&kept));
            for _ in 0..2 {
                while !is_last(&kept.enough, true) {
                    pace.asked(1, Instant::now);
                }
                while !is_last(&kept.awake, false) {
                    thread::yield_now();
                }
                assert!(is_last(&kept.enough, false));
            }
            pace.end();
        });
        let awake = kept.awake.lock().unwrap();
        assert!(awake.len() >= 4 && awake.chunks(2).all(|time| time == [true, false]));
    }

    #[test]
    fn all_serve_again_whatever_happens_to_the_keeper() {
        let (pace, kept) = (
            Pace::new(),
            Kept {
                fails: true,
                ..Kept::default()
            },
        );
        pace.lock().quick = true;
        let kept = AssertUnwindSafe(&kept);
        assert!(catch_unwind(|| pace.keep(*kept)).is_err());
        assert_eq!(*kept.enough.lock().unwrap(), [false]);
        assert_eq!(*kept.awake.lock().unwrap(), [true, false]);
    }
}
