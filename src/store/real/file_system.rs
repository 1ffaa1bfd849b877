//! What the file system under a real store promises, from statfs, sysfs and /proc. Best effort: what it cannot learn it
//! answers the cautious way.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::retry;
use crate::store::Traits;

const EXT: u64 = 0xEF53; // ext2, ext3 and ext4 share it
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683E;

/// First Linux whose syncfs reports failed writeback.
const SYNCFS_REPORTS: (u32, u32) = (5, 8);

pub(super) fn traits(top: &OwnedFd) -> io::Result<Traits> {
    let stat_fs = retry(|| rustix::fs::fstatfs(top))?;
    let magic = stat_fs.f_type as u64 & 0xFFFF_FFFF;
    let block = stat_fs.f_bsize as u64;
    let device = retry(|| rustix::fs::fstat(top))?.st_dev;
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    let mount = Mount::of(numbers);
    let block_device = mount
        .as_ref()
        .and_then(Mount::source_numbers)
        .unwrap_or(numbers);
    Ok(Traits {
        syncfs_reports: matches!(magic, EXT | XFS | BTRFS) && kernel() >= SYNCFS_REPORTS,
        atomic_page: block >= 4096
            && physical_block(block_device).is_some_and(|bytes| bytes >= 4096),
        unsafe_journal: magic == EXT && !ext_orders_data(numbers, mount.as_ref()),
    })
}

/// Whether this is ext2, ext3 or ext4.
pub(super) fn is_ext(totals: &rustix::fs::StatFs) -> bool {
    totals.f_type as u64 & 0xFFFF_FFFF == EXT
}

/// Version of the running kernel; (0, 0) when its name cannot be read.
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    parse_release(&name.release().to_string_lossy()).unwrap_or_default()
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Physical block size of a device in bytes. A partition has no queue of its own: its disk, one folder up, has.
fn physical_block((major, minor): (u32, u32)) -> Option<u64> {
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let read = |folder: &Path| {
        let text = fs::read_to_string(folder.join("queue/physical_block_size")).ok()?;
        text.trim().parse().ok()
    };
    read(&device).or_else(|| read(device.parent()?))
}

/// Whether an ext file system has a journal and keeps data in order with it. The kernel's own list of options in force
/// says so ("data=ordered" or "data=journal"; neither without a journal); where that list is missing, the mount table
/// must at least say ext4 and nothing to the contrary.
fn ext_orders_data((major, minor): (u32, u32), mount: Option<&Mount>) -> bool {
    let name = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = name.as_deref().and_then(Path::file_name);
    let options = name.and_then(|name| {
        fs::read_to_string(Path::new("/proc/fs/ext4").join(name).join("options")).ok()
    });
    match (options, mount) {
        (Some(options), _) => options
            .lines()
            .any(|line| matches!(line, "data=ordered" | "data=journal")),
        (None, Some(mount)) => {
            mount.kind == "ext4"
                && !mount
                    .options
                    .split(',')
                    .any(|option| option == "data=writeback")
        }
        (None, None) => false,
    }
}

/// A line of /proc/self/mountinfo.
struct Mount {
    kind: String,
    source: String,
    options: String,
}

impl Mount {
    /// A mount of this device number; all mounts of one file system share what matters here.
    fn of((major, minor): (u32, u32)) -> Option<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        table
            .lines()
            .find_map(|line| Self::parse(line, &format!("{major}:{minor}")))
    }

    /// "36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue"
    fn parse(line: &str, device: &str) -> Option<Self> {
        let (place, system) = line.split_once(" - ")?;
        if place.split(' ').nth(2)? != device {
            return None;
        }
        let mut fields = system.split(' ').map(str::to_owned);
        Some(Self {
            kind: fields.next()?,
            source: fields.next()?,
            options: fields.next()?,
        })
    }

    /// Device numbers of the source; btrfs shows an anonymous device in stat, its disk only here.
    fn source_numbers(&self) -> Option<(u32, u32)> {
        let source = PathBuf::from(&self.source);
        let stat = rustix::fs::stat(&source).ok()?;
        let is_block = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_block_device();
        is_block.then(|| {
            (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_releases() {
        assert_eq!(parse_release("6.18.44-fc-v782"), Some((6, 18)));
        assert_eq!(parse_release("5.8-rc1"), Some((5, 8)));
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn reads_a_mount_line_of_its_device_only() {
        let line =
            "36 35 98:0 /a /mnt\\0401 rw,noatime master:1 - ext4 /dev/sda1 rw,data=writeback";
        let mount = Mount::parse(line, "98:0").unwrap();
        assert_eq!(
            (mount.kind.as_str(), mount.source.as_str()),
            ("ext4", "/dev/sda1")
        );
        assert!(!ext_orders_data((0, u32::MAX), Some(&mount)));
        assert!(Mount::parse(line, "98:1").is_none());
        assert!(Mount::parse("garbage", "98:0").is_none());
    }
}
