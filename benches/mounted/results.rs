//! What was measured, and whether the goal is met.

use crate::chart::Role;
use crate::figures::Figures;
use crate::filesystems::{DEFAULT, Kind, NULL, PLAIN};
use crate::workloads::Workload;

/// The goal's "within 20 % of the plain directory".
const NEAR_PLAIN: f64 = 0.2;

/// A filesystem on a workload, one figure a round.
pub struct Cell {
    pub kind: &'static Kind,
    pub work: &'static Workload,
    pub values: Figures,
}

#[derive(Default)]
pub struct Results {
    pub cells: Vec<Cell>,
}

impl Results {
    pub fn add(&mut self, kind: &'static Kind, work: &'static Workload, value: f64) {
        let is_it = |cell: &&mut Cell| cell.kind.name == kind.name && cell.work.name == work.name;
        match self.cells.iter_mut().find(is_it) {
            Some(cell) => cell.values.add(value),
            None => self.cells.push(Cell {
                kind,
                work,
                values: Figures::of(value),
            }),
        }
    }

    pub fn cell(&self, kind: &str, work: &Workload) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.kind.name == kind && cell.work.name == work.name)
    }

    /// The median, as something of which more is better.
    fn speed(&self, kind: &str, work: &Workload) -> Option<f64> {
        self.cell(kind, work)
            .map(|cell| speed(work, cell.values.median()))
    }

    fn best_peer(&self, work: &Workload) -> Option<(&'static str, f64)> {
        self.cells
            .iter()
            .filter(|cell| cell.kind.role == Role::Peer && cell.work.name == work.name)
            .map(|cell| (cell.kind.title, speed(work, cell.values.median())))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// How the default mode stands on a workload, if it was measured.
    pub fn verdict(&self, work: &Workload) -> Option<Verdict> {
        let ours = self.speed(DEFAULT, work)?;
        let (null, plain, peer) = (
            self.speed(NULL, work),
            self.speed(PLAIN, work),
            self.best_peer(work),
        );
        let wanted = null.zip(plain).and_then(|(null, plain)| {
            let wanted = match (work.over_peer, peer) {
                (Some(times), Some((_, peer))) => null.max(times * peer),
                (Some(_), None) => return None,
                (None, _) => null,
            };
            let near_plain = if work.is_rate() {
                plain * (1.0 - NEAR_PLAIN)
            } else {
                plain / (1.0 + NEAR_PLAIN)
            };
            let too_much = work.over_peer.is_some() && wanted > plain;
            Some(if too_much { near_plain } else { wanted })
        });
        Some(Verdict {
            to_null: null.map(|null| ours / null),
            to_peer: peer.map(|(name, peer)| (name, ours / peer)),
            to_plain: plain.map(|plain| ours / plain),
            wanted: wanted.map(|wanted| speed(work, wanted)),
            met: wanted.map(|wanted| ours >= wanted),
            of_wanted: wanted.map(|wanted| ours / wanted),
        })
    }
}

/// Its own inverse.
fn speed(work: &Workload, value: f64) -> f64 {
    if work.is_rate() { value } else { 1.0 / value }
}

/// Ratios of speeds: above 1 the default mode is faster.
pub struct Verdict {
    pub to_null: Option<f64>,
    pub to_peer: Option<(&'static str, f64)>,
    pub to_plain: Option<f64>,
    /// What the goal asks for, in the workload's unit.
    pub wanted: Option<f64>,
    pub of_wanted: Option<f64>,
    pub met: Option<bool>,
}
