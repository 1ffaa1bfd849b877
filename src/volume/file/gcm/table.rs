//! The groups of one file that are in memory, and which of them wait for a sync or for settling. No I/O.
//!
//! Invariant: a group with anything that is not durable is never dropped. Only the writer changes a group, on a copy that
//! it hands back after the store took the records; readers add and drop durable ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::block::{Block, Group};

/// Groups that stay in memory, of all files together, about 5 KiB each: 40 MiB, the records of 2 GiB.
const GROUPS_KEPT: usize = 8192;
/// Groups that each file may have beyond that.
const GROUPS_EACH: usize = 64;

/// Groups in memory, of all files.
static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);

/// Groups by number.
#[derive(Default)]
pub(super) struct Table {
    groups: HashMap<u32, Group>,
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
        IN_MEMORY.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Table {
    /// A group, if it is in memory.
    pub(super) fn group(&mut self, number: u32) -> Option<&Group> {
        self.clock += 1;
        let clock = self.clock;
        let group = self.groups.get_mut(&number)?;
        group.stamp = clock;
        Some(group)
    }

    pub(super) fn has(&self, number: u32) -> bool {
        self.groups.contains_key(&number)
    }

    /// How often groups were dropped.
    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    /// Adds a group that is not there yet.
    pub(super) fn insert(&mut self, number: u32, mut group: Group) {
        self.clock += 1;
        group.stamp = self.clock;
        self.groups.entry(number).or_insert(group);
        self.count();
        let full = IN_MEMORY.load(Ordering::Relaxed) > GROUPS_KEPT;
        if full && self.groups.len() > GROUPS_EACH + self.unsynced.len() {
            self.drop_oldest();
        }
    }

    /// Takes in a group some of whose records were written.
    pub(super) fn wrote(&mut self, number: u32, mut group: Group) {
        self.clock += 1;
        group.stamp = self.clock;
        if group.blocks().iter().any(Block::has_other) {
            self.superseded.insert(number);
        }
        self.groups.insert(number, group);
        self.unsynced.insert(number);
        self.count();
    }

    /// Takes in a group that got longer without a record.
    pub(super) fn replace(&mut self, number: u32, mut group: Group) {
        self.clock += 1;
        group.stamp = self.clock;
        self.groups.insert(number, group);
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
            if let Some(group) = self.groups.get_mut(&number) {
                group.blocks_mut().iter_mut().for_each(Block::synced);
            }
        }
    }

    /// Forgets all after the first `blocks` blocks of a group, and all later groups.
    pub(super) fn cut(&mut self, number: u32, blocks: usize) {
        self.groups.retain(|group, _| *group <= number);
        self.unsynced.split_off(&number.saturating_add(1));
        self.superseded.split_off(&number.saturating_add(1));
        if let Some(group) = self.groups.get_mut(&number) {
            group.resize(blocks.min(group.len()));
        }
        self.drops += 1;
        self.count();
    }

    fn count(&mut self) {
        let now = self.groups.len();
        match now.checked_sub(self.counted) {
            Some(more) => IN_MEMORY.fetch_add(more, Ordering::Relaxed),
            None => IN_MEMORY.fetch_sub(self.counted - now, Ordering::Relaxed),
        };
        self.counted = now;
    }

    fn drop_oldest(&mut self) {
        let clean = self
            .groups
            .iter()
            .filter(|(number, _)| !self.unsynced.contains(number));
        let mut stamps: Vec<u64> = clean.map(|(_, group)| group.stamp).collect();
        stamps.sort_unstable();
        let Some(&limit) = stamps.get(stamps.len() / 4) else {
            return;
        };
        self.groups
            .retain(|number, group| group.stamp > limit || self.unsynced.contains(number));
        self.drops += 1;
        self.count();
    }
}
