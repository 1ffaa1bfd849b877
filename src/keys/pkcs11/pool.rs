//! The threads that call a token: each has one session, a call waits for one of them, and nobody waits for ever.
//!
//! Invariant: a call that nobody waits for any more is not begun, and keeps nothing; one that hangs takes its thread with it
//! and nothing else.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::keys::KeyError;

/// How long one call may take.
pub(super) const CALL: Duration = Duration::from_secs(10);
/// How long making a key may take: an RSA pair in a small chip.
pub(super) const MAKING: Duration = Duration::from_secs(120);
/// How long the end waits for threads to close their sessions.
const FAREWELL: Duration = Duration::from_secs(2);

/// Tells whether the worker is still good.
type Job<W> = Box<dyn FnOnce(&mut W) -> bool + Send>;

/// A queue, and up to `size` threads that serve it; a thread is started when a call finds none idle.
pub(super) struct Pool<W> {
    shared: Arc<Shared<W>>,
    size: usize,
}

struct Shared<W> {
    queue: Mutex<Queue<W>>,
    changed: Condvar,
    make_worker: Box<dyn Fn() -> W + Send + Sync>,
}

struct Queue<W> {
    jobs: VecDeque<(u64, Job<W>)>,
    next: u64,
    closed: bool,
    threads: usize,
    idle: usize,
    /// When a call was last begun or ended: tells a long queue from one that stands still.
    moved: Instant,
    /// Calls under way that may take longer than others.
    slow: usize,
}

/// A call that was handed in. Dropped, it is not begun any more.
pub(super) struct Pending<W, T> {
    ticket: Arc<Ticket<T>>,
    shared: Arc<Shared<W>>,
    number: u64,
    limit: Duration,
    since: Instant,
    what: String,
}

struct Ticket<T> {
    stage: Mutex<Stage<T>>,
    changed: Condvar,
}

enum Stage<T> {
    Waiting,
    Running(Instant),
    Ended(Result<T, KeyError>),
    GivenUp,
}

impl<W: Send + 'static> Pool<W> {
    pub fn new(size: usize, make_worker: impl Fn() -> W + Send + Sync + 'static) -> Self {
        let queue = Queue {
            jobs: VecDeque::new(),
            next: 0,
            closed: false,
            threads: 0,
            idle: 0,
            moved: Instant::now(),
            slow: 0,
        };
        let shared = Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            make_worker: Box::new(make_worker),
        };
        Self {
            shared: Arc::new(shared),
            size,
        }
    }

    /// Allows this many threads from now on.
    pub fn allow(&mut self, size: usize) {
        self.size = size;
    }

    /// Hands a call in; `what` names it where it takes too long.
    pub fn submit<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        call: impl FnOnce(&mut W) -> Result<T, KeyError> + Send + 'static,
    ) -> Pending<W, T> {
        let ticket = Arc::new(Ticket {
            stage: Mutex::new(Stage::Waiting),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&ticket);
        let shared = Arc::clone(&self.shared);
        let job: Job<W> = Box::new(move |worker| {
            if !theirs.begin() {
                return true;
            }
            let _moving = Moving::begin(&shared, limit > CALL);
            let result = panic::catch_unwind(AssertUnwindSafe(|| call(worker)));
            let good = result.is_ok();
            let panicked = || KeyError::Unavailable("a call to a token panicked".into());
            theirs.end(result.unwrap_or_else(|_| Err(panicked())));
            good
        });
        let mut queue = self.shared.queue();
        let number = queue.next;
        queue.next += 1;
        queue.jobs.push_back((number, job));
        if queue.idle < queue.jobs.len() && queue.threads < self.size {
            self.start_thread(&mut queue);
        }
        drop(queue);
        self.shared.changed.notify_one();
        Pending {
            ticket,
            shared: Arc::clone(&self.shared),
            number,
            limit,
            since: Instant::now(),
            what: what.to_owned(),
        }
    }

    fn start_thread(&self, queue: &mut Queue<W>) {
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name("token".into())
            .spawn(move || serve(&shared));
        // Without a new thread the others serve; without any, the caller's time runs out.
        if started.is_ok() {
            queue.threads += 1;
        }
    }
}

impl<W> Pool<W> {
    /// Lets the threads end, and waits a little for them to close their sessions.
    pub fn close(&self) {
        let until = Instant::now() + FAREWELL;
        let mut queue = self.shared.queue();
        if std::mem::replace(&mut queue.closed, true) {
            return;
        }
        queue.jobs.clear();
        self.shared.changed.notify_all();
        while queue.threads > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self
                .shared
                .changed
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<W> Shared<W> {
    fn queue(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job<W>> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some((_, job)) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue.idle += 1;
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

/// A call under way.
struct Moving<'a, W> {
    shared: &'a Shared<W>,
    slow: bool,
}

impl<'a, W> Moving<'a, W> {
    fn begin(shared: &'a Shared<W>, slow: bool) -> Self {
        let mut queue = shared.queue();
        queue.moved = Instant::now();
        queue.slow += usize::from(slow);
        drop(queue);
        Self { shared, slow }
    }
}

impl<W> Drop for Moving<'_, W> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.moved = Instant::now();
        queue.slow -= usize::from(self.slow);
    }
}

fn serve<W>(shared: &Shared<W>) {
    /// Counts the thread out, whatever ends it.
    struct Leaving<'a, W>(&'a Shared<W>);
    impl<W> Drop for Leaving<'_, W> {
        fn drop(&mut self) {
            self.0.queue().threads -= 1;
            self.0.changed.notify_all();
        }
    }
    let _leaving = Leaving(shared);
    let mut worker = (shared.make_worker)();
    while let Some(job) = shared.next() {
        if !job(&mut worker) {
            worker = (shared.make_worker)();
        }
    }
}

impl<T> Ticket<T> {
    fn stage(&self) -> MutexGuard<'_, Stage<T>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> bool {
        let mut stage = self.stage();
        let waited_for = matches!(*stage, Stage::Waiting);
        if waited_for {
            *stage = Stage::Running(Instant::now());
        }
        waited_for
    }

    fn end(&self, result: Result<T, KeyError>) {
        let mut stage = self.stage();
        if !matches!(*stage, Stage::GivenUp) {
            *stage = Stage::Ended(result);
        }
        drop(stage);
        self.changed.notify_all();
    }
}

impl<W, T> Pending<W, T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// What the call answered; Unavailable where it runs for longer than its limit, or where it waits and no call has begun
    /// or ended for that long.
    pub fn wait(self) -> Result<T, KeyError> {
        let mut stage = self.ticket.stage();
        loop {
            let begun = match &*stage {
                Stage::Ended(_) | Stage::GivenUp => break,
                Stage::Running(begun) => Some(*begun),
                Stage::Waiting => None,
            };
            let left = match begun {
                Some(begun) => self.limit.saturating_sub(begun.elapsed()),
                None => {
                    // One lock at a time: of the ticket, or of the queue.
                    drop(stage);
                    let left = self.left_in_queue();
                    stage = self.ticket.stage();
                    left
                }
            };
            let same = matches!(
                (&*stage, begun),
                (Stage::Waiting, None) | (Stage::Running(_), Some(_))
            );
            if left.is_zero() && same {
                break;
            }
            if same {
                stage = self
                    .ticket
                    .changed
                    .wait_timeout(stage, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        match std::mem::replace(&mut *stage, Stage::GivenUp) {
            Stage::Ended(result) => result,
            _ => Err(KeyError::Unavailable(format!(
                "{} did not answer within {} s",
                self.what,
                self.limit.as_secs()
            ))),
        }
    }

    /// How much longer a call that was not begun may wait while nothing moves.
    fn left_in_queue(&self) -> Duration {
        let queue = self.shared.queue();
        let limit = if queue.slow > 0 { MAKING } else { self.limit };
        limit.saturating_sub(queue.moved.max(self.since).elapsed())
    }
}

impl<W, T> Drop for Pending<W, T> {
    /// Takes a call that was not begun out of the queue, with the secrets in it.
    fn drop(&mut self) {
        *self.ticket.stage() = Stage::GivenUp;
        let mut queue = self.shared.queue();
        if let Ok(at) = queue
            .jobs
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            let job = queue.jobs.remove(at);
            drop(queue);
            drop(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_call_that_hangs_ends_for_its_caller_and_leaves_the_others_alone() {
        let pool: Pool<()> = Pool::new(2, || ());
        let (let_go, held) = mpsc::channel::<()>();
        let hanging = pool.submit("t", Duration::from_millis(50), move |()| {
            let _ = held.recv();
            Ok(1)
        });
        let other = pool.submit("t", CALL, |()| Ok(2));
        assert_eq!(other.wait().ok(), Some(2));
        assert!(matches!(hanging.wait(), Err(KeyError::Unavailable(_))));
        let_go.send(()).unwrap();
        assert_eq!(pool.submit("t", CALL, |()| Ok(3)).wait().ok(), Some(3));
    }

    #[test]
    fn a_call_behind_one_that_hangs_is_given_up_and_never_begun() {
        let pool: Pool<()> = Pool::new(1, || ());
        let (let_go, held) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel::<()>();
        let (running, runs) = mpsc::channel::<()>();
        let hanging = pool.submit("t", CALL, move |()| {
            running.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        });
        runs.recv().unwrap();
        let behind = pool.submit("t", CALL, move |()| {
            began.send(()).unwrap();
            Ok(())
        });
        drop(behind);
        assert!(pool.shared.queue().jobs.is_empty(), "it keeps nothing");
        let_go.send(()).unwrap();
        assert!(hanging.wait().is_ok());
        assert!(pool.submit("t", CALL, |()| Ok(())).wait().is_ok());
        assert!(begun.try_recv().is_err(), "its caller had gone");
    }

    #[test]
    fn all_calls_of_a_batch_are_given_up_at_once() {
        let pool: Pool<()> = Pool::new(1, || ());
        let (let_go, held) = mpsc::channel::<()>();
        let limit = Duration::from_millis(100);
        let hanging = pool.submit("t", limit, move |()| {
            let _ = held.recv();
            Ok(())
        });
        let behind: Vec<_> = (0..1000)
            .map(|_| pool.submit("t", limit, |()| Ok(())))
            .collect();
        let begun = Instant::now();
        assert!(hanging.wait().is_err());
        assert!(behind.into_iter().all(|one| one.wait().is_err()));
        // One after the other they would take 100 s.
        assert!(begun.elapsed() < Duration::from_secs(50));
        let_go.send(()).unwrap();
    }

    #[test]
    fn starts_no_more_threads_than_it_may() {
        let pool: Pool<u32> = Pool::new(3, || 0);
        let all: Vec<_> = (0..100)
            .map(|n| pool.submit("t", CALL, move |_| Ok(n)))
            .collect();
        let sum: u32 = all.into_iter().map(|one| one.wait().unwrap()).sum();
        assert_eq!(sum, 99 * 100 / 2);
        assert!((1..=3).contains(&pool.shared.queue().threads));
    }

    #[test]
    fn a_panic_in_a_call_ends_that_call_only() {
        let pool: Pool<()> = Pool::new(1, || ());
        let bad = pool.submit("t", CALL, |()| -> Result<(), KeyError> {
            panic!("a call that panics, as this test wants it")
        });
        assert!(bad.wait().is_err());
        assert!(pool.submit("t", CALL, |()| Ok(())).wait().is_ok());
    }
}
