//! Mounts as the kernel's own tables show them: what is mounted where, a mount's device number, its share of dirty pages, its
//! connection. Reads /proc and /sys only, never a mount, so it does not hang where a daemon does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::path::Arg;

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Where it is mounted, absolute.
    pub(super) path: PathBuf,
    /// `major:minor`.
    device: String,
}

/// A mounted volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    /// The backing directory.
    pub vault: PathBuf,
    /// Where it is mounted, absolute.
    pub mountpoint: PathBuf,
    /// Nothing can be written through this mount.
    pub read_only: bool,
}

/// All volumes that are mounted in this process's view, later mounts last.
pub fn mounted_volumes() -> io::Result<Vec<MountedVolume>> {
    Ok(lines(&read_table()?).filter_map(Line::volume).collect())
}

/// The backing directory of the volume that is mounted on a path; `None` if no volume is.
pub fn vault_of(mountpoint: &Path) -> io::Result<Option<PathBuf>> {
    let top = topmost(&read_table()?, &absolute(mountpoint)?);
    Ok(top.and_then(|line| Some(vault(&line.source)?.to_owned())))
}

/// Whether anything is mounted on a path, of whatever kind.
pub fn is_mountpoint(path: &Path) -> io::Result<bool> {
    Ok(topmost(&read_table()?, &absolute(path)?).is_some())
}

fn vault(source: &[u8]) -> Option<&Path> {
    let vault = source.strip_prefix(SOURCE_PREFIX)?;
    Some(Path::new(OsStr::from_bytes(vault)))
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

/// How the kernel shows our mounts.
const KIND: &[u8] = b"fuse.strongroom";

const TABLE: &str = "/proc/self/mountinfo";
/// Longest table that is read, bytes.
const TABLE_ROOM: usize = 4 << 20;

impl Mounted {
    /// What is mounted on a path, the topmost.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        Ok(topmost(&read_table()?, path).map(|mount| Self {
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
        write_at(self.connection()?, "abort", "1")
    }

    /// The connection's directory in the control file system.
    pub(super) fn connection(&self) -> io::Result<OwnedFd> {
        let minor = self.device.split(':').next_back().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mounted = Path::new("/sys/fs/fuse/connections").join(minor);
        match rustix::fs::open(&mounted, flags, Mode::empty()) {
            // Where nobody mounted it, root can look at it without mounting it anywhere.
            Err(Errno::NOENT) => {
                let file_system = control_file_system()?;
                Ok(rustix::fs::openat(
                    file_system,
                    minor,
                    flags,
                    Mode::empty(),
                )?)
            }
            opened => Ok(opened?),
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
    path: PathBuf,
    read_only: bool,
    kind: Vec<u8>,
    source: Vec<u8>,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let path = OsString::from_vec(unescaped(fields.nth(1)?)).into();
        let mut options = fields.next()?.split(|byte| *byte == b',');
        let read_only = options.any(|option| option == b"ro");
        fields.find(|field| *field == b"-")?; // ends the optional fields
        Some(Self {
            device,
            path,
            read_only,
            kind: fields.next()?.to_vec(),
            source: unescaped(fields.next()?),
        })
    }

    fn volume(self) -> Option<MountedVolume> {
        let vault = vault(&self.source).filter(|_| self.kind == KIND)?;
        Some(MountedVolume {
            vault: vault.to_owned(),
            mountpoint: self.path,
            read_only: self.read_only,
        })
    }
}

fn lines(table: &[u8]) -> impl Iterator<Item = Line> {
    table.split(|byte| *byte == b'\n').filter_map(Line::parse)
}

/// The last line of a mount table that is for this path.
fn topmost(table: &[u8], path: &Path) -> Option<Line> {
    lines(table).filter(|line| line.path == path).last()
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

/// The kernel holds the table still for one read only; between two, lines may be lost. So it is read in one, if it fits.
fn read_table() -> io::Result<Vec<u8>> {
    let file = rustix::fs::open(TABLE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut table = vec![0; TABLE_ROOM];
    let mut length = 0;
    loop {
        let room = table.get_mut(length..).unwrap_or_default();
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *room))?;
        if read == 0 {
            table.truncate(length);
            return Ok(table);
        }
        length += read;
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    write_at(CWD, path, value)
}

fn write_at(dir: impl AsFd, path: impl Arg, value: &str) -> io::Result<()> {
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
    fn tells_volumes_from_other_mounts() {
        let line = |options: &str, kind: &str| {
            let line = format!(
                "118 29 0:53 / /tmp/my\\040mnt {options} shared:7 - {kind} strongroom:/tmp/a\\134b rw,x"
            );
            Line::parse(line.as_bytes()).unwrap().volume()
        };
        let volume = line("rw,nosuid", "fuse.strongroom").unwrap();
        assert_eq!(volume.mountpoint, Path::new("/tmp/my mnt"));
        assert_eq!(volume.vault, Path::new("/tmp/a\\b"));
        assert!(!volume.read_only);
        assert!(line("ro,nosuid", "fuse.strongroom").unwrap().read_only);
        assert_eq!(line("rw", "ext4"), None);
        let other = Line::parse(b"36 35 98:0 / /mnt rw - fuse.strongroom /x rw").unwrap();
        assert_eq!(other.volume(), None);
        for broken in [&b""[..], b"1 2", b"36 35 98:0 / /mnt rw -"] {
            assert_eq!(Line::parse(broken), None);
        }
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
