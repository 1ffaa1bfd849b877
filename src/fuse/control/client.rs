//! The asking side of a control socket.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::protocol::{Answer, Command, Request, send, send_with};
use crate::volume::{Progress, RekeyData, RekeyDataProgress, Rotation};

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
        /// In one word: what `KeyError::cause` says, or store, damaged, refused, in-use, not-a-volume, pinned, unmounting,
        /// request, or what the program that listens calls it.
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
        self.ask_rotation(&Request::plain(Command::Rotate), &[], progress)
    }

    /// Moves the mounted volume to another key: `to` is for the program that listens, which also reads the descriptors.
    pub fn rekey(
        self,
        to: Value,
        secrets: &[impl AsFd],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Rotation, ControlError> {
        let request = Request {
            to: Some(to),
            ..Request::plain(Command::Rekey)
        };
        let secrets: Vec<_> = secrets.iter().map(AsFd::as_fd).collect();
        self.ask_rotation(&request, &secrets, progress)
    }

    /// Destroys the versions of the master key that no header needs; which.
    pub fn destroy_old(self) -> Result<Vec<u32>, ControlError> {
        match self.ask(&Request::plain(Command::DestroyOld), &[], &mut |_| {})? {
            Answer::Destroyed { versions } => Ok(versions),
            _ => Err(unexpected()),
        }
    }

    /// Encrypts files of the mounted volume under new data keys; paths are from its top.
    pub fn rekey_data(
        self,
        paths: &[Vec<u8>],
        progress: &mut dyn FnMut(RekeyDataProgress),
    ) -> Result<RekeyData, ControlError> {
        let request = Request {
            paths: paths.to_vec(),
            ..Request::plain(Command::RekeyData)
        };
        let told = &mut |answer| {
            if let Answer::Encrypted { files, bytes } = answer {
                progress(RekeyDataProgress { files, bytes });
            }
        };
        match self.ask(&request, &[], told)? {
            Answer::Data(report) => Ok(report),
            _ => Err(unexpected()),
        }
    }

    /// What the daemon says of itself.
    pub fn info(self) -> Result<Value, ControlError> {
        match self.ask(&Request::plain(Command::Info), &[], &mut |_| {})? {
            Answer::Info(about) => Ok(about),
            _ => Err(unexpected()),
        }
    }

    /// Asks the daemon to give its mount to this process; what is said then is `Coming`'s.
    pub(in crate::fuse) fn take_over(self) -> Result<UnixStream, ControlError> {
        send(&self.connection, &Request::plain(Command::TakeOver))?;
        Ok(self.connection)
    }

    /// Has the daemon end at rest, for its supervisor to give the mount to the one at the other end of this line.
    pub(in crate::fuse) fn take_over_with(self, line: &impl AsFd) -> Result<(), ControlError> {
        let request = Request::plain(Command::TakeOver);
        match self.ask(&request, &[line.as_fd()], &mut |_| {})? {
            Answer::Leaving {} => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Asks to be told when the daemon has let the volume go; ask before unmounting.
    pub fn watch(self) -> Result<Watch, ControlError> {
        send(&self.connection, &Request::plain(Command::Wait))?;
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

    fn ask_rotation(
        self,
        request: &Request,
        secrets: &[BorrowedFd<'_>],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Rotation, ControlError> {
        let told = &mut |answer| {
            if let Answer::Progress { done, phase } = answer {
                let phase = phase.into();
                progress(Progress { done, phase });
            }
        };
        match self.ask(request, secrets, told)? {
            Answer::Rotation(rotation) => Ok(rotation),
            _ => Err(unexpected()),
        }
    }

    fn ask(
        self,
        request: &Request,
        secrets: &[BorrowedFd<'_>],
        told: &mut dyn FnMut(Answer),
    ) -> Result<Answer, ControlError> {
        send_with(&self.connection, request, secrets)?;
        for line in BufReader::new(&self.connection).lines() {
            match serde_json::from_str(&line?).map_err(io::Error::from)? {
                answer @ (Answer::Progress { .. } | Answer::Encrypted { .. }) => told(answer),
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
