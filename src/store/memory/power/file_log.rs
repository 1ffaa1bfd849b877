//! What a medium may hold of one file: every state of each of its pages since the last sync that covered it, and the
//! lengths that it had. Knows no names.
//!
//! Invariant: `base` holds what no power cut takes away; a page without log is as it is in `base`, cut by the lengths.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Rng;
use super::journal::Survivors;
use crate::store::memory::content::{Content, PAGE, Page};

const SECTOR: usize = 512;

/// One state of a page.
#[derive(Clone)]
struct Written {
    time: u64,
    page: Option<Arc<Page>>,
    /// The page was cut to its first bytes, this many, or none, by a change of the file's length or blocks: it counts only
    /// if that change survived, and what came before is cut, too, then.
    cut: Option<usize>,
    /// The page was dirty already, so it may have been on its way to the medium while this was copied into it.
    dirty: bool,
}

/// What the medium does with what is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// A page of data is written whole or not at all; pages of records and headers never count on it.
    pub(crate) whole_pages: bool,
    /// Which pages hold records or a header, from the number of the page.
    pub(crate) is_metadata: fn(u64) -> bool,
    /// After a failed sync the cache may drop what was not written: it reads as the medium has it.
    pub(crate) drops_cache: bool,
}

/// Which of the possible states of pages a cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    Oldest,
    Newest,
    Any,
}

#[derive(Clone, Default)]
pub(super) struct FileLog {
    base: Content,
    /// Changes of length: when, from, to.
    lens: Vec<(u64, u64, u64)>,
    pages: BTreeMap<u64, Vec<Written>>,
    /// Pages that a failed sync left unwritten and clean.
    lost: BTreeSet<u64>,
    /// How many pages were lost so far.
    losses: u64,
}

impl FileLog {
    pub(super) fn holding(base: Content) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    /// Pages `from..=to` have changed to what `live` holds. A page that counts as clean is written as a whole.
    pub(super) fn wrote(&mut self, time: u64, live: &Content, from: u64, to: u64) {
        for number in from..=to {
            self.lost.remove(&number);
            let log = self.pages.entry(number).or_default();
            if log.is_empty() {
                // A hole had nothing to lose, but what is written after a cut does not show without it.
                let cuts = self
                    .lens
                    .iter()
                    .filter(|(_, before, len)| len < before && *len < (number + 1) * PAGE);
                log.extend(cuts.map(|(time, _, len)| Written {
                    time: *time,
                    page: None,
                    cut: Some(len.saturating_sub(number * PAGE) as usize),
                    dirty: false,
                }));
            }
            let dirty = log.iter().any(|written| written.cut.is_none());
            log.push(Written {
                time,
                page: live.page(number),
                cut: None,
                dirty,
            });
        }
    }

    /// Whole pages `from..to` were punched out.
    pub(super) fn punched(&mut self, time: u64, from: u64, to: u64) {
        for number in from..to {
            self.pages.entry(number).or_default().push(Written {
                time,
                page: None,
                cut: Some(0),
                dirty: false,
            });
        }
    }

    /// The length has changed; `live` is what is left.
    pub(super) fn set_len(&mut self, time: u64, before: u64, live: &Content) {
        self.lens.push((time, before, live.len()));
        if live.len() >= before {
            return;
        }
        let first = live.len() / PAGE;
        let mut touched: BTreeSet<u64> = self.pages.range(first..).map(|(&page, _)| page).collect();
        touched.extend(self.base.pages_from(first));
        for number in touched {
            self.pages.entry(number).or_default().push(Written {
                time,
                page: live.page(number),
                cut: Some(live.len().saturating_sub(number * PAGE) as usize),
                dirty: false,
            });
        }
    }

    /// A sync that began at `time` ended well.
    pub(super) fn synced(&mut self, time: u64) {
        self.cut_base(time);
        for (number, log) in &mut self.pages {
            let covered = log.iter().take_while(|written| written.time < time).count();
            let last = log.drain(..covered).next_back();
            if let Some(last) = last.filter(|_| !self.lost.contains(number)) {
                self.base.put_page(*number, last.page);
            }
        }
        self.pages.retain(|_, log| !log.is_empty());
    }

    /// A sync that began at `time` failed: lengths are durable, each page either reached the medium or counts as clean all
    /// the same. Answers the pages that the cache dropped, with what is read now.
    pub(super) fn sync_failed(
        &mut self,
        time: u64,
        rules: &Rules,
        rng: &mut Rng,
    ) -> Vec<(u64, Option<Arc<Page>>)> {
        self.cut_base(time);
        let mut dropped = Vec::new();
        for (number, log) in &mut self.pages {
            let covered = log.iter().take_while(|written| written.time < time).count();
            let states = states(self.base.page(*number), &log[..covered]);
            let newer = covered < log.len();
            if newer || rng.below(2) == 0 {
                // On the medium, or on its way there.
                log.drain(..covered);
                self.base
                    .put_page(*number, states[states.len() - 1].0.clone());
                continue;
            }
            let left = pick(&states, *number, rules, Pick::Any, rng);
            self.base.put_page(*number, left);
            log.clear();
            self.lost.insert(*number);
            self.losses += 1;
            if rules.drops_cache && rng.below(2) == 0 {
                dropped.push((*number, self.base.page(*number)));
                self.lost.remove(number);
            }
        }
        self.pages.retain(|_, log| !log.is_empty());
        dropped
    }

    /// What a power cut leaves.
    pub(super) fn after_cut(
        &self,
        survivors: &Survivors,
        rules: &Rules,
        choice: Pick,
        rng: &mut Rng,
    ) -> Content {
        let mut content = self.base.clone();
        let lens = self
            .lens
            .iter()
            .take_while(|(time, ..)| survivors.has(*time));
        lens.for_each(|(.., len)| content.set_len(*len));
        for (number, log) in &self.pages {
            if number * PAGE >= content.len() {
                continue;
            }
            let gone = |written: &Written| written.cut.is_some() && !survivors.has(written.time);
            let end = log.iter().position(gone).unwrap_or(log.len());
            let states = states(self.base.page(*number), &log[..end]);
            let page = pick(&states, *number, rules, choice, rng);
            content.put_page(*number, page);
        }
        content
    }

    fn cut_base(&mut self, time: u64) {
        let covered = self.lens.iter().take_while(|(at, ..)| *at < time).count();
        for (.., len) in self.lens.drain(..covered) {
            self.base.set_len(len);
        }
    }
}

/// A page as it may stand on the medium, and whether it may have been caught on the way there from the state before.
type State = (Option<Arc<Page>>, bool);

fn states(base: Option<Arc<Page>>, log: &[Written]) -> Vec<State> {
    let mut states = vec![(base, false)];
    for written in log {
        match written.cut {
            None => states.push((written.page.clone(), written.dirty)),
            Some(0) => states = vec![(None, false)],
            Some(keep) => states.iter_mut().for_each(|(page, _)| {
                if let Some(page) = page {
                    Arc::make_mut(page)[keep..].fill(0);
                }
            }),
        }
    }
    states
}

fn pick(
    states: &[State],
    number: u64,
    rules: &Rules,
    choice: Pick,
    rng: &mut Rng,
) -> Option<Arc<Page>> {
    let whole = rules.whole_pages && !(rules.is_metadata)(number);
    let last = states.len() - 1;
    match choice {
        Pick::Oldest => return states[0].0.clone(),
        Pick::Newest => return states[last].0.clone(),
        Pick::Any => {}
    }
    let any = |rng: &mut Rng| rng.below(states.len() as u64) as usize;
    let common = any(rng);
    if whole {
        let mut page = states[common].0.clone();
        if let Some((next, true)) = later(states, common, rng)
            && common > 0
            && rng.below(5) == 0
        {
            let mut torn = bytes(&page);
            tear(&mut torn, &bytes(next), rng);
            page = Some(Arc::new(torn));
        }
        return page;
    }
    let mut page = [0; PAGE as usize];
    for (index, sector) in page.chunks_exact_mut(SECTOR).enumerate() {
        let n = any(rng);
        let of = |state: &State| -> [u8; SECTOR] {
            state.0.as_ref().map_or([0; SECTOR], |page| {
                *page[index * SECTOR..]
                    .first_chunk()
                    .expect("a whole sector")
            })
        };
        sector.copy_from_slice(&of(&states[n]));
        // FORMAT.md gives no word for a header that was never synced and tears within a sector ("A header that never
        // arrived"): EIO.
        let unsynced = number == 0 && !states[0].0.as_deref().is_some_and(is_header);
        let first_header = unsynced && sector.iter().all(|byte| *byte == 0);
        if let Some(next) = later(states, n, rng)
            && !first_header
            && (n > 0 && next.1 || (rules.is_metadata)(number))
            && rng.below(5) == 0
        {
            tear(sector, &of(next), rng);
        }
    }
    Some(Arc::new(page)).filter(|page| states[0].0.is_some() || page.iter().any(|byte| *byte != 0))
}

/// Whether a page holds all that a header must have; a sync that failed may have brought a part of it.
fn is_header(page: &Page) -> bool {
    let there = |index: usize| {
        let mut sectors = page.chunks_exact(SECTOR);
        sectors
            .nth(index)
            .is_some_and(|sector| sector.iter().any(|byte| *byte != 0))
    };
    there(0) && (there(1) || there(2)) && there(3)
}

/// A state after this one, which may have been copied while this one was on its way: never the first one, which is on the
/// medium.
fn later<'a>(states: &'a [State], n: usize, rng: &mut Rng) -> Option<&'a State> {
    let after = states.get(n + 1..).filter(|after| !after.is_empty())?;
    after.get(rng.below(after.len() as u64) as usize)
}

fn bytes(page: &Option<Arc<Page>>) -> Page {
    page.as_deref().copied().unwrap_or([0; PAGE as usize])
}

/// A copy caught in the middle: its beginning is new, its end old.
fn tear(old: &mut [u8], new: &[u8], rng: &mut Rng) {
    let caught = rng.below(old.len() as u64) as usize;
    old[..caught].copy_from_slice(&new[..caught]);
}
