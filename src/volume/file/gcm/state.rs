//! The two halves of a file's state in memory: size, flags, epochs, name tags. No I/O.
//!
//! Invariant: the half that holds the durable state is never the one that is written next.

use crate::format::state::State;

/// Both halves as the store has them.
pub(super) struct Head {
    now: State,
    /// Index of the half that holds `now`.
    at: usize,
    other: Option<State>,
    /// The other half is the durable one; `now` is not known durable.
    unsynced: bool,
    /// Whether a power cut may leave a settled state.
    may_be_settled: bool,
}

impl Head {
    /// States as they stand in the header; `None` if there is none.
    pub(super) fn found([a, b]: [Option<State>; 2]) -> Option<Self> {
        let may_be_settled = [&a, &b]
            .into_iter()
            .flatten()
            .any(|state| !state.flags.unsettled);
        let sequence = |state: &Option<State>| state.as_ref().map(|state| state.sequence);
        let (now, at, other) = if sequence(&b) > sequence(&a) {
            (b, 1, a)
        } else {
            (a, 0, b)
        };
        Some(Self {
            now: now?,
            at,
            other,
            unsynced: false,
            may_be_settled,
        })
    }

    /// The states of a file that is being made: half A of size 0, half B not durable.
    pub(super) fn first(a: State, b: State) -> Self {
        Self {
            now: b,
            at: 1,
            other: Some(a),
            unsynced: true,
            may_be_settled: false,
        }
    }

    /// The state of a file that is being made, before it is written.
    pub(super) fn first_state_mut(&mut self) -> &mut State {
        &mut self.now
    }

    /// The state that counts.
    pub(super) fn state(&self) -> &State {
        &self.now
    }

    /// The other half, if it holds a state.
    pub(super) fn other(&self) -> Option<&State> {
        self.other.as_ref()
    }

    /// Index of the current half.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether the current state is not known durable.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Whether a power cut may leave a settled state.
    pub(super) fn may_be_settled(&self) -> bool {
        self.may_be_settled
    }

    /// Which half the next state goes to, and its sequence.
    pub(super) fn next(&self) -> (usize, u64) {
        match &self.other {
            Some(durable) if self.unsynced => (self.at, durable.sequence + 1),
            _ => (1 - self.at, self.now.sequence + 1),
        }
    }

    /// A state was written to the half that `next` gave.
    pub(super) fn wrote(&mut self, at: usize, state: State) {
        self.may_be_settled |= !state.flags.unsettled;
        let before = std::mem::replace(&mut self.now, state);
        if at != self.at {
            self.other = Some(before);
        }
        self.at = at;
        self.unsynced = true;
    }

    /// The other half was zeroed; the current one is durable.
    pub(super) fn dropped_other(&mut self) {
        self.other = None;
    }

    /// The current state is durable.
    pub(super) fn synced(&mut self) {
        self.unsynced = false;
        self.may_be_settled = !self.now.flags.unsettled;
    }
}
