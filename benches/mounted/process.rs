//! Programs that the bench runs, one at a time, and the signal that ends them and it.

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use strongroom::fuse::heeding_signals;

/// Why a measurement has no result.
pub type Result<T> = std::result::Result<T, String>;

static STOPPED: AtomicBool = AtomicBool::new(false);
/// The program that runs just now. Its number is free for another process only after it was taken out of here.
static RUNNING: Mutex<Option<Pid>> = Mutex::new(None);

/// Runs the bench; SIGINT, SIGTERM and SIGHUP end the program that is running and let it return in order.
pub fn until_stopped<T>(bench: impl FnOnce() -> T) -> T {
    let stop = || {
        STOPPED.store(true, Ordering::SeqCst);
        eprintln!("\nmounted: stopping; what was mounted and made goes");
        if let Some(running) = *running() {
            let _ = kill_process(running, Signal::TERM);
        }
    };
    heeding_signals(stop, bench).expect("signals can be handled")
}

fn running() -> std::sync::MutexGuard<'static, Option<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a signal came.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Runs a program to its end; what it wrote to standard output. Unless it ended well, what it said.
pub fn run(command: &mut Command) -> Result<String> {
    if is_stopped() {
        return Err("stopped".to_owned());
    }
    finish(command)
}

/// The same for what cleans up, which a signal does not hold off.
pub fn finish(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = wait(command).map_err(|error| format!("{name}: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    let lines = format!("{}\n{}", said(&output.stdout), said(&output.stderr));
    let last: Vec<_> = lines.lines().rev().take(3).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    Err(format!(
        "{name}: {}: {}",
        output.status,
        last.join(" / ").trim()
    ))
}

/// A daemon that a program left behind holds its standard output, so what it said is read from files.
fn wait(command: &mut Command) -> std::io::Result<Output> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut child: Child = {
        let mut running = running();
        let child = command.spawn()?;
        *running = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        child
    };
    // Waited for without being reaped, so that the number stays its own while a signal may be sent to it.
    let pid = *running();
    if let Some(pid) = pid {
        let gone = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(rustix::process::WaitId::Pid(pid), gone)
        });
    }
    *running() = None;
    let status = child.wait()?;
    let read = |file: &mut std::fs::File| -> std::io::Result<Vec<u8>> {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    Ok(Output {
        status,
        stdout: read(&mut out)?,
        stderr: read(&mut err)?,
    })
}

/// Asks again and again for ten seconds.
pub fn within_patience(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..500 {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    done()
}
