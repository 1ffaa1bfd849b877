//! Records that are asked for before anybody needs them: of groups in a row for who overwrites on, of all groups, little by
//! little, for who comes to them in no order. What is asked for comes into the store's cache, not into memory.
//!
//! Invariants: who comes in no order has each group asked for once at most while the file is in use; a file too large for that
//! to end soon is left alone.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::format::layout::{self, PAGE};

use super::GcmBody;

/// Groups of a file whose records are all asked for, at most: those of 1 GiB, 16 MiB.
const ALL: u32 = if cfg!(test) { 64 } else { 4096 };
/// Misses before one group more is asked for at each.
const MISSES: u32 = 8;
/// Asked for at one miss, at most.
const AT_ONCE: u32 = 16;

/// How often records had to be waited for in no order, and what was asked for since.
#[derive(Default)]
pub(super) struct Scout {
    /// The group after the last that was missed.
    next: AtomicU32,
    misses: AtomicU32,
    /// All groups before this one.
    asked: AtomicU32,
}

impl Scout {
    /// The groups to ask for where the records of one are missed, in a file of so many groups.
    fn after_miss(&self, missed: u32, groups: u32) -> Range<u32> {
        let in_order = self.next.swap(missed.wrapping_add(1), Ordering::Relaxed) == missed;
        if in_order || groups > ALL || self.asked.load(Ordering::Relaxed) >= groups {
            return 0..0;
        }
        let misses = self
            .misses
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let many = (misses / MISSES).min(AT_ONCE);
        let from = self.asked.fetch_add(many, Ordering::Relaxed);
        from.min(groups)..from.saturating_add(many).min(groups)
    }
}

impl GcmBody {
    /// Who overwrites on from here wants the records of the groups after this: they come while this is sealed and written.
    pub(super) fn ask_for_next(&self, changed: &Range<u64>) {
        let end = (2 * changed.end - changed.start).min(self.blocks());
        let next = layout::group_of(changed.end - 1) + 1..layout::group_of(end - 1) + 1;
        for number in self.unknown(next) {
            self.ask_for(number);
        }
    }

    /// Before the records of a group are waited for.
    pub(super) fn missed(&self, number: u32) {
        let groups = self.blocks().checked_sub(1).map_or(0, layout::group_of) + 1;
        let others = self.unknown(self.scout.after_miss(number, groups));
        if !others.is_empty() {
            self.ask_for(number); // first
        }
        for other in others {
            self.ask_for(other);
        }
    }

    fn unknown(&self, groups: Range<u32>) -> Vec<u32> {
        if groups.is_empty() {
            return Vec::new();
        }
        let memory = self.memory();
        groups.filter(|number| !memory.table.has(*number)).collect()
    }

    fn ask_for(&self, number: u32) {
        self.backing
            .will_need(layout::tag_page_offset(number), PAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups that do not follow each other.
    fn after_misses(scout: &Scout, misses: u32, groups: u32) -> Vec<Range<u32>> {
        let miss = |count| scout.after_miss(1 + count * 2, groups);
        (0..misses).map(miss).collect()
    }

    #[test]
    fn ever_more_is_asked_for_each_group_once() {
        let asked = after_misses(&Scout::default(), 10 * MISSES, ALL);
        let mut next = 0;
        for (asked, misses) in asked.into_iter().zip(1..) {
            let many = (misses / MISSES).min(ALL - next);
            assert_eq!(asked.len(), many as usize);
            if many > 0 {
                assert_eq!(asked.start, next);
                next = asked.end;
            }
        }
        assert_eq!(next, ALL, "and no more");
    }

    #[test]
    fn who_goes_through_a_file_is_not_scouted_for() {
        let scout = Scout::default();
        assert!((0..ALL).all(|group| scout.after_miss(group, ALL).is_empty()));
    }

    #[test]
    fn a_file_that_is_too_large_is_left_alone() {
        let scout = Scout::default();
        let asked = after_misses(&scout, 1000, ALL + 1);
        assert!(asked.iter().all(Range::is_empty));
        assert_eq!(scout.misses.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn not_more_than_so_many_at_once() {
        let scout = Scout::default();
        scout.misses.store(u32::MAX - 2, Ordering::Relaxed);
        assert_eq!(scout.after_miss(1, ALL), 0..AT_ONCE);
    }
}
