//! Whether the user wants it to end. Asked between any two steps that may take long.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::exit::{Code, failure};

static ASKED: AtomicBool = AtomicBool::new(false);

/// A signal came.
pub(super) fn request() {
    ASKED.store(true, Ordering::SeqCst);
}

/// Fails once a signal came.
pub(super) fn check() -> anyhow::Result<()> {
    if ASKED.load(Ordering::SeqCst) {
        let sentence = "stopped; nothing is left behind";
        return Err(failure(Code::Failure, sentence));
    }
    Ok(())
}
