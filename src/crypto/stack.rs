//! Wiping the stack after work with keys: ciphers are built, expanded and moved there, and their crates wipe an object where it
//! ends, not where it was before it was moved.

use std::hint::black_box;

/// Bytes wiped: the frames of an HKDF, of a key schedule that is built and moved, of the keys of four messages and of round
/// keys that a wide cipher spills from registers, also without optimisation.
const DEPTH: usize = 16384;

/// Runs `work` and wipes the stack that it used. What it returns must be no secret by value, only in locked memory.
pub(super) fn leaving_no_trace<R>(work: impl FnOnce() -> R) -> R {
    let result = apart(work);
    wipe();
    result
}

/// A frame of its own, below the caller's, where [`wipe`] then has its.
#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// One memset, a hundred times as fast as volatile writes; `tests/hygiene.rs` sees that the compiler keeps it.
#[inline(never)]
fn wipe() {
    black_box(&mut [0u8; DEPTH]);
}
