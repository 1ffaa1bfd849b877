//! Exit codes, and what to do about each failure in one sentence. The table stands in `docs/CLI.md`.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::fuse::ServeError;
use crate::fuse::control::ControlError;
use crate::keys::source::SourceError;
use crate::keys::{KeyError, KeystoreError};
use crate::volume;

/// The program's exit codes: a contract for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    Secret = 3,
    KeystoreDamaged = 4,
    NoSuchKey = 5,
    KeyDisabled = 6,
    InUse = 7,
    NotAVolume = 8,
    Damaged = 9,
    Pinned = 10,
    Mount = 11,
    NoKeystore = 12,
    RotationIncomplete = 13,
    Busy = 14,
    Repaired = 15,
}

impl Code {
    const ALL: [Self; 16] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::Secret,
        Self::KeystoreDamaged,
        Self::NoSuchKey,
        Self::KeyDisabled,
        Self::InUse,
        Self::NotAVolume,
        Self::Damaged,
        Self::Pinned,
        Self::Mount,
        Self::NoKeystore,
        Self::RotationIncomplete,
        Self::Busy,
        Self::Repaired,
    ];

    /// Its name, as daemons say it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::Secret => "secret",
            Self::KeystoreDamaged => "keystore-damaged",
            Self::NoSuchKey => "no-such-key",
            Self::KeyDisabled => "key-disabled",
            Self::InUse => "in-use",
            Self::NotAVolume => "not-a-volume",
            Self::Damaged => "damaged",
            Self::Pinned => "pinned",
            Self::Mount => "mount",
            Self::NoKeystore => "no-keystore",
            Self::RotationIncomplete => "rotation-incomplete",
            Self::Busy => "busy",
            Self::Repaired => "repaired",
        }
    }

    /// The code with this name.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.word() == word)
    }

    /// The code with this number.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u8 == number)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// A failure that the command line itself finds: a whole sentence.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) sentence: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

/// A failure with this code and sentence.
pub(super) fn failure(code: Code, sentence: impl Into<String>) -> anyhow::Error {
    Failure {
        code,
        sentence: sentence.into(),
    }
    .into()
}

/// For `map_err` on what touches a path.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> anyhow::Error + '_ {
    move |error| failure(Code::Failure, format!("{}: {error}", path.display()))
}

/// The code and the sentence of any error that reaches the top.
pub(super) fn explain(error: &anyhow::Error) -> (Code, String) {
    let (code, advice) = classify(error);
    match advice {
        Some(advice) => (code, format!("{error}; {advice}")),
        None => (code, error.to_string()),
    }
}

fn classify(error: &anyhow::Error) -> (Code, Option<&'static str>) {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return (failure.code, None);
    }
    if let Some(error) = error.downcast_ref::<KeystoreError>() {
        return keystore(error);
    }
    if let Some(error) = error.downcast_ref::<volume::Error>() {
        return volume(error);
    }
    if let Some(error) = error.downcast_ref::<KeyError>() {
        return key(error);
    }
    if let Some(error) = error.downcast_ref::<ControlError>() {
        return control(error);
    }
    if error.is::<ServeError>() {
        return (Code::Mount, None);
    }
    if error.is::<SourceError>() {
        return (Code::Secret, None);
    }
    (Code::Failure, None)
}

fn keystore(error: &KeystoreError) -> (Code, Option<&'static str>) {
    match error {
        KeystoreError::Missing(_) => (
            Code::NoKeystore,
            Some("make one with \"strongroom keystore init\", or name another with --keystore"),
        ),
        KeystoreError::WrongSecret(_) => (
            Code::Secret,
            Some("give the right one, or name another keystore with --keystore"),
        ),
        KeystoreError::NoSuchSlotKind(_) => (
            Code::Secret,
            Some("\"strongroom keystore slots\" lists what opens it"),
        ),
        KeystoreError::SlotRevoked => (
            Code::Secret,
            Some("open it with a secret that it still has"),
        ),
        KeystoreError::InvalidSecret(_) => (Code::Secret, None),
        KeystoreError::Damaged(_) | KeystoreError::RolledBack => (
            Code::KeystoreDamaged,
            Some("put back the file with .older added to its name, or a backup"),
        ),
        KeystoreError::NotAKeystore(_) => (
            Code::KeystoreDamaged,
            Some("name the right file with --keystore"),
        ),
        KeystoreError::NewerFormat(_) => (Code::KeystoreDamaged, Some("use a newer strongroom")),
        KeystoreError::NoSuchKey(_) => (
            Code::NoSuchKey,
            Some("\"strongroom key list\" shows what is"),
        ),
        KeystoreError::Disabled(_) => (
            Code::KeyDisabled,
            Some("allow it again with \"strongroom key enable\""),
        ),
        KeystoreError::Busy => (Code::Busy, Some("try again when it is done")),
        KeystoreError::NoSuchSlot(_) => (
            Code::Failure,
            Some("\"strongroom keystore slots\" lists the slots"),
        ),
        KeystoreError::LastSlot(_) => (
            Code::Failure,
            Some("add another one first with \"strongroom keystore add-slot\""),
        ),
        KeystoreError::AliasTaken(_) => (Code::Failure, Some("choose another alias")),
        KeystoreError::NoMemory(_) => (
            Code::Failure,
            Some("open it with the key file or the recovery key"),
        ),
        _ => (Code::Failure, None),
    }
}

fn key(error: &KeyError) -> (Code, Option<&'static str>) {
    by_cause(error.cause()).unwrap_or((Code::Failure, None))
}

/// The same where a daemon met the error, and told its cause.
fn by_cause(cause: &str) -> Option<(Code, Option<&'static str>)> {
    Some(match cause {
        "not-found" => (
            Code::NoSuchKey,
            Some("plug in the token that has it, or name the keystore that has it with --keystore"),
        ),
        "disabled" => (
            Code::KeyDisabled,
            Some("allow it again with \"strongroom key enable\", or with the token's own tools"),
        ),
        "access-denied" => (Code::Secret, None),
        "invalid-ciphertext" => (Code::Damaged, None),
        "incorrect-key" => (Code::NoSuchKey, None),
        "unavailable" => (Code::Busy, Some("try again")),
        "invalid-state" => (Code::Failure, None),
        _ => return None,
    })
}

fn control(error: &ControlError) -> (Code, Option<&'static str>) {
    match error {
        ControlError::Unreachable { .. } => (
            Code::InUse,
            Some("ask as the user who mounted it, on the same host, or unmount it first"),
        ),
        ControlError::Refused { kind, .. } if kind == "unmounting" => (Code::InUse, None),
        ControlError::Refused { kind, .. } => by_cause(kind).unwrap_or_else(|| {
            let code = Code::from_word(kind).unwrap_or(Code::Failure);
            (code, None)
        }),
        _ => (Code::Failure, None),
    }
}

fn volume(error: &volume::Error) -> (Code, Option<&'static str>) {
    match error {
        volume::Error::Key(error) => key(error),
        volume::Error::At { error, .. } => volume(error),
        volume::Error::InUse(_) => (Code::InUse, None),
        volume::Error::NotAVolume(_) => (Code::NotAVolume, None),
        volume::Error::Damaged(_) => (Code::Damaged, Some("put it back from a backup")),
        // The sentence itself gives the pin to accept.
        volume::Error::Pinned(_) => (Code::Pinned, None),
        _ => (Code::Failure, None),
    }
}
