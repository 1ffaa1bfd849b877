//! What the two processes say to each other, each waiting for the other's word: lines of JSON, with descriptors beside them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fuse::control::protocol::{DESCRIPTORS, receive, send, send_with};

/// What the one that goes says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Leaving {
    /// It is at rest and gives so many descriptors.
    Resting(Given),
    /// Some of them, beside this.
    Descriptors {},
    /// It is gone.
    Go {},
    /// It goes on itself, and the other must not.
    Error { kind: String, message: String },
}

/// Descriptors, in this order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Given {
    /// One: what is known, in memory.
    pub(super) state: usize,
    /// One: the connection to the kernel.
    pub(super) device: usize,
    /// One: the control socket.
    pub(super) listener: usize,
    /// One, or none where there is no lock file: the lock.
    pub(super) lock: usize,
    /// Further descriptors of the connection.
    pub(super) others: usize,
    /// Open files.
    pub(super) files: usize,
}

impl Given {
    pub(super) fn total(&self) -> usize {
        self.state + self.device + self.listener + self.lock + self.others + self.files
    }
}

/// What the one that comes says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Coming {
    /// Give more.
    More {},
    /// It has all it needs.
    Ready {},
    /// It cannot go on.
    Failed { message: String },
}

pub(super) fn say<T: Serialize>(to: &UnixStream, word: &T) -> io::Result<()> {
    send(to, word)
}

/// The next word, and what came beside it.
pub(super) fn hear<T: DeserializeOwned>(from: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let (line, descriptors) = receive(from)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&line)?, descriptors))
}

/// Gives descriptors as they are asked for.
pub(super) fn give(to: &UnixStream, all: &[BorrowedFd<'_>]) -> io::Result<()> {
    for some in all.chunks(DESCRIPTORS) {
        match hear(to)?.0 {
            Coming::More {} => send_with(to, &Leaving::Descriptors {}, some)?,
            other => return Err(unexpected(&other)),
        }
    }
    Ok(())
}

/// Takes so many.
pub(super) fn take(from: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        say(from, &Coming::More {})?;
        match hear(from)? {
            (Leaving::Descriptors {}, some) if !some.is_empty() => taken.extend(some),
            (other, _) => return Err(unexpected(&other)),
        }
    }
    Ok(taken)
}

pub(super) fn unexpected(word: &impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("the other process said {word:?}"))
}

/// Borrows each.
pub(super) fn borrowed<T: AsFd>(all: &[T]) -> impl Iterator<Item = BorrowedFd<'_>> {
    all.iter().map(AsFd::as_fd)
}
