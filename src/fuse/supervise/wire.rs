//! What a worker and its supervisor say to each other: messages of JSON, with descriptors beside them. What was sent is heard
//! also after the sender's death.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The form of what is said here and of the log. Another one is not understood.
pub(super) const FORM: u32 = 1;
/// Descriptors beside a message at the most: as many as the kernel takes (SCM_MAX_FD).
pub(super) const BESIDE: usize = 253;
/// Between two attempts to send what there is no room for.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest message, bytes.
const LONGEST: usize = 1 << 14;

/// What a worker says; and a supervisor that is to have the mount of another one, to that one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// Keep the open file beside this, under this number.
    Keep { key: u64 },
    /// Keep it no longer.
    LetGo { key: u64 },
    /// What is known of the mount is in the memory beside this from now on.
    Log {},
    /// It is mounted; beside this: the device, the control socket, the lock if there is one.
    Mounted {},
    /// What opens the volume is open: the mount can come.
    Opened {},
    /// Everything is as it was: the mount can be served.
    Prepared {},
    /// All that was asked is answered, durable and settled, and nobody serves; `unclean`: something forbids a clean end. The
    /// mount is for whoever is at the end of what is beside this, or else for another worker.
    Leaving { unclean: bool },
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

/// What a supervisor says; also to one that is to have its mount.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// A mount that is there; beside this: the device, the control socket, the log, the lock if there is one. `rested`: the worker before did
    /// not die, but left everything settled, and something forbids a clean end, or not.
    Mount { form: u32, rested: Option<bool> },
    /// Files that were kept, beside this.
    Kept { keys: Vec<u64> },
    /// That is all. `attached`: whoever started the supervisor would take its end for the mount's.
    Go { generation: u32, attached: bool },
    /// The mount is to be served.
    Serve {},
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
    loop {
        let sent = sendmsg(to.as_fd(), &message, &mut control, SendFlags::NOSIGNAL);
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // More descriptors are on their way than this user may have there, until the other side takes some.
            Err(Errno::TOOMANYREFS) => thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next message and what came beside it; `None` when the other side is gone. Fails where descriptors were lost, for which
/// there is no room.
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
        Ok(received) if received.flags.contains(ReturnFlags::CTRUNC) => {
            return Err(Errno::MFILE.into());
        }
        Ok(received) => received.bytes,
        Err(Errno::CONNRESET) => 0,
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
