//! Numbers that a seed repeats, for tests that must be run again as they were. Test builds only.

use std::cell::Cell;

/// A generator of numbers that a seed repeats (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.next_multiple_of(8)];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

thread_local!(static RANDOM_BYTES: Cell<Option<u64>> = const { Cell::new(None) });

/// From now on, what the real code takes from the system's random generator in this thread follows from the seed.
pub(crate) fn follow(seed: u64) {
    RANDOM_BYTES.set(Some(seed));
}

/// Whether this thread follows a seed.
pub(crate) fn is_followed() -> bool {
    RANDOM_BYTES.get().is_some()
}

/// Fills the buffer if this thread follows a seed.
pub(crate) fn fill(buf: &mut [u8]) -> bool {
    let Some(state) = RANDOM_BYTES.get() else {
        return false;
    };
    let mut rng = Rng(state);
    buf.copy_from_slice(&rng.bytes(buf.len()));
    RANDOM_BYTES.set(Some(rng.0));
    true
}
