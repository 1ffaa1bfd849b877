//! Whether the user wants it to end. Asked between any two steps that may take long.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::exit::{Code, failure};

static ASKED: AtomicBool = AtomicBool::new(false);

/// A signal came.
pub(super) fn request() {
    ASKED.store(true, Ordering::SeqCst);
}

/// Whether one came.
pub(super) fn is_asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Fails once a signal came.
pub(super) fn check() -> anyhow::Result<()> {
    if is_asked() {
        let sentence = "stopped; nothing is left behind"; // what is left, is told instead
        return Err(failure(Code::Failure, sentence));
    }
    Ok(())
}
