//! What was agreed with the kernel at the start of a connection, kept so that another session can go on with it.
//!
//! fuser has no session without a handshake. So each session shakes hands over a socket pair, with the kernel's first request as
//! the kernel sent it, and then the device takes the socket's place; the answer goes to the kernel once, from the first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use fuser::{Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use serde::{Deserialize, Serialize};

use super::device;
use super::served::Adapter;

/// More than any first request or its answer, bytes; the kernel wants room for 8 KiB.
const ROOM: usize = 1 << 16;
/// FUSE_NOTIFY_RESEND (linux/fuse.h).
const RESEND: i32 = 7;
/// The first kernel that sends requests again without a mistake that shows.
const RESENDS_FROM: (u32, u32) = (6, 10);

/// The kernel's first request and our answer, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handshake {
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Handshake {
    /// Begins a connection.
    pub(super) fn first(
        device: BorrowedFd<'_>,
        adapter: Adapter,
        config: Config,
    ) -> io::Result<(Self, Session<Adapter>)> {
        let mut request = vec![0; ROOM];
        let len = rustix::io::retry_on_intr(|| rustix::io::read(device, &mut request))?;
        request.truncate(len);
        let (session, answer) = shaken(&request, adapter, config)?;
        rustix::io::write(device, &answer)?;
        device::put(device, session.as_fd())?;
        Ok((Self { request, answer }, session))
    }

    /// A session that goes on with a connection. `device` takes its place with `resume`.
    ///
    /// # Errors
    /// Also where this program would have agreed on something else.
    pub(super) fn again(&self, adapter: Adapter, config: Config) -> io::Result<Session<Adapter>> {
        let (session, answer) = shaken(&self.request, adapter, config)?;
        if answer != self.answer {
            return Err(io::Error::other(
                "this program agrees with the kernel on other things than the one that mounted; unmount and mount again",
            ));
        }
        Ok(session)
    }
}

/// Gives a session its connection and has the kernel send again what was read and not answered. False: the mount is gone.
pub(super) fn resume(device: BorrowedFd<'_>, session: &Session<Adapter>) -> io::Result<bool> {
    device::put(device, session.as_fd())?;
    let mut header = 16_u32.to_ne_bytes().to_vec();
    header.extend(RESEND.to_ne_bytes());
    header.extend(0_u64.to_ne_bytes());
    match rustix::io::write(device, &header) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether this kernel can send requests again.
pub(super) fn can_resend() -> bool {
    let release = rustix::system::uname();
    version(&release.release().to_string_lossy()).is_some_and(|version| version >= RESENDS_FROM)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn shaken(
    request: &[u8],
    adapter: Adapter,
    config: Config,
) -> io::Result<(Session<Adapter>, Vec<u8>)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, request)?;
    shutdown(&ours, Shutdown::Write)?; // whoever asked for more would wait for ever
    let session = Session::from_fd(adapter, theirs, SessionACL::All, config)?;
    let mut answer = vec![0; ROOM];
    let len = rustix::io::read(&ours, &mut answer)?;
    answer.truncate(len);
    Ok((session, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_a_kernel() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("6.9"), Some((6, 9)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version("x"), None);
        assert!(
            version("6.9.1").unwrap() < RESENDS_FROM && version("6.10.0").unwrap() >= RESENDS_FROM
        );
    }
}
