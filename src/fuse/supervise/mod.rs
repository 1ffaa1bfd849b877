//! A mount whose serving process may die: a supervisor holds the connection to the kernel and what the next worker has to find
//! again, and starts that one; the kernel sends the requests again that were not answered. Programs see a pause.
//!
//! Here is the worker's side; `Held` is the supervisor's. What a worker must find again: `volume::log`.

mod given;
mod held;
mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Config, Session};
use rustix::fs::MemfdFlags;
use rustix::mm::MlockAllFlags;

use self::given::Given;
pub use self::held::{Giver, Held, Told, Worker};
use self::wire::{Order, Word};
use super::answer;
use super::handover::{Connection, Handover, whole};
use super::handshake::{self, Handshake};
use super::mountpoint::ServeError;
use super::options::MountOptions;
use super::served::Adapter;
use super::session::{file_limit, raise_file_limit};
use crate::store::{File, Host, Store};
use crate::volume::{Error, Generation, Keeper, Left, Predecessor, Volume};

/// The exit code of a mount that cannot be made (docs/CLI.md).
const MOUNT: u8 = 11;

/// Why a mount cannot be supervised; `None`: it can, so far as this is known before a worker runs.
pub fn unsupported() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("-o supervise is for root: it takes memory that is locked");
    }
    if !handshake::can_resend() {
        return Some("-o supervise needs Linux 6.10, which can send requests again");
    }
    None
}

/// This process as a worker.
pub struct Supervised {
    line: Arc<Line>,
    generation: Generation,
    attached: bool,
    came: Option<Given>,
    /// Whether a mount came that this process was not told to serve yet.
    waits: bool,
    listener: Option<OwnedFd>,
}

/// What came before a worker.
pub enum Before {
    /// Nothing that matters: it is to be opened as by any process.
    Nothing,
    /// One that died, and left the lock.
    Dead(Arc<dyn File>),
    /// One that brought everything to rest.
    Rested(Predecessor),
}

/// To the supervisor.
struct Line {
    socket: OwnedFd,
    /// Whether nobody is there any more.
    alone: AtomicBool,
    serves: AtomicBool,
}

impl Supervised {
    /// A worker at this end of a line.
    ///
    /// # Errors
    /// Where memory cannot be locked.
    pub fn by(socket: OwnedFd) -> io::Result<Self> {
        raise_file_limit(); // each file that was kept takes a descriptor
        let line = Arc::new(Line {
            socket,
            alone: AtomicBool::new(false),
            serves: AtomicBool::new(false),
        });
        // A kill while the kernel copies a request into a page that is not there would end that request with an I/O error.
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).inspect_err(
            |error| {
                let sentence =
                    format!("-o supervise takes memory that is locked: {error} (ulimit -l)");
                line.say(
                    &Word::Refused {
                        code: MOUNT,
                        sentence,
                    },
                    &[],
                );
            },
        )?;
        Ok(Self {
            line,
            generation: Generation::default(),
            attached: false,
            came: None,
            waits: false,
            listener: None,
        })
    }

    /// Takes what the supervisor gives. Where that is a mount, everything that the worker before wrote is durable when this
    /// returns.
    ///
    /// # Errors
    /// Also where the store reports an error that nobody was told of yet.
    pub fn take(&mut self) -> io::Result<()> {
        self.line.say(&Word::Opened {}, &[]);
        let heard = given::hear(&self.line.socket)?;
        (self.generation, self.attached) = (heard.generation, heard.attached);
        let Some(came) = heard.given else {
            return Ok(());
        };
        // Without a lock nothing was written.
        if let Some(lock) = &came.lock
            && let Err(error) = rustix::fs::syncfs(lock)
        {
            self.line.doom(&format!(
                "the backing file system could not be synced: {error}"
            ));
            return Err(error.into());
        }
        self.waits = true;
        self.came = Some(came);
        Ok(())
    }

    /// What was taken, as far as it matters for the volume.
    pub fn before(&self, store: &Arc<dyn Store>) -> io::Result<Before> {
        let Some(came) = &self.came else {
            return Ok(Before::Nothing);
        };
        let lock = came
            .lock
            .as_ref()
            .map(|lock| store.file_of(lock.try_clone()?));
        let lock = lock.transpose()?;
        Ok(match (came.rested, lock) {
            (Some(unclean), lock) => Before::Rested(Predecessor { lock, unclean }),
            (None, Some(lock)) => Before::Dead(lock),
            (None, None) => Before::Nothing,
        })
    }

    /// Whether a mount came and another process may have to go on with it, so that nothing of it may be ended here.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// How the mount may go to another supervisor.
    pub fn handover(&self) -> Arc<Handover> {
        let line = Arc::clone(&self.line);
        let leave = move |to: &OwnedFd, unclean| {
            wire::say(&line.socket, &Word::Leaving { unclean }, &[to.as_fd()])
        };
        Handover::supervised(self.attached, Box::new(leave))
    }

    /// Its control socket.
    pub fn listener(&self) -> io::Result<Option<UnixListener>> {
        let listener = self.came.as_ref().map(|came| came.listener.try_clone());
        Ok(listener.transpose()?.map(UnixListener::from))
    }

    /// The control socket of a first worker, for those that follow.
    pub fn keep_listener(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.listener = Some(listener.try_clone_to_owned()?);
        Ok(())
    }

    /// What says that the mount answers.
    pub fn to_be_ready(&self) -> impl FnOnce() + Send + 'static {
        let line = Arc::clone(&self.line);
        move || line.say(&Word::Ready {}, &[])
    }

    /// Says why it does not.
    pub fn refused(&self, code: u8, sentence: &str) {
        let sentence = sentence.to_owned();
        self.line.say(&Word::Refused { code, sentence }, &[]);
    }

    /// After the last request: what the supervisor holds it shall hold no longer.
    pub(super) fn ended(&self) {
        self.line.say(&Word::Ended {}, &[]);
        let _ = wire::hear::<Order>(&self.line.socket);
    }

    /// Whether a mount is there to go on with.
    pub(super) fn has_come(&self) -> bool {
        self.came.is_some()
    }

    /// Before the first request of a mount that was just made.
    pub(super) fn begin(&self, volume: &Arc<Volume>, connection: &Connection) -> io::Result<()> {
        let head = serde_json::to_value(&connection.handshake)?;
        self.keep_log(volume, head, None)?;
        let lock = volume.predecessor().lock;
        let no_descriptor = || io::Error::other("the store gives no descriptors");
        let lock = lock
            .as_ref()
            .map(|lock| lock.descriptor().ok_or_else(no_descriptor));
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let mut all = vec![connection.device.as_fd(), listener.as_fd()];
        all.extend(lock.transpose()?);
        self.line.say(&Word::Mounted {}, &all);
        Ok(())
    }

    fn keep_log(
        &self,
        volume: &Arc<Volume>,
        head: serde_json::Value,
        rebuilt: Option<&crate::volume::Rebuilt>,
    ) -> io::Result<()> {
        let keeper = Box::new(Outside {
            line: Arc::clone(&self.line),
            memory: Mutex::new(None),
            limit: file_limit(),
        });
        volume
            .keep_log(keeper, head, self.generation, rebuilt)
            .map_err(told)?;
        answer::keep_up(volume, {
            let line = Arc::clone(&self.line);
            Box::new(move || line.serves())
        });
        Ok(())
    }

    /// Makes a session of a mount whose worker died. From the return on requests come.
    pub(super) fn go_on(
        &mut self,
        volume: &Arc<Volume>,
        options: &MountOptions,
        config: Config,
    ) -> Result<(Connection, Session<Adapter>), ServeError> {
        let came = self.came.take().ok_or(io::ErrorKind::InvalidInput);
        let came = came.map_err(io::Error::from)?;
        let rested = came.rested.is_some();
        let adapter = Adapter::new(Arc::clone(volume), options);
        let left = Left::read(&whole(&came.log)?).map_err(told)?;
        let head = left.head.clone();
        let handshake: Handshake = serde_json::from_value(head.clone()).map_err(io::Error::from)?;
        self.restore(&adapter, left, head, came.kept)?;
        let session = handshake.again(adapter.again(), config.clone())?;
        self.line.say(&Word::Prepared {}, &[]);
        match wire::hear(&self.line.socket)? {
            Some((Order::Serve {}, _)) => self.waits = false,
            _ => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
        if rested {
            let host = Host::here().map_err(Error::from);
            if let Err(error) = host.and_then(|host| volume.take_over(&host)) {
                tracing::warn!("the lock still names the process before: {error}");
            }
        }
        let mut connection = Connection {
            adapter,
            device: came.device,
            handshake,
            config,
            others: Vec::new(),
        };
        connection.resume(&session)?;
        if rested && let Err(error) = volume.watch() {
            tracing::error!("nobody asks for the key: {error}");
        }
        Ok((connection, session))
    }

    fn restore(
        &self,
        adapter: &Adapter,
        left: Left,
        head: serde_json::Value,
        kept: Vec<(u64, OwnedFd)>,
    ) -> io::Result<()> {
        let volume = &adapter.volume;
        let kept = kept.into_iter();
        let kept = kept.map(|(key, file)| Ok((key, volume.file_of(file)?)));
        let kept: HashMap<_, _> = kept.collect::<Result<_, Error>>().map_err(told)?;
        let rebuilt = left.rebuild(volume, &kept).map_err(told)?;
        for (node, lookups) in &rebuilt.lookups {
            adapter.inodes.put_back(node, *lookups);
        }
        self.keep_log(volume, head, Some(&rebuilt))?;
        adapter.handles.go_on_after(rebuilt.last_handle);
        for (opened, file) in rebuilt.handles {
            adapter.handles.put(opened.number, file);
        }
        Ok(())
    }
}

fn told(error: Error) -> io::Error {
    io::Error::other(error.to_string())
}

impl Line {
    /// Without a supervisor the mount goes on, and ends with this process.
    fn say(&self, word: &Word, beside: &[BorrowedFd<'_>]) {
        if !self.alone.load(Ordering::Relaxed)
            && let Err(error) = wire::say(&self.socket, word, beside)
            && !self.alone.swap(true, Ordering::Relaxed)
        {
            tracing::error!("the supervisor is gone ({error}): the mount ends with this process");
        }
    }

    fn serves(&self) {
        if !self.serves.load(Ordering::Relaxed) && !self.serves.swap(true, Ordering::Relaxed) {
            self.say(&Word::Serves {}, &[]);
        }
    }

    fn doom(&self, why: &str) {
        let why = why.to_owned();
        self.say(&Word::Doomed { why }, &[]);
    }
}

/// What the supervisor keeps for this worker.
struct Outside {
    line: Arc<Line>,
    memory: Mutex<Option<OwnedFd>>,
    /// Descriptors that this process may have.
    limit: usize,
}

/// Descriptors that stay free for the process that goes on, at the most: it opens what this one has, and some more on its way.
const FREE: usize = 1024;

impl Outside {
    fn memory(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Outside {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        match &*self.memory() {
            Some(memory) => write_all(memory, bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn renew(&self, bytes: &[u8]) -> io::Result<()> {
        let memory = rustix::fs::memfd_create("strongroom-log", MemfdFlags::CLOEXEC)?;
        write_all(&memory, bytes)?;
        self.line.say(&Word::Log {}, &[memory.as_fd()]);
        *self.memory() = Some(memory);
        Ok(())
    }

    fn keep(&self, key: u64, file: &Arc<dyn File>) -> io::Result<()> {
        let descriptor = file.descriptor().ok_or(io::ErrorKind::Unsupported)?;
        self.line.say(&Word::Keep { key }, &[descriptor]);
        Ok(())
    }

    fn has_room(&self, kept: usize) -> bool {
        // A file takes up to three descriptors, of its directory too. With many, the lowest free number says how many are used.
        kept < self.limit / 4
            || rustix::io::fcntl_dupfd_cloexec(&self.line.socket, 0).is_ok_and(|lowest| {
                lowest.as_raw_fd().unsigned_abs() as usize + self.limit.div_ceil(4).min(FREE)
                    < self.limit
            })
    }

    fn let_go(&self, key: u64) {
        self.line.say(&Word::LetGo { key }, &[]);
    }

    fn doom(&self, why: &str) {
        self.line.doom(why);
    }
}

fn write_all(memory: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(memory, bytes))?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
