//! `strongroom rekey`: moves a volume to another master key or envelope, by the daemon where it is mounted, else here.

use std::path::Path;

use super::args::{Global, RekeyArgs};
use super::exit::Code;
use super::opening::How;
use super::providers::{self, Known};
use super::{mounts, opening, rotate, target, text};
use crate::volume::Rotation;

pub(super) fn rekey(global: &Global, args: &RekeyArgs) -> anyhow::Result<Code> {
    let found = mounts::find(&args.path)?;
    let known = Known::of(&found.vault)?;
    let rotation = match &found.mounted {
        Some(mounted) => {
            let client = rotate::client(mounted)?; // before anything is asked
            let (wanted, secrets) = target::for_move(global, &known, &args.destination, false)?;
            let (to, pipes) = wanted.told(&secrets)?;
            rotate::with_bar(|show| Ok(client.rekey(to, &pipes, show)?))?
        }
        None => here(global, args, &found.vault, &known)?,
    };
    if args.output.json {
        println!("{}", serde_json::to_string(&rotation)?);
    } else {
        tell(&rotation);
    }
    Ok(rotate::code_of(&rotation))
}

fn here(
    global: &Global,
    args: &RekeyArgs,
    vault: &Path,
    known: &Known,
) -> anyhow::Result<Rotation> {
    let now = providers::gather(global, known, &args.trust)?;
    let has_unlocks = !now.unlocks.is_empty();
    let (wanted, secrets) = target::for_move(global, known, &args.destination, has_unlocks)?;
    let opened = providers::open(global, known, &now, &args.trust)?;
    // Nobody is asked twice for what opens the keystore.
    let secrets = if secrets.are_none() { now } else { secrets };
    let target = wanted.open(&secrets, &opened.tokens)?;
    let volume = opening::with(vault, opened, &args.trust, &How::once(false))?.volume;
    let rotation = rotate::with_bar(|show| Ok(volume.rekey(target, show)?));
    let closed = volume.close();
    let rotation = rotation?;
    closed?;
    Ok(rotation)
}

/// What a move did.
pub(super) fn tell(rotation: &Rotation) {
    let envelope = text::envelope(rotation.envelope);
    let (from, to) = (&rotation.from_key, &rotation.to_key);
    if from == to {
        println!("The volume is under key {to}, envelope {envelope}.");
    } else {
        println!("Moved the volume from key {from} to key {to}, envelope {envelope}.");
    }
    println!(
        "{} headers, {} re-wrapped in {:.1} s; {} are left under another key.",
        rotation.headers, rotation.rewrapped, rotation.seconds, rotation.remaining
    );
    if rotation.damaged > 0 {
        println!(
            "{} headers could not be read; the former key stays allowed for them.",
            rotation.damaged
        );
    } else if rotation.remaining == 0 && from != to {
        println!(
            "This volume does not need key {from} any more; backups and copies made before do."
        );
    }
}
