//! What a worker and its supervisor say to each other: messages of JSON, with descriptors beside them. What was sent is heard
//! also after the sender's death.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Descriptors beside a message at the most.
const BESIDE: usize = 4;
/// The longest message, bytes.
const LONGEST: usize = 1 << 14;

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// Keep the open file beside this, under this number.
    Keep { key: u64 },
    /// Keep it no longer.
    LetGo { key: u64 },
    /// What is known of the mount is in the memory beside this from now on; what workers of lower generations had kept is
    /// needed no more.
    Log { generation: u32 },
    /// It is mounted; beside this: the device, the lock, the control socket.
    Mounted {},
    /// The mount answers.
    Ready {},
    /// It was not mounted, or cannot be gone on with.
    Refused { code: u8, sentence: String },
    /// The first answer of this worker is about to be sent.
    Serves {},
    /// No other worker shall go on.
    Doomed { why: String },
    /// The mount is over: let everything go, and say so.
    Ended {},
}

/// What a supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// A mount that is there; beside this: the device, the lock, the control socket, the log.
    Mount {},
    /// A file that was kept.
    Kept { key: u64 },
    /// That is all.
    Go { generation: u32 },
    /// Everything is let go.
    Released {},
}

/// Two ends of a connection; both close when a program is run.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

pub(super) fn say<T: Serialize>(
    to: impl AsFd,
    word: &T,
    beside: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(word)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BESIDE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !beside.is_empty() && !control.push(SendAncillaryMessage::ScmRights(beside)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let message = [IoSlice::new(&bytes)];
    rustix::io::retry_on_intr(|| sendmsg(to.as_fd(), &message, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message and what came beside it; `None` when the other side is gone.
pub(super) fn hear<T: DeserializeOwned>(from: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BESIDE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut into = [IoSliceMut::new(&mut bytes)];
        recvmsg(
            from.as_fd(),
            &mut into,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    });
    let len = match received {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    match bytes.get(..len) {
        None | Some([]) => Ok(None),
        Some(text) => Ok(Some((serde_json::from_slice(text)?, descriptors))),
    }
}
