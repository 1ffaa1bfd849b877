//! `strongroom rekey-data`: encrypts chosen files under new data keys, by the daemon where the volume is mounted, else here.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use indicatif::HumanBytes;

use super::args::{Global, RekeyDataArgs};
use super::exit::{Code, failure};
use super::{mounts, opening, rotate};
use crate::fuse::MountedVolume;
use crate::volume::{RekeyData, RekeyDataProgress};

/// Bytes of paths in one request to a daemon, and how many paths.
const BATCH: usize = 8192;

pub(super) fn rekey_data(global: &Global, args: &RekeyDataArgs) -> anyhow::Result<Code> {
    let found = mounts::find(&args.directory)?;
    let mountpoint = found.mounted.as_ref().map(|mounted| &mounted.mountpoint);
    let paths = args
        .paths
        .iter()
        .map(|path| inside(path, mountpoint.map(AsRef::as_ref)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let bar = rotate::bar();
    let mut show = |progress: RekeyDataProgress| {
        let (files, bytes) = (progress.files, HumanBytes(progress.bytes));
        bar.set_message(format!("encrypting anew: {files} files, {bytes}"));
    };
    let report = match &found.mounted {
        Some(mounted) => by_daemon(mounted, &paths, &mut show),
        None => {
            let volume = opening::open(global, &found.vault, &args.trust, false)?.volume;
            let done = volume.rekey_data(&paths, &mut show);
            let closed = volume.close();
            done.and_then(|done| closed.map(|()| done))
                .map_err(Into::into)
        }
    };
    bar.finish_and_clear();
    let report = report?;
    if args.output.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        tell(&report);
    }
    Ok(if report.refused == 0 {
        Code::Ok
    } else {
        Code::Failure
    })
}

fn by_daemon(
    mounted: &MountedVolume,
    paths: &[Vec<u8>],
    show: &mut dyn FnMut(RekeyDataProgress),
) -> anyhow::Result<RekeyData> {
    let mut all = RekeyData::default();
    for batch in batches(paths) {
        let (files, bytes) = (all.files, all.bytes);
        let mut show = |progress: RekeyDataProgress| {
            show(RekeyDataProgress {
                files: files + progress.files,
                bytes: bytes + progress.bytes,
            });
        };
        let part = rotate::client(mounted)?.rekey_data(batch, &mut show)?;
        all.files += part.files;
        all.bytes += part.bytes;
        all.empty += part.empty;
        all.refused += part.refused;
        all.reasons.extend(part.reasons);
    }
    Ok(all)
}

/// In their order, as many as one request holds.
fn batches(paths: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    let mut room = 0;
    paths
        .chunk_by(|_, next| {
            room += next.len() + 1;
            let fits = room < BATCH;
            if !fits {
                room = 0;
            }
            fits
        })
        .collect()
}

/// A path from the top of the volume, also where it was named through the mount.
fn inside(path: &Path, mountpoint: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let path = mountpoint
        .and_then(|mountpoint| path.strip_prefix(mountpoint).ok())
        .unwrap_or(path);
    let mut names: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.as_bytes()),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(failure(Code::Usage, "a path inside a volume has no \"..\""));
            }
        }
    }
    Ok(names.join(&b'/'))
}

fn tell(report: &RekeyData) {
    println!(
        "{} files, {}, are encrypted under new data keys.",
        report.files,
        HumanBytes(report.bytes)
    );
    for refused in &report.reasons {
        println!("{:?} is as it was: {}", refused.path, refused.why);
    }
    if report.refused > 0 {
        println!("{} files were refused.", report.refused);
    }
    println!(
        "Copies and backups made before still hold those files under the old data keys, and freed blocks may until they are \
         overwritten."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_the_top_of_the_volume() {
        let mnt = Path::new("/mnt/a");
        for (path, inside_it) in [
            ("/", ""),
            ("x/./y", "x/y"),
            ("/x", "x"),
            ("/mnt/a", ""),
            ("/mnt/a/x", "x"),
            ("/mnt/b", "mnt/b"),
        ] {
            assert_eq!(
                inside(Path::new(path), Some(mnt)).unwrap(),
                inside_it.as_bytes(),
                "{path}"
            );
        }
        assert!(inside(Path::new("x/../y"), None).is_err());
    }

    #[test]
    fn batches_hold_all_paths_in_their_order() {
        let paths: Vec<_> = (0..100)
            .map(|at| vec![b'x'; 300 + at])
            .chain(vec![vec![b'y'; 4095]; 3])
            .collect();
        let batches = batches(&paths);
        assert!(batches.len() > 3);
        assert_eq!(batches.concat(), paths);
        for batch in batches {
            assert!(batch.iter().map(|path| path.len() + 1).sum::<usize>() <= BATCH + 4096);
        }
    }
}
