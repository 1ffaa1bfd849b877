//! The control socket of a mount: what can be asked of the daemon that holds a volume, and the asking side.
//!
//! One line of JSON asks: `{"command":"rotate"}`, `"info"` or `"wait"`. Lines of JSON answer: `{"progress":{..}}` any number
//! of times, then `{"rotation":{..}}`, `{"info":{..}}` or `{"error":{..}}`. To `wait` the answer is `{"waiting":{}}`, and
//! then the end of the connection, when the daemon has let the volume go.
//!
//! Invariant: only root and the daemon's own user are answered, whatever the socket file's mode lets through.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, chmod, unlink};
use serde::{Deserialize, Serialize};

use crate::format::ids::VolumeId;
use crate::volume::{Error, Phase, Progress, Rotation, Volume};

/// The longest request, bytes.
const REQUEST_LIMIT: u64 = 4096;
/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Connections at a time.
const CONNECTIONS: usize = 32;

/// Where the socket of a mounted volume lies in a runtime directory.
pub fn socket_in(runtime: &Path, volume: &VolumeId) -> PathBuf {
    runtime.join(format!("{volume}.sock"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Rotate,
    Info,
    Wait,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    command: Command,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Progress {
        done: u64,
        phase: PhaseName,
    },
    /// Fields as `volume::Rotation` names them.
    Rotation(Rotation),
    Info(serde_json::Value),
    Waiting {},
    Error {
        kind: String,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PhaseName {
    Rewrap,
    Verify,
}

/// The listening side. Serve the mount, then `finish`, close the volume, drop this: who waits learns of the close last.
pub struct Control {
    shared: Arc<Shared>,
    path: PathBuf,
    listener: Arc<UnixListener>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    volume: Mutex<Option<Arc<Volume>>>,
    about: serde_json::Value,
    stopped: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    open: Vec<(u64, UnixStream)>,
    threads: Vec<JoinHandle<()>>,
    last: u64,
}

impl Control {
    /// Listens on a socket file of mode 0600, and replaces one that nobody listens on (AddrInUse if somebody does).
    /// `about` is what `info` answers.
    pub fn listen(path: &Path, volume: Arc<Volume>, about: serde_json::Value) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = Arc::new(UnixListener::bind(path)?);
        chmod(path, Mode::RUSR | Mode::WUSR)?;
        let shared = Arc::new(Shared {
            volume: Mutex::new(Some(volume)),
            about,
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = (Arc::clone(&shared), Arc::clone(&listener));
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accepting.0.accept(&accepting.1))?;
        Ok(Self {
            shared,
            path: path.to_owned(),
            listener,
            listening: Some(thread),
        })
    }

    /// Takes no more requests, and waits for a rotation that is under way. Lets go of the volume.
    pub fn finish(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(listening) = self.listening.take() {
            // Wakes it, also where somebody removed the socket file.
            let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
            let _ = unlink(&self.path);
            let _ = listening.join();
        }
        let threads = {
            let mut connections = locked(&self.shared.connections);
            for (_, connection) in &connections.open {
                let _ = connection.shutdown(Shutdown::Read); // whoever asks nothing more
            }
            std::mem::take(&mut connections.threads)
        };
        for thread in threads {
            let _ = thread.join();
        }
        locked(&self.shared.volume).take();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.finish();
        locked(&self.shared.connections).open.clear(); // ends the waits
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket file that nobody listens on is left over from a daemon that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(unlink(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for connection in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            match connection {
                Ok(connection) if is_allowed(&connection) => self.admit(connection),
                Ok(_) => tracing::warn!("a user without the right to it asked the control socket"),
                Err(error) => {
                    tracing::warn!("the control socket: {error}");
                    thread::sleep(PROGRESS_EVERY); // out of descriptors: no tight loop
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, connection: UnixStream) {
        let mut connections = locked(&self.connections);
        connections.threads.retain(|thread| !thread.is_finished());
        if connections.open.len() >= CONNECTIONS {
            return;
        }
        let Ok(kept) = connection.try_clone() else {
            return;
        };
        connections.last += 1;
        let number = connections.last;
        connections.open.push((number, kept));
        let shared = Arc::clone(self);
        let answering = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let done = shared.converse(&connection);
                if let Err(error) = &done {
                    tracing::debug!("a control connection ended: {error}");
                }
                // Who waits is let go by the drop of `Control`.
                if !(matches!(done, Ok(Command::Wait)) && shared.stopped.load(Ordering::SeqCst)) {
                    locked(&shared.connections)
                        .open
                        .retain(|(open, _)| *open != number);
                }
            });
        connections.threads.extend(answering);
    }

    /// Answers one request.
    fn converse(&self, connection: &UnixStream) -> io::Result<Command> {
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new(connection)
            .take(REQUEST_LIMIT)
            .read_line(&mut line)?;
        let request: Request = match serde_json::from_str(&line) {
            Ok(request) => request,
            Err(error) => {
                send(
                    connection,
                    &Answer::error("request", format!("not a request: {error}")),
                )?;
                return Err(io::Error::other(error));
            }
        };
        match request.command {
            Command::Rotate => send(connection, &self.rotate(connection))?,
            Command::Info => send(connection, &Answer::Info(self.about.clone()))?,
            Command::Wait => {
                connection.set_read_timeout(None)?;
                send(connection, &Answer::Waiting {})?;
                io::copy(&mut &*connection, &mut io::sink())?; // until the asker goes, or `finish`
            }
        }
        Ok(request.command)
    }

    fn rotate(&self, connection: &UnixStream) -> Answer {
        let Some(volume) = locked(&self.volume).clone() else {
            return Answer::error("unmounting", "the volume is being unmounted".to_owned());
        };
        let mut listening = true;
        let mut told = Instant::now();
        let rotation = volume.rotate(&mut |progress: Progress| {
            if listening && told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                listening = send(connection, &Answer::from(progress)).is_ok(); // the rotation goes on without an asker
            }
        });
        match rotation {
            Ok(rotation) => Answer::Rotation(rotation),
            Err(error) => Answer::error(kind(&error), error.to_string()),
        }
    }
}

impl Answer {
    fn error(kind: &str, message: String) -> Self {
        Self::Error {
            kind: kind.to_owned(),
            message,
        }
    }
}

impl From<Progress> for Answer {
    fn from(progress: Progress) -> Self {
        let phase = match progress.phase {
            Phase::Rewrap => PhaseName::Rewrap,
            Phase::Verify => PhaseName::Verify,
        };
        Self::Progress {
            done: progress.done,
            phase,
        }
    }
}

impl From<PhaseName> for Phase {
    fn from(name: PhaseName) -> Self {
        match name {
            PhaseName::Rewrap => Self::Rewrap,
            PhaseName::Verify => Self::Verify,
        }
    }
}

/// Whose fault a failed rotation was, in one word.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Store(_) => "store",
        Error::Damaged(_) => "damaged",
        Error::Refused(_) => "refused",
        Error::Key(_) => "key",
        Error::InUse(_) => "in-use",
        Error::NotAVolume(_) => "not-a-volume",
        Error::Pinned(_) => "pinned",
    }
}

fn send<T: Serialize>(mut to: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

fn is_allowed(connection: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(connection)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == own)
}

/// Why a daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No daemon answers here.
    #[error("no daemon answers at {}: {cause}", path.display())]
    Unreachable {
        /// The socket file.
        path: PathBuf,
        /// What connecting said.
        cause: io::Error,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// In one word: store, damaged, refused, key, in-use, unmounting, request.
        kind: String,
        /// In a sentence.
        message: String,
    },
    /// The daemon went away, or another program answered.
    #[error("the daemon's answer broke off: {0}")]
    Broken(#[from] io::Error),
}

/// The asking side: one connection, one request.
pub struct Client {
    connection: UnixStream,
}

impl Client {
    /// Connects to a daemon's socket.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let connected = UnixStream::connect(path);
        let unreachable = |cause| ControlError::Unreachable {
            path: path.to_owned(),
            cause,
        };
        Ok(Self {
            connection: connected.map_err(unreachable)?,
        })
    }

    /// Rotates the master key of the mounted volume.
    pub fn rotate(self, progress: &mut dyn FnMut(Progress)) -> Result<Rotation, ControlError> {
        match self.ask(Command::Rotate, progress)? {
            Answer::Rotation(rotation) => Ok(rotation),
            _ => Err(unexpected()),
        }
    }

    /// What the daemon says of itself.
    pub fn info(self) -> Result<serde_json::Value, ControlError> {
        match self.ask(Command::Info, &mut |_| {})? {
            Answer::Info(about) => Ok(about),
            _ => Err(unexpected()),
        }
    }

    /// Asks to be told when the daemon has let the volume go; ask before unmounting.
    pub fn watch(self) -> Result<Watch, ControlError> {
        send(
            &self.connection,
            &Request {
                command: Command::Wait,
            },
        )?;
        let mut line = String::new();
        BufReader::new(&self.connection).read_line(&mut line)?;
        match serde_json::from_str(&line).map_err(io::Error::from)? {
            Answer::Waiting {} => {}
            _ => return Err(unexpected()),
        }
        Ok(Watch {
            connection: self.connection,
        })
    }

    fn ask(
        self,
        command: Command,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Answer, ControlError> {
        send(&self.connection, &Request { command })?;
        for line in BufReader::new(&self.connection).lines() {
            match serde_json::from_str(&line?).map_err(io::Error::from)? {
                Answer::Progress { done, phase } => progress(Progress {
                    done,
                    phase: phase.into(),
                }),
                Answer::Error { kind, message } => {
                    return Err(ControlError::Refused { kind, message });
                }
                answer => return Ok(answer),
            }
        }
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

fn unexpected() -> ControlError {
    io::Error::from(io::ErrorKind::InvalidData).into()
}

/// A promise to be told when a daemon has let its volume go.
pub struct Watch {
    connection: UnixStream,
}

impl Watch {
    /// Waits until then, or until the time is over (TimedOut, WouldBlock).
    pub fn closed(self, timeout: Duration) -> io::Result<()> {
        self.connection.set_read_timeout(Some(timeout))?;
        match (&self.connection).read(&mut [0]) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
        }
    }
}
