//! Which volume is mounted where on this host: the kernel's table of mounts, and the control sockets of our daemons. Asks a
//! mount nothing, so it does not hang where a daemon does.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::{Code, at, failure};
use super::places;
use crate::format::ids::VolumeId;
use crate::fuse::control;
use crate::store::{RealStore, Store};
use crate::volume;

const TABLE: &str = "/proc/self/mountinfo";
/// Longest table that is read, bytes.
const TABLE_ROOM: usize = 4 << 20;

/// One of our mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) vault: PathBuf,
    pub(super) mountpoint: PathBuf,
    pub(super) read_only: bool,
}

/// A path that a user named, as the backing directory of a volume.
pub(super) struct Found {
    pub(super) vault: PathBuf,
    /// Where it is mounted; the mount that was named, else any, a writable one first.
    pub(super) mounted: Option<Mounted>,
}

/// Understands DIR|MNT.
pub(super) fn find(path: &Path) -> anyhow::Result<Found> {
    let path = resolve(path)?;
    let mounts = all()?;
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
pub(super) fn socket(mounted: &Mounted) -> anyhow::Result<PathBuf> {
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

fn all() -> anyhow::Result<Vec<Mounted>> {
    let table = read_table().map_err(at(Path::new(TABLE)))?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// The kernel holds the table still for one read only; between two, lines may be lost. So it is read in one, if it fits.
fn read_table() -> io::Result<Vec<u8>> {
    let mut file = File::open(TABLE)?;
    let mut table = vec![0; TABLE_ROOM];
    let mut length = 0;
    loop {
        let read = file.read(table.get_mut(length..).unwrap_or_default())?;
        if read == 0 {
            table.truncate(length);
            return Ok(table);
        }
        length += read;
    }
}

/// One line of the table (proc_pid_mountinfo(5)), if it is one of ours: type `fuse.strongroom`, source
/// `strongroom:DIRECTORY`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mountpoint = unescape(fields.nth(4)?);
    let options = fields.next()?;
    let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1)?;
    let source = unescape(fields.next()?);
    let vault = source
        .strip_prefix(b"strongroom:")
        .filter(|_| kind == b"fuse.strongroom")?;
    Some(Mounted {
        vault: OsString::from_vec(vault.to_vec()).into(),
        mountpoint: OsString::from_vec(mountpoint).into(),
        read_only: options
            .split(|byte| *byte == b',')
            .any(|option| option == b"ro"),
    })
}

/// Blanks and backslashes stand there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| {
                let value = digits.iter().try_fold(0u16, |value, digit| {
                    (b'0'..=b'7')
                        .contains(digit)
                        .then(|| value * 8 + u16::from(digit - b'0'))
                })?;
                u8::try_from(value).ok()
            });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let line = b"118 29 0:53 / /tmp/my\\040mnt rw,nosuid,nodev shared:7 - fuse.strongroom strongroom:/tmp/a\\134b rw,x";
        let mounted = parse(line).unwrap();
        assert_eq!(mounted.mountpoint, Path::new("/tmp/my mnt"));
        assert_eq!(mounted.vault, Path::new("/tmp/a\\b"));
        assert!(!mounted.read_only);
        assert!(
            parse(&line.replace_first(b"rw,nosuid", b"ro,nosuid"))
                .unwrap()
                .read_only
        );
        for other in [
            &b""[..],
            b"1 2",
            b"36 35 98:0 / /mnt rw - ext4 strongroom:/x rw",
            b"36 35 98:0 / /mnt rw -",
        ] {
            assert_eq!(parse(other), None);
        }
    }

    trait ReplaceFirst {
        fn replace_first(&self, from: &[u8], to: &[u8]) -> Vec<u8>;
    }

    impl ReplaceFirst for [u8] {
        fn replace_first(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
            let start = self
                .windows(from.len())
                .position(|window| window == from)
                .unwrap();
            [&self[..start], to, &self[start + from.len()..]].concat()
        }
    }
}
