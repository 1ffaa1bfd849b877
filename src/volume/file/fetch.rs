//! Ciphertext fetched ahead of who reads a file from one end to the other, past the store's cache: the device writes it
//! to memory of ours while what came before is opened. Spares filling the cache page by page and copying out of it, and
//! leaves the cache to others.
//!
//! Invariant: bytes are handed out only if no write to the file began after they were asked for, so a reader sees every write
//! that had ended before the read began. The lock is held over no read.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::store::{ALIGNED, File, Lent, Pages, Uncached};
use crate::volume::file::permits::Permits;
use crate::volume::sync::locked;

/// Fetched with one call, bytes: one huge page, which a device takes as one piece.
const PIECE: u64 = 2 << 20;
/// Pieces kept of a file: what is read, one behind it for requests that come out of order, and two ahead.
const KEPT: usize = 4;
/// What a reader may skip between two ranges, bytes: what is in the cache, or slots that groups have spare.
const GAP: u64 = 2 * PIECE;
/// Files at a time that anything is fetched of, in this process: 32 MiB of pieces.
const FILES: usize = 4;
/// How long a file's thread and its memory stay when nothing is asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is fetched of one file.
pub(super) struct Fetch {
    permits: &'static Permits,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether there is a thread: spares other readers the lock.
    active: AtomicBool,
    /// Writes that began, and that ended, since the file was opened.
    begun: AtomicU64,
    ended: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What to fetch, in order.
    wanted: VecDeque<Range<u64>>,
    /// What is fetched now.
    under_way: Option<Range<u64>>,
    /// Oldest first.
    pieces: VecDeque<Piece>,
    /// Whether there is a thread.
    running: bool,
    /// Nobody will ask any more.
    closed: bool,
    /// Writes that had begun when something was asked for last.
    begun: u64,
    /// Where that ended.
    end: u64,
}

#[derive(Clone)]
struct Piece {
    range: Range<u64>,
    /// Writes that had begun, and ended, before it was read.
    begun: u64,
    pages: Arc<Pages>,
}

/// Of this process.
static PERMITS: Permits = Permits::of_process(FILES);

/// A write under way, until it is dropped.
pub(super) struct Writing<'a>(&'a Shared);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Default for Fetch {
    fn default() -> Self {
        Self::with(&PERMITS)
    }
}

impl Fetch {
    fn with(permits: &'static Permits) -> Self {
        Self {
            permits,
            shared: Arc::default(),
        }
    }

    /// To be held over whatever changes the bytes of the file or its length.
    pub(super) fn writing(&self) -> Writing<'_> {
        self.shared.begun.fetch_add(1, Ordering::SeqCst);
        Writing(&self.shared)
    }

    /// Has this range fetched. False: it is left to the store's own reading ahead, for a file that is written meanwhile, for
    /// another reader than the one that is fetched for, where so little is to come that a thread for it costs more, or where
    /// there is no way past the cache, no memory, or no room for another file.
    ///
    /// `file` is looked at only once `is_active` says true, so that a file through which something may be posted is the one
    /// that is fetched through: only that waits for what is posted.
    pub(super) fn ask<'a>(&self, file: impl FnOnce() -> &'a dyn File, range: Range<u64>) -> bool {
        let mut state = locked(&self.shared.state);
        let begun = self.shared.begun.load(Ordering::SeqCst);
        let goes_on = state.begun == begun && range.start.abs_diff(state.end) <= GAP;
        state.begun = begun;
        if state.running && !goes_on || state.wanted.len() >= KEPT {
            return false;
        }
        if !state.running {
            if range.end - range.start < PIECE {
                return false;
            }
            self.shared.active.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst); // as in `is_active`: one of the two sides sees the other
            if self.shared.start(file(), self.permits).is_none() {
                self.shared.active.store(false, Ordering::SeqCst);
                return false;
            }
            state.running = true;
        }
        state.end = range.end;
        state.wanted.extend(pieces(range));
        drop(state);
        self.shared.changed.notify_all();
        true
    }

    /// Whether anything may be fetched now, through whichever descriptor the file had when that began.
    pub(super) fn is_active(&self) -> bool {
        fence(Ordering::SeqCst);
        self.shared.active.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(super) fn pretend(&self, active: bool) {
        self.shared.active.store(active, Ordering::SeqCst);
    }

    /// Copies what was fetched from `offset` on, and waits for what is on its way; the bytes copied, fewer than asked for
    /// where there are no more.
    pub(super) fn copy(&self, buf: &mut [u8], offset: u64) -> usize {
        if !self.shared.active.load(Ordering::Acquire) {
            return 0;
        }
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let Some(piece) = self.shared.piece(at) else {
                break;
            };
            let within = usize::try_from(at - piece.range.start).unwrap_or(usize::MAX);
            let n = rest.len().min(piece.len().saturating_sub(within));
            match (rest.get_mut(..n), piece.pages.get(within..within + n)) {
                (Some(to), Some(from)) => to.copy_from_slice(from),
                _ => break,
            }
            done += n;
        }
        done
    }

    /// These whole pages, if all of them were fetched; waits for what is on its way.
    pub(super) fn lend(&self, offset: u64, len: usize) -> Option<Lent> {
        if !self.shared.active.load(Ordering::Acquire) {
            return None;
        }
        let first = self.shared.piece(offset)?;
        let within = usize::try_from(offset - first.range.start).ok()?;
        let here = len.min(first.len().checked_sub(within)?);
        let lent = Lent::new(first.pages, within..within + here);
        let rest = len - here;
        if rest == 0 {
            return Some(lent);
        }
        let second = self.shared.piece(offset.checked_add(here as u64)?)?;
        let meet = second.range.start == offset + here as u64 && here.is_multiple_of(ALIGNED);
        (meet && second.len() >= rest).then(|| lent.with(second.pages, 0..rest))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        locked(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
    }
}

impl Piece {
    fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX)
    }
}

impl Shared {
    /// Starts the thread that fetches. `None`: there can be none.
    fn start(self: &Arc<Self>, file: &dyn File, permits: &'static Permits) -> Option<()> {
        let permit = permits.take()?;
        let file = file.uncached()?;
        let shared = Arc::clone(self);
        let work = move || {
            let _permit = permit;
            shared.run(file.as_ref());
        };
        let thread = thread::Builder::new().name("fetch".to_owned());
        thread.spawn(work).ok().map(drop)
    }

    /// Fetches until nothing is asked for any more. Readers wait for what is on its way: whatever happens here, they must
    /// not for ever.
    fn run(&self, file: &dyn Uncached) {
        if catch_unwind(AssertUnwindSafe(|| self.work(file))).is_err() {
            self.stop(&mut locked(&self.state));
            self.changed.notify_all();
        }
    }

    fn work(&self, file: &dyn Uncached) {
        let mut spare = Vec::new();
        while let Some(range) = self.next(&mut spare) {
            let piece = self.fetch(file, range, &mut spare);
            let mut state = locked(&self.state);
            state.under_way = None;
            state.pieces.extend(piece);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// What to fetch next, with room for it in `spare` if it can be; waits for it. `None`, with everything forgotten:
    /// nothing is asked for any more.
    fn next(&self, spare: &mut Vec<Pages>) -> Option<Range<u64>> {
        let mut state = locked(&self.state);
        loop {
            if state.closed {
                self.stop(&mut state);
                return None;
            }
            if let Some(range) = state.wanted.pop_front() {
                while state.pieces.len() >= KEPT {
                    let oldest = state.pieces.pop_front();
                    spare.extend(oldest.and_then(|piece| Arc::into_inner(piece.pages)));
                }
                state.under_way = Some(range.clone());
                return Some(range);
            }
            let waited = self.changed.wait_timeout(state, PATIENCE);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            if timeout.timed_out() && state.wanted.is_empty() {
                self.stop(&mut state);
                return None;
            }
        }
    }

    /// Forgets everything; there is no thread from now on.
    fn stop(&self, state: &mut State) {
        self.active.store(false, Ordering::Release);
        state.running = false;
        state.wanted.clear();
        state.under_way = None;
        state.pieces.clear();
    }

    /// Reads a piece. `None`: it could not be, which the reader will find out the usual way, or the file is being written.
    fn fetch(
        &self,
        file: &dyn Uncached,
        range: Range<u64>,
        spare: &mut Vec<Pages>,
    ) -> Option<Piece> {
        // In this order: no write is under way if they are equal.
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        if begun != ended {
            return None;
        }
        let len = usize::try_from(range.end - range.start).ok()?;
        let room = usize::try_from(PIECE).ok()?;
        let mut pages = spare.pop().or_else(|| Pages::new(room).ok())?;
        match file.read_at(pages.get_mut(..len)?, range.start) {
            Ok(read) => Some(Piece {
                range: range.start..range.start + read as u64,
                begun,
                pages: Arc::new(pages),
            }),
            Err(error) => {
                tracing::debug!("not read past the cache: {error}");
                spare.push(pages);
                None
            }
        }
    }

    /// The piece with this byte, if it holds what the file has now; waits while it is on its way.
    fn piece(&self, at: u64) -> Option<Piece> {
        let mut state = locked(&self.state);
        loop {
            let fetched = state.pieces.iter().rev();
            if let Some(piece) = fetched.clone().find(|piece| piece.range.contains(&at)) {
                let holds = piece.begun == self.begun.load(Ordering::SeqCst);
                return holds.then(|| piece.clone());
            }
            let mut coming = state.under_way.iter().chain(&state.wanted);
            if !coming.any(|range| range.contains(&at)) {
                return None;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A range in pieces that can be read past the cache; its end is rounded up to that.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let aligned = ALIGNED as u64;
    let start = range.start / aligned * aligned;
    let end = range.end.next_multiple_of(aligned);
    let starts = std::iter::successors(Some(start), |start| start.checked_add(PIECE));
    starts
        .take_while(move |start| *start < end)
        .map(move |start| start..end.min(start.saturating_add(PIECE)))
}

#[cfg(test)]
#[path = "fetch/tests.rs"]
mod tests;
