//! The files of the volume itself, before it can be opened: the volume file from its older generation, a mount file from
//! what the states of the files say.

use std::sync::Arc;

use crate::format::mount_file::MountFile;
use crate::format::names::{MOUNT, VOLUME, random_lost};
use crate::format::suite::Envelope;
use crate::format::volume_file::VolumeFile;
use crate::keys::Providers;
use crate::store::{Dir, RenameMode, Store};
use crate::volume::check::{CheckOptions, CheckProgress};
use crate::volume::error::Result;
use crate::volume::lock::VolumeLock;
use crate::volume::open::anyway::{self, Sound};
use crate::volume::pin::Pin;
use crate::volume::repair::Action;
use crate::volume::replace::replace;
use crate::volume::{InPlace, OpenOptions};

/// Longest list of unclean epochs that a mount file of 1 MiB surely holds.
const LISTED_MAX: u64 = 40_000;

/// Puts back the volume file and the mount file where they are missing or do not hold; says what it did. What holds is not
/// touched.
///
/// # Errors
/// As `open`'s, where neither generation of the volume file can be used.
pub fn restore(
    store: &Arc<dyn Store>,
    providers: &Providers,
    options: &OpenOptions,
    progress: &mut dyn FnMut(CheckProgress),
) -> Result<Vec<Action>> {
    let root = store.root();
    let mut done = Vec::new();
    let sound = anyway::look(&root, providers)?;
    if sound.is_whole() {
        return Ok(done);
    }
    let _lock = VolumeLock::exclusive(&root, &options.host, options.take_over)?;
    if let Some(older) = &sound.older {
        let bytes = followed(older, providers)?.encode(&sound.keys.mac)?;
        keep_aside(&root, VOLUME)?;
        replace(&root, VOLUME, &bytes)?;
        done.push(act(
            VOLUME,
            "it did not hold; its older generation (strongroom.volume.old) is in its place",
        ));
    }
    if !sound.mount {
        let epoch = newest_epoch(store, providers, options, &sound, progress)?.saturating_add(1);
        let mount = MountFile {
            epoch,
            clean: false,
            boot_id: options.host.boot_id.clone(),
            start: options.host.since,
            listed: (epoch.saturating_sub(LISTED_MAX)..epoch).collect(),
        };
        keep_aside(&root, MOUNT)?;
        replace(&root, MOUNT, &mount.encode(&sound.keys.mac)?)?;
        done.push(act(
            MOUNT,
            "it did not hold; a new one counts every file as in doubt",
        ));
    }
    Ok(done)
}

/// The older generation as the one after it: the lost one had that number, and may have allowed versions of the key that the
/// older one did not know yet.
fn followed(older: &VolumeFile, providers: &Providers) -> Result<VolumeFile> {
    let mut file = older.clone();
    file.generation += 1;
    for entry in &mut file.keys {
        if !entry.current || entry.envelope != Envelope::Direct {
            continue;
        }
        let key = providers
            .having(&entry.provider, &entry.key)?
            .describe(&entry.key)?;
        let newer = key
            .versions
            .iter()
            .filter(|version| **version > entry.wraps_with);
        entry.versions.extend(newer);
        entry.versions.sort_unstable();
        entry.versions.dedup();
    }
    Ok(file)
}

fn act(name: &[u8], what: &str) -> Action {
    Action {
        path: format!("/<{}>", name.escape_ascii()),
        what: what.to_owned(),
    }
}

/// What does not hold is kept under another name.
fn keep_aside(root: &Arc<dyn Dir>, name: &[u8]) -> Result<()> {
    match root.rename(name, &**root, &random_lost(), RenameMode::Replace) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        renamed => Ok(renamed?),
    }
}

/// The newest epoch that this host or any file's state knows.
fn newest_epoch(
    store: &Arc<dyn Store>,
    providers: &Providers,
    options: &OpenOptions,
    sound: &Sound,
    progress: &mut dyn FnMut(CheckProgress),
) -> Result<u64> {
    let pinned = match &options.state {
        Some(state) => Pin::read(state, &sound.volume)?.map_or(0, |pin| pin.epoch),
        None => 0,
    };
    let options = OpenOptions {
        read_only: true,
        in_place: InPlace::Never,
        ..options.clone()
    };
    let (volume, _) = anyway::open(Arc::clone(store), providers.clone(), &options, false)?;
    let quick = CheckOptions {
        metadata_only: true,
        ..CheckOptions::default()
    };
    let report = volume.check(&quick, progress);
    volume.close()?;
    Ok(report?.newest_epoch.max(pinned))
}
