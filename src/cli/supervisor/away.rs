//! How long a supervisor waits for a key that is away when the next worker needs it. Asks nobody and reads no clock.
//!
//! Invariants: what opens the key is tried once more only where it was not refused, since tokens lock after a few wrong PINs; an
//! outage ends no mount before its patience is over, whatever the policy for a loss.

use std::time::Duration;

use super::super::exit::Code;
use crate::volume::KeyLoss;

/// How long, where the mount's policy does not say: a token that is plugged in again, a module that is started anew. Programs in the
/// mount wait, and those that wait for an answer to what was read before cannot be killed.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// Between two attempts, at the least and at the most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What is known of a key that may be away. Times are those of any clock that never goes back.
#[derive(Debug)]
pub(super) struct Away {
    policy: KeyLoss,
    lost_since: Option<Duration>,
    out_since: Option<Duration>,
}

/// What is to be done after a worker could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was not for want of a key.
    Other,
    /// Another one is to try after so long.
    Again(Duration),
    /// No other one, for this reason.
    Over(&'static str),
}

impl Away {
    pub(super) fn new(policy: KeyLoss) -> Self {
        Self {
            policy,
            lost_since: None,
            out_since: None,
        }
    }

    /// A worker has its key.
    pub(super) fn is_back(&mut self) {
        (self.lost_since, self.out_since) = (None, None);
    }

    /// Whether nothing was known of it.
    pub(super) fn is_new(&self) -> bool {
        self.lost_since.is_none() && self.out_since.is_none()
    }

    /// A worker could not go on, with this code, at `now`.
    pub(super) fn see(&mut self, code: Code, now: Duration) -> Verdict {
        let (since, patience, over) = match code {
            Code::Secret => {
                return Verdict::Over("what opened its key does not open it any more");
            }
            Code::KeyDisabled | Code::NoSuchKey | Code::NoKeystore => {
                let patience = match self.policy {
                    KeyLoss::Lock => Duration::ZERO,
                    KeyLoss::Grace(grace) => grace,
                    KeyLoss::Keep => PATIENCE,
                };
                (&mut self.lost_since, patience, "its master key is lost")
            }
            Code::Busy => {
                let over = "its master key cannot be asked for";
                (&mut self.out_since, PATIENCE, over)
            }
            _ => return Verdict::Other,
        };
        let waited = now.saturating_sub(*since.get_or_insert(now));
        if waited >= patience {
            return Verdict::Over(over);
        }
        let (least, most) = PAUSES;
        Verdict::Again((waited / 4).clamp(least, most).min(patience - waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_for_a_lost_key_as_long_as_the_policy_says() {
        for (policy, patience) in [
            (KeyLoss::Keep, PATIENCE),
            (KeyLoss::Grace(at(30)), at(30)),
            (KeyLoss::Grace(at(7200)), at(7200)),
        ] {
            for code in [Code::KeyDisabled, Code::NoSuchKey, Code::NoKeystore] {
                let mut away = Away::new(policy);
                let mut now = at(1000);
                let mut tried = 0;
                let over = loop {
                    match away.see(code, now) {
                        Verdict::Again(pause) => now += pause,
                        verdict => break verdict,
                    }
                    tried += 1;
                };
                assert!(matches!(over, Verdict::Over(_)) && now == at(1000) + patience);
                assert!(tried > 5 && tried < 800, "{tried}");
            }
        }
        let mut away = Away::new(KeyLoss::Lock);
        assert!(matches!(
            away.see(Code::KeyDisabled, at(5)),
            Verdict::Over(_)
        ));
    }

    #[test]
    fn an_outage_is_waited_for_under_every_policy() {
        for policy in [KeyLoss::Keep, KeyLoss::Grace(at(1)), KeyLoss::Lock] {
            let mut away = Away::new(policy);
            assert!(away.is_new());
            assert!(matches!(away.see(Code::Busy, at(5)), Verdict::Again(_)));
            let last = at(4) + PATIENCE;
            assert!(matches!(away.see(Code::Busy, last), Verdict::Again(_)));
            assert!(!away.is_new());
            away.is_back();
            assert!(matches!(away.see(Code::Busy, last), Verdict::Again(_)));
            let over = away.see(Code::Busy, last + PATIENCE);
            assert!(matches!(over, Verdict::Over(_)));
        }
    }

    #[test]
    fn a_secret_that_is_refused_is_not_tried_again() {
        let mut away = Away::new(KeyLoss::Keep);
        assert!(matches!(away.see(Code::Secret, at(5)), Verdict::Over(_)));
        assert_eq!(away.see(Code::Damaged, at(5)), Verdict::Other);
    }
}
