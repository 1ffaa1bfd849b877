//! Which volume a path names, where it is mounted on this host, and the control sockets of our daemons. Asks a mount nothing,
//! so it does not hang where a daemon does.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::{Code, at, failure};
use super::places;
use crate::format::ids::VolumeId;
use crate::fuse::{self, MountedVolume, control};
use crate::store::{RealStore, Store};
use crate::volume;

/// A path that a user named, as the backing directory of a volume.
pub(super) struct Found {
    pub(super) vault: PathBuf,
    /// Where it is mounted; the mount that was named, else any, a writable one first.
    pub(super) mounted: Option<MountedVolume>,
}

/// Understands DIR|MNT.
pub(super) fn find(path: &Path) -> anyhow::Result<Found> {
    let path = resolve(path)?;
    let mounts = fuse::mounted_volumes().map_err(at(Path::new("/proc/self/mountinfo")))?;
    if let Some(mounted) = mounts
        .iter()
        .rev()
        .find(|mounted| mounted.mountpoint == path)
    {
        return Ok(Found {
            vault: mounted.vault.clone(),
            mounted: Some(mounted.clone()),
        });
    }
    let mut of_vault: Vec<_> = mounts
        .into_iter()
        .filter(|mounted| mounted.vault == path)
        .collect();
    of_vault.sort_by_key(|mounted| mounted.read_only);
    Ok(Found {
        vault: path,
        mounted: of_vault.into_iter().next(),
    })
}

/// The volume that is mounted on a path.
pub(super) fn mounted_on(mountpoint: &Path) -> anyhow::Result<MountedVolume> {
    let path = resolve(mountpoint).map_err(|error| failure(Code::Mount, error.to_string()))?;
    let mounted = find(&path)?.mounted;
    mounted
        .filter(|mounted| mounted.mountpoint == path)
        .ok_or_else(|| {
            let shown = mountpoint.display();
            failure(Code::Mount, format!("no volume is mounted at {shown}"))
        })
}

/// The absolute path, without asking what is mounted there if that does not answer.
pub(super) fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    let error = match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let is_dead_mount = error.raw_os_error() == Some(libc::ENOTCONN);
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if is_dead_mount => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            Ok(parent.canonicalize().map_err(at(path))?.join(name))
        }
        _ => Err(at(path)(error)),
    }
}

/// Opens a backing directory, which must be one.
pub(super) fn store(directory: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let store = RealStore::open(directory).map_err(|error| {
        failure(
            Code::NotAVolume,
            format!(
                "{} cannot be opened as a directory: {error}",
                directory.display()
            ),
        )
    })?;
    Ok(Arc::new(store))
}

/// The control socket of a mount. The writable mount of a volume has the volume's own; each read-only one another.
pub(super) fn socket(mounted: &MountedVolume) -> anyhow::Result<PathBuf> {
    let volume = volume::info(&store(&mounted.vault)?)?.volume;
    socket_of(&volume, mounted.read_only, &mounted.mountpoint)
}

/// As `socket`, for a volume that is known.
pub(super) fn socket_of(
    volume: &VolumeId,
    read_only: bool,
    mountpoint: &Path,
) -> anyhow::Result<PathBuf> {
    let runtime = places::runtime_dir()?;
    if !read_only {
        return Ok(control::socket_in(&runtime, volume));
    }
    let place = crc32c::crc32c(mountpoint.as_os_str().as_bytes());
    Ok(runtime.join(format!("{volume}.ro-{place:08x}.sock")))
}
