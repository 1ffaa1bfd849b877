//! Gathers the secrets that may open the keystore: what was named on the command line, else in the environment, else the
//! key file beside the keystore, else a question on the terminal. Asks for new ones, and hands secrets to other processes.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use zeroize::{Zeroize, Zeroizing};

use super::args::Global;
use super::exit::{Code, failure};
use super::places;
use super::token_choice::Pins;
use crate::crypto::Secret;
use crate::keys::software::{Place, SlotKind};
use crate::keys::source::{Source, write_key_file};
use crate::keys::{Keystore, SecretBytes, Unlock};

/// What opens the providers of a volume's keys.
#[derive(Default)]
pub(super) struct Secrets {
    /// To be tried on the keystore, in turn.
    pub(super) unlocks: Vec<Unlock>,
    /// For tokens.
    pub(super) pins: Pins,
}

impl Secrets {
    /// Whether there is nothing to hand on.
    pub(super) fn are_none(&self) -> bool {
        self.unlocks.is_empty() && self.pins.each().next().is_none()
    }
}

/// The secrets to try on this keystore, in turn.
pub(super) fn gather(global: &Global) -> anyhow::Result<Vec<Unlock>> {
    let named = named(global)?;
    if !named.is_empty() {
        return Ok(named);
    }
    let keystore = places::keystore(global)?;
    let kinds = Keystore::slot_kinds(&Place::at(&keystore)?)?;
    let beside = places::key_file_beside(&keystore);
    if kinds.contains(&SlotKind::KeyFile) && beside.exists() {
        return Ok(vec![Unlock::KeyFile(Source::File(beside).read_key()?)]);
    }
    if kinds
        .iter()
        .any(|kind| matches!(kind, SlotKind::Passphrase(_)))
    {
        return Ok(vec![Unlock::Passphrase(ask(&format!(
            "Passphrase of {}: ",
            keystore.display()
        ))?)]);
    }
    Err(failure(
        Code::Secret,
        format!(
            "the keystore needs its key file, which is not at {}; name it with --key-file",
            beside.display()
        ),
    ))
}

/// The secrets that the command line or else the environment names.
pub(super) fn named(global: &Global) -> anyhow::Result<Vec<Unlock>> {
    let mut secrets = Vec::new();
    if let Some(path) = &global.key_file {
        secrets.push(Unlock::KeyFile(Source::File(path.clone()).read_key()?));
    }
    if let Some(number) = global.key_fd {
        secrets.push(Unlock::KeyFile(Source::Descriptor(number).read_key()?));
    }
    if let Some(number) = global.recovery_key_fd {
        secrets.push(Unlock::RecoveryKey(Source::Descriptor(number).read_key()?));
    }
    if let Some(path) = &global.recovery_key_file {
        secrets.push(Unlock::RecoveryKey(
            Source::File(path.clone()).read_recovery()?,
        ));
    }
    if let Some(name) = &global.credential {
        let source = Source::Credential(name.clone());
        secrets.extend(source.read_key().ok().map(Unlock::KeyFile));
        secrets.push(Unlock::Passphrase(source.read()?));
    }
    secrets.extend(named_passphrase(global)?.map(Unlock::Passphrase));
    if secrets.is_empty() {
        if let Some(path) = places::variable("STRONGROOM_KEY_FILE") {
            secrets.push(Unlock::KeyFile(Source::File(path).read_key()?));
        }
        if let Some(path) = places::variable("STRONGROOM_PASSPHRASE_FILE") {
            secrets.push(Unlock::Passphrase(Source::File(path).read()?));
        }
    }
    Ok(secrets)
}

fn named_passphrase(global: &Global) -> anyhow::Result<Option<SecretBytes>> {
    let source = match (&global.passphrase_file, global.passphrase_fd) {
        (Some(_), Some(_)) => {
            return Err(failure(
                Code::Usage,
                "give --passphrase-file or --passphrase-fd, not both",
            ));
        }
        (Some(path), None) => Source::File(path.clone()),
        (None, Some(number)) => Source::Descriptor(number),
        (None, None) => return Ok(None),
    };
    Ok(Some(source.read()?))
}

/// The passphrase of a keystore to be made: what is named, or nothing.
pub(super) fn passphrase_for_new(global: &Global) -> anyhow::Result<Option<SecretBytes>> {
    if let Some(passphrase) = named_passphrase(global)? {
        return Ok(Some(passphrase));
    }
    let source = match (
        &global.credential,
        places::variable("STRONGROOM_PASSPHRASE_FILE"),
    ) {
        (Some(name), _) => Source::Credential(name.clone()),
        (None, Some(path)) => Source::File(path),
        (None, None) => return Ok(None),
    };
    Ok(Some(source.read()?))
}

/// The key file that a new slot shall have: read where it is, made where it is not.
pub(super) fn read_or_make_key_file(path: PathBuf) -> anyhow::Result<Secret<32>> {
    if path.exists() {
        return Ok(Source::File(path).read_key()?);
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        places::make_private(parent)?;
    }
    let key = Secret::random();
    write_key_file(&path, &key)?;
    Ok(key)
}

/// Asks for a passphrase on the terminal, without echo.
pub(super) fn ask(question: &str) -> anyhow::Result<SecretBytes> {
    prompt(question).ok_or_else(|| {
        failure(
            Code::Secret,
            "a passphrase is needed and there is no terminal to ask on; give --passphrase-file, --passphrase-fd, --credential \
             or --key-file",
        )
    })
}

/// What is typed on the terminal, without echo; `None` where there is no terminal, or more than 1024 bytes were typed.
pub(super) fn prompt(question: &str) -> Option<SecretBytes> {
    let mut typed = rpassword::prompt_password(question).ok()?.into_bytes();
    let secret = SecretBytes::take(&mut typed);
    typed.zeroize();
    secret
}

/// A pipe that holds a secret, to be read by another process. A text gets a newline, which its reader cuts, so that one
/// that ends in a newline keeps it.
pub(super) fn pipe_with(secret: &[u8], is_text: bool) -> anyhow::Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(secret.len() + 1));
    bytes.extend_from_slice(secret);
    if is_text {
        bytes.push(b'\n');
    }
    File::from(writer).write_all(&bytes)?;
    Ok(reader)
}

/// Asks for a new passphrase, twice.
pub(super) fn ask_new() -> anyhow::Result<SecretBytes> {
    let first = ask("New passphrase: ")?;
    let second = ask("The same again: ")?;
    if first.is_empty() {
        return Err(failure(Code::Secret, "the passphrase is empty"));
    }
    if first.expose() != second.expose() {
        return Err(failure(
            Code::Secret,
            "the two passphrases differ; nothing was changed",
        ));
    }
    Ok(first)
}
