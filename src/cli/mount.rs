//! `strongroom mount`: in the foreground, or by a daemon that the command starts, waits for and leaves behind.
//!
//! Invariant: the daemon is this program run again, so it has no thread, lock or key from before; what opens the keystore
//! reaches it through pipes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::args::{Global, MountArgs};
use super::exit::{self, Code, failure};
use super::opening::{How, Open};
use super::providers::{self, Known, OpenTokens, Opened};
use super::{daemon, mounts, opening, supervisor, target};
use crate::fuse::control::{Client, Control, Subject};
use crate::fuse::supervise::{self, Supervised};
use crate::fuse::{self, Coming, Handover, MountOptions, Origin, ServeError};
use crate::volume::Volume;

/// How long `umount` waits for the daemon to settle what was written.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How often, and after what pause, a mount in use is tried again.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Runs the command.
pub(super) fn mount(global: &Global, args: &MountArgs) -> anyhow::Result<Code> {
    let options = options(args)?;
    if options.supervise
        && let Some(why) = supervise::unsupported()
    {
        return Err(failure(Code::Usage, why));
    }
    if let Some(number) = args.worker_fd {
        return supervisor::work(number, |supervised| {
            serve_for(global, args, &options, supervised)
        });
    }
    let run = |ready: Box<dyn FnOnce() + Send>| match options.supervise {
        true => supervisor::run(global, args, &options, ready),
        false => serve(global, args, &options, ready),
    };
    match args.ready_fd {
        Some(number) => Ok(daemon::report(number, run)),
        None if args.foreground => run(Box::new(|| {})).map(|()| Code::Ok),
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
    // Of a mount that is there already nothing is asked: it may not answer before this process does.
    let mountpoint = match args.succeed {
        true => args.mountpoint.clone(),
        false => fuse::suitable_mountpoint(&args.mountpoint, &options.vault)?,
    };
    let known = Known::of(&options.vault)?;
    let secrets = providers::gather(global, &known, &args.trust)?;
    let opened = providers::open(global, &known, &secrets, &args.trust)?;
    drop(secrets);
    let socket = mounts::socket_of(&known.info.volume, options.read_only, &mountpoint)?;
    let how = How::mounted(options);
    if args.succeed {
        return succeed(opened, args, options, &how, &socket, ready);
    }
    let Open { volume, tokens } = opening::with(&options.vault, opened, &args.trust, &how)?;
    let subject = subject(&volume, tokens, args, options, &mountpoint);
    let handover = Arc::clone(&subject.handover);
    let control = match Control::listen(&socket, subject) {
        Ok(control) => control,
        Err(error) => {
            volume.close()?;
            let sentence = format!("control socket {}: {error}", socket.display());
            return Err(failure(Code::Mount, sentence));
        }
    };
    // The daemon holds no directory but its own.
    std::env::set_current_dir("/")?;
    let served = fuse::serve(
        volume.clone(),
        &mountpoint,
        options,
        &handover,
        Origin::New,
        ready,
    );
    end(&volume, control, served)
}

/// Goes on with a mount that another process serves; until that has let go, a failure leaves it there.
fn succeed(
    opened: Opened,
    args: &MountArgs,
    options: &MountOptions,
    how: &How,
    socket: &Path,
    ready: impl FnOnce() + Send,
) -> anyhow::Result<()> {
    let mut coming = Coming::from(socket)?;
    let Open { volume, tokens } =
        match opening::after(&options.vault, opened, &args.trust, how, &mut coming) {
            Ok(open) => open,
            Err(error) => {
                coming.fail(&exit::explain(&error).1);
                return Err(error);
            }
        };
    let subject = subject(&volume, tokens, args, options, &args.mountpoint);
    let handover = Arc::clone(&subject.handover);
    let control = coming
        .listener()
        .and_then(|listener| Control::over(listener, socket, subject));
    let mut control = match control {
        Ok(control) => control,
        Err(error) => {
            volume.leave();
            coming.fail(&error.to_string());
            return Err(error.into());
        }
    };
    std::env::set_current_dir("/")?;
    let mut came = false;
    let served = fuse::serve(
        volume.clone(),
        &args.mountpoint,
        options,
        &handover,
        Origin::Process(Some(Box::new(coming))),
        || {
            came = true;
            if let Err(error) = control.start() {
                tracing::error!("the control socket answers nobody: {error}");
            }
            ready();
        },
    );
    if !came {
        volume.leave(); // the other process has it
    }
    end(&volume, control, served)
}

/// Mounts and serves as the worker of a supervisor, or goes on after one that died.
fn serve_for(
    global: &Global,
    args: &MountArgs,
    options: &MountOptions,
    supervised: &mut Supervised,
) -> anyhow::Result<()> {
    let known = Known::of(&options.vault)?;
    let secrets = providers::gather(global, &known, &args.trust)?;
    let opened = providers::open(global, &known, &secrets, &args.trust)?;
    drop(secrets);
    supervised.take()?; // after what takes long: a mount that comes waits from here on
    let mountpoint = &args.mountpoint;
    let socket = mounts::socket_of(&known.info.volume, options.read_only, mountpoint)?;
    let how = How::mounted(options);
    let Open { volume, tokens } =
        opening::supervised(&options.vault, opened, &args.trust, &how, supervised)?;
    let mut subject = subject(&volume, tokens, args, options, mountpoint);
    subject.handover = supervised.handover();
    let handover = Arc::clone(&subject.handover);
    let begun = match supervised.listener()? {
        Some(listener) => Control::over(listener, &socket, subject),
        None => Control::listen(&socket, subject).and_then(|control| {
            supervised.keep_listener(control.descriptor())?;
            Ok(control)
        }),
    };
    let mut control = begun.map_err(|error| {
        let sentence = format!("control socket {}: {error}", socket.display());
        failure(Code::Mount, sentence)
    })?;
    let comes = supervised.waits();
    let say_ready = supervised.to_be_ready();
    let ready = || {
        if comes && let Err(error) = control.start() {
            tracing::error!("the control socket answers nobody: {error}");
        }
        say_ready();
    };
    let served = fuse::serve(
        volume.clone(),
        mountpoint,
        options,
        &handover,
        Origin::Supervisor(supervised),
        ready,
    );
    if supervised.waits() {
        volume.leave(); // another process has it, or will
    }
    end(&volume, control, served)
}

/// After the mount ended here. Of one that another process has by now there is nothing to close.
fn end(
    volume: &Volume,
    mut control: Control,
    served: Result<(), ServeError>,
) -> anyhow::Result<()> {
    control.finish();
    let closed = volume.close();
    drop(control);
    served?;
    Ok(closed?)
}

fn subject(
    volume: &Arc<Volume>,
    tokens: Arc<OpenTokens>,
    args: &MountArgs,
    options: &MountOptions,
    mountpoint: &Path,
) -> Subject {
    Subject {
        volume: Arc::clone(volume),
        about: about(args, options, mountpoint),
        open_target: target::opener(tokens),
        handover: Handover::new(args.ready_fd.is_none()),
    }
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

fn about(args: &MountArgs, options: &MountOptions, mountpoint: &Path) -> serde_json::Value {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    json!({
        "vault": text(&options.vault),
        "mountpoint": text(mountpoint),
        "read_only": options.read_only,
        "allow_other": options.allow_other,
        "options": args.options,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// Unmounts, and returns when the daemon has let the volume go.
pub(super) fn umount(mountpoint: &Path) -> anyhow::Result<()> {
    let mounted = mounts::mounted_on(mountpoint)?;
    // Asked before, answered after. A daemon that is gone, or another user's, cannot be waited for.
    let watch = mounts::socket(&mounted)
        .ok()
        .and_then(|socket| Client::connect(&socket).ok()?.watch().ok());
    unmount(&mounted.mountpoint)?;
    if let Some(watch) = watch {
        watch.closed(PATIENCE).map_err(|_| {
            failure(Code::Busy, "it is unmounted, and its daemon is still settling files: wait for it before you mount again")
        })?;
    }
    Ok(())
}
