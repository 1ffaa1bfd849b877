//! A mount as the kernel's own tables show it: its device number, its readahead, its connection. Reads /proc and /sys only,
//! never the mount.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Where it is mounted, absolute.
    pub(super) path: PathBuf,
    /// `major:minor`.
    device: String,
}

/// The backing directory of the volume that is mounted on a path; `None` if no volume is. Asks the kernel's table of mounts,
/// not the mount.
pub fn vault_of(mountpoint: &Path) -> io::Result<Option<PathBuf>> {
    let table = read(Path::new(TABLE))?;
    let path = absolute(mountpoint)?;
    let vault = topmost(&table, &path)
        .and_then(|mount| mount.source.strip_prefix(SOURCE_PREFIX).map(<[u8]>::to_vec));
    Ok(vault.map(|vault| PathBuf::from(OsString::from_vec(vault))))
}

/// An absolute path without symlinks, found through its parent, so that a mount on it is not asked.
fn absolute(mountpoint: &Path) -> io::Result<PathBuf> {
    match (mountpoint.parent(), mountpoint.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => mountpoint.canonicalize(),
    }
}

/// What stands before the backing directory in the source of a mount.
pub(super) const SOURCE_PREFIX: &[u8] = b"strongroom:";

const TABLE: &str = "/proc/self/mountinfo";

/// Bytes of /proc/self/mountinfo that are read at most.
const TABLE_LIMIT: usize = 64 << 20;

impl Mounted {
    /// What is mounted on a path, the topmost.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        let table = read(Path::new(TABLE))?;
        Ok(topmost(&table, path).map(|mount| Self {
            path: path.to_owned(),
            device: mount.device,
        }))
    }

    /// Whether it is still what the path shows.
    pub(super) fn is_on_top(&self) -> bool {
        Self::at(&self.path).is_ok_and(|now| now.as_ref() == Some(self))
    }

    /// Sets what only root may, where writes gather in the cache: room for them. A kernel that refuses is left as it is.
    /// Reads ahead stay at the kernel's 128 KiB: larger ones come as single requests, which one thread opens while all wait.
    pub(super) fn tune(&self, writeback: bool) {
        if !writeback {
            return;
        }
        let bdi = Path::new("/sys/class/bdi").join(&self.device);
        for (file, value) in [("strict_limit", "0"), ("max_ratio", "100")] {
            if let Err(error) = write(&bdi.join(file), value) {
                tracing::debug!("{file} of the mount stays as it is: {error}");
            }
        }
    }

    /// Cuts the connection: every request, also of those who wait, fails from here on.
    pub(super) fn abort(&self) -> io::Result<()> {
        let minor = self.device.split(':').next_back().unwrap_or_default();
        let switch = Path::new(minor).join("abort");
        match write(&Path::new("/sys/fs/fuse/connections").join(&switch), "1") {
            // Where nobody mounted the control file system, root can look at it without mounting it anywhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_at(control_file_system()?, &switch, "1")
            }
            done => done,
        }
    }
}

fn control_file_system() -> io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// One line of a mount table (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Line {
    device: String,
    source: Vec<u8>,
}

/// The last line of a mount table that is for this path.
fn topmost(table: &[u8], path: &Path) -> Option<Line> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| on_path(line, path)).next_back()
}

fn on_path(line: &[u8], path: &Path) -> Option<Line> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    if unescaped(fields.nth(1)?) != path.as_os_str().as_bytes() {
        return None;
    }
    fields.find(|field| *field == b"-")?; // ends the optional fields
    Some(Line {
        device: String::from_utf8(device.to_vec()).ok()?,
        source: unescaped(fields.nth(1)?),
    })
}

/// A field of the table: blanks and backslashes stand there as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .first_chunk()
            .filter(|_| first == b'\\')
            .and_then(octal);
        bytes.push(digits.unwrap_or(first));
        rest = if digits.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    bytes
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(text, 8).ok()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while bytes.len() < TABLE_LIMIT {
        let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut chunk))?;
        match chunk.get(..len) {
            None | Some([]) => break,
            Some(part) => bytes.extend_from_slice(part),
        }
    }
    Ok(bytes)
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    write_at(CWD, path, value)
}

fn write_at(dir: impl AsFd, path: &Path, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_topmost_mount_of_a_path_with_blanks() {
        let table = b"30 1 0:40 / /mnt/a\\040b\\134c rw shared:1 - fuse x rw\n\
                      31 30 0:41 / /mnt/a\\040b\\134c rw - fuse y\\040z rw\n\
                      32 1 0:42 / /mnt/a rw - fuse z rw\n";
        let top = topmost(table, Path::new("/mnt/a b\\c")).unwrap();
        assert_eq!(
            (top.device.as_str(), top.source.as_slice()),
            ("0:41", &b"y z"[..])
        );
        assert_eq!(topmost(table, Path::new("/mnt/a")).unwrap().device, "0:42");
        assert_eq!(topmost(table, Path::new("/mnt")), None);
    }

    #[test]
    fn leaves_a_lone_backslash() {
        assert_eq!(unescaped(b"a\\0"), b"a\\0");
        assert_eq!(unescaped(b"\\101\\"), b"A\\");
    }

    #[test]
    fn proc_is_a_mount() {
        assert!(
            Mounted::at(Path::new("/proc"))
                .unwrap()
                .is_some_and(|proc| proc.is_on_top())
        );
    }
}
