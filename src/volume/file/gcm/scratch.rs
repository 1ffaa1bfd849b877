//! Memory in which ciphertext is made before it goes to the store.

use std::cell::RefCell;
use std::ops::Range;

/// Memory that a thread keeps. What `add` gives is of no meaning before it is written.
#[derive(Default)]
pub(super) struct Scratch {
    memory: Vec<u8>,
    used: usize,
}

impl Scratch {
    /// The next so many bytes.
    pub(super) fn add(&mut self, len: usize) -> &mut [u8] {
        let start = self.used;
        self.used += len;
        if self.memory.len() < self.used {
            self.memory.resize(self.used, 0);
        }
        self.memory.get_mut(start..self.used).unwrap_or_default()
    }

    /// Bytes added.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// What was added from there to there.
    pub(super) fn part(&self, part: Range<usize>) -> &[u8] {
        self.all().get(part).unwrap_or_default()
    }

    /// All that was added.
    pub(super) fn all(&self) -> &[u8] {
        self.memory.get(..self.used).unwrap_or_default()
    }

    /// The same, to be changed.
    pub(super) fn all_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(..self.used).unwrap_or_default()
    }

    /// Takes back what was added after the first `len` bytes.
    pub(super) fn cut(&mut self, len: usize) {
        self.used = self.used.min(len);
    }
}

/// Runs `act` with an empty one.
pub(super) fn with_scratch<T>(act: impl FnOnce(&mut Scratch) -> T) -> T {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
    let mut scratch = SCRATCH.take();
    scratch.cut(0);
    let done = act(&mut scratch);
    SCRATCH.set(scratch);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_stays_where_it_is_and_the_memory_is_kept() {
        let place = with_scratch(|scratch| {
            scratch.add(4096).fill(1);
            scratch.add(100).fill(2);
            scratch.cut(4097);
            scratch.add(9000).fill(3);
            assert_eq!(scratch.len(), 13_097);
            assert_eq!(scratch.part(4095..4099), [1, 2, 3, 3]);
            assert_eq!(scratch.all().len(), 13_097);
            scratch.all().as_ptr()
        });
        with_scratch(|scratch| {
            assert_eq!((scratch.len(), scratch.all()), (0, &[][..]));
            assert_eq!(scratch.add(1).as_ptr(), place);
        });
    }
}
