//! Serving threads between two requests, while one of them is enough.
//!
//! Each request wakes the thread that has waited longest, and often one more, which finds the first at work already. While
//! one program waits for each of its answers, the others are kept from the device, and the one that is left looks out for the
//! next request for some microseconds before it sleeps: waking it would take longer (docs/PERFORMANCE.md).
//!
//! Invariants: a thread rests only after its answer was sent, outside the gate, and only while another one is at the device or
//! will come back to it. Whoever lets them rest (`one_is_enough`) calls them back (`all_serve`) as soon as no request came for
//! a while, whatever the reason: a thread that is held up by its request holds up nobody for longer than that.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::device;

/// How long a thread looks out. A program that has its answer comes back within this time, or has something else to do.
const LOOKOUT: Duration = Duration::from_micros(12);
/// A request that took longer waited for something else: what is won beside that does not count.
const SHORT: Duration = Duration::from_micros(30);
/// A lookout that was not in vain is worth one more, up to so many; one in vain costs `IN_VAIN`: it takes that much longer than is
/// won, and longer where the program waits for this very processor.
const WORTH: u32 = 24;
const IN_VAIN: u32 = 6;
/// Without credit it is tried every so many requests.
const SELDOM: u32 = 64;

/// One process serves one mount.
static TURNS: Turns = Turns::new();
/// Where requests come from.
static DEVICE: OnceLock<OwnedFd> = OnceLock::new();

thread_local! {
    /// Whether this thread takes requests from the device: others answer, too.
    static SERVES: bool = thread::current().name().is_some_and(device::is_servers_name);
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// So many threads serve from here on, by this device.
pub(super) fn begin(threads: usize, device: BorrowedFd<'_>) -> std::io::Result<()> {
    TURNS.threads.store(threads, Ordering::SeqCst);
    match DEVICE.get() {
        Some(place) => device::put(device, place.as_fd()),
        None => {
            let _ = DEVICE.set(device.try_clone_to_owned()?);
            Ok(())
        }
    }
}

/// One thread is enough for now.
pub(super) fn one_is_enough() {
    TURNS.one_is_enough();
}

/// All threads go to the device.
pub(super) fn all_serve() {
    TURNS.all_serve();
}

/// A request in the hands of a serving thread, from before it passes the gate until it is answered.
pub(super) struct Turn {
    /// Where one thread is enough.
    begun: Option<Instant>,
    is_part: bool,
}

/// Begins a turn; `None` within one, and in threads beside the serving ones.
pub(super) fn turn() -> Option<Turn> {
    begin_turn(false)
}

/// As `turn`, for a part of a request: more of it may follow, which must not wait for the end of a rest.
pub(super) fn part() -> Option<Turn> {
    begin_turn(true)
}

fn begin_turn(is_part: bool) -> Option<Turn> {
    let begins = SERVES.with(|serves| *serves) && !IN_TURN.replace(true);
    begins.then(|| Turn {
        begun: TURNS.began(Instant::now),
        is_part,
    })
}

impl Drop for Turn {
    fn drop(&mut self) {
        IN_TURN.set(false);
        if self.is_part {
            return TURNS.comes_back();
        }
        TURNS.ended(
            self.begun.is_some_and(|begun| begun.elapsed() < SHORT),
            || {
                let device = DEVICE.get();
                device.is_some_and(|device| has_come(device, Instant::now() + LOOKOUT))
            },
        );
    }
}

/// Whether a request comes in time.
fn has_come(device: &OwnedFd, until: Instant) -> bool {
    const AT_ONCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        let mut device = [PollFd::new(device, PollFlags::IN)];
        match poll(&mut device, Some(&AT_ONCE)) {
            Ok(0) if Instant::now() < until => {}
            Ok(0) => return false,
            _ => return true, // also an error: reading from it will tell
        }
    }
}

struct Turns {
    /// How many serve.
    threads: AtomicUsize,
    /// How many of them are not at the device, as they have a request or rest.
    away: AtomicUsize,
    one_is_enough: AtomicBool,
    /// How many times they were called back.
    calls: Mutex<u64>,
    called: Condvar,
    /// For lookouts.
    credit: AtomicU32,
    /// Requests without a lookout in a row.
    without: AtomicU32,
}

impl Turns {
    const fn new() -> Self {
        Self {
            threads: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
            one_is_enough: AtomicBool::new(false),
            calls: Mutex::new(0),
            called: Condvar::new(),
            credit: AtomicU32::new(0),
            without: AtomicU32::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        self.away.fetch_add(1, Ordering::SeqCst);
        self.one_is_enough.load(Ordering::Relaxed).then(now)
    }

    /// `short`: it is worth looking out.
    fn ended(&self, short: bool, look_out: impl FnOnce() -> bool) {
        if self.one_is_enough.load(Ordering::Relaxed) && !self.rested() && short {
            self.look_out(look_out);
        }
        self.comes_back();
    }

    fn comes_back(&self) {
        self.away.fetch_sub(1, Ordering::SeqCst);
    }

    /// Rests until called back, if another thread is at the device. Of two that end at once both rest if a third is there,
    /// and none if not.
    fn rested(&self) -> bool {
        if !self.is_another_at_device() {
            return false;
        }
        let calls = self.lock();
        if !self.one_is_enough.load(Ordering::SeqCst) {
            return false;
        }
        let before = *calls;
        let waited = self.called.wait_while(calls, |calls| *calls == before);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        true
    }

    /// For a thread that is not.
    fn is_another_at_device(&self) -> bool {
        self.away.load(Ordering::SeqCst) < self.threads.load(Ordering::SeqCst)
    }

    fn look_out(&self, look_out: impl FnOnce() -> bool) {
        let credit = self.credit.load(Ordering::Relaxed);
        let without = self.without.load(Ordering::Relaxed);
        if credit == 0 && without < SELDOM {
            return self.without.store(without + 1, Ordering::Relaxed);
        }
        self.without.store(0, Ordering::Relaxed);
        let credit = if look_out() {
            (credit + 1).min(WORTH)
        } else {
            credit.saturating_sub(IN_VAIN)
        };
        self.credit.store(credit, Ordering::Relaxed);
    }

    fn one_is_enough(&self) {
        self.one_is_enough.store(true, Ordering::SeqCst);
    }

    fn all_serve(&self) {
        if self.one_is_enough.swap(false, Ordering::SeqCst) {
            let mut calls = self.lock();
            *calls = calls.wrapping_add(1);
            self.called.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn serving(threads: usize) -> Turns {
        let turns = Turns::new();
        turns.threads.store(threads, Ordering::SeqCst);
        turns
    }

    fn served(turns: &Turns) {
        assert!(turns.began(Instant::now).is_some());
        turns.ended(false, || false);
    }

    /// Waits until so many are not at the device.
    fn wait_for(turns: &Turns, away: usize) {
        while turns.away.load(Ordering::SeqCst) != away {
            thread::yield_now();
        }
    }

    #[test]
    fn all_but_one_rest_until_they_are_called_back() {
        let turns = serving(4);
        turns.one_is_enough();
        thread::scope(|scope| {
            for away in 1..=3 {
                scope.spawn(|| served(&turns));
                wait_for(&turns, away);
            }
            for _ in 0..100 {
                served(&turns); // by the last one, which nothing keeps
            }
            wait_for(&turns, 3);
            turns.all_serve();
        });
        wait_for(&turns, 0);
        assert!(turns.began(Instant::now).is_none());
        turns.ended(true, || unreachable!("all serve"));
    }

    #[test]
    fn whatever_two_threads_do_one_of_them_is_at_the_device_in_the_end() {
        let turns = serving(2);
        for _ in 0..2000 {
            turns.one_is_enough();
            thread::scope(|scope| {
                let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| served(&turns))).collect();
                while !threads.iter().any(thread::ScopedJoinHandle::is_finished) {
                    thread::yield_now();
                }
                turns.all_serve();
            });
        }
    }

    #[test]
    fn who_looks_out_in_vain_does_so_seldom() {
        let turns = serving(1);
        turns.one_is_enough();
        let comes = AtomicBool::new(true);
        let lookouts = |requests: u32| {
            let count = AtomicU32::new(0);
            for _ in 0..requests {
                turns.began(Instant::now);
                turns.ended(true, || {
                    count.fetch_add(1, Ordering::Relaxed);
                    comes.load(Ordering::Relaxed)
                });
            }
            count.load(Ordering::Relaxed)
        };
        assert_eq!(lookouts(100), 100 - SELDOM, "it begins with a try");
        comes.store(false, Ordering::Relaxed);
        let in_vain = WORTH / IN_VAIN;
        assert_eq!(lookouts(in_vain), in_vain);
        assert_eq!(lookouts((SELDOM + 1) * 9), 9);
        comes.store(true, Ordering::Relaxed);
        assert_eq!(lookouts(SELDOM + 1 + 50), 1 + 50);
    }

    #[test]
    fn a_part_of_a_request_is_not_followed_by_a_rest() {
        let turns = serving(4); // three of them at the device
        turns.one_is_enough();
        turns.began(Instant::now);
        turns.comes_back();
        assert_eq!(turns.away.load(Ordering::SeqCst), 0);
        let server = thread::Builder::new().name("fuser-0".to_owned());
        let kinds = || {
            let part = part().is_some_and(|part| part.is_part);
            (part, turn().is_some_and(|turn| turn.is_part))
        };
        assert_eq!(server.spawn(kinds).unwrap().join().unwrap(), (true, false));
    }

    #[test]
    fn a_long_request_is_not_followed_by_a_lookout() {
        let turns = serving(1);
        turns.one_is_enough();
        for _ in 0..2 * SELDOM {
            turns.began(Instant::now);
            turns.ended(false, || unreachable!("it was long"));
        }
    }

    #[test]
    fn only_threads_that_serve_take_turns() {
        assert!(turn().is_none());
        let named = |name: &str| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(|| turn().is_some()).unwrap().join().unwrap()
        };
        assert!(named("fuser-3") && !named("sync"));
        let server = thread::Builder::new().name("fuser-0".to_owned());
        let nested = || {
            let whole = turn();
            (whole.is_some(), turn().is_some())
        };
        let twice = server.spawn(move || (nested(), nested())).unwrap().join();
        assert_eq!(twice.unwrap(), ((true, false), (true, false)));
    }

    #[test]
    fn a_request_is_seen_before_the_time_is_over_and_none_after() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let reader = Arc::new(reader);
        assert!(!has_come(&reader, Instant::now() + LOOKOUT));
        let looks = {
            let reader = Arc::clone(&reader);
            thread::spawn(move || has_come(&reader, Instant::now() + Duration::from_secs(60)))
        };
        rustix::io::write(&writer, b"x").unwrap();
        assert!(looks.join().unwrap());
        assert!(has_come(&reader, Instant::now()), "however late");
    }
}
