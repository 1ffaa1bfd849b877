//! Ready headers: file ids, data keys and their wraps, made ahead by a thread where making one keeps its caller waiting
//! (a token). Data keys lie in locked memory until a file takes them or the volume closes.
//!
//! Invariant: a header is only handed out, and only taken in, under the version that wraps: what was made under another is
//! wiped. Whoever takes one holds `KeyRing::making` until it is written, as for one that is made at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::crypto::Secret;
use crate::format::header::KeyArea;
use crate::format::ids::FileId;
use crate::volume::chain::Wraps;
use crate::volume::env::Env;
use crate::volume::sync::locked;

/// Headers of one batch at the most, so that the first ones are there soon.
const BATCH: usize = 32;
/// The pause after a first failure; doubled with each further one up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a file starts with: its id, its data key and the key area that wraps it.
pub(crate) struct ReadyHeader {
    /// Random, as of every file.
    pub(crate) file: FileId,
    /// The data key.
    pub(crate) data_key: Secret<32>,
    /// Sequence 1.
    pub(crate) area: KeyArea,
}

/// The pool.
pub(crate) struct Ready(Arc<Shared>);

struct Shared {
    pool: Mutex<Pool>,
    rung: Condvar,
}

#[derive(Default)]
struct Pool {
    /// What the headers are wrapped under; none while nothing may be taken in.
    under: Option<Wraps>,
    headers: VecDeque<ReadyHeader>,
    /// How many are to be there, from the first time that one was asked for.
    ahead: usize,
    not_before: Option<Instant>,
    stopped: bool,
    /// Whose ring makes them; the thread does not keep it alive.
    env: Weak<Env>,
    thread: Option<JoinHandle<()>>,
}

impl Ready {
    /// An empty pool for headers under this version.
    pub(crate) fn new(under: Wraps) -> Self {
        let pool = Pool {
            under: Some(under),
            ..Pool::default()
        };
        Self(Arc::new(Shared {
            pool: Mutex::new(pool),
            rung: Condvar::new(),
        }))
    }

    /// Says who makes the headers; without it none are made ahead.
    pub(crate) fn serve(&self, env: &Arc<Env>) {
        locked(&self.0.pool).env = Arc::downgrade(env);
    }

    /// A header under this version, if one is ready. Has `ahead` of them made for later calls.
    pub(crate) fn take(&self, under: &Wraps, ahead: usize) -> Option<ReadyHeader> {
        let mut pool = locked(&self.0.pool);
        if ahead == 0 || pool.stopped || pool.under.as_ref() != Some(under) {
            return None;
        }
        pool.ahead = ahead;
        let taken = pool.headers.pop_front();
        if pool.thread.is_none() {
            pool.thread = start(&self.0, &pool.env);
        }
        if pool.wanted() > 0 {
            self.0.rung.notify_all();
        }
        taken
    }

    /// Takes headers in, or wipes them if they are not made under the version that wraps any more.
    pub(crate) fn put(&self, under: &Wraps, headers: Vec<ReadyHeader>) {
        let mut pool = locked(&self.0.pool);
        if pool.under.as_ref() == Some(under) && !pool.stopped {
            pool.headers.extend(headers);
        }
    }

    /// Headers are wrapped under this from now on; `None`: none are taken in or handed out.
    pub(crate) fn change(&self, under: Option<Wraps>) {
        let mut pool = locked(&self.0.pool);
        if pool.under != under || under.is_none() {
            pool.headers.clear();
            pool.ahead = 0;
            pool.not_before = None;
            pool.under = under;
        }
    }

    /// Wipes them, and waits for the thread to end.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut pool = locked(&self.0.pool);
            pool.stopped = true;
            pool.headers.clear();
            pool.thread.take()
        };
        self.0.rung.notify_all();
        // The last reference to the volume's surroundings may be the thread's own: that one is not waited for.
        let thread = thread.filter(|thread| thread.thread().id() != thread::current().id());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that makes headers ready panicked");
        }
    }

    /// How many are ready.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        locked(&self.0.pool).headers.len()
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pool {
    /// How many to make now: a whole batch at a time.
    fn wanted(&self) -> usize {
        let missing = self.ahead.saturating_sub(self.headers.len());
        let batch = BATCH.min(self.ahead);
        if missing >= batch { batch } else { 0 }
    }
}

fn start(shared: &Arc<Shared>, env: &Weak<Env>) -> Option<JoinHandle<()>> {
    if env.strong_count() == 0 {
        return None;
    }
    let (shared, env) = (Arc::clone(shared), env.clone());
    let started = thread::Builder::new()
        .name("ready headers".to_owned())
        .spawn(move || work(&shared, &env));
    started
        .map_err(|error| tracing::warn!("no headers are made ahead: {error}"))
        .ok()
}

fn work(shared: &Shared, env: &Weak<Env>) {
    let mut pause = PAUSE;
    while let Some(count) = next(shared) {
        let Some(env) = env.upgrade() else {
            return;
        };
        match env.ring.make_ready(count) {
            Ok(()) => pause = PAUSE,
            Err(error) => {
                tracing::warn!("headers cannot be made ahead: {error}");
                locked(&shared.pool).not_before = Some(Instant::now() + pause);
                pause = LONGEST_PAUSE.min(2 * pause);
            }
        }
    }
}

/// Waits until headers are wanted, and says how many; `None` at the end.
fn next(shared: &Shared) -> Option<usize> {
    let mut pool = locked(&shared.pool);
    loop {
        if pool.stopped {
            return None;
        }
        let wanted = pool.wanted();
        let now = Instant::now();
        let wait = pool
            .not_before
            .and_then(|then| then.checked_duration_since(now));
        match wait {
            None if wanted > 0 => return Some(wanted),
            Some(wait) if wanted > 0 => {
                let waited = shared.rung.wait_timeout(pool, wait);
                pool = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            _ => {
                let waited = shared.rung.wait(pool);
                pool = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
