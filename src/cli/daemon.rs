//! Starts this program again as a daemon, hands it the secrets, and waits until it says that the mount answers or why not.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::FdFlags;

use super::args::{Global, MountArgs};
use super::exit::{self, Code, failure};
use super::places;
use super::secrets::{Secrets, pipe_with};
use crate::keys::Unlock;
use crate::keys::source::{claim_descriptor, keep_from_children};

/// A log that has grown beyond this is put aside when the next daemon starts, bytes.
const LOG_LIMIT: u64 = 10 << 20;

/// Starts the daemon of a mount; returns when the mount answers, or with the daemon's own code and sentence.
pub(super) fn start(global: &Global, args: &MountArgs, secrets: Secrets) -> anyhow::Result<Code> {
    let (ready, ready_there) = pipe()?;
    let descriptor = ("--ready-fd", &ready_there);
    let (mut command, pipes) = itself(global, args, &secrets, descriptor)?;
    drop(secrets);
    let log = places::state_dir()?.join("mount.log");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(open_log(&log)?);
    // A file of the mount itself, say, that the shell holds: with it the daemon could never be unmounted.
    let passed: Vec<_> = pipes.iter().chain([&ready_there]).collect();
    keep_from_children(&passed)?;
    let mut child = command.spawn()?;
    drop((ready_there, pipes));
    let mut answer = String::new();
    read_line(&mut File::from(ready), &mut answer);
    if answer == "ok" {
        return Ok(Code::Ok);
    }
    let status = child.wait()?;
    let (code, sentence) = match answer.split_once(' ') {
        Some((code, sentence)) => (
            code.parse().ok().and_then(Code::from_number),
            sentence.to_owned(),
        ),
        None => (
            None,
            format!(
                "the mount's process ended before it was ready ({status}); see {}",
                log.display()
            ),
        ),
    };
    Err(failure(code.unwrap_or(Code::Mount), sentence))
}

/// This program again, to mount, with the secrets in pipes that are to be dropped when it runs; `descriptor`, which must be
/// open in it, under this flag.
pub(super) fn itself(
    global: &Global,
    args: &MountArgs,
    secrets: &Secrets,
    descriptor: (&str, &OwnedFd),
) -> anyhow::Result<(Command, Vec<OwnedFd>)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("strongroom");
    if let Ok(keystore) = places::keystore(global) {
        command.arg("--keystore").arg(absolute(&keystore)?);
    }
    let pipes = hand_over(secrets, &mut command)?;
    for module in &global.token.module {
        command.arg("--module").arg(module);
    }
    for init in &global.token.module_init {
        command.arg("--module-init").arg(init);
    }
    let (flag, descriptor) = descriptor;
    command
        .args(["mount", "--foreground", flag])
        .arg(descriptor.as_raw_fd().to_string());
    pass_on(args, &mut command);
    Ok((command, pipes))
}

/// In the daemon: leaves the terminal, serves, and tells the parent once how that began.
pub(super) fn report(
    ready_fd: i32,
    serve: impl FnOnce(Box<dyn FnOnce() + Send>) -> anyhow::Result<()>,
) -> Code {
    let _ = rustix::process::setsid();
    let Ok(parent) = claim_descriptor(ready_fd) else {
        return Code::Usage;
    };
    let Ok(for_ready) = parent.try_clone() else {
        return Code::Failure;
    };
    for end in [&parent, &for_ready] {
        let _ = rustix::io::fcntl_setfd(end, FdFlags::CLOEXEC);
    }
    let served = serve(Box::new(move || {
        let _ = (&for_ready).write_all(b"ok\n");
    }));
    match served {
        Ok(()) => Code::Ok,
        Err(error) => {
            let (code, sentence) = exit::explain(&error);
            tracing::error!("{sentence}");
            let _ = (&parent).write_all(format!("{} {sentence}\n", code as u8).as_bytes());
            code
        }
    }
}

/// Puts each secret into a pipe whose reading end the daemon inherits.
fn hand_over(secrets: &Secrets, command: &mut Command) -> anyhow::Result<Vec<OwnedFd>> {
    let mut pipes = Vec::new();
    let mut passphrase = false;
    for secret in &secrets.unlocks {
        let (flag, bytes): (_, &[u8]) = match secret {
            // One passphrase can be told; a credential may have offered the same bytes as a key file before.
            Unlock::Passphrase(_) if passphrase => continue,
            Unlock::Passphrase(text) => ("--passphrase-fd", text.expose()),
            Unlock::KeyFile(key) => ("--key-fd", key.expose()),
            Unlock::RecoveryKey(key) => ("--recovery-key-fd", key.expose()),
        };
        let is_text = matches!(secret, Unlock::Passphrase(_));
        passphrase |= is_text;
        let reader = pipe_with(bytes, is_text)?;
        command.arg(flag).arg(reader.as_raw_fd().to_string());
        pipes.push(reader);
    }
    for (token, pin) in secrets.pins.each() {
        let reader = pipe_with(pin.expose(), true)?;
        command
            .arg("--pin-fd")
            .arg(format!("{token}={}", reader.as_raw_fd()));
        pipes.push(reader);
    }
    Ok(pipes)
}

fn pass_on(args: &MountArgs, command: &mut Command) {
    for (wanted, flag) in [
        (args.read_only, "--read-only"),
        (args.allow_other, "--allow-other"),
        (args.trust.take_over, "--take-over"),
        (args.succeed, "--succeed"),
    ] {
        command.args(wanted.then_some(flag));
    }
    for list in &args.options {
        command.arg("-o").arg(list);
    }
    if let Some(pin) = &args.trust.expect_volume {
        command.arg("--expect-volume").arg(pin);
    }
    command.arg("--").arg(&args.directory).arg(&args.mountpoint);
}

/// Our end closes when we run something; the other end is inherited.
fn pipe() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe()?;
    rustix::io::fcntl_setfd(&ours, FdFlags::CLOEXEC)?;
    Ok((ours, theirs))
}

fn read_line(file: &mut File, line: &mut String) {
    let mut byte = [0];
    let mut bytes = Vec::new();
    while let Ok(1) = file.read(&mut byte) {
        if byte == *b"\n" {
            break;
        }
        bytes.extend_from_slice(&byte);
    }
    line.push_str(&String::from_utf8_lossy(&bytes));
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).map_err(exit::at(path))
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    if path.metadata().is_ok_and(|about| about.len() > LOG_LIMIT) {
        let _ = std::fs::rename(path, path.with_extension("log.old"));
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(exit::at(path))
}
