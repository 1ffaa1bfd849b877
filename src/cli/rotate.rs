//! `strongroom rotate`: by the daemon where the volume is mounted, else here.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::{Global, RotateArgs};
use super::exit::{Code, failure};
use super::{mounts, opening, providers, rekey};
use crate::fuse::MountedVolume;
use crate::fuse::control::Client;
use crate::volume::{self, Phase, Progress, Rotation};

pub(super) fn rotate(global: &Global, args: &RotateArgs) -> anyhow::Result<Code> {
    let found = mounts::find(&args.path)?;
    if args.destroy_old && !args.even_if_shared {
        must_be_alone(&found.vault)?;
    }
    let (rotation, destroyed) = match &found.mounted {
        Some(mounted) => by_daemon(mounted, args.destroy_old)?,
        None => here(global, args, &found.vault)?,
    };
    if args.output.json {
        let mut value = serde_json::to_value(&rotation)?;
        if args.destroy_old
            && let Some(fields) = value.as_object_mut()
        {
            fields.insert("destroyed".to_owned(), json!(destroyed));
        }
        println!("{value}");
    } else {
        if rotation.from_key == rotation.to_key {
            tell(&rotation);
        } else {
            rekey::tell(&rotation); // a move that was not finished
        }
        if args.destroy_old {
            tell_destroyed(&rotation, &destroyed);
        }
    }
    Ok(code_of(&rotation))
}

/// Whether every header was seen, and named the newest version.
pub(super) fn is_complete(rotation: &Rotation) -> bool {
    rotation.remaining == 0 && rotation.damaged == 0
}

/// The exit code of a rotation or move.
pub(super) fn code_of(rotation: &Rotation) -> Code {
    if is_complete(rotation) {
        Code::Ok
    } else {
        Code::RotationIncomplete
    }
}

fn by_daemon(mounted: &MountedVolume, destroy: bool) -> anyhow::Result<(Rotation, Vec<u32>)> {
    let rotation = with_bar(|show| Ok(client(mounted)?.rotate(show)?))?;
    let destroyed = if destroy && is_complete(&rotation) {
        client(mounted)?.destroy_old()?
    } else {
        Vec::new()
    };
    Ok((rotation, destroyed))
}

/// A connection to the daemon of a writable mount.
pub(super) fn client(mounted: &MountedVolume) -> anyhow::Result<Client> {
    if mounted.read_only {
        let at = mounted.mountpoint.display();
        let sentence =
            format!("the volume is mounted read-only at {at}, which must be unmounted first");
        return Err(failure(Code::InUse, sentence));
    }
    Ok(Client::connect(&mounts::socket(mounted)?)?)
}

fn here(global: &Global, args: &RotateArgs, vault: &Path) -> anyhow::Result<(Rotation, Vec<u32>)> {
    let volume = opening::open(global, vault, &args.trust, false)?.volume;
    let done = with_bar(|show| Ok(volume.rotate(show)?)).and_then(|rotation| {
        let destroyed = if args.destroy_old && is_complete(&rotation) {
            volume.destroy_old()?
        } else {
            Vec::new()
        };
        let versions = destroyed.iter().map(|version| version.0).collect();
        Ok((rotation, versions))
    });
    let closed = volume.close();
    let done = done?;
    closed?;
    Ok(done)
}

/// Refuses where this host knows another volume under the same key, which would die with the version that wraps it.
fn must_be_alone(vault: &Path) -> anyhow::Result<()> {
    let info = volume::info(&mounts::store(vault)?)?;
    let others: Vec<_> = volume::volumes_under(&providers::state()?, &info.key)?
        .into_iter()
        .filter(|other| *other != info.volume)
        .map(|other| other.to_string())
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let sentence = format!(
        "nothing was done: this host knows another volume under the same key, {}, which may need the older versions; move one to a key \
         of its own with \"strongroom rekey\", or, if it is rotated already or not needed any more, add --even-if-shared",
        others.join(" and ")
    );
    Err(failure(Code::InUse, sentence))
}

fn tell(rotation: &Rotation) {
    println!(
        "Rotated from version {} to version {}: {} headers, {} re-wrapped in {:.1} s.",
        rotation.from_version,
        rotation.to_version,
        rotation.headers,
        rotation.rewrapped,
        rotation.seconds
    );
    println!("{} headers are left on older versions.", rotation.remaining);
    if rotation.damaged > 0 {
        println!(
            "{} headers could not be read; the older version is kept for them.",
            rotation.damaged
        );
    }
    println!("Back up the home of the key (keystore file or token): it has a new version.");
}

fn tell_destroyed(rotation: &Rotation, destroyed: &[u32]) {
    if !is_complete(rotation) {
        println!("No version was destroyed, as some headers may need them.");
    } else if destroyed.is_empty() {
        println!("There was no older version to destroy.");
    } else {
        println!(
            "Destroyed the older versions {destroyed:?}: backups and copies of the volume from before this rotation cannot be read \
             any more, nor can other volumes that still needed them."
        );
    }
}

/// Shows progress while the work goes on.
pub(super) fn with_bar<T>(
    work: impl FnOnce(&mut dyn FnMut(Progress)) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let bar = bar();
    let done = work(&mut |progress: Progress| {
        let what = match progress.phase {
            Phase::Rewrap => "re-wrapping headers",
            Phase::Verify => "counting headers on older versions",
        };
        bar.set_message(format!("{what}: {}", progress.done));
        bar.tick();
    });
    bar.finish_and_clear();
    done
}

/// Only on a terminal.
pub(super) fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
