//! What a supervisor holds of a mount, whichever worker serves it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::super::session::raise_file_limit;
use super::wire::{self, Order, Word};
use crate::volume::Generation;

/// What a supervisor has of a mount. Dropped with no worker alive, it ends the mount: the kernel answers every program with
/// an error.
#[derive(Default)]
pub struct Held {
    generation: u32,
    mount: Option<Mount>,
    log: Option<OwnedFd>,
    kept: HashMap<u64, OwnedFd>,
}

struct Mount {
    device: OwnedFd,
    lock: OwnedFd,
    listener: OwnedFd,
}

/// A worker, as its supervisor hears of it.
pub struct Worker(OwnedFd);

/// What a worker came to say, or how its saying ended.
pub enum Told {
    /// The mount answers.
    Ready,
    /// It sends its first answer.
    Serves,
    /// It could not mount, or go on: an exit code and a sentence.
    Refused(u8, String),
    /// No other worker shall go on, for this reason.
    Doomed(String),
    /// The mount is over, and everything of it was let go.
    Ended,
    /// It is gone.
    Gone,
}

impl Held {
    /// Whether a worker can go on.
    pub fn has_mount(&self) -> bool {
        self.mount.is_some() && self.log.is_some()
    }

    /// The connection to the next worker, and the end of it that the worker is to have. `begin` must follow when it runs.
    pub fn start(&mut self) -> io::Result<(Worker, OwnedFd)> {
        raise_file_limit(); // each file that is kept takes a descriptor
        self.generation += 1;
        let (ours, theirs) = wire::pair()?;
        Ok((Worker(ours), theirs))
    }

    /// Gives a worker all there is.
    pub fn begin(&self, worker: &Worker) -> io::Result<()> {
        if let (Some(mount), Some(log)) = (&self.mount, &self.log) {
            let all = [
                mount.device.as_fd(),
                mount.lock.as_fd(),
                mount.listener.as_fd(),
                log.as_fd(),
            ];
            wire::say(&worker.0, &Order::Mount {}, &all)?;
            for (key, file) in &self.kept {
                wire::say(&worker.0, &Order::Kept { key: *key }, &[file.as_fd()])?;
            }
        }
        let generation = self.generation;
        wire::say(&worker.0, &Order::Go { generation }, &[])
    }

    /// Keeps what a worker gives, until it says something else.
    pub fn listen(&mut self, worker: &Worker) -> io::Result<Told> {
        loop {
            let Some((word, beside)) = wire::hear(&worker.0)? else {
                return Ok(Told::Gone);
            };
            let mut beside = beside.into_iter();
            let mut given = || beside.next().ok_or(io::ErrorKind::InvalidData);
            match word {
                Word::Keep { key } => {
                    self.kept.insert(key, given()?);
                }
                Word::LetGo { key } => {
                    self.kept.remove(&key);
                }
                Word::Log { generation } => {
                    self.log = Some(given()?);
                    let now = Generation(generation);
                    self.kept.retain(|key, _| Generation::of_key(*key) >= now);
                }
                Word::Mounted {} => {
                    self.mount = Some(Mount {
                        device: given()?,
                        lock: given()?,
                        listener: given()?,
                    });
                }
                Word::Ready {} => return Ok(Told::Ready),
                Word::Serves {} => return Ok(Told::Serves),
                Word::Refused { code, sentence } => return Ok(Told::Refused(code, sentence)),
                Word::Doomed { why } => return Ok(Told::Doomed(why)),
                Word::Ended {} => {
                    self.let_go();
                    let _ = wire::say(&worker.0, &Order::Released {}, &[]);
                    return Ok(Told::Ended);
                }
            }
        }
    }

    /// Lets everything go.
    pub fn let_go(&mut self) {
        *self = Self {
            generation: self.generation,
            ..Self::default()
        };
    }
}
