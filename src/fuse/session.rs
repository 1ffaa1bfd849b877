//! A mount from beginning to end: mounted, served until it is unmounted, by a signal or from outside.
//!
//! SIGTERM, SIGINT and SIGHUP unmount. While programs hold files in it the mount goes out of sight and is served until they
//! close them; a second signal cuts it off, and what they still do fails. The caller closes the volume after `serve`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use fuser::{Config, Session, SessionACL};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::handover::{Coming, Connection, Handover};
use super::handshake::Handshake;
use super::mounted::Mounted;
use super::mountpoint::{self, ServeError};
use super::options::MountOptions;
use super::pace::{self, Means};
use super::served::Adapter;
use super::signals::EndingSignals;
use super::supervise::Supervised;
use crate::volume::Volume;

/// Where a mount comes from.
pub enum Origin<'a> {
    /// It is made.
    New,
    /// It is there, and another process gives it away.
    Process(Option<Box<Coming>>),
    /// A supervisor has it made, or go on.
    Supervisor(&'a mut Supervised),
}

/// Mounts a volume and serves it until it is unmounted, or goes to another process (`Handover::is_gone`). Calls `ready` once
/// the mount answers. As root by mount(2), else through fusermount3.
///
/// Sets the process's umask to 0 (modes come from the kernel whole) and its limit of open files as high as it may be.
pub fn serve(
    volume: Arc<Volume>,
    mountpoint: &Path,
    options: &MountOptions,
    handover: &Handover,
    mut origin: Origin<'_>,
    ready: impl FnOnce() + Send,
) -> Result<(), ServeError> {
    rustix::process::umask(Mode::empty());
    raise_file_limit();
    let signals = EndingSignals::catch()?;
    let mut config = Config::default();
    config.acl = SessionACL::All; // the kernel holds others off; fuser would refuse the kernel's own requests too
    config.n_threads = Some(options.thread_count());
    // What was read through a clone ends with the process that has it.
    config.clone_fd = mountpoint::can_clone() && !matches!(origin, Origin::Supervisor(_));
    let (path, (connection, session)) = match &mut origin {
        Origin::Process(coming) => {
            let coming = coming.take().ok_or(io::ErrorKind::InvalidInput);
            let coming = *coming.map_err(io::Error::from)?;
            let come = Handover::come(coming, &volume, options, config)?;
            (mountpoint.to_owned(), come)
        }
        Origin::Supervisor(supervised) if supervised.has_come() => {
            let come = supervised.go_on(&volume, options, config)?;
            (mountpoint.to_owned(), come)
        }
        Origin::Supervisor(supervised) => {
            let path = mountpoint::suitable_mountpoint(mountpoint, &options.vault)?;
            let (connection, session) = begin(&path, &volume, options, config)?;
            supervised.begin(&volume, &connection).inspect_err(|_| {
                let _ = mountpoint::take_off(&path, true);
            })?;
            (path, (connection, session))
        }
        Origin::New => {
            let path = mountpoint::suitable_mountpoint(mountpoint, &options.vault)?;
            let begun = begin(&path, &volume, options, config)?;
            (path, begun)
        }
    };
    let mounted = Mounted::at(&path)?;
    if options.tune && rustix::process::geteuid().is_root() {
        mounted
            .iter()
            .for_each(|mounted| mounted.tune(options.writeback));
    }
    let server = || handover.serve(connection, session);
    let means = options
        .tune
        .then(|| Means::here(mounted.as_ref()))
        .flatten();
    let served = run(
        server,
        signals.as_ref(),
        mounted.as_ref(),
        means.as_ref(),
        ready,
    );
    volume.when_locked(None);
    if let Origin::Supervisor(supervised) = origin
        && !handover.is_gone()
        && !supervised.waits()
    {
        supervised.ended();
    }
    served
}

/// Mounts, and agrees with the kernel.
fn begin(
    path: &Path,
    volume: &Arc<Volume>,
    options: &MountOptions,
    config: Config,
) -> Result<(Connection, Session<Adapter>), ServeError> {
    let device = mountpoint::mount(path, options)?;
    let adapter = Adapter::new(Arc::clone(volume), options);
    let begun = Handshake::first(device.as_fd(), adapter.again(), config.clone());
    let (handshake, session) = begun.inspect_err(|_| {
        let _ = mountpoint::take_off(path, true);
    })?;
    let connection = Connection {
        adapter,
        device,
        handshake,
        config,
        others: Vec::new(),
    };
    Ok((connection, session))
}

/// Serves in a thread of its own, so that `ready` may do what it likes.
fn run(
    serve: impl FnOnce() -> io::Result<()> + Send,
    signals: Option<&EndingSignals>,
    mounted: Option<&Mounted>,
    means: Option<&Means>,
    ready: impl FnOnce() + Send,
) -> Result<(), ServeError> {
    thread::scope(|scope| {
        let server = scope.spawn(serve);
        if let (Some(signals), Some(mounted)) = (signals, mounted) {
            scope.spawn(move || end_on_signal(signals, mounted));
        }
        if let Some(means) = means {
            let keeper = thread::Builder::new().name("pace".to_owned());
            if let Err(error) = keeper.spawn_scoped(scope, || pace::keep(means)) {
                tracing::debug!("nobody keeps the pace: {error}");
            }
        }
        ready();
        let served = server
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a serving thread panicked")));
        signals.into_iter().for_each(EndingSignals::end);
        pace::end();
        match served {
            // The kernel ended the connection while a thread took one of its last requests (a RELEASE, a FORGET) from it.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            served => Ok(served?),
        }
    })
}

fn end_on_signal(signals: &EndingSignals, mounted: &Mounted) {
    let mut seen = 0;
    let mut detached = false;
    while let Ok(true) = signals.wait(&mut seen) {
        if detached {
            tracing::warn!(
                "a second signal: {} is cut off while files in it are open",
                mounted.path.display()
            );
            if let Err(error) = mounted.abort() {
                tracing::error!("the mount could not be cut off: {error}");
            }
        } else {
            detached = unmount(mounted);
        }
    }
}

/// Unmounts, lazily where it is in use; whether it goes on to be served.
fn unmount(mounted: &Mounted) -> bool {
    let path = &mounted.path;
    if !mounted.is_on_top() {
        tracing::warn!(
            "{} is no longer this mount, or hidden by another: served until it is closed",
            path.display()
        );
        return true;
    }
    match mountpoint::take_off(path, false) {
        Ok(()) => return false,
        Err(ServeError::Busy(_)) => {
            tracing::warn!(
                "{} is in use: out of sight now, served until its last file is closed",
                path.display()
            );
        }
        Err(error) => tracing::warn!("{error}"),
    }
    if let Err(error) = mountpoint::take_off(path, true) {
        tracing::error!("{error}");
    }
    true
}

/// How many descriptors this process may have.
pub(super) fn file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}
