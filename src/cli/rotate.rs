//! `strongroom rotate`: by the daemon where the volume is mounted, else here.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::{Global, Trust};
use super::exit::Code;
use super::mounts::{self, Mounted};
use super::{opening, unlock};
use crate::fuse::control::Client;
use crate::volume::{InPlace, Phase, Progress, Rotation};

pub(super) fn rotate(
    global: &Global,
    trust: &Trust,
    path: &Path,
    json: bool,
) -> anyhow::Result<Code> {
    let found = mounts::find(path)?;
    let bar = bar();
    let mut show = |progress: Progress| {
        let what = match progress.phase {
            Phase::Rewrap => "re-wrapping headers",
            Phase::Verify => "counting headers on older versions",
        };
        bar.set_message(format!("{what}: {}", progress.done));
        bar.tick();
    };
    let rotation = match &found.mounted {
        Some(mounted) => by_daemon(mounted, &mut show),
        None => here(global, trust, &found.vault, &mut show),
    };
    bar.finish_and_clear();
    let rotation = rotation?;
    if json {
        println!("{}", serde_json::to_string(&rotation)?);
    } else {
        tell(&rotation);
    }
    let complete = rotation.remaining == 0 && rotation.damaged == 0;
    Ok(if complete {
        Code::Ok
    } else {
        Code::RotationIncomplete
    })
}

fn by_daemon(mounted: &Mounted, show: &mut dyn FnMut(Progress)) -> anyhow::Result<Rotation> {
    Ok(Client::connect(&mounts::socket(mounted)?)?.rotate(show)?)
}

fn here(
    global: &Global,
    trust: &Trust,
    vault: &Path,
    show: &mut dyn FnMut(Progress),
) -> anyhow::Result<Rotation> {
    let volume = opening::open(vault, unlock::open(global)?, trust, false, InPlace::Auto)?;
    let rotation = volume.rotate(show);
    let closed = volume.close();
    let rotation = rotation?;
    closed?;
    Ok(rotation)
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
    println!("Back up the keystore file: it has a new version of the key.");
}

/// Only on a terminal.
fn bar() -> ProgressBar {
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
