//! Which host and process this is, for lock files and the record of mounts.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// A process on a host, as others are told of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The host's name (uname).
    pub name: String,
    /// The kernel's boot id: another one means that every process of the record is gone.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// When this was taken, seconds since 1970.
    pub since: u64,
}

impl Host {
    /// This process. Fails only where /proc is not mounted.
    pub fn here() -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        Ok(Self {
            name,
            boot_id,
            pid: std::process::id(),
            since,
        })
    }
}
