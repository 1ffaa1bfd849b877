//! Answers: each request gets exactly one, also when its handler fails or panics.
//!
//! Invariants: a panic in a handler costs that request an EIO and a log line; the thread goes on to the next request. Whoever
//! works for a request is inside the gate until its answer is sent.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};

use fuser::Errno;

use super::{errno, gate, pace, turns};
use crate::volume::{Result, Volume};

/// A reply that can be a refusal.
pub(super) trait Refuse {
    /// Answers with an errno.
    fn refuse(self, errno: Errno);
}

/// What is done before each answer, in a process that may die: one process serves one mount.
struct KeptUp {
    volume: Weak<Volume>,
    serves: Box<dyn Fn() + Send + Sync>,
}

static KEPT_UP: OnceLock<KeptUp> = OnceLock::new();

/// From now on brings a volume's log up to date before each answer, and calls `serves`.
pub(super) fn keep_up(volume: &Arc<Volume>, serves: Box<dyn Fn() + Send + Sync>) {
    let volume = Arc::downgrade(volume);
    let _ = KEPT_UP.set(KeptUp { volume, serves });
}

fn before_answer() {
    if let Some(kept) = KEPT_UP.get() {
        if let Some(volume) = kept.volume.upgrade() {
            volume.log_changes();
        }
        (kept.serves)();
    }
}

macro_rules! refuse {
    ($($reply:ident),*) => {$(
        impl Refuse for fuser::$reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// Does the work of a request and sends what comes of it.
pub(super) fn answer<R: Refuse, T>(
    call: &str,
    reply: R,
    work: impl FnOnce() -> Result<T>,
    send: impl FnOnce(R, T),
) {
    let _turn = turns::turn();
    let Some(_inside) = gate::enter() else {
        return reply.refuse(Errno::EIO); // to nobody: the kernel sends the request again
    };
    pace::asked();
    let done = caught(call, work);
    before_answer();
    match done {
        Ok(done) => send(reply, done),
        Err(errno) => reply.refuse(errno),
    }
}

/// As `answer`, for work that fills the reply.
pub(super) fn fill<R: Refuse>(
    call: &str,
    mut reply: R,
    work: impl FnOnce(&mut R) -> Result<()>,
    send: impl FnOnce(R),
) {
    let _turn = turns::turn();
    let Some(_inside) = gate::enter() else {
        return reply.refuse(Errno::EIO);
    };
    pace::asked();
    let done = caught(call, || work(&mut reply));
    before_answer();
    match done {
        Ok(()) => send(reply),
        Err(errno) => reply.refuse(errno),
    }
}

/// Does work that has no answer: one of the nodes that the kernel forgets, often many with one request.
pub(super) fn unanswered(call: &str, work: impl FnOnce()) {
    let _part = turns::part();
    let _ = caught(call, || {
        work();
        Ok(())
    });
}

/// The state that a panic leaves behind is that of the layers below; their locks do not stay poisoned for the next request.
fn caught<T>(call: &str, work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| errno::of(call, &error)),
        Err(_) => {
            tracing::error!(
                "{call}: a fault in Strongroom; the request gets an I/O error, please report it"
            );
            Err(Errno::EIO)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Error;
    use std::cell::Cell;

    struct Reply<'a>(&'a Cell<i32>);

    impl Refuse for Reply<'_> {
        fn refuse(self, errno: Errno) {
            self.0.set(errno.code());
        }
    }

    #[test]
    fn a_panic_costs_its_request_an_io_error() {
        let told = Cell::new(-1);
        answer(
            "read",
            Reply(&told),
            || -> Result<()> { panic!("a test's own panic") },
            |_, ()| {},
        );
        assert_eq!(told.get(), libc::EIO);
        answer("read", Reply(&told), || Ok(()), |reply, ()| reply.0.set(0));
        assert_eq!(told.get(), 0);
    }

    #[test]
    fn a_refusal_keeps_its_errno() {
        let told = Cell::new(-1);
        fill(
            "readdir",
            Reply(&told),
            |_| Err(Error::errno(libc::ENOTDIR)),
            |reply| reply.0.set(0),
        );
        assert_eq!(told.get(), libc::ENOTDIR);
    }
}
