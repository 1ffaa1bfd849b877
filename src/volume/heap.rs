//! Memory that the allocator keeps for later, given back to the system. Knows nothing of what it was used for.
#![allow(unsafe_code)]

/// Gives back what is free, wherever it lies. The C library keeps freed memory that something younger lies behind.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: malloc_trim takes no pointer, may be called by any thread at any time and touches free memory alone.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such call.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
