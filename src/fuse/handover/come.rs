//! The side of the process that comes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, INodeNo, Session};

use super::state::State;
use super::wire::{self, Leaving};
use super::{Connection, Handover};
use crate::fuse::control::{Client, ControlError};
use crate::fuse::mountpoint::ServeError;
use crate::fuse::options::MountOptions;
use crate::fuse::served::Adapter;
use crate::store::{Host, Store};
use crate::volume::{Error, OpenFlags, Predecessor, Restored, Volume};

/// How long the process that goes may take to bring everything to rest.
const PATIENCE: Duration = Duration::from_secs(600);

/// A mount on its way to this process. Dropped before `Handover::come` ended well, it stays with the other one.
pub struct Coming {
    connection: UnixStream,
    state: State,
    device: OwnedFd,
    listener: Option<UnixListener>,
    lock: Option<OwnedFd>,
    others: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Coming {
    /// Asks the process that serves a mount, by its control socket, to give it away. Programs in the mount wait from here on.
    pub fn from(socket: &Path) -> Result<Self, ControlError> {
        let connection = Client::connect(socket)?.take_over()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let given = match wire::hear(&connection)?.0 {
            Leaving::Resting(given) => given,
            Leaving::Error { kind, message } => {
                return Err(ControlError::Refused { kind, message });
            }
            other => return Err(wire::unexpected(&other).into()),
        };
        let mut all = wire::take(&connection, given.total())?.into_iter();
        let mut next = || all.next().ok_or(io::ErrorKind::InvalidData);
        let memory = next().map_err(io::Error::from)?;
        let device = next().map_err(io::Error::from)?;
        let listener = Some(UnixListener::from(next().map_err(io::Error::from)?));
        let lock = match given.lock {
            0 => None,
            _ => Some(next().map_err(io::Error::from)?),
        };
        let others = all.by_ref().take(given.others).collect();
        let state = State::read(&memory).map_err(io::Error::other)?;
        Ok(Self {
            connection,
            state,
            device,
            listener,
            lock,
            others,
            files: all.collect(),
        })
    }

    /// What opening the volume takes.
    pub fn predecessor(&mut self, store: &Arc<dyn Store>) -> io::Result<Predecessor> {
        let lock = self.lock.take().map(|lock| store.file_of(lock));
        Ok(Predecessor {
            lock: lock.transpose()?,
            unclean: self.state.head.unclean,
        })
    }

    /// The control socket.
    pub fn listener(&mut self) -> io::Result<UnixListener> {
        let listener = self.listener.take();
        listener.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Tells the other process that it has to go on.
    pub fn fail(self, why: &str) {
        let message = why.to_owned();
        let _ = wire::say(&self.connection, &wire::Coming::Failed { message });
    }
}

impl Handover {
    /// Makes a session of what came, and tells the process that it came from to go. From the return on the mount is this
    /// process's.
    pub(in crate::fuse) fn come(
        coming: Coming,
        volume: &Arc<Volume>,
        options: &MountOptions,
        config: Config,
    ) -> Result<(Connection, Session<Adapter>), ServeError> {
        let Coming {
            connection: other,
            state,
            device,
            others,
            files,
            ..
        } = coming;
        let adapter = Adapter::new(Arc::clone(volume), options);
        let handshake = state.head.handshake.clone();
        let made = restore(&adapter, state, files)
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(|()| handshake.again(adapter.again(), config.clone()));
        let session = made.inspect_err(|error| {
            let message = error.to_string();
            let _ = wire::say(&other, &wire::Coming::Failed { message });
        })?;
        wire::say(&other, &wire::Coming::Ready {})?;
        // Only that word gives the mount away: one that is silent may be at work again.
        match wire::hear(&other)? {
            (Leaving::Go {}, _) => {}
            (word, _) => return Err(wire::unexpected(&word).into()),
        }
        if let Err(error) = Host::here()
            .map_err(Error::from)
            .and_then(|host| volume.take_over(&host))
        {
            tracing::warn!("the lock still names the process before: {error}");
        }
        let mut connection = Connection {
            adapter,
            device,
            handshake,
            config,
            others,
        };
        connection.resume(&session)?;
        if let Err(error) = volume.watch() {
            tracing::error!("nobody asks for the key: {error}");
        }
        Ok((connection, session))
    }
}

fn restore(adapter: &Adapter, state: State, descriptors: Vec<OwnedFd>) -> Result<(), Error> {
    let files = state.files.into_iter().zip(descriptors);
    let files = files.map(|(file, descriptor)| Ok((file, adapter.volume.file_of(descriptor)?)));
    let files = files.collect::<Result<Vec<_>, Error>>()?;
    let restored = Restored::of(&adapter.volume, state.nodes, files)?;
    for known in state.lookups {
        let node = restored.node(known.node)?;
        adapter.inodes.put_back(&node, known.count);
    }
    for open in state.handles {
        let flags = OpenFlags {
            read: open.read,
            write: open.write,
            ..OpenFlags::default()
        };
        adapter.inodes.find(INodeNo(open.node))?; // the kernel holds what it has open
        let file = restored.open(open.node, open.file, flags)?;
        adapter.handles.put(open.number, file);
    }
    adapter.handles.go_on_after(state.head.last_handle);
    Ok(())
}
