//! The same numbers in every run, so that every filesystem is given the same work.

/// A generator (xorshift) that always begins alike.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// At its beginning.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next number, which is not 0.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
