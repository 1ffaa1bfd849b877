//! The thread that asks, from time to time, whether the master key still unwraps what a mount would have it unwrap.
//!
//! Invariant: a provider that does not answer holds up neither the thread nor the end of the volume: each question is put
//! by a thread of its own, waited for a bounded time, and no second one is put while one is open.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::format::ids::KeyId;
use crate::format::suite::Envelope;
use crate::format::wrap::{Purpose, context};
use crate::keys::{KeyError, KeyProvider, KeyState, Wrapped};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::key_loss::{Answer, CHECK_EVERY, Judge, KeyLoss, Verdict};
use crate::volume::sync::locked;

/// How long an answer is waited for: longer than any provider may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A real use of the master key: it unwraps what opening the volume had it unwrap.
struct Probe {
    provider: Arc<dyn KeyProvider>,
    key: KeyId,
    context: Vec<u8>,
    wrapped: Wrapped,
}

impl Probe {
    fn ask(&self) -> std::result::Result<(), KeyError> {
        // The home itself is asked first: a provider may unwrap by what it remembers.
        if self.provider.describe(&self.key)?.state != KeyState::Enabled {
            return Err(KeyError::Disabled(self.key.to_string()));
        }
        self.provider
            .unwrap(&self.key, &self.context, &self.wrapped)
            .map(drop)
    }
}

impl Volume {
    /// What opening the volume as it is now would have the provider unwrap.
    fn key_probe(&self) -> Result<Probe> {
        let (file, chain) = (self.master.file(), self.env.ring.chain());
        let entry = chain.current();
        let provider = Arc::clone(self.env.ring.provider(entry)?);
        let stored = file.current_key()?;
        if stored.key != entry.stored.key {
            return Err(Error::errno(libc::EAGAIN)); // it moves to another key just now
        }
        let (purpose, version, wrapped) = match (stored.envelope, file.volume_keys.last()) {
            (Envelope::Volume, Some(newest)) => {
                let wrapped = Wrapped {
                    version: newest.key_version,
                    algorithm: newest.algorithm,
                    bytes: newest.bytes.clone(),
                };
                (Purpose::VolumeKey, newest.version, wrapped)
            }
            _ => {
                let secret = file.volume_secret.clone();
                let wrapped = Wrapped {
                    version: secret.version,
                    algorithm: secret.algorithm,
                    bytes: secret.bytes,
                };
                (Purpose::VolumeSecret, 0, wrapped)
            }
        };
        Ok(Probe {
            provider,
            key: stored.key,
            context: context(purpose, &file.volume, None, version).to_vec(),
            wrapped,
        })
    }
}

/// The watch over an open volume's key.
pub(crate) struct KeyWatch {
    judge: Mutex<Judge>,
    every: Duration,
    patience: Duration,
    /// The judge's time 0.
    made: Instant,
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// A question is open.
    asking: bool,
    answer: Option<Answer>,
}

impl Default for KeyWatch {
    fn default() -> Self {
        Self::new(KeyLoss::Keep, CHECK_EVERY)
    }
}

impl KeyWatch {
    pub(crate) fn new(policy: KeyLoss, every: Duration) -> Self {
        Self {
            judge: Mutex::new(Judge::new(policy)),
            every,
            patience: PATIENCE,
            made: Instant::now(),
            bell: Arc::default(),
            thread: Mutex::default(),
        }
    }

    /// For tests: one that waits for an answer no longer than this.
    #[cfg(test)]
    pub(crate) fn with_patience(policy: KeyLoss, patience: Duration) -> Self {
        Self {
            patience,
            ..Self::new(policy, CHECK_EVERY)
        }
    }

    /// Starts the thread for a volume, which it does not keep alive; also again after `stop`.
    fn start(self: &Arc<Self>, volume: &Arc<Volume>) -> Result<()> {
        locked(&self.bell.state).stopping = false;
        let (watch, volume) = (Arc::clone(self), Arc::downgrade(volume));
        let thread = thread::Builder::new()
            .name("key watch".to_owned())
            .spawn(move || run(&watch, &volume))?;
        *locked(&self.thread) = Some(thread);
        Ok(())
    }

    /// Ends the thread and waits until it has. A question that is still open ends by itself.
    fn stop(&self) {
        locked(&self.bell.state).stopping = true;
        self.bell.rung.notify_all();
        let thread = locked(&self.thread)
            .take()
            .filter(|thread| thread.thread().id() != thread::current().id());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches the key panicked");
        }
    }

    /// Asks once, at the time `now`, and locks the volume where it is time to.
    pub(crate) fn check(&self, volume: &Volume, now: Duration) -> Verdict {
        let answer = match volume.key_probe() {
            Ok(probe) => self.ask(probe),
            Err(error) => Answer::Outage(error.to_string()),
        };
        let verdict = locked(&self.judge).see(answer, now);
        if let Verdict::Lock(why) = &verdict {
            volume.lock_down(why);
        }
        verdict
    }

    fn ask(&self, probe: Probe) -> Answer {
        let mut state = locked(&self.bell.state);
        if !state.asking {
            state.answer = None;
            let bell = Arc::clone(&self.bell);
            let asker = thread::Builder::new()
                .name("key question".to_owned())
                .spawn(move || {
                    let answer = Answer::of(probe.ask());
                    let mut state = locked(&bell.state);
                    state.asking = false;
                    state.answer = Some(answer);
                    bell.rung.notify_all();
                });
            if let Err(error) = asker {
                return Answer::Outage(error.to_string());
            }
            state.asking = true;
        }
        let open = |state: &mut State| state.asking && !state.stopping;
        let waited = self
            .bell
            .rung
            .wait_timeout_while(state, self.patience, open);
        let (mut state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        let no_answer = || Answer::Outage("it does not answer".to_owned());
        state.answer.take().unwrap_or_else(no_answer)
    }

    /// Waits for the next time to ask; false where it is time to end.
    fn wait(&self, duration: Duration) -> bool {
        let state = locked(&self.bell.state);
        let waited = self
            .bell
            .rung
            .wait_timeout_while(state, duration, |state| !state.stopping);
        let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        !state.stopping
    }
}

/// A volume's watch, which does not run once this is dropped.
pub(crate) struct Watching(Arc<KeyWatch>);

impl Watching {
    pub(crate) fn new(watch: KeyWatch) -> Self {
        Self(Arc::new(watch))
    }

    /// The watch, to be started or stopped with no lock held that it may want.
    fn watch(&self) -> Arc<KeyWatch> {
        Arc::clone(&self.0)
    }
}

impl Volume {
    /// Has the key watched from here on, if the policy wants that; also again after `stop_watching`.
    pub fn watch(self: &Arc<Self>) -> Result<()> {
        let watch = locked(&self.key_watch).as_ref().map(Watching::watch);
        watch.map_or(Ok(()), |watch| watch.start(self))
    }

    /// Has nobody watch the key, and waits for a lock-down that is under way.
    pub fn stop_watching(&self) {
        let watch = locked(&self.key_watch).as_ref().map(Watching::watch);
        watch.iter().for_each(|watch| watch.stop());
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn run(watch: &KeyWatch, volume: &Weak<Volume>) {
    loop {
        let pause = locked(&watch.judge).next(watch.every, watch.made.elapsed());
        if !watch.wait(pause) {
            return;
        }
        let Some(volume) = volume.upgrade() else {
            return;
        };
        if let Verdict::Lock(_) = watch.check(&volume, watch.made.elapsed()) {
            return;
        }
    }
}
