//! A walk that makes every move once: an Eulerian circuit of the complete directed graph.

use std::time::Duration;

use crate::support::random::Random;

/// The moves from home 0 back to home 0, every ordered pair of different homes once.
pub fn every_ordered_pair(homes: usize) -> Vec<(usize, usize)> {
    let mut untaken: Vec<Vec<usize>> = (0..homes)
        .map(|from| (0..homes).filter(|to| *to != from).collect())
        .collect();
    // Hierholzer: walk until stuck, then insert what is left where the walk passed by.
    let (mut path, mut circuit) = (vec![0], Vec::new());
    while let Some(at) = path.last().copied() {
        match untaken[at].pop() {
            Some(next) => path.push(next),
            None => circuit.extend(path.pop()),
        }
    }
    circuit.reverse();
    circuit.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Instants that differ from run to run; which they were, the test's output says.
pub struct Dice(Random);

impl Dice {
    pub fn new() -> Self {
        let mut seed = [0; 8];
        strongroom::crypto::random_bytes(&mut seed);
        Self(Random::new(u64::from_le_bytes(seed)))
    }

    /// Less than `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        limit.mul_f64((self.0.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[test]
fn a_circuit_has_every_pair_once() {
    for homes in 2..12 {
        let circuit = every_ordered_pair(homes);
        let all: std::collections::BTreeSet<_> = circuit.iter().collect();
        assert_eq!(
            (circuit.len(), all.len()),
            (homes * (homes - 1), circuit.len())
        );
        assert!(circuit.windows(2).all(|moves| moves[0].1 == moves[1].0));
        assert_eq!((circuit[0].0, circuit[circuit.len() - 1].1), (0, 0));
    }
}
