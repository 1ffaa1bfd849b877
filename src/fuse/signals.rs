//! The signals that end a mount, as numbers read from an event counter.
//!
//! A handler rather than a mask: threads that started before, and programs that the daemon starts, need not know.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// SIGTERM and SIGINT; SIGHUP unless it was ignored when the daemon started (nohup).
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Where the handler tells of a signal; -1: nowhere.
static TOLD: AtomicI32 = AtomicI32::new(-1);
/// Signals since the handler was put in place.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static IN_USE: AtomicBool = AtomicBool::new(false);

/// The handler, in place while this lives; at most one in a process.
pub(super) struct EndingSignals {
    wake: OwnedFd,
    ended: AtomicBool,
    before: Vec<(i32, libc::sigaction)>,
}

impl EndingSignals {
    /// Puts the handler in place. `None` if something else in this process has it.
    pub(super) fn catch() -> io::Result<Option<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
        if IN_USE.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        COUNT.store(0, Ordering::SeqCst);
        TOLD.store(wake.as_raw_fd(), Ordering::SeqCst);
        let mut signals = Self {
            wake,
            ended: AtomicBool::new(false),
            before: Vec::new(),
        };
        for signal in ENDING {
            signals
                .before
                .extend(replace(signal)?.map(|before| (signal, before)));
        }
        Ok(Some(signals))
    }

    /// Waits; true: a signal came since `seen` (0 at first, then what the last call left there), false: `end` was called.
    pub(super) fn wait(&self, seen: &mut usize) -> io::Result<bool> {
        let mut count = [0; 8];
        loop {
            rustix::io::retry_on_intr(|| rustix::io::read(&self.wake, &mut count))?;
            if self.ended.load(Ordering::SeqCst) {
                return Ok(false);
            }
            let now = COUNT.load(Ordering::SeqCst);
            if std::mem::replace(seen, now) != now {
                return Ok(true);
            }
        }
    }

    /// Ends the waiting.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(self.wake.as_fd(), &1_u64.to_ne_bytes());
    }
}

impl Drop for EndingSignals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: `before` is what sigaction gave for this signal.
            unsafe { libc::sigaction(*signal, before, null_mut()) };
        }
        TOLD.store(-1, Ordering::SeqCst);
        IN_USE.store(false, Ordering::SeqCst);
    }
}

/// Runs `work`. SIGTERM, SIGINT and SIGHUP do not end the process meanwhile: `told` is called for them, in another thread.
/// Fails, with nothing run, where this process serves a mount or heeds signals already, or the system refuses.
pub fn heeding_signals<T>(told: impl Fn() + Send, work: impl FnOnce() -> T) -> io::Result<T> {
    let signals = EndingSignals::catch()?
        .ok_or_else(|| io::Error::other("this process handles signals already"))?;
    let signals = &signals;
    Ok(std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut seen = 0;
            while let Ok(true) = signals.wait(&mut seen) {
                told();
            }
        });
        let _ended = EndWhenDropped(signals); // also when `work` panics
        work()
    }))
}

struct EndWhenDropped<'a>(&'a EndingSignals);

impl Drop for EndWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Handles a signal from here on; what was done with it before, or `None` if it is ignored and stays so.
fn replace(signal: i32) -> io::Result<Option<libc::sigaction>> {
    // SAFETY: an all-zero sigaction is valid; both pointers are to live values or null.
    let before = unsafe {
        let mut before: libc::sigaction = zeroed();
        if libc::sigaction(signal, null(), &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        before
    };
    if signal == libc::SIGHUP && before.sa_sigaction == libc::SIG_IGN {
        return Ok(None);
    }
    // SAFETY: as above; the handler only calls what is allowed in one.
    let done = unsafe {
        let mut ours: libc::sigaction = zeroed();
        ours.sa_sigaction = tell as extern "C" fn(i32) as usize;
        ours.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut ours.sa_mask);
        libc::sigaction(signal, &raw const ours, null_mut())
    };
    if done == 0 {
        Ok(Some(before))
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn tell(_signal: i32) {
    COUNT.fetch_add(1, Ordering::SeqCst);
    let told = TOLD.load(Ordering::SeqCst);
    if told >= 0 {
        let one = 1_u64;
        // SAFETY: write(2) may be called in a handler; errno is put back, since the code that was interrupted may be
        // about to read it.
        unsafe {
            let errno = *libc::__errno_location();
            libc::write(told, (&raw const one).cast(), size_of::<u64>());
            *libc::__errno_location() = errno;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_signal_from_the_end() {
        let signals = EndingSignals::catch()
            .unwrap()
            .expect("no other test catches signals");
        assert!(EndingSignals::catch().unwrap().is_none());
        let mut seen = 0;
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .unwrap();
        assert!(signals.wait(&mut seen).unwrap());
        signals.end();
        assert!(!signals.wait(&mut seen).unwrap());
        drop(signals);
        let (sender, told) = std::sync::mpsc::channel();
        heeding_signals(
            move || sender.send(()).unwrap(),
            || {
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::INT,
                )
                .unwrap();
                told.recv_timeout(std::time::Duration::from_secs(60))
                    .unwrap();
                assert!(heeding_signals(|| (), || ()).is_err());
            },
        )
        .unwrap();
        assert!(EndingSignals::catch().unwrap().is_some());
    }
}
