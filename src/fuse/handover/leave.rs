//! The side of the process that goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::wire::{self, Coming, Given, Leaving};
use super::{Connection, Handover, broken, busy, state, volume_of};
use crate::fuse::control::Refusal;
use crate::fuse::{gate, handshake};
use crate::volume::Volume;

/// How long requests that are under way may take to their end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the process that comes may be silent.
const SILENCE: Duration = Duration::from_secs(60);

impl Handover {
    /// Whether it makes sense to begin.
    pub(in crate::fuse) fn possible(&self) -> Result<(), Refusal> {
        if self.attached {
            return Err(busy(
                "the mount is served in the foreground: whoever started it would take the end of that process for the mount's",
            ));
        }
        if !handshake::can_resend() {
            return Err(busy(
                "this kernel cannot send requests again (Linux 6.10 can): unmount and mount again",
            ));
        }
        Ok(())
    }

    /// Gives the mount to the process at the other end of this connection. Afterwards nothing of the volume may be touched; after
    /// a refusal the mount is served as before.
    pub(in crate::fuse) fn leave(
        &self,
        to: &UnixStream,
        listener: BorrowedFd<'_>,
    ) -> Result<(), Refusal> {
        if self.is_supervised() {
            return Err(busy(
                "the mount is supervised, and goes to another supervisor only",
            ));
        }
        self.leave_by(|connection| {
            give(connection, to, listener)
                .and_then(|()| wire::say(to, &Leaving::Go {}).map_err(|error| broken(&error)))
        })
    }

    /// As `leave`, in a supervised mount: its supervisor gives it to the one at the end of this line, or goes on with it.
    pub(in crate::fuse) fn leave_to(&self, to: &OwnedFd) -> Result<(), Refusal> {
        let Some(leave) = &self.supervisor else {
            return Err(busy("the mount is not supervised"));
        };
        self.leave_by(|connection| {
            let volume = volume_of(connection);
            if volume.is_doomed() {
                return Err(busy(
                    "something failed of which only the process knows that serves the mount: unmount it",
                ));
            }
            leave(to, volume.predecessor().unclean).map_err(|error| broken(&error))
        })
    }

    fn leave_by(
        &self,
        give: impl FnOnce(&Connection) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.possible()?;
        let volume = match &*self.locked() {
            super::Turn::Serving(connection) => volume_of(connection).clone(),
            _ => return Err(busy("the mount is not served just now")),
        };
        // A lock-down needs the kernel to be answered: none may begin once that ends.
        volume.stop_watching();
        let left = self.leave_unwatched(&volume, give);
        if left.is_err()
            && let Err(error) = volume.watch()
        {
            tracing::error!("nobody asks for the key any more: {error}");
        }
        left
    }

    fn leave_unwatched(
        &self,
        volume: &Arc<Volume>,
        give: impl FnOnce(&Connection) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if volume.is_locked() {
            return Err(busy("the volume is locked: unmount it"));
        }
        // Most of it while programs go on; what is left then is little.
        if let Err(error) = volume.settle_some() {
            tracing::warn!("before the mount goes to another process: {error}");
        }
        if !gate::shut(PATIENCE) {
            return Err(busy("requests are under way that do not end: try again"));
        }
        let rested = volume.rest().map_err(|error| Refusal {
            kind: "store".to_owned(),
            message: format!("not everything could be made durable: {error}"),
        });
        let connection = rested.and_then(|()| {
            self.stop().inspect_err(|_| {
                if let Err(error) = volume.go_on() {
                    tracing::error!("{error}");
                }
            })
        });
        let connection = connection.inspect_err(|_| gate::open())?;
        match give(&connection) {
            Ok(()) => {
                volume.leave();
                self.end();
                Ok(())
            }
            Err(refused) => {
                tracing::warn!("the mount stays with this process: {}", refused.message);
                if let Err(error) = volume.go_on() {
                    tracing::error!("nothing is settled in the background any more: {error}");
                }
                self.go_on(connection);
                Err(refused)
            }
        }
    }
}

fn give(connection: &Connection, to: &UnixStream, listener: BorrowedFd<'_>) -> Result<(), Refusal> {
    let (state, carried) = state::of(connection).map_err(|error| busy(&error.to_string()))?;
    let memory = state.write().map_err(|error| broken(&error))?;
    let lock = volume_of(connection).predecessor().lock;
    let lock = lock.as_ref().and_then(|lock| lock.descriptor());
    let mut all = vec![memory.as_fd(), connection.device.as_fd(), listener];
    all.extend(lock);
    all.extend(wire::borrowed(&connection.others));
    for file in &carried.descriptors {
        let descriptor = file.descriptor();
        all.push(descriptor.ok_or_else(|| busy("the store gives no descriptors"))?);
    }
    let given = Given {
        state: 1,
        device: 1,
        listener: 1,
        lock: usize::from(lock.is_some()),
        others: connection.others.len(),
        files: carried.descriptors.len(),
    };
    let told = to
        .set_read_timeout(Some(SILENCE))
        .and_then(|()| wire::say(to, &Leaving::Resting(given)))
        .and_then(|()| wire::give(to, &all))
        .and_then(|()| wire::hear(to));
    match told.map_err(|error| broken(&error))?.0 {
        Coming::Ready {} => Ok(()),
        Coming::Failed { message } => Err(busy(&message)),
        other @ Coming::More {} => Err(broken(&wire::unexpected(&other))),
    }
}
