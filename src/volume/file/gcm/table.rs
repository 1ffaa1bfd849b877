//! The groups of one file that are in memory, and which of them wait for a sync or for settling. No I/O.
//!
//! Invariant: a group with anything that is not durable is never dropped, nor one whose records on the store are ahead of
//! memory (`pin`). Only the writer changes a group, on a copy that it hands back after the store took the records; readers add
//! and drop durable ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::block::{Block, Group};

/// Durable groups that stay in memory, of all files together, up to 7 KiB each: 56 MiB, the records of 2 GiB. Few in tests, so
/// that these meet it.
const GROUPS_KEPT: usize = if cfg!(test) { 128 } else { 8192 };
/// Groups that each file may have beyond that.
const GROUPS_EACH: usize = if cfg!(test) { 8 } else { 64 };

/// Groups in memory, of all files.
static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);
/// Files that have some of them.
static TABLES: AtomicUsize = AtomicUsize::new(0);

/// A group, which a change goes on from without a copy, and when it was last used.
struct Known {
    group: Arc<Group>,
    stamp: u64,
}

/// Groups by number.
#[derive(Default)]
pub(super) struct Table {
    groups: HashMap<u32, Known>,
    /// Groups with blocks that are not known durable.
    unsynced: BTreeSet<u32>,
    /// Groups that may hold superseded record halves, written by this body.
    superseded: BTreeSet<u32>,
    /// How often groups were dropped: who read a group's records before that must read them again.
    drops: u64,
    clock: u64,
    /// How many of its groups `IN_MEMORY` counts.
    counted: usize,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.groups.clear();
        self.count();
    }
}

impl Table {
    /// A group, if it is in memory.
    pub(super) fn group(&mut self, number: u32) -> Option<&Arc<Group>> {
        self.clock += 1;
        let known = self.groups.get_mut(&number)?;
        known.stamp = self.clock;
        Some(&known.group)
    }

    fn known(&mut self, group: Arc<Group>) -> Known {
        self.clock += 1;
        let stamp = self.clock;
        Known { group, stamp }
    }

    pub(super) fn has(&self, number: u32) -> bool {
        self.groups.contains_key(&number)
    }

    /// How often groups were dropped.
    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    /// Adds a group that is not there yet.
    pub(super) fn insert(&mut self, number: u32, group: Group) {
        let known = self.known(Arc::new(group));
        self.groups.entry(number).or_insert(known);
        self.count();
        self.trim();
    }

    /// Keeps a group as it is, durable: its records on the store are about to be ahead of it, and readers must not find those.
    /// `wrote` must follow, whatever comes of it.
    pub(super) fn pin(&mut self, number: u32, group: &Arc<Group>) {
        let known = self.known(Arc::clone(group));
        self.groups.entry(number).or_insert(known);
        self.unsynced.insert(number);
        self.count();
    }

    /// Takes in a group some of whose records were written.
    pub(super) fn wrote(&mut self, number: u32, group: Arc<Group>) {
        if group.blocks().iter().any(Block::has_other) {
            self.superseded.insert(number);
        }
        let known = self.known(group);
        self.groups.insert(number, known);
        self.unsynced.insert(number);
        self.count();
    }

    /// Takes in a group that got longer without a record.
    pub(super) fn replace(&mut self, number: u32, group: Arc<Group>) {
        let known = self.known(group);
        self.groups.insert(number, known);
        self.count();
    }

    /// Numbers of the groups with blocks that are not known durable.
    pub(super) fn unsynced(&self) -> &BTreeSet<u32> {
        &self.unsynced
    }

    /// Numbers of the groups that settling must look at.
    pub(super) fn superseded(&self) -> &BTreeSet<u32> {
        &self.superseded
    }

    /// A group may hold superseded halves.
    pub(super) fn note_superseded(&mut self, number: u32) {
        self.superseded.insert(number);
    }

    /// A group holds no superseded halves any more.
    pub(super) fn note_settled(&mut self, number: u32) {
        self.superseded.remove(&number);
    }

    /// Everything written is durable.
    pub(super) fn synced(&mut self) {
        for number in std::mem::take(&mut self.unsynced) {
            if let Some(known) = self.groups.get_mut(&number) {
                Arc::make_mut(&mut known.group).synced();
            }
        }
        self.trim();
    }

    /// Forgets all after the first `blocks` blocks of a group, and all later groups.
    pub(super) fn cut(&mut self, number: u32, blocks: usize) {
        self.groups.retain(|group, _| *group <= number);
        self.unsynced.split_off(&number.saturating_add(1));
        self.superseded.split_off(&number.saturating_add(1));
        if let Some(known) = self.groups.get_mut(&number) {
            let group = Arc::make_mut(&mut known.group);
            group.resize(blocks.min(group.len()));
        }
        self.drops += 1;
        self.count();
    }

    /// Every group with blocks that are not known durable, as it is.
    pub(super) fn all_unsynced(&self) -> Vec<(u32, Arc<Group>)> {
        let numbers = self.unsynced.iter();
        numbers
            .filter_map(|number| Some((*number, Arc::clone(&self.groups.get(number)?.group))))
            .collect()
    }

    /// Blocks of a group that are still as they were `then` are durable.
    pub(super) fn synced_as(&mut self, number: u32, then: Arc<Group>) {
        let Some(known) = self.groups.get_mut(&number) else {
            return;
        };
        if Arc::ptr_eq(&known.group, &then) {
            drop(then);
            Arc::make_mut(&mut known.group).synced();
        } else {
            Arc::make_mut(&mut known.group).synced_as(&then);
        }
        if !known.group.is_unsynced() {
            self.unsynced.remove(&number);
        }
    }

    fn count(&mut self) {
        let now = self.groups.len();
        match now.checked_sub(self.counted) {
            Some(more) => IN_MEMORY.fetch_add(more, Ordering::Relaxed),
            None => IN_MEMORY.fetch_sub(self.counted - now, Ordering::Relaxed),
        };
        match (self.counted, now) {
            (0, 1..) => TABLES.fetch_add(1, Ordering::Relaxed),
            (1.., 0) => TABLES.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        self.counted = now;
    }

    /// Where all files have too many, drops what this one has beyond its share.
    fn trim(&mut self) {
        if IN_MEMORY.load(Ordering::Relaxed) <= GROUPS_KEPT {
            return;
        }
        let share = GROUPS_KEPT / TABLES.load(Ordering::Relaxed).max(1);
        let durable = self.groups.len().saturating_sub(self.unsynced.len());
        if durable > share.max(GROUPS_EACH) {
            // A quarter less than that, so that not each group that comes looks at all.
            self.drop_oldest(durable - share.max(GROUPS_EACH) * 3 / 4);
        }
    }

    fn drop_oldest(&mut self, many: usize) {
        let clean = self
            .groups
            .iter()
            .filter(|(number, _)| !self.unsynced.contains(number));
        let mut stamps: Vec<u64> = clean.map(|(_, known)| known.stamp).collect();
        stamps.sort_unstable();
        let Some(&limit) = stamps.get(many.saturating_sub(1)) else {
            return;
        };
        self.groups
            .retain(|number, known| known.stamp > limit || self.unsynced.contains(number));
        self.drops += 1;
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = 2 * GROUPS_KEPT as u32;

    #[test]
    fn a_pinned_group_stays_however_many_come() {
        let mut table = Table::default();
        table.pin(0, &Arc::default());
        (1..MANY).for_each(|number| table.insert(number, Group::default()));
        assert!(table.has(0) && table.groups.len() <= GROUPS_KEPT + 1);
        table.synced();
        (1..MANY).for_each(|number| table.insert(number + MANY, Group::default()));
        assert!(!table.has(0), "an old one as any other");
    }

    #[test]
    fn what_was_written_is_bounded_once_it_is_durable() {
        let mut table = Table::default();
        (0..MANY).for_each(|number| table.wrote(number, Arc::default()));
        assert_eq!(table.groups.len(), MANY as usize, "nothing is durable");
        table.synced();
        assert!((1..=GROUPS_KEPT).contains(&table.groups.len()));
    }

    #[test]
    fn a_group_is_as_large_as_is_said() {
        assert!(size_of::<Block>() * 64 <= 7 << 10);
    }
}
