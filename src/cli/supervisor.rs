//! `mount -o supervise`: a process that serves nothing itself, starts the one that does, and starts another when that one died.
//!
//! Invariants: it opens nothing in the mount, so that no process that it starts waits for itself; the secrets that open the
//! keystore stay in its locked memory and reach a worker through pipes.

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::args::{Global, MountArgs};
use super::exit::{self, Code, failure};
use super::providers::{self, Known};
use super::secrets::Secrets;
use super::{daemon, places};
use crate::fuse::supervise::{Held, Supervised, Told};
use crate::fuse::{self, MountOptions};
use crate::keys::source::{claim_descriptor, keep_from_children};

/// So many deaths of workers that answered nothing, within such a time, end the mount.
const DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);
/// Before another worker is tried after one that could not go on.
const PAUSE: Duration = Duration::from_millis(200);

/// Mounts, and has it served until it is unmounted.
pub(super) fn run(
    global: &Global,
    args: &MountArgs,
    options: &MountOptions,
    ready: impl FnOnce() + Send,
) -> anyhow::Result<()> {
    let mountpoint = fuse::suitable_mountpoint(&args.mountpoint, &options.vault)?;
    let secrets = providers::gather(global, &Known::of(&options.vault)?, &args.trust)?;
    let args = worker_args(args, options, mountpoint);
    let global = &Global {
        keystore: places::keystore(global)
            .ok()
            .map(std::path::absolute)
            .transpose()?,
        ..global.clone()
    };
    let places = absolute_places()?;
    std::env::set_current_dir("/")?;
    let worker = AtomicI32::new(0);
    let forward = || {
        let worker = Pid::from_raw(worker.load(Ordering::SeqCst));
        if let Some(worker) = worker {
            let _ = kill_process(worker, Signal::TERM);
        }
    };
    let mut supervisor = Supervisor {
        global,
        args: &args,
        secrets: &secrets,
        places,
        worker: &worker,
        held: Held::default(),
        ready: Some(ready),
        deaths: Vec::new(),
    };
    fuse::heeding_signals(forward, || supervisor.supervise())?
}

fn worker_args(args: &MountArgs, options: &MountOptions, mountpoint: PathBuf) -> MountArgs {
    MountArgs {
        foreground: true,
        ready_fd: None,
        worker_fd: None,
        directory: options.vault.clone(),
        mountpoint,
        ..args.clone()
    }
}

fn absolute_places() -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let mut all = Vec::new();
    for name in ["STRONGROOM_STATE_DIR", "STRONGROOM_RUNTIME_DIR"] {
        if let Some(path) = places::variable(name) {
            all.push((name, std::path::absolute(path)?));
        }
    }
    Ok(all)
}

struct Supervisor<'a, R> {
    global: &'a Global,
    args: &'a MountArgs,
    secrets: &'a Secrets,
    /// For the worker, which is started elsewhere than this.
    places: Vec<(&'static str, PathBuf)>,
    /// The worker's process; 0: none.
    worker: &'a AtomicI32,
    held: Held,
    ready: Option<R>,
    /// Of workers that answered nothing.
    deaths: Vec<Instant>,
}

/// What is known of a worker that ended.
#[derive(Default)]
struct Past {
    ended: bool,
    serves: bool,
    doomed: Option<String>,
    refused: Option<(u8, String)>,
}

impl<R: FnOnce()> Supervisor<'_, R> {
    fn supervise(&mut self) -> anyhow::Result<()> {
        loop {
            let (status, past) = self.one()?;
            if past.ended && status.success() {
                return Ok(());
            }
            if let Some(error) = self.is_over(status, past) {
                self.held.let_go(); // every program in the mount gets an error from here on
                return Err(error);
            }
        }
    }

    /// Why no other worker is started.
    fn is_over(&mut self, status: ExitStatus, past: Past) -> Option<anyhow::Error> {
        let over = |sentence: String| Some(failure(Code::Mount, sentence));
        if past.ended || !self.held.has_mount() {
            return match past.refused {
                Some((code, sentence)) => {
                    let code = Code::from_number(code).unwrap_or(Code::Mount);
                    Some(failure(code, sentence))
                }
                None => over(format!("the mount's process ended ({status})")),
            };
        }
        if let Some(why) = past.doomed {
            return over(format!(
                "the mount is over: its process ended ({status}), and none may go on, since {why}"
            ));
        }
        match (&past.refused, status.signal()) {
            (Some((_, sentence)), _) => {
                tracing::warn!("a process could not go on with the mount: {sentence}");
            }
            (None, _) => tracing::warn!("the mount's process ended ({status}): another goes on"),
        }
        if past.serves {
            self.deaths.clear();
        } else {
            self.deaths.push(Instant::now());
            self.deaths.retain(|death| death.elapsed() < WITHIN);
            if self.deaths.len() >= DEATHS {
                return over(format!(
                    "the mount is over: {DEATHS} processes in a row ended before they answered anything"
                ));
            }
            thread::sleep(PAUSE);
        }
        None
    }

    /// Runs one worker to its end.
    fn one(&mut self) -> anyhow::Result<(ExitStatus, Past)> {
        let (line, theirs) = self.held.start()?;
        let mut child = self.start(theirs)?;
        self.worker
            .store(child.id().cast_signed(), Ordering::SeqCst);
        let mut past = Past::default();
        // One that dies meanwhile is heard of below.
        if let Err(error) = self.held.begin(&line) {
            tracing::debug!("a worker did not take the mount: {error}");
        }
        loop {
            match self.held.listen(&line) {
                Ok(Told::Ready) => {
                    if let Some(ready) = self.ready.take() {
                        ready();
                    }
                }
                Ok(Told::Serves) => past.serves = true,
                Ok(Told::Refused(code, sentence)) => past.refused = Some((code, sentence)),
                Ok(Told::Doomed(why)) => past.doomed = Some(why),
                Ok(Told::Ended) => past.ended = true,
                Ok(Told::Gone) => break,
                Err(error) => {
                    past.doomed = Some(format!("it said what is not understood: {error}"));
                    let _ = child.kill();
                    break;
                }
            }
        }
        let status = child.wait()?; // its threads are gone, and its descriptors closed
        self.worker.store(0, Ordering::SeqCst);
        Ok((status, past))
    }

    fn start(&self, line: OwnedFd) -> anyhow::Result<Child> {
        rustix::io::fcntl_setfd(&line, FdFlags::empty())?;
        let descriptor = ("--worker-fd", &line);
        let (mut command, pipes) =
            daemon::itself(self.global, self.args, self.secrets, descriptor)?;
        let places = self.places.iter().map(|(name, path)| (name, path));
        command
            .envs(places)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let passed: Vec<_> = pipes.iter().chain([&line]).collect();
        keep_from_children(&passed)?;
        let child = command.process_group(0).spawn(); // a terminal's signals come from here alone
        drop(pipes);
        Ok(child?)
    }
}

/// In the worker: serves, and says why not.
pub(super) fn work(
    number: i32,
    serve: impl FnOnce(&mut Supervised) -> anyhow::Result<()>,
) -> anyhow::Result<Code> {
    let line = claim_descriptor(number)?;
    rustix::io::fcntl_setfd(&line, FdFlags::CLOEXEC)?;
    std::env::set_current_dir("/")?;
    let mut supervised = Supervised::by(OwnedFd::from(line))?;
    Ok(match serve(&mut supervised) {
        Ok(()) => Code::Ok,
        Err(error) => {
            let (code, sentence) = exit::explain(&error);
            supervised.refused(code as u8, &sentence);
            code
        }
    })
}
