//! The wish that idle processors stay awake.
//!
//! A program waits for each answer, and the thread that serves it for the next request: of two processors one is idle each
//! time. In a virtual machine an idle processor halts, and is woken through the host, which takes longer than the request
//! itself (docs/PERFORMANCE.md). The kernel has an interface for programs that cannot wait
//! (Documentation/power/pm_qos_interface.rst), and forgets what was wished through a descriptor when that is closed, so also
//! when this process dies.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

/// Where a process writes how long processors may take to wake, in µs, as an i32; root's.
const LATENCY: &str = "/dev/cpu_dma_latency";
/// They stay awake.
const NONE: i32 = 0;
/// Whatever others wish.
const ANY: i32 = -1;
/// Chooses how idle processors sleep.
const GOVERNOR: &str = "/sys/devices/system/cpu/cpuidle/current_governor_ro";
/// The one of virtual machines. Others know by themselves to sleep lightly where work comes often.
const HALTS: &[u8] = b"haltpoll\n";
const PROCESSORS: &str = "/sys/devices/system/cpu/online";
/// Processors at most: all are kept awake, also those that nobody needs.
const FEW: u32 = 8;

/// What the kernel is told wishes by.
pub(super) struct Wishes(OwnedFd);

impl Wishes {
    /// `None`: not root, or not in a virtual machine whose processors halt, or in one with many of them.
    pub(super) fn here() -> Option<Self> {
        let halts = read(GOVERNOR).is_ok_and(|governor| governor == HALTS);
        let few =
            read(PROCESSORS).is_ok_and(|online| highest(&online).is_some_and(|last| last < FEW));
        if !halts || !few {
            return None;
        }
        let opened = rustix::fs::open(LATENCY, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map(Self).ok()
    }

    /// Processors stay awake from now on, or no more.
    pub(super) fn wish(&self, awake: bool) {
        let latency = if awake { NONE } else { ANY };
        if let Err(error) = rustix::io::write(&self.0, &latency.to_ne_bytes()) {
            tracing::debug!("idle processors sleep as before: {error}");
        }
    }
}

/// The last number of a list as the kernel writes it, "0-3,5".
fn highest(list: &[u8]) -> Option<u32> {
    let last = list.rsplit(|byte| matches!(byte, b',' | b'-')).next()?;
    std::str::from_utf8(last).ok()?.trim_end().parse().ok()
}

fn read(path: &str) -> io::Result<Vec<u8>> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; 4096];
    let len = rustix::io::read(&file, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn a_wish_is_four_bytes() {
        let file = memfd_create("wishes", MemfdFlags::CLOEXEC).unwrap();
        let wishes = Wishes(file);
        wishes.wish(true);
        wishes.wish(false);
        let mut bytes = [1; 8];
        assert_eq!(rustix::io::pread(&wishes.0, &mut bytes, 0), Ok(8));
        assert_eq!(bytes, [0, 0, 0, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn the_highest_processor_of_a_list() {
        for (list, highest_of) in [("0\n", 0), ("0-1\n", 1), ("0-3,5\n", 5), ("0,2-63\n", 63)] {
            assert_eq!(highest(list.as_bytes()), Some(highest_of), "{list}");
        }
        assert_eq!(highest(b""), None);
    }
}
