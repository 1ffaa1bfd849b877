//! A mount that goes to another process while programs use it: the connection to the kernel stays, and they see a pause.
//!
//! The process that goes shuts its gate, brings its volume to rest, takes its threads from the device, and gives what the next
//! one needs through the control socket (`leave`). The one that comes makes the same tables of it, says that it is ready, is
//! told to go on, and has the kernel send again what was read and not answered (`come`). Until then the first one can go on
//! itself, and does so if anything fails.

mod come;
mod leave;
mod state;
mod wire;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Notifier, Session};
use rustix::fs::{Mode, OFlags};

pub use self::come::Coming;
pub(super) use self::state::whole;
use super::control::Refusal;
use super::handshake::{self, Handshake};
use super::inodes::Inodes;
use super::served::Adapter;
use super::{device, gate, turns};
use crate::volume::{LockHook, Volume};

/// Between two attempts to take a thread from the device.
const AGAIN: Duration = Duration::from_millis(1);
/// For all of them to come from it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Reading from it fails and writing to it is heard by nobody.
const DEAD: &str = "/dev/null";

/// Tells a supervisor that everything is at rest, for whoever is at the end of that line; and whether something forbids a
/// clean end.
pub(super) type Leave = Box<dyn Fn(&OwnedFd, bool) -> io::Result<()> + Send + Sync>;

/// Whether, and how, this process's mount may go to another one.
pub struct Handover {
    /// Whether whoever started this process would take its end for the mount's.
    attached: bool,
    /// In the worker of a supervisor: how that one is told.
    supervisor: Option<Leave>,
    turn: Mutex<Turn>,
    moved: Condvar,
}

enum Turn {
    /// Nothing is served (yet, or any more).
    Idle,
    /// Served.
    Serving(Connection),
    /// The serving threads are on their way out.
    Stopping(Connection),
    /// They are out.
    Stopped(Connection),
    /// This process is to go on.
    Again(Connection),
    /// It is about to.
    Resuming,
    /// The mount is another process's.
    Gone,
}

/// What a session is made of, but the session.
pub(super) struct Connection {
    pub(super) adapter: Adapter,
    pub(super) device: OwnedFd,
    pub(super) handshake: Handshake,
    pub(super) config: Config,
    /// The other descriptors of this connection, until the requests that were read through them were sent again.
    pub(super) others: Vec<OwnedFd>,
}

impl Connection {
    /// Another session on this connection, by this process.
    fn session(&self) -> io::Result<Session<Adapter>> {
        self.handshake
            .again(self.adapter.again(), self.config.clone())
    }

    /// Gives the connection to a session; false: the mount is gone.
    pub(super) fn resume(&mut self, session: &Session<Adapter>) -> io::Result<bool> {
        forget_when_locked(&self.adapter, session.notifier());
        let resumed = handshake::resume(self.device.as_fd(), session)?;
        self.others.clear();
        Ok(resumed)
    }

    /// Tells the serving threads of this process what they serve.
    fn is_served_now(&self) {
        let threads = self.config.n_threads.unwrap_or(1);
        if let Err(error) = turns::begin(threads, self.device.as_fd()) {
            tracing::debug!("nobody looks out for requests: {error}");
        }
    }
}

impl Handover {
    /// `attached`: the mount ends with this process, for whoever started it, so that it must not go to another.
    pub fn new(attached: bool) -> Arc<Self> {
        Self::that(attached, None)
    }

    /// For the worker of a supervisor, which `attached` is said of.
    pub(super) fn supervised(attached: bool, leave: Leave) -> Arc<Self> {
        Self::that(attached, Some(leave))
    }

    /// Whether this process is the worker of a supervisor.
    pub(super) fn is_supervised(&self) -> bool {
        self.supervisor.is_some()
    }

    fn that(attached: bool, supervisor: Option<Leave>) -> Arc<Self> {
        Arc::new(Self {
            attached,
            supervisor,
            turn: Mutex::new(Turn::Idle),
            moved: Condvar::new(),
        })
    }

    /// Whether the mount is another process's now: what is left here must be let go as it is.
    pub fn is_gone(&self) -> bool {
        matches!(*self.locked(), Turn::Gone)
    }

    /// Serves until the mount ends, or goes to another process.
    pub(super) fn serve(
        &self,
        connection: Connection,
        mut session: Session<Adapter>,
    ) -> io::Result<()> {
        forget_when_locked(&connection.adapter, session.notifier());
        connection.is_served_now();
        *self.locked() = Turn::Serving(connection);
        loop {
            let ended = session.run();
            let Some(mut connection) = self.ended() else {
                return if self.is_gone() { Ok(()) } else { ended };
            };
            let resumed = connection.session().and_then(|again| {
                gate::open();
                connection.resume(&again).map(|goes_on| (again, goes_on))
            });
            connection.is_served_now();
            let goes_on = resumed.as_ref().is_ok_and(|(_, goes_on)| *goes_on);
            drop(self.turn_to(if goes_on {
                Turn::Serving(connection)
            } else {
                Turn::Idle
            }));
            session = match resumed? {
                (again, true) => again,
                (_, false) => return Ok(()),
            };
        }
    }

    /// The session ended; the connection, if this process is to go on with it.
    fn ended(&self) -> Option<Connection> {
        let mut turn = self.locked();
        match std::mem::replace(&mut *turn, Turn::Idle) {
            Turn::Stopping(connection) => *turn = Turn::Stopped(connection),
            _ => return None,
        }
        self.moved.notify_all();
        loop {
            turn = self
                .moved
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *turn, Turn::Idle) {
                Turn::Again(connection) => {
                    *turn = Turn::Resuming;
                    return Some(connection);
                }
                Turn::Gone => {
                    *turn = Turn::Gone;
                    return None;
                }
                other => *turn = other,
            }
        }
    }

    /// Takes the serving threads from the device, with the gate shut. Each has either nothing in its hands, or a request that it
    /// did not begin.
    fn stop(&self) -> Result<Connection, Refusal> {
        let mut turn = self.locked();
        match std::mem::replace(&mut *turn, Turn::Idle) {
            Turn::Serving(connection) => *turn = Turn::Stopping(connection),
            other => {
                *turn = other;
                return Err(busy("the mount is not served just now"));
            }
        }
        let begun = Instant::now();
        let dead = rustix::fs::open(DEAD, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let dead = dead.map_err(|error| broken(&error.into()));
        loop {
            match std::mem::replace(&mut *turn, Turn::Idle) {
                Turn::Stopped(connection) => return Ok(connection),
                Turn::Stopping(mut connection) => {
                    let done = dead.as_ref().map_err(Clone::clone).and_then(|dead| {
                        take_away(dead, &mut connection).map_err(|error| broken(&error))
                    });
                    if let (Err(refused), true) = (&done, connection.others.is_empty()) {
                        *turn = Turn::Serving(connection); // nothing was done yet
                        return Err(refused.clone());
                    }
                    if begun.elapsed() > PATIENCE {
                        // Nothing is lost: all is durable. A mount that answers nobody would be worse than none.
                        tracing::error!(
                            "the serving threads do not end ({done:?}): the mount is given up"
                        );
                        std::process::exit(1);
                    }
                    *turn = Turn::Stopping(connection);
                }
                _ => return Err(busy("the mount ended")),
            }
            turn = self
                .moved
                .wait_timeout(turn, AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Has the server go on with the connection, and waits until it does.
    fn go_on(&self, connection: Connection) {
        let mut turn = self.turn_to(Turn::Again(connection));
        while matches!(*turn, Turn::Again(_) | Turn::Resuming) {
            turn = self
                .moved
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has the server end.
    fn end(&self) {
        drop(self.turn_to(Turn::Gone));
    }

    fn turn_to(&self, next: Turn) -> MutexGuard<'_, Turn> {
        let mut turn = self.locked();
        *turn = next;
        self.moved.notify_all();
        turn
    }

    fn locked(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Once more, since a thread may open its own descriptor late, or meet the signal between two calls.
fn take_away(dead: &OwnedFd, connection: &mut Connection) -> io::Result<()> {
    let (ours, others) = (connection.device.as_fd(), &mut connection.others);
    device::put_aside(dead.as_fd(), ours, others)?;
    gate::leave();
    device::interrupt_servers()?;
    thread::yield_now();
    Ok(())
}

pub(in crate::fuse) fn busy(why: &str) -> Refusal {
    Refusal {
        kind: "busy".to_owned(),
        message: why.to_owned(),
    }
}

fn broken(error: &io::Error) -> Refusal {
    Refusal {
        kind: "store".to_owned(),
        message: format!("the mount cannot be given to another process: {error}"),
    }
}

/// Has the kernel drop every page, target and attribute that it keeps of the mount, once the volume locks.
fn forget_when_locked(adapter: &Adapter, kernel: Notifier) {
    let hook = forgets_all(Arc::clone(&adapter.inodes), kernel);
    adapter.volume.when_locked(Some(hook));
}

fn forgets_all(inodes: Arc<Inodes>, kernel: Notifier) -> LockHook {
    Box::new(move || {
        for number in inodes.numbers() {
            match kernel.inval_inode(number, 0, 0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!("the kernel may keep plaintext of inode {number:?}: {error}");
                }
                _ => {}
            }
        }
    })
}

/// The volume of a connection.
fn volume_of(connection: &Connection) -> &Arc<Volume> {
    &connection.adapter.volume
}
