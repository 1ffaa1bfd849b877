//! `strongroom copy`: a volume copied into a new one under another master key, without FUSE.

use std::path::Path;
use std::sync::Arc;

use indicatif::HumanBytes;

use super::args::{CopyArgs, Global};
use super::exit::{Code, failure};
use super::opening::How;
use super::providers::{self, Known};
use super::{init, mounts, opening, rotate, target};
use crate::store::Host;
use crate::volume::{self, CopyOptions, CopyReport};

pub(super) fn copy(global: &Global, args: &CopyArgs) -> anyhow::Result<()> {
    let found = mounts::find(&args.directory)?;
    if let Some(mounted) = &found.mounted {
        let at = mounted.mountpoint.display();
        let sentence = format!(
            "the volume is mounted at {at}: unmount it first, or copy a snapshot of its directory"
        );
        return Err(failure(Code::InUse, sentence));
    }
    must_be_apart(&found.vault, &args.destination_dir)?;
    init::must_be_free(&args.destination_dir)?;
    let known = Known::of(&found.vault)?;
    let now = providers::gather(global, &known, &args.trust)?;
    let has_unlocks = !now.unlocks.is_empty();
    let (wanted, secrets) = target::for_move(global, &known, &args.destination, has_unlocks)?;
    let opened = providers::open(global, &known, &now, &args.trust)?;
    let secrets = if secrets.are_none() { now } else { secrets };
    let target = wanted.open(&secrets, &opened.tokens)?;
    let store = init::directory_for(&args.destination_dir)?;
    let options = CopyOptions {
        envelope: target.envelope,
        share_data_keys: args.share_data_keys,
    };
    // Shared files are settled before, which writes to the source.
    let read_only = !args.share_data_keys;
    let source = opening::with(&found.vault, opened, &args.trust, &How::once(read_only))?.volume;
    let bar = rotate::bar();
    let copied = volume::copy(
        &source,
        store,
        Arc::clone(&target.provider),
        &target.key,
        &options,
        &Host::here()?,
        &mut |progress| {
            let (entries, bytes) = (progress.entries, HumanBytes(progress.bytes));
            bar.set_message(format!("copying: {entries} entries, {bytes}"));
        },
    );
    bar.finish_and_clear();
    let closed = source.close();
    let report = copied?;
    closed?;
    init::remember(&args.destination_dir, target)?;
    if args.output.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        tell(&report, &args.destination_dir, args.share_data_keys);
    }
    Ok(())
}

/// The copy would be copied, or its directory be no volume's.
fn must_be_apart(vault: &Path, destination: &Path) -> anyhow::Result<()> {
    let above = match destination.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => destination,
    };
    let here = destination.exists().then_some(destination);
    if mounts::resolve(here.unwrap_or(above))?.starts_with(vault) {
        let sentence = format!(
            "{} is in the volume's own directory: copy to another",
            destination.display()
        );
        return Err(failure(Code::Usage, sentence));
    }
    Ok(())
}

fn tell(report: &CopyReport, destination: &Path, shared_keys: bool) {
    println!(
        "Made volume {} in {}: {} files, {}, {} directories, {} symlinks.",
        report.volume,
        destination.display(),
        report.files,
        HumanBytes(report.bytes),
        report.dirs,
        report.symlinks
    );
    if shared_keys {
        println!(
            "The files of both volumes have the same data keys ({} share their blocks, too): who gets one volume's keys can read \
             those files in the other, also what is written to them later. To part them: strongroom rekey-data.",
            report.shared
        );
    }
}
