//! `mount -o supervise`: a process that serves nothing itself, starts the one that does, and starts another when that one died.
//! With `reexec` another supervisor takes its place, which first has a worker of its own that can serve.
//!
//! Invariants: it opens nothing in the mount, so that no process that it starts waits for itself; the secrets that open the
//! keystore stay in its locked memory and reach a worker through pipes.

mod away;

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};

use self::away::{Away, Verdict};
use super::args::{Global, MountArgs};
use super::exit::{self, Code, failure};
use super::providers::{self, Known};
use super::secrets::Secrets;
use super::{daemon, mounts, places};
use crate::fuse::supervise::{Giver, Held, Supervised, Told, Worker};
use crate::fuse::{self, MountOptions};
use crate::keys::source::{claim_descriptor, keep_from_children};

/// So many deaths of workers that answered nothing, within such a time, end the mount.
const DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);
/// Between two looks whether the mount is to end, while nobody serves it.
const LOOK: Duration = Duration::from_millis(200);
/// Before another worker is tried after one that could not go on.
const PAUSE: Duration = Duration::from_millis(200);

/// Mounts, or takes a mount from another supervisor, and has it served until it is unmounted or goes to another one.
pub(super) fn run(
    global: &Global,
    args: &MountArgs,
    options: &MountOptions,
    ready: impl FnOnce() + Send,
) -> anyhow::Result<()> {
    let known = Known::of(&options.vault)?;
    // Of a mount that is there already nothing is asked: it may not answer before this process does.
    let mountpoint = match args.succeed {
        true => args.mountpoint.clone(),
        false => fuse::suitable_mountpoint(&args.mountpoint, &options.vault)?,
    };
    let socket = mounts::socket_of(&known.info.volume, options.read_only, &mountpoint)?;
    let from = args
        .succeed
        .then(|| std::path::absolute(socket))
        .transpose()?;
    let secrets = providers::gather(global, &known, &args.trust)?;
    let attached = args.ready_fd.is_none();
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
    let ending = Ending::default();
    let mut supervisor = Supervisor {
        global,
        args: &args,
        secrets: Some(secrets),
        places,
        attached,
        ending: &ending,
        held: Held::default(),
        from,
        giver: None,
        ready: Some(ready),
        deaths: Vec::new(),
        away: Away::new(options.on_key_loss),
        begun: Instant::now(),
    };
    fuse::heeding_signals(|| ending.asked(), || supervisor.supervise())?
}

/// The signal that ends the mount, on its way to a worker.
#[derive(Default)]
struct Ending(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    worker: Option<Pid>,
    /// Whether a signal ends it as it should: with a mount that waits for it, only once it serves.
    heeds: bool,
    ever: bool,
}

impl Ending {
    fn locked(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) {
        let mut now = self.locked();
        now.ever = true;
        if now.heeds {
            now.signal();
        }
    }

    fn is_asked(&self) -> bool {
        self.locked().ever
    }

    fn started(&self, child: &Child, has_mount: bool) {
        let mut now = self.locked();
        (now.worker, now.heeds) = (Pid::from_raw(child.id().cast_signed()), !has_mount);
    }

    fn serves(&self) {
        let mut now = self.locked();
        if !std::mem::replace(&mut now.heeds, true) && now.ever {
            now.signal();
        }
    }

    fn ended(&self) {
        let mut now = self.locked();
        (now.worker, now.heeds) = (None, false);
    }
}

impl Asked {
    fn signal(&self) {
        if let Some(worker) = self.worker {
            let _ = kill_process(worker, Signal::TERM);
        }
    }
}

fn worker_args(args: &MountArgs, options: &MountOptions, mountpoint: PathBuf) -> MountArgs {
    MountArgs {
        foreground: true,
        ready_fd: None,
        worker_fd: None,
        succeed: false,
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
    /// Until no other worker is to be started.
    secrets: Option<Secrets>,
    /// For the worker, which is started elsewhere than this.
    places: Vec<(&'static str, PathBuf)>,
    /// Whether whoever started this process would take its end for the mount's.
    attached: bool,
    ending: &'a Ending,
    held: Held,
    /// The control socket of the mount that is to be had from another supervisor.
    from: Option<PathBuf>,
    /// That one, until the mount is this one's.
    giver: Option<Giver>,
    ready: Option<R>,
    /// Of workers that answered nothing.
    deaths: Vec<Instant>,
    away: Away,
    begun: Instant,
}

/// What is known of a worker that ended.
#[derive(Default)]
struct Past {
    ended: bool,
    serves: bool,
    doomed: Option<String>,
    refused: Option<(u8, String)>,
    /// Who is to have the mount.
    leaving: Option<Worker>,
    /// Why the mount of another supervisor is not to be had.
    failed: Option<anyhow::Error>,
}

impl<R: FnOnce()> Supervisor<'_, R> {
    fn supervise(&mut self) -> anyhow::Result<()> {
        loop {
            let (status, mut past) = self.one()?;
            if past.ended && status.success() {
                return Ok(());
            }
            if let Some(error) = self.has_come(status, &mut past) {
                return Err(error);
            }
            if let (Some(to), None) = (&past.leaving, &past.doomed) {
                match self.gives(to) {
                    Ok(()) => {
                        self.held.let_go();
                        return Ok(());
                    }
                    Err(error) => {
                        tracing::warn!("the mount stays with this supervisor: {error}");
                        continue;
                    }
                }
            }
            if let Some(error) = self.is_over(status, past) {
                self.held.let_go(); // every program in the mount gets an error from here on
                return Err(error);
            }
        }
    }

    /// Why there is no mount, where it was to come from another supervisor, which goes on with it.
    fn has_come(&mut self, status: ExitStatus, past: &mut Past) -> Option<anyhow::Error> {
        if self.from.is_none() && self.giver.is_none() && past.failed.is_none() {
            return None;
        }
        let error = past.failed.take().unwrap_or_else(|| {
            let ended = || format!("the new process ended ({status})");
            match past.refused.take() {
                Some((code, sentence)) => {
                    failure(Code::from_number(code).unwrap_or(Code::Mount), sentence)
                }
                None => failure(Code::Mount, ended()),
            }
        });
        if let Some(giver) = self.giver.take() {
            let (code, sentence) = exit::explain(&error);
            giver.refuse(code as u8, &sentence);
        }
        self.held.let_go();
        Some(error)
    }

    fn gives(&mut self, to: &Worker) -> anyhow::Result<()> {
        if self.ending.is_asked() {
            return Err(failure(Code::Busy, "it is being unmounted"));
        }
        Ok(self.held.give(to, self.attached)?)
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
        if let Some((code, sentence)) = &past.refused {
            let code = Code::from_number(*code).unwrap_or(Code::Failure);
            let is_new = self.away.is_new();
            match self.away.see(code, self.begun.elapsed()) {
                Verdict::Other => {}
                Verdict::Over(why) => {
                    return Some(failure(
                        code,
                        format!("the mount is over, since {why}: {sentence}"),
                    ));
                }
                Verdict::Again(pause) => {
                    if is_new {
                        tracing::error!(
                            "nobody serves the mount until its key is back: {sentence}"
                        );
                    }
                    return self.waits(pause);
                }
            }
        }
        match &past.refused {
            Some((_, sentence)) => {
                tracing::warn!("a process could not go on with the mount: {sentence}");
            }
            None => tracing::warn!("the mount's process ended ({status}): another goes on"),
        }
        if past.serves {
            self.deaths.clear();
            self.away.is_back();
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

    /// Waits while nobody serves; why no other worker is started then.
    fn waits(&self, pause: Duration) -> Option<anyhow::Error> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.ending.is_asked() {
                let sentence = "the mount is over: it was to end while its key was away";
                return Some(failure(Code::Mount, sentence));
            }
            thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        None
    }

    /// Runs one worker to its end.
    fn one(&mut self) -> anyhow::Result<(ExitStatus, Past)> {
        let (line, theirs) = self.held.start()?;
        let mut child = self.start(theirs)?;
        let has_mount = self.held.has_mount() || self.from.is_some();
        self.ending.started(&child, has_mount);
        let mut past = Past::default();
        loop {
            match self.held.listen(&line) {
                Ok(Told::Opened) => past.failed = self.begins(&line).err(),
                Ok(Told::Prepared) => past.failed = self.serves(&line).err(),
                Ok(Told::Ready) => {
                    self.ending.serves();
                    if let Some(ready) = self.ready.take() {
                        ready();
                    }
                }
                Ok(Told::Serves) => past.serves = true,
                Ok(Told::Refused(code, sentence)) => past.refused = Some((code, sentence)),
                Ok(Told::Doomed(why)) => {
                    past.doomed = Some(why);
                    self.secrets = None; // they open nothing any more
                }
                Ok(Told::Leaving(to)) => past.leaving = Some(to),
                Ok(Told::Ended) => past.ended = true,
                Ok(Told::Gone) => break,
                Err(_) if past.leaving.is_some() => {
                    let _ = child.kill(); // it keeps nothing but the others waiting
                    break;
                }
                Err(error) => {
                    past.doomed = Some(format!("it said what is not understood: {error}"));
                    let _ = child.kill();
                    break;
                }
            }
            if past.failed.is_some() {
                let _ = child.kill();
                break;
            }
        }
        let status = child.wait()?; // its threads are gone, and its descriptors closed
        self.ending.ended();
        Ok((status, past))
    }

    /// A worker opened what opens the volume. One that dies meanwhile is heard of later.
    fn begins(&mut self, line: &Worker) -> anyhow::Result<()> {
        if let Some(socket) = self.from.take() {
            let (held, giver) = Held::ask(&socket)?;
            (self.held, self.giver) = (held, Some(giver));
        }
        if let Err(error) = self.held.begin(line, self.attached) {
            tracing::debug!("a worker did not take the mount: {error}");
        }
        Ok(())
    }

    /// A worker can serve: it is to, as soon as the mount is this supervisor's.
    fn serves(&mut self, line: &Worker) -> anyhow::Result<()> {
        if let Some(giver) = &self.giver {
            giver.is_prepared()?;
            self.giver = None;
        }
        if let Err(error) = self.held.serve(line) {
            tracing::debug!("a worker does not serve: {error}");
        }
        Ok(())
    }

    fn start(&self, line: OwnedFd) -> anyhow::Result<Child> {
        let Some(secrets) = &self.secrets else {
            return Err(failure(
                Code::Mount,
                "no other process may go on with the mount",
            ));
        };
        rustix::io::fcntl_setfd(&line, FdFlags::empty())?;
        let descriptor = ("--worker-fd", &line);
        let (mut command, pipes) = daemon::itself(self.global, self.args, secrets, descriptor)?;
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
