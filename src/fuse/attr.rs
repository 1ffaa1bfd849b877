//! Attributes, kinds, times and device numbers between the volume's terms and fuser's.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::store::{Kind, Time, TimeSpec};
use crate::volume::Attr;

/// How long the kernel believes what it was told: the mount is exclusive.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// What st_blksize says, bytes.
const BLOCK: u32 = 4096;

/// Attributes as fuser takes them.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.id),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev as u32, // the kernel's own 32-bit packing is the low half of makedev's
        blksize: BLOCK,
        flags: 0,
    }
}

/// Attributes of which only number and kind are known: of `.` and `..`, of a name that is not there (number 0), and of an
/// entry that cannot be looked up.
pub(super) fn bare_attr(id: u64, kind: Kind) -> FileAttr {
    let never = Time::default();
    file_attr(&Attr {
        id,
        kind,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: never,
        mtime: never,
        ctime: never,
    })
}

/// A kind as fuser names it.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that mknod's mode asks for; `None` for what mknod does not make.
pub(super) fn kind_of_mode(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        _ => None,
    }
}

/// A time to set, as the kernel asked for it.
pub(super) fn time_spec(time: TimeOrNow) -> TimeSpec {
    match time {
        TimeOrNow::Now => TimeSpec::Now,
        TimeOrNow::SpecificTime(time) => TimeSpec::At(kernel_time(time)),
    }
}

/// fuser 0.18 makes of the kernel's (s < 0, ns) the instant `-(|s| + ns)` instead of `s + ns`; its two parts are still the
/// kernel's.
fn kernel_time(time: SystemTime) -> Time {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time {
            sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nsec: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let sec = i64::try_from(before.as_secs()).map_or(i64::MIN, |sec| -sec);
            Time {
                sec,
                nsec: before.subsec_nanos(),
            }
        }
    }
}

/// A time as fuser takes it; one that it cannot represent becomes 1970.
fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let second = if time.sec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let time = second.and_then(|second| second.checked_add(Duration::from_nanos(time.nsec.into())));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fuser reads the kernel's two fields (fuser 0.18, src/time.rs).
    fn as_fuser_reads(sec: i64, nsec: u32) -> SystemTime {
        if sec >= 0 {
            SystemTime::UNIX_EPOCH + Duration::new(sec as u64, nsec)
        } else {
            SystemTime::UNIX_EPOCH - Duration::new(-sec as u64, nsec)
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for (sec, nsec) in [
            (0, 0),
            (5, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-2, 800_000_000),
            (-1 << 40, 7),
        ] {
            let TimeSpec::At(time) = time_spec(TimeOrNow::SpecificTime(as_fuser_reads(sec, nsec)))
            else {
                panic!("a time, not now");
            };
            assert_eq!((time.sec, time.nsec), (sec, nsec));
        }
    }

    #[test]
    fn shows_times_before_1970() {
        let shown = system_time(Time {
            sec: -2,
            nsec: 800_000_000,
        });
        assert_eq!(shown, SystemTime::UNIX_EPOCH - Duration::from_millis(1200));
    }

    #[test]
    fn mknod_makes_no_directory() {
        assert_eq!(kind_of_mode(libc::S_IFDIR | 0o755), None);
        assert_eq!(kind_of_mode(libc::S_IFIFO | 0o644), Some(Kind::Fifo));
    }
}
