//! Reading ahead on the store for who reads an open file from one end to the other: the kernel reads ahead in the mount, but
//! what it asks for then is still to come from the disk, and the store's own readahead stumbles over spare slots.
//!
//! Knows offsets only; asks for nothing twice, and for nothing where reads jump about.

use std::sync::Mutex;

use crate::volume::sync::locked;

/// How far ahead of the reader the store is asked, bytes.
const DEPTH: u64 = 4 << 20;
/// It is asked again once so much less is left of that.
const STEP: u64 = DEPTH / 2;
/// Requests of one reader come out of order by at most so much: two of the largest.
const DISORDER: u64 = 2 << 20;
/// Bytes read in a row before it begins: smaller files are the store's own readahead's.
const BEGIN: u64 = 256 << 10;

/// What one open file was read of.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<Run>);

/// The present run of reads that follow each other.
#[derive(Default)]
struct Run {
    /// Bytes of it.
    read: u64,
    /// Where it goes on.
    next: u64,
    /// Up to where the store was asked.
    asked: u64,
}

impl Ahead {
    /// Before a read of `len` bytes at `offset`: the range to ask the store for, if any, which may end after the file.
    pub(crate) fn before_read(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let end = offset.saturating_add(len);
        let mut run = locked(&self.0);
        if offset.abs_diff(run.next) > DISORDER {
            *run = Run {
                next: end,
                ..Run::default()
            };
            return None;
        }
        run.read = run.read.saturating_add(len);
        run.next = run.next.max(end);
        let from = run.asked.max(run.next);
        let to = run.next.saturating_add(DEPTH);
        if run.read < BEGIN || to.saturating_sub(from) < STEP {
            return None;
        }
        run.asked = to;
        Some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u64 = 128 << 10;
    const SIZE: u64 = 64 << 20;

    /// What is asked for while these offsets are read.
    fn asked(offsets: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
        let ahead = Ahead::default();
        let reads = offsets.into_iter();
        reads
            .filter_map(|offset| ahead.before_read(offset, READ))
            .collect()
    }

    #[test]
    fn a_sequential_reader_has_everything_after_the_start_asked_for_once() {
        let asked = asked((0..SIZE / READ).map(|read| read * READ));
        assert_eq!(asked.first().unwrap().0, BEGIN);
        assert!(asked.last().unwrap().1 >= SIZE);
        assert!(asked.windows(2).all(|pair| pair[0].1 == pair[1].0));
        assert!(asked.len() as u64 <= SIZE / STEP + 2, "{asked:?}");
    }

    #[test]
    fn two_requests_in_the_wrong_order_are_one_reader_still() {
        let swapped = (0..SIZE / READ).map(|read| (read ^ 1) * READ);
        assert!(asked(swapped).len() > 10);
    }

    #[test]
    fn reads_that_jump_about_ask_for_nothing() {
        let jumps = (0..1000u64).map(|read| read * 7919 * READ % SIZE);
        assert_eq!(asked(jumps), []);
    }

    #[test]
    fn a_small_file_is_left_to_the_store() {
        assert_eq!(asked([0]), []);
    }
}
