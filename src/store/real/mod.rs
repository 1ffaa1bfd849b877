//! The store on a directory of a real file system. Only the top directory is opened by a path; everything below it is
//! reached by `*at` calls on descriptors, one component at a time.
//!
//! Invariant: no call follows a symlink, blocks on a fifo or leaves the tree under the top directory.

mod aio;
mod cached;
mod dir;
mod file;
mod file_system;
mod line;
mod posted;
mod quota;
mod write_back;
mod xattr;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Gid, Mode, OFlags, StatVfs, Timespec, Timestamps, Uid};

use super::{Dir, File, Kind, SetTimes, Stat, Store, Time, TimeSpec, Traits, Usage};
use dir::RealDir;
use file::RealFile;

/// A directory of a file system of this host.
///
/// Modes given to `create`, `make_dir` and `make_node` are exact when the process umask is 0, which the daemon sets at
/// its start. `open` never changes the umask; where it finds another one, each such call is followed by a chmod.
pub struct RealStore {
    top: Arc<OwnedFd>,
    umask: u32,
    traits: Traits,
}

impl RealStore {
    /// Opens the top directory. The path comes from the user, so symlinks in it are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = retry(|| rustix::fs::open(path, flags, Mode::empty()))?;
        let traits = file_system::traits(&top)?;
        Ok(Self {
            top: Arc::new(top),
            umask: process_umask(),
            traits,
        })
    }
}

impl Store for RealStore {
    fn root(&self) -> Arc<dyn Dir> {
        Arc::new(RealDir::new(Arc::clone(&self.top), self.umask))
    }

    fn sync(&self) -> io::Result<()> {
        posted::before_sync_of_all();
        // Not retried: the kernel reports a failed writeback once, and never with EINTR.
        Ok(rustix::fs::syncfs(&*self.top)?)
    }

    fn usage(&self) -> io::Result<Usage> {
        let StatVfs {
            f_frsize,
            f_blocks,
            f_bfree,
            f_bavail,
            f_files,
            f_ffree,
            f_namemax,
            ..
        } = retry(|| rustix::fs::fstatvfs(&*self.top))?;
        Ok(Usage {
            block_size: f_frsize,
            blocks: f_blocks,
            free: f_bfree,
            available: f_bavail,
            files: f_files,
            files_free: f_ffree,
            name_max: f_namemax,
        })
    }

    fn traits(&self) -> Traits {
        self.traits
    }

    fn file_of(&self, descriptor: OwnedFd) -> io::Result<Arc<dyn File>> {
        let stat = retry(|| rustix::fs::fstat(&descriptor))?;
        let device = retry(|| rustix::fs::fstat(&*self.top))?.st_dev;
        if stat_of(&stat)?.kind != Kind::File || stat.st_dev != device {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Arc::new(RealFile::new(descriptor)))
    }
}

/// The umask of this process, which can only be read from /proc without changing it; 0o777 (every bit in doubt) where
/// that does not say.
fn process_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    octal
        .and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o777)
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}

fn file_type_of(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

// The widths of these fields differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn stat_of(raw: &rustix::fs::Stat) -> io::Result<Stat> {
    let kind = kind_of(FileType::from_raw_mode(raw.st_mode)).ok_or(rustix::io::Errno::IO)?;
    let time = |sec, nsec| Time {
        sec: sec as i64,
        nsec: nsec as u32,
    };
    Ok(Stat {
        dev: raw.st_dev as u64,
        ino: raw.st_ino as u64,
        kind,
        mode: raw.st_mode as u32 & 0o7777,
        nlink: raw.st_nlink as u64,
        uid: raw.st_uid,
        gid: raw.st_gid,
        rdev: raw.st_rdev as u64,
        size: raw.st_size as u64,
        blocks: raw.st_blocks as u64,
        atime: time(raw.st_atime as i64, raw.st_atime_nsec as u64),
        mtime: time(raw.st_mtime as i64, raw.st_mtime_nsec as u64),
        ctime: time(raw.st_ctime as i64, raw.st_ctime_nsec as u64),
    })
}

fn timestamps(times: SetTimes) -> Timestamps {
    let spec = |time: Option<TimeSpec>| match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT as _,
        },
        Some(TimeSpec::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW as _,
        },
        Some(TimeSpec::At(at)) => Timespec {
            tv_sec: at.sec,
            tv_nsec: at.nsec.into(),
        },
    };
    Timestamps {
        last_access: spec(times.atime),
        last_modification: spec(times.mtime),
    }
}

fn owner(uid: Option<u32>, gid: Option<u32>) -> io::Result<(Option<Uid>, Option<Gid>)> {
    // u32::MAX is chown's "leave alone", not an owner.
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}
