//! The mount point: what it must be, mounting on it as root or through fusermount3, unmounting.
//!
//! Invariant: nothing here touches a path below a mount point after it was mounted, which would wait for the daemon itself.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::mounted::SOURCE_PREFIX;
use super::options::MountOptions;

/// Why a volume could not be mounted, served or unmounted; each a whole sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The directory to mount on does not fit.
    #[error("{0}")]
    Mountpoint(String),
    /// The kernel or fusermount3 refused.
    #[error("{0}")]
    Mount(String),
    /// Something holds the mount.
    #[error("{} is in use: close the files in it and leave its directories, then try again", .0.display())]
    Busy(PathBuf),
    /// The connection to the kernel failed.
    #[error("serving the mount failed: {0}")]
    Session(#[from] io::Error),
}

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// How the helper learns where to send the descriptor.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// The absolute path of a mount point, if a volume kept in `vault` can be mounted there; else why not.
pub fn suitable_mountpoint(mountpoint: &Path, vault: &Path) -> Result<PathBuf, ServeError> {
    let path = mountpoint.canonicalize();
    let path = path.map_err(|error| unfit(mountpoint, &error))?;
    let meta = path.metadata().map_err(|error| unfit(mountpoint, &error))?;
    let shown = mountpoint.display();
    let vault = vault.canonicalize().unwrap_or_else(|_| vault.to_owned());
    let why = if !meta.is_dir() {
        format!("{shown} is not a directory")
    } else if path.starts_with(&vault) {
        format!(
            "{shown} lies inside the volume's own directory {}",
            vault.display()
        )
    } else if vault.starts_with(&path) {
        format!(
            "the volume's directory {} lies inside {shown} and would be hidden",
            vault.display()
        )
    } else {
        return Ok(path);
    };
    Err(ServeError::Mountpoint(why))
}

fn unfit(mountpoint: &Path, error: &io::Error) -> ServeError {
    let shown = mountpoint.display();
    ServeError::Mountpoint(if error.raw_os_error() == Some(libc::ENOTCONN) {
        format!("{shown} is a mount whose daemon is gone: unmount it first (umount {shown})")
    } else if error.kind() == io::ErrorKind::NotFound {
        format!("there is no directory {shown} to mount on")
    } else {
        format!("{shown} cannot be mounted on: {error}")
    })
}

/// Mounts on a suitable path; the connection to the kernel.
pub(super) fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, ServeError> {
    if rustix::process::geteuid().is_root() {
        match mount_as_root(path, options) {
            Err(rustix::io::Errno::PERM) => {} // root in a container without the right to mount
            done => return done.map_err(|error| refused(path, error)),
        }
    } else if options.suid || options.dev {
        return Err(ServeError::Mount(
            "only root can mount with suid or dev".to_owned(),
        ));
    }
    mount_with_helper(path, options)
}

fn refused(path: &Path, error: rustix::io::Errno) -> ServeError {
    let shown = path.display();
    ServeError::Mount(match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV => {
            format!("{DEVICE} is not there: load the kernel's fuse module (modprobe fuse)")
        }
        _ => format!("mounting on {shown} failed: {error}"),
    })
}

fn mount_as_root(path: &Path, options: &MountOptions) -> rustix::io::Result<OwnedFd> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mode = rustix::fs::stat(path)?.st_mode & FileType::Directory.as_raw_mode();
    let (user, group) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={user},group_id={group},default_permissions",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount(
        source(options),
        path,
        "fuse.strongroom",
        flags(options),
        data.as_c_str(),
    )?;
    Ok(device)
}

fn flags(options: &MountOptions) -> MountFlags {
    let wanted = [
        (!options.suid, MountFlags::NOSUID),
        (!options.dev, MountFlags::NODEV),
        (options.noexec, MountFlags::NOEXEC),
        (options.noatime, MountFlags::NOATIME),
        (options.read_only, MountFlags::RDONLY),
    ];
    wanted
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, flag)| flag)
        .collect()
}

/// What the table of mounts shows as the source.
fn source(options: &MountOptions) -> Vec<u8> {
    let vault = options
        .vault
        .canonicalize()
        .unwrap_or_else(|_| options.vault.clone());
    let mut source = SOURCE_PREFIX.to_vec();
    source.extend_from_slice(vault.as_os_str().as_bytes());
    source
}

fn mount_with_helper(path: &Path, options: &MountOptions) -> Result<OwnedFd, ServeError> {
    let failed =
        |error: io::Error| ServeError::Mount(format!("{HELPER} could not be run: {error}"));
    let pair = || {
        socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::empty(),
            None,
        )
    };
    let (ours, theirs) = pair().map_err(|error| failed(error.into()))?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)
        .map_err(|error| failed(error.into()))?;
    let mut helper = Command::new(HELPER);
    helper
        .arg("-o")
        .arg(helper_options(options))
        .arg("--")
        .arg(path);
    helper.env(HELPER_SOCKET, theirs.as_raw_fd().to_string());
    let child = helper
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.map_err(|error| helper_missing(&error))?;
    drop(theirs);
    let device = received(&ours).map_err(|error| failed(error.into()));
    let output = child.wait_with_output().map_err(failed)?;
    match device? {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(ServeError::Mount(helper_said(path, &output))),
    }
}

fn helper_missing(error: &io::Error) -> ServeError {
    ServeError::Mount(match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "an ordinary user mounts through {HELPER}, which is not installed (package fuse3)"
            )
        }
        _ => format!("{HELPER} could not be run: {error}"),
    })
}

fn helper_said(path: &Path, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said
        .trim()
        .trim_start_matches(HELPER)
        .trim_start_matches(':')
        .trim();
    if said.contains("user_allow_other") {
        return "allow_other is for root only, unless /etc/fuse.conf has the line user_allow_other"
            .to_owned();
    }
    if said.contains(DEVICE) && said.contains("Permission denied") {
        return format!(
            "ordinary users may not open {DEVICE} here: root has to allow it (chmod 666 {DEVICE})"
        );
    }
    format!("{HELPER} refused to mount on {}: {said}", path.display())
}

/// The helper's option list; its separators are escaped where they stand in a path.
fn helper_options(options: &MountOptions) -> std::ffi::OsString {
    let mut list = b"default_permissions,subtype=strongroom,fsname=".to_vec();
    for byte in source(options) {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(byte);
    }
    let switches = [
        (options.allow_other, "allow_other"),
        (options.read_only, "ro"),
        (options.noexec, "noexec"),
        (options.noatime, "noatime"),
    ];
    for (_, switch) in switches.into_iter().filter(|(on, _)| *on) {
        list.push(b',');
        list.extend_from_slice(switch.as_bytes());
    }
    std::os::unix::ffi::OsStringExt::from_vec(list)
}

/// The descriptor that the helper sends; `None` if it ends without one.
fn received(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        let mut into = [io::IoSliceMut::new(&mut byte)];
        recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let device = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(device)
}

/// Whether this process may open further connections to its mount (root can always; a user where the device is for all).
pub(super) fn can_clone() -> bool {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// Unmounts; a mount in use is Busy. The daemon then ends by itself.
pub fn unmount(mountpoint: &Path) -> Result<(), ServeError> {
    take_off(mountpoint, false)
}

/// Unmounts; `lazily`: out of sight at once, gone when the last file in it is closed.
pub(super) fn take_off(path: &Path, lazily: bool) -> Result<(), ServeError> {
    let lazy = if lazily {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match rustix::mount::unmount(path, lazy | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => take_off_with_helper(path, lazily),
        Err(rustix::io::Errno::BUSY) => Err(ServeError::Busy(path.to_owned())),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Err(ServeError::Mountpoint(
            format!("nothing is mounted on {}", path.display()),
        )),
        done => done.map_err(|error| {
            ServeError::Mount(format!(
                "{} could not be unmounted: {error}",
                path.display()
            ))
        }),
    }
}

fn take_off_with_helper(path: &Path, lazily: bool) -> Result<(), ServeError> {
    let mut helper = Command::new(HELPER);
    helper
        .args(if lazily { &["-u", "-z"][..] } else { &["-u"] })
        .arg("--")
        .arg(path);
    let output = helper
        .stdin(Stdio::null())
        .output()
        .map_err(|error| helper_missing(&error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("busy") {
        Err(ServeError::Busy(path.to_owned()))
    } else {
        Err(ServeError::Mount(format!(
            "{} could not be unmounted: {}",
            path.display(),
            said.trim()
        )))
    }
}
