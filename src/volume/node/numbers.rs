//! A map from numbers to nodes for numbers that lie close together, as those of inodes do: 64 consecutive ones share an
//! entry. Costs some 9 bytes a node where they are dense, at most about 100 where each stands alone. Keeps no node alive.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Node;

/// Numbers of one page.
const PAGE: u64 = 64;
/// Nodes by which a page grows at most, so that little stays unused.
const STEP: usize = 8;
/// Pages below which the map of pages keeps its room.
const FEW: usize = 1024;

/// Nodes by their numbers.
#[derive(Default)]
pub(super) struct Numbers {
    pages: HashMap<u64, Page>,
}

/// The nodes of 64 numbers: one for each bit that is set, in order.
#[derive(Default)]
struct Page {
    taken: u64,
    nodes: Vec<Weak<Node>>,
}

impl Numbers {
    /// The entry of a number; its node may be gone already.
    pub(super) fn get(&self, number: u64) -> Option<&Weak<Node>> {
        let page = self.pages.get(&(number / PAGE))?;
        let index = page.index(number).ok()?;
        page.nodes.get(index)
    }

    /// Enters a node, in the place of any other that had the number.
    pub(super) fn insert(&mut self, number: u64, node: Weak<Node>) {
        let page = self.pages.entry(number / PAGE).or_default();
        match page.index(number) {
            Ok(index) => {
                if let Some(entry) = page.nodes.get_mut(index) {
                    *entry = node;
                }
            }
            Err(index) => {
                if page.nodes.len() == page.nodes.capacity() {
                    page.nodes
                        .reserve_exact(page.nodes.capacity().clamp(1, STEP));
                }
                page.nodes.insert(index, node);
                page.taken |= bit(number);
            }
        }
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(page) = self.pages.get_mut(&(number / PAGE)) else {
            return;
        };
        if let Ok(index) = page.index(number) {
            page.nodes.remove(index);
            page.taken &= !bit(number);
        }
        if page.nodes.capacity() > page.nodes.len() + 2 * STEP {
            page.nodes.shrink_to(page.nodes.len() + STEP);
        }
        if page.nodes.is_empty() {
            self.pages.remove(&(number / PAGE));
            if self.pages.capacity() > FEW.max(4 * self.pages.len()) {
                self.pages.shrink_to(2 * self.pages.len());
            }
        }
    }

    /// All nodes that live.
    pub(super) fn living(&self) -> impl Iterator<Item = Arc<Node>> {
        let entries = self.pages.values().flat_map(|page| &page.nodes);
        entries.filter_map(Weak::upgrade)
    }

    /// How many numbers are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pages.values().map(|page| page.nodes.len()).sum()
    }
}

impl Page {
    /// Where a number's node is, or would have to be.
    fn index(&self, number: u64) -> Result<usize, usize> {
        let below = self.taken & (bit(number) - 1);
        let index = below.count_ones() as usize;
        if self.taken & bit(number) == 0 {
            Err(index)
        } else {
            Ok(index)
        }
    }
}

fn bit(number: u64) -> u64 {
    1 << (number % PAGE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{stat, table};
    use super::*;
    use crate::store::Kind;

    #[test]
    fn holds_what_a_map_holds() {
        let (nodes, root) = table();
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let (mut numbers, mut expected) = (Numbers::default(), BTreeMap::new());
        for round in 0..20_000 {
            // Dense at the bottom, sparse above, and the largest number of all.
            let number = match random(4) {
                0 => random(300),
                1 => u64::MAX - random(3),
                _ => random(200) << 20,
            };
            if random(if round < 15_000 { 3 } else { 12 }) == 0 {
                let inode = stat((number >> 1) + 10, Kind::File);
                let node = nodes.found(&inode, &root, b"x").unwrap();
                numbers.insert(number, Arc::downgrade(&node));
                expected.insert(number, node);
            } else {
                numbers.remove(number);
                expected.remove(&number);
            }
            let found = numbers.get(number).and_then(Weak::upgrade);
            assert_eq!(
                found.map(|node| node.id()),
                expected.get(&number).map(|node| node.id())
            );
            assert_eq!(numbers.len(), expected.len());
        }
        assert_eq!(numbers.living().count(), expected.len());
        for number in expected.into_keys() {
            numbers.remove(number);
        }
        assert!(numbers.pages.is_empty() && numbers.pages.capacity() <= 2 * FEW);
    }
}
