//! The control socket of a mount: what can be asked of the daemon that holds a volume, and the asking side.
//!
//! One line of JSON asks: `{"command":"rotate"}`, `"destroy-old"`, `"info"`, `"wait"`, `"rekey-data"` with
//! `"paths"`, or `"rekey"` with `"to"`, whose secrets come as descriptors (SCM_RIGHTS) beside the line. Lines of JSON answer:
//! `{"progress":{..}}` or `{"encrypted":{..}}` any number of times, then `{"rotation":{..}}`, `{"destroyed":{..}}`,
//! `{"data":{..}}`, `{"info":{..}}` or `{"error":{..}}`. To `wait` the answer is
//! `{"waiting":{}}`, and then the end of the connection, when the daemon has let the volume go. To `take-over` the answer is
//! what `handover` says, or, where a descriptor comes with it, by which another supervisor hears the rest, `{"leaving":{}}`.
//!
//! Invariants: only root and the daemon's own user are answered, whatever the socket file's mode lets through; no secret
//! stands in a line.

mod client;
pub(in crate::fuse) mod protocol;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, chmod, unlink};
use serde_json::Value;

pub use self::client::{Client, ControlError, Watch};
use self::protocol::{Answer, Command, Request, receive, send};
use super::handover::{Handover, busy};
use crate::format::ids::VolumeId;
use crate::volume::{Progress, Target, Volume};

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

/// Opens the key that a volume is to move to: from what the asker said, and the descriptors beside it. Layers below know
/// no keystore and no token.
pub type OpenTarget = Box<dyn Fn(&Value, Vec<OwnedFd>) -> Result<Target, Refusal> + Send + Sync>;

/// Why a target was not opened; it reaches the asker as `ControlError::Refused`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub kind: String,
    /// In a sentence.
    pub message: String,
}

/// The listening side. Serve the mount, then `finish`, close the volume, drop this: who waits learns of the close last.
pub struct Control {
    shared: Arc<Shared>,
    path: PathBuf,
    listening: Option<JoinHandle<()>>,
}

/// What a control socket is for.
pub struct Subject {
    /// The volume.
    pub volume: Arc<Volume>,
    /// What `info` answers.
    pub about: Value,
    /// For `rekey`.
    pub open_target: OpenTarget,
    /// For `take-over`.
    pub handover: Arc<Handover>,
}

struct Shared {
    listener: UnixListener,
    volume: Mutex<Option<Arc<Volume>>>,
    about: Value,
    open_target: OpenTarget,
    handover: Arc<Handover>,
    stopped: AtomicBool,
    connections: Mutex<Connections>,
    /// Held while a connection is accepted, and while the mount goes to another process, which accepts the next ones.
    accepting: Mutex<()>,
    /// Held shared by what changes keys, alone while the mount goes to another process.
    changing: RwLock<()>,
    /// How many wait for the end.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Connections {
    open: Vec<(u64, UnixStream)>,
    threads: Vec<JoinHandle<()>>,
    last: u64,
}

impl Control {
    /// Listens on a socket file of mode 0600, and replaces one that nobody listens on (AddrInUse if somebody does).
    pub fn listen(path: &Path, subject: Subject) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        chmod(path, Mode::RUSR | Mode::WUSR)?;
        let mut control = Self::over(listener, path, subject)?;
        control.start()?;
        Ok(control)
    }

    /// Goes on with the socket of another process, from `start` on; dropped before, it leaves it as it is.
    pub fn over(listener: UnixListener, path: &Path, subject: Subject) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            listener,
            volume: Mutex::new(Some(subject.volume)),
            about: subject.about,
            open_target: subject.open_target,
            handover: subject.handover,
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
            accepting: Mutex::default(),
            changing: RwLock::default(),
            waiting: AtomicUsize::new(0),
        });
        Ok(Self {
            shared,
            path: path.to_owned(),
            listening: None,
        })
    }

    /// The socket, for a process that may go on with it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.listener.as_fd()
    }

    /// Begins to answer.
    pub fn start(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || shared.accept())?;
        self.listening = Some(thread);
        Ok(())
    }

    /// Takes no more requests, and waits for a rotation that is under way. Lets go of the volume. A socket that is another
    /// process's by now stays.
    pub fn finish(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if self.shared.handover.is_gone() {
            drop(self.listening.take()); // it waits for nobody, and ends with the process
        }
        if let Some(listening) = self.listening.take() {
            // Wakes it, also where somebody removed the socket file.
            let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
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
    fn accept(self: &Arc<Self>) {
        loop {
            let mut asked = [PollFd::new(&self.listener, PollFlags::IN)];
            let polled = poll(&mut asked, None);
            let _turn = locked(&self.accepting);
            if self.stopped.load(Ordering::SeqCst) || self.handover.is_gone() {
                return;
            }
            let accepted = polled
                .map_err(io::Error::from)
                .and_then(|_| self.listener.accept());
            match accepted {
                Ok((connection, _)) if is_allowed(&connection) => self.admit(connection),
                Ok(_) => tracing::warn!("a user without the right to it asked the control socket"),
                Err(error) if is_passing(&error) => {}
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
        let (line, descriptors) = receive(connection)?;
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                send(
                    connection,
                    &Answer::error("request", format!("not a request: {error}")),
                )?;
                return Err(io::Error::other(error));
            }
        };
        let command = request.command;
        match command {
            Command::Info => send(connection, &Answer::Info(self.about.clone()))?,
            Command::Wait => {
                connection.set_read_timeout(None)?;
                match self.staying() {
                    Ok(_) => self.waiting.fetch_add(1, Ordering::SeqCst),
                    Err(leaving) => return send(connection, &leaving).map(|()| command),
                };
                let waited = send(connection, &Answer::Waiting {})
                    .and_then(|()| io::copy(&mut &*connection, &mut io::sink())); // until the asker goes, or `finish`
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                waited?;
            }
            Command::TakeOver => {
                let supervisor = descriptors.first();
                let done = self.hand_over(connection, supervisor);
                match (done, supervisor) {
                    (Err(Refusal { kind, message }), _) => {
                        send(connection, &Answer::Error { kind, message })?;
                    }
                    (Ok(()), Some(_)) => send(connection, &Answer::Leaving {})?,
                    (Ok(()), None) => {}
                }
            }
            Command::Rotate | Command::Rekey | Command::DestroyOld | Command::RekeyData => {
                let answer = self.change_keys(connection, &request, descriptors);
                send(connection, &answer.unwrap_or_else(|refused| refused))?;
            }
        }
        Ok(command)
    }

    /// Gives the mount to the process that asks, or has the supervisor give it to the one at the end of that line.
    fn hand_over(&self, to: &UnixStream, supervisor: Option<&OwnedFd>) -> Result<(), Refusal> {
        let _turn = locked(&self.accepting); // let go last: who asks next finds the others free
        let alone = self.changing.try_write();
        if matches!(alone, Err(TryLockError::WouldBlock)) {
            return Err(busy(
                "the keys of the volume are being changed: try again when that is done",
            ));
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return Err(busy("the volume is being unmounted"));
        }
        match supervisor {
            Some(line) => self.handover.leave_to(line)?,
            None => self.handover.leave(to, self.listener.as_fd())?,
        }
        locked(&self.volume).take(); // whoever asks for it now finds none
        Ok(())
    }

    /// While what is returned lives, the mount goes to no other process. An answer for whoever asks while it does.
    fn staying(&self) -> Result<Option<RwLockReadGuard<'_, ()>>, Answer> {
        let changing = self.changing.try_read();
        if matches!(changing, Err(TryLockError::WouldBlock)) || self.handover.is_gone() {
            return Err(Answer::error(
                "busy",
                "the mount goes to another process just now: try again",
            ));
        }
        Ok(changing.ok())
    }

    fn change_keys(
        &self,
        connection: &UnixStream,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Answer> {
        let _staying = self.staying()?;
        let volume = locked(&self.volume).clone();
        let volume =
            volume.ok_or_else(|| Answer::error("unmounting", "the volume is being unmounted"))?;
        let to_others = matches!(request.command, Command::Rekey | Command::RekeyData);
        if to_others && self.handover.is_supervised() {
            return Err(Answer::error(
                "busy",
                "this cannot be done in a supervised mount: mount the volume without -o supervise for it",
            ));
        }
        let mut listening = true;
        let mut told = Instant::now();
        let mut tell = |answer: Answer| {
            if listening && told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                listening = send(connection, &answer).is_ok(); // the work goes on without an asker
            }
        };
        if request.command == Command::RekeyData {
            let report =
                volume.rekey_data(&request.paths, &mut |progress| tell(progress.into()))?;
            return Ok(Answer::Data(report));
        }
        let mut progress = |progress: Progress| tell(progress.into());
        match (request.command, &request.to) {
            (Command::Rekey, Some(to)) => {
                let target = (self.open_target)(to, descriptors)
                    .map_err(|Refusal { kind, message }| Answer::Error { kind, message })?;
                Ok(Answer::Rotation(volume.rekey(target, &mut progress)?))
            }
            (Command::Rotate, _) => Ok(Answer::Rotation(volume.rotate(&mut progress)?)),
            (Command::DestroyOld, _) => {
                let destroyed = volume.destroy_old()?;
                let versions = destroyed.iter().map(|version| version.0).collect();
                Ok(Answer::Destroyed { versions })
            }
            _ => Err(Answer::error(
                "request",
                "not a request: nowhere to move to",
            )),
        }
    }
}

/// Nobody there after all, or a signal.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

fn is_allowed(connection: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(connection)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == own)
}
