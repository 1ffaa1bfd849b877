//! What becomes of an open volume when its master key goes away: the policy, what a provider's answer means for it, and
//! when it is time to lock. Asks nobody and reads no clock.
//!
//! Invariant: an outage never locks, however long it lasts; nor does a loss that a good answer ended before its grace did.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::keys::KeyError;

/// What a mount does when its master key is disabled or gone. An outage of the key's home is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyLoss {
    /// Goes on with the keys in memory; the provider is not asked.
    #[default]
    Keep,
    /// Locks the volume when the loss lasted for so long.
    Grace(Duration),
    /// Locks the volume at once.
    Lock,
}

/// How often the provider is asked, unless told otherwise.
pub const CHECK_EVERY: Duration = Duration::from_secs(30);

/// A word or duration that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyLossError {
    /// No policy.
    #[error("\"{0}\" is none of keep, lock and grace=DURATION")]
    Policy(String),
    /// No duration.
    #[error("\"{0}\" is no duration of a second up to 365 days: write 30s, 5m, 2h or 1d")]
    Duration(String),
}

impl FromStr for KeyLoss {
    type Err = KeyLossError;

    fn from_str(text: &str) -> Result<Self, KeyLossError> {
        match text.split_once('=') {
            None if text == "keep" => Ok(Self::Keep),
            None if text == "lock" => Ok(Self::Lock),
            Some(("grace", duration)) => parse_duration(duration).map(Self::Grace),
            _ => Err(KeyLossError::Policy(text.to_owned())),
        }
    }
}

impl fmt::Display for KeyLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Grace(duration) => write!(f, "grace={}s", duration.as_secs()),
            Self::Lock => f.write_str("lock"),
        }
    }
}

/// A duration of a whole number of seconds, minutes, hours or days: 30s, 5m, 2h, 1d; from 1 second to 365 days.
pub fn parse_duration(text: &str) -> Result<Duration, KeyLossError> {
    let refused = || KeyLossError::Duration(text.to_owned());
    let unit = text.chars().last().ok_or_else(refused)?;
    let seconds_each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(refused()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits
        .parse::<u64>()
        .ok()
        .filter(|_| plain)
        .and_then(|count| count.checked_mul(seconds_each))
        .filter(|seconds| (1..=365 * 86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(refused)
}

/// What the provider's answer says of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It still unwraps.
    Held,
    /// It does not, and the provider knows it.
    Lost(String),
    /// The provider could not be asked.
    Outage(String),
}

impl Answer {
    /// What an attempt to unwrap says.
    pub(crate) fn of(asked: Result<(), KeyError>) -> Self {
        match asked {
            Ok(()) => Self::Held,
            Err(error @ KeyError::Unavailable(_)) => Self::Outage(error.to_string()),
            // Another key stands in its place: the last two.
            Err(
                error @ (KeyError::NotFound(_)
                | KeyError::Disabled(_)
                | KeyError::InvalidState(_)
                | KeyError::AccessDenied(_)
                | KeyError::IncorrectKey
                | KeyError::InvalidCiphertext),
            ) => Self::Lost(error.to_string()),
        }
    }
}

/// What is to be done after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    GoOn,
    /// The volume locks, for this reason.
    Lock(String),
}

/// Remembers what the answers so far were. Times are those of any clock that never goes back.
#[derive(Debug)]
pub(crate) struct Judge {
    policy: KeyLoss,
    lost_since: Option<Duration>,
    outage_told: bool,
}

impl Judge {
    pub(crate) fn new(policy: KeyLoss) -> Self {
        Self {
            policy,
            lost_since: None,
            outage_told: false,
        }
    }

    /// Takes in an answer that came at `now`; logs what is new.
    pub(crate) fn see(&mut self, answer: Answer, now: Duration) -> Verdict {
        match answer {
            Answer::Held => {
                if self.lost_since.take().is_some() {
                    tracing::warn!("the volume's master key is back");
                } else if self.outage_told {
                    tracing::info!("the volume's master key can be asked again");
                }
                self.outage_told = false;
                Verdict::GoOn
            }
            Answer::Outage(why) => {
                if !self.outage_told {
                    tracing::warn!(
                        "the volume's master key cannot be asked for now, which locks nothing: {why}"
                    );
                }
                self.outage_told = true;
                Verdict::GoOn
            }
            Answer::Lost(why) => {
                self.outage_told = false;
                self.lost(why, now)
            }
        }
    }

    fn lost(&mut self, why: String, now: Duration) -> Verdict {
        let first_time = self.lost_since.is_none();
        let since = *self.lost_since.get_or_insert(now);
        match self.policy {
            KeyLoss::Keep => Verdict::GoOn,
            KeyLoss::Lock => Verdict::Lock(why),
            KeyLoss::Grace(grace) if now.saturating_sub(since) >= grace => Verdict::Lock(why),
            KeyLoss::Grace(grace) => {
                if first_time {
                    let seconds = grace.as_secs();
                    tracing::error!(
                        "the volume's master key is lost, and the volume locks in {seconds} seconds: {why}"
                    );
                }
                Verdict::GoOn
            }
        }
    }

    /// How long after `now` to ask again: as often as `every`, and when a grace ends.
    pub(crate) fn next(&self, every: Duration, now: Duration) -> Duration {
        let KeyLoss::Grace(grace) = self.policy else {
            return every;
        };
        let left = self
            .lost_since
            .map(|since| (since + grace).saturating_sub(now));
        left.filter(|left| !left.is_zero())
            .map_or(every, |left| left.min(every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lost() -> Answer {
        Answer::of(Err(KeyError::Disabled("k".to_owned())))
    }

    fn outage() -> Answer {
        Answer::of(Err(KeyError::Unavailable("no answer".to_owned())))
    }

    #[test]
    fn reads_policies_and_refuses_what_is_none() {
        for (text, policy) in [
            ("keep", KeyLoss::Keep),
            ("lock", KeyLoss::Lock),
            ("grace=90s", KeyLoss::Grace(at(90))),
            ("grace=5m", KeyLoss::Grace(at(300))),
            ("grace=2h", KeyLoss::Grace(at(7200))),
            ("grace=1d", KeyLoss::Grace(at(86_400))),
        ] {
            assert_eq!(text.parse(), Ok(policy));
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for bad in [
            "",
            "Keep",
            "lock=",
            "grace",
            "grace=",
            "grace=5",
            "grace=s",
            "grace=-1s",
            "grace=+1s",
            "grace=0s",
            "grace=1.5m",
            "grace=366d",
            "grace=99999999999999999999d",
            "grace=5\u{20ac}",
        ] {
            assert!(bad.parse::<KeyLoss>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_answer_that_is_sure_is_a_loss() {
        assert!(matches!(outage(), Answer::Outage(_)));
        assert_eq!(Answer::of(Ok(())), Answer::Held);
        for error in [
            KeyError::NotFound("k".to_owned()),
            KeyError::Disabled("k".to_owned()),
            KeyError::InvalidState("k".to_owned()),
            KeyError::AccessDenied("k".to_owned()),
            KeyError::IncorrectKey,
            KeyError::InvalidCiphertext,
        ] {
            assert!(matches!(Answer::of(Err(error)), Answer::Lost(_)));
        }
    }

    #[test]
    fn lock_locks_at_the_first_loss_and_keep_never() {
        let mut judge = Judge::new(KeyLoss::Lock);
        assert_eq!(judge.see(outage(), at(1)), Verdict::GoOn);
        assert_eq!(judge.see(Answer::Held, at(2)), Verdict::GoOn);
        assert!(matches!(judge.see(lost(), at(3)), Verdict::Lock(_)));
        let mut judge = Judge::new(KeyLoss::Keep);
        assert_eq!(judge.see(lost(), at(1)), Verdict::GoOn);
        assert_eq!(judge.see(lost(), at(1_000_000)), Verdict::GoOn);
    }

    #[test]
    fn grace_needs_a_loss_that_lasts() {
        let mut judge = Judge::new(KeyLoss::Grace(at(100)));
        assert_eq!(judge.see(lost(), at(10)), Verdict::GoOn);
        assert_eq!(judge.see(lost(), at(109)), Verdict::GoOn);
        assert_eq!(
            judge.see(Answer::Held, at(109)),
            Verdict::GoOn,
            "it is back"
        );
        assert_eq!(judge.see(lost(), at(111)), Verdict::GoOn, "counted anew");
        assert_eq!(judge.see(lost(), at(210)), Verdict::GoOn);
        assert!(matches!(judge.see(lost(), at(211)), Verdict::Lock(_)));
    }

    #[test]
    fn an_outage_neither_locks_nor_ends_a_loss() {
        let mut judge = Judge::new(KeyLoss::Grace(at(100)));
        assert_eq!(judge.see(lost(), at(10)), Verdict::GoOn);
        assert_eq!(judge.see(outage(), at(500)), Verdict::GoOn);
        assert!(matches!(judge.see(lost(), at(501)), Verdict::Lock(_)));
        let mut judge = Judge::new(KeyLoss::Lock);
        for second in 0..1000 {
            assert_eq!(judge.see(outage(), at(second)), Verdict::GoOn);
        }
    }

    #[test]
    fn asks_again_when_the_grace_ends() {
        let mut judge = Judge::new(KeyLoss::Grace(at(10)));
        assert_eq!(judge.next(at(30), at(0)), at(30));
        judge.see(lost(), at(100));
        assert_eq!(judge.next(at(30), at(102)), at(8));
        assert_eq!(judge.next(at(3), at(102)), at(3));
        judge.see(outage(), at(120));
        assert_eq!(judge.next(at(30), at(120)), at(30), "not in a tight loop");
    }
}
