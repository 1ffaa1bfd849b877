//! `strongroom mount`: in the foreground, or by a daemon that the command starts, waits for and leaves behind.
//!
//! Invariant: the daemon is this program run again, so it has no thread, lock or key from before; what opens the keystore
//! reaches it through pipes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::args::{Global, MountArgs};
use super::exit::{Code, failure};
use super::opening::{How, Open};
use super::providers::{self, Known};
use super::{daemon, mounts, opening, target};
use crate::fuse::control::{Client, Control};
use crate::fuse::{self, MountOptions, ServeError};

/// How long `umount` waits for the daemon to settle what was written.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How often, and after what pause, a mount in use is tried again.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Runs the command.
pub(super) fn mount(global: &Global, args: &MountArgs) -> anyhow::Result<Code> {
    let options = options(args)?;
    match args.ready_fd {
        Some(number) => Ok(daemon::report(number, |ready| {
            serve(global, args, &options, ready)
        })),
        None if args.foreground => serve(global, args, &options, || {}).map(|()| Code::Ok),
        None => {
            fuse::suitable_mountpoint(&args.mountpoint, &options.vault)?; // before anything is asked
            let secrets = providers::gather(global, &Known::of(&options.vault)?, &args.trust)?;
            daemon::start(global, args, secrets)
        }
    }
}

fn options(args: &MountArgs) -> anyhow::Result<MountOptions> {
    let vault = mounts::resolve(&args.directory)?;
    let mut options = MountOptions::new(vault);
    for list in &args.options {
        options
            .take(list)
            .map_err(|error| failure(Code::Usage, error.to_string()))?;
    }
    options.read_only |= args.read_only;
    options.allow_other |= args.allow_other;
    Ok(options)
}

/// Mounts and serves until it is unmounted.
fn serve(
    global: &Global,
    args: &MountArgs,
    options: &MountOptions,
    ready: impl FnOnce() + Send,
) -> anyhow::Result<()> {
    let mountpoint = fuse::suitable_mountpoint(&args.mountpoint, &options.vault)?;
    let known = Known::of(&options.vault)?;
    let secrets = providers::gather(global, &known, &args.trust)?;
    let opened = providers::open(global, &known, &secrets, &args.trust)?;
    drop(secrets);
    let Open { volume, tokens } =
        opening::with(&options.vault, opened, &args.trust, &How::mounted(options))?;
    let socket = mounts::socket_of(&known.info.volume, options.read_only, &mountpoint)?;
    let about = about(&options.vault, &mountpoint, options.read_only);
    let mut control = match Control::listen(&socket, volume.clone(), about, target::opener(tokens))
    {
        Ok(control) => control,
        Err(error) => {
            volume.close()?;
            let sentence = format!("control socket {}: {error}", socket.display());
            return Err(failure(Code::Mount, sentence));
        }
    };
    // The daemon holds no directory but its own.
    std::env::set_current_dir("/")?;
    let served = fuse::serve(volume.clone(), &mountpoint, options, ready);
    control.finish();
    let closed = volume.close();
    drop(control);
    served?;
    Ok(closed?)
}

/// A process that was just started holds its parent's open files until it runs its own program, so a mount may be in use
/// for a moment when nobody uses it.
fn unmount(path: &Path) -> Result<(), ServeError> {
    for _ in 0..BUSY_TRIES {
        match fuse::unmount(path) {
            Err(ServeError::Busy(_)) => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
    }
    fuse::unmount(path)
}

fn place(mountpoint: &Path) -> anyhow::Result<PathBuf> {
    mounts::resolve(mountpoint).map_err(|error| failure(Code::Mount, error.to_string()))
}

fn about(vault: &Path, mountpoint: &Path, read_only: bool) -> serde_json::Value {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    json!({
        "vault": text(vault),
        "mountpoint": text(mountpoint),
        "read_only": read_only,
        "pid": std::process::id(),
    })
}

/// Unmounts, and returns when the daemon has let the volume go.
pub(super) fn umount(mountpoint: &Path) -> anyhow::Result<()> {
    let path = place(mountpoint)?;
    let found = mounts::find(&path)?;
    let mounted = found
        .mounted
        .filter(|mounted| mounted.mountpoint == path)
        .ok_or_else(|| {
            failure(
                Code::Mount,
                format!("no volume is mounted at {}", mountpoint.display()),
            )
        })?;
    // Asked before, answered after. A daemon that is gone, or another user's, cannot be waited for.
    let watch = mounts::socket(&mounted)
        .ok()
        .and_then(|socket| Client::connect(&socket).ok()?.watch().ok());
    unmount(&path)?;
    if let Some(watch) = watch {
        watch.closed(PATIENCE).map_err(|_| {
            failure(Code::Busy, "it is unmounted, and its daemon is still settling files: wait for it before you mount again")
        })?;
    }
    Ok(())
}
