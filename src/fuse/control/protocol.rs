//! What goes over a control socket: lines of JSON, and descriptors beside a request.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::volume::{Error, Phase, Progress, RekeyData, RekeyDataProgress, Rotation};

/// The longest request, bytes.
const REQUEST_LIMIT: usize = 1 << 16;
/// Descriptors beside a request at the most.
pub(in crate::fuse) const DESCRIPTORS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Command {
    Rotate,
    Rekey,
    DestroyOld,
    RekeyData,
    Info,
    Wait,
    TakeOver,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) command: Command,
    /// For `rekey`: where to. Never a secret; those are behind the descriptors that come with the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Value>,
    /// For `rekey-data`: paths from the top of the volume, as bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) paths: Vec<Vec<u8>>,
}

impl Request {
    pub(super) fn plain(command: Command) -> Self {
        Self {
            command,
            to: None,
            paths: Vec::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Progress {
        done: u64,
        phase: PhaseName,
    },
    /// Fields as `volume::Rotation` names them.
    Rotation(Rotation),
    Destroyed {
        versions: Vec<u32>,
    },
    Encrypted {
        files: u64,
        bytes: u64,
    },
    /// Fields as `volume::RekeyData` names them.
    Data(RekeyData),
    Info(Value),
    Waiting {},
    /// The process is at rest and ends; its supervisor says the rest.
    Leaving {},
    Error {
        kind: String,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PhaseName {
    Rewrap,
    Verify,
}

impl Answer {
    pub(super) fn error(kind: &str, message: impl Into<String>) -> Self {
        Self::Error {
            kind: kind.to_owned(),
            message: message.into(),
        }
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::error(kind(&error), error.to_string())
    }
}

/// Whose fault it was, in a word.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::At { error, .. } => kind(error),
        Error::Store(_) => "store",
        Error::Damaged(_) => "damaged",
        Error::Refused(_) => "refused",
        Error::Key(error) => error.cause(),
        Error::InUse(_) => "in-use",
        Error::NotAVolume(_) => "not-a-volume",
        Error::Pinned(_) => "pinned",
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

impl From<RekeyDataProgress> for Answer {
    fn from(progress: RekeyDataProgress) -> Self {
        Self::Encrypted {
            files: progress.files,
            bytes: progress.bytes,
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

pub(in crate::fuse) fn send<T: Serialize>(to: &UnixStream, message: &T) -> io::Result<()> {
    send_with(to, message, &[])
}

/// Sends a message, with descriptors beside its first byte.
pub(in crate::fuse) fn send_with<T: Serialize>(
    mut to: &UnixStream,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if descriptors.is_empty() {
        return to.write_all(&line);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let sent = sendmsg(to, &[IoSlice::new(&line)], &mut beside, SendFlags::NOSIGNAL)?;
    to.write_all(line.get(sent..).unwrap_or_default())
}

/// Reads one line, cut where it is too long, and the descriptors that come with it.
pub(in crate::fuse) fn receive(from: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    let mut chunk = vec![0; 4096];
    while line.len() < REQUEST_LIMIT {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut chunk)];
        let got = rustix::io::retry_on_intr(|| {
            recvmsg(from, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                descriptors.extend(came);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > DESCRIPTORS {
            return Err(io::Error::other("too many descriptors beside a request"));
        }
        let bytes = chunk.get(..got.bytes).unwrap_or_default();
        match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                line.extend_from_slice(bytes.get(..end).unwrap_or_default());
                return Ok((line, descriptors));
            }
            None if bytes.is_empty() => return Ok((line, descriptors)),
            None => line.extend_from_slice(bytes),
        }
    }
    Ok((line, descriptors))
}
