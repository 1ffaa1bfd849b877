//! What a supervisor holds of a mount, whichever worker serves it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::super::control::{Client, ControlError};
use super::super::session::raise_file_limit;
use super::given;
use super::wire::{self, BESIDE, FORM, Order, Word};

/// How long a worker that said that it leaves may take to end.
const END: Duration = Duration::from_secs(10);
/// How long a supervisor that is to have the mount may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// What a supervisor has of a mount. Dropped with no worker alive, it ends the mount: the kernel answers every program with
/// an error.
#[derive(Default)]
pub struct Held {
    generation: u32,
    mount: Option<Mount>,
    log: Option<OwnedFd>,
    kept: HashMap<u64, OwnedFd>,
    /// After a worker that brought everything to rest, until another serves: whether something forbids a clean end.
    rested: Option<bool>,
}

struct Mount {
    device: OwnedFd,
    listener: OwnedFd,
    lock: Option<OwnedFd>,
}

/// A worker, as its supervisor hears of it; or a supervisor that is to have the mount of this one.
pub struct Worker(OwnedFd);

/// The supervisor that has a mount which is to be this one's.
pub struct Giver(OwnedFd);

/// What a worker came to say, or how its saying ended.
pub enum Told {
    /// The mount can be given to it.
    Opened,
    /// It can serve the mount.
    Prepared,
    /// The mount answers.
    Ready,
    /// It sends its first answer.
    Serves,
    /// It could not mount, or go on: an exit code and a sentence.
    Refused(u8, String),
    /// No other worker shall go on, for this reason.
    Doomed(String),
    /// It has brought everything to rest, for another supervisor.
    Leaving(Worker),
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

    /// The connection to the next worker, and the end of it that the worker is to have. `begin` must follow when it asks.
    pub fn start(&mut self) -> io::Result<(Worker, OwnedFd)> {
        raise_file_limit(); // each file that is kept takes a descriptor
        let (ours, theirs) = wire::pair()?;
        Ok((Worker(ours), theirs))
    }

    /// Gives a worker all there is.
    pub fn begin(&mut self, worker: &Worker, attached: bool) -> io::Result<()> {
        self.generation += 1;
        if let (Some(mount), Some(log)) = (&self.mount, &self.log) {
            let mut all = vec![mount.device.as_fd(), mount.listener.as_fd(), log.as_fd()];
            all.extend(mount.lock.as_ref().map(AsFd::as_fd));
            let rested = self.rested;
            wire::say(&worker.0, &Order::Mount { form: FORM, rested }, &all)?;
            let kept: Vec<_> = self.kept.iter().collect();
            for some in kept.chunks(BESIDE) {
                let keys = some.iter().map(|(key, _)| **key).collect();
                let files: Vec<_> = some.iter().map(|(_, file)| file.as_fd()).collect();
                wire::say(&worker.0, &Order::Kept { keys }, &files)?;
            }
        }
        let generation = self.generation;
        let go = Order::Go {
            generation,
            attached,
        };
        wire::say(&worker.0, &go, &[])
    }

    /// Has a worker serve that can.
    pub fn serve(&mut self, worker: &Worker) -> io::Result<()> {
        self.rested = None;
        wire::say(&worker.0, &Order::Serve {}, &[])
    }

    /// Gives the mount to another supervisor, with no worker alive; on success it is that one's.
    ///
    /// # Errors
    /// Why it is not.
    pub fn give(&mut self, to: &Worker, attached: bool) -> io::Result<()> {
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&to.0, timeout, Some(SILENCE))?;
        }
        self.begin(to, attached)?;
        match wire::hear(&to.0)? {
            Some((Word::Prepared {}, _)) => wire::say(&to.0, &Order::Serve {}, &[]), // this word gives it away
            Some((Word::Refused { sentence, .. }, _)) => Err(io::Error::other(sentence)),
            Some((word, _)) => Err(io::Error::other(format!("it said {word:?}"))),
            None => Err(io::Error::other("it ended")),
        }
    }

    /// Asks for the mount of another supervisor, by the control socket; everything of it is at rest then, and programs wait.
    pub fn ask(socket: &Path) -> Result<(Self, Giver), ControlError> {
        let (ours, theirs) = wire::pair()?;
        Client::connect(socket)?.take_over_with(&theirs)?;
        drop(theirs);
        let heard = given::hear(&ours)?;
        let given = heard.given.ok_or(io::ErrorKind::InvalidData);
        let given = given.map_err(io::Error::from)?;
        let held = Self {
            generation: heard.generation.0,
            mount: Some(Mount {
                device: given.device,
                lock: given.lock,
                listener: given.listener,
            }),
            log: Some(given.log),
            kept: given.kept.into_iter().collect(),
            rested: given.rested,
        };
        Ok((held, Giver(ours)))
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
                Word::Log {} => self.log = Some(given()?),
                Word::Mounted {} => {
                    self.mount = Some(Mount {
                        device: given()?,
                        listener: given()?,
                        lock: given().ok(),
                    });
                }
                Word::Opened {} => return Ok(Told::Opened),
                Word::Prepared {} => return Ok(Told::Prepared),
                Word::Ready {} => return Ok(Told::Ready),
                Word::Serves {} => return Ok(Told::Serves),
                Word::Refused { code, sentence } => return Ok(Told::Refused(code, sentence)),
                Word::Doomed { why } => return Ok(Told::Doomed(why)),
                Word::Leaving { unclean } => {
                    self.rested = Some(unclean);
                    set_socket_timeout(&worker.0, Timeout::Recv, Some(END))?;
                    return Ok(Told::Leaving(Worker(given()?)));
                }
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

impl Giver {
    /// Says that the mount can be served here. From the return on it is this supervisor's.
    ///
    /// # Errors
    /// It stays with the other one.
    pub fn is_prepared(&self) -> io::Result<()> {
        wire::say(&self.0, &Word::Prepared {}, &[])?;
        match wire::hear(&self.0)? {
            Some((Order::Serve {}, _)) => Ok(()),
            _ => Err(io::Error::other(
                "the supervisor that has the mount went on itself",
            )),
        }
    }

    /// Tells it to go on itself.
    pub fn refuse(self, code: u8, sentence: &str) {
        let sentence = sentence.to_owned();
        let _ = wire::say(&self.0, &Word::Refused { code, sentence }, &[]);
    }
}
