//! The fuser adapter: inode numbers, handles, errno, session. May call volume (and names the types of store that volume's
//! calls take). Knows no cipher, no key, and not `std::fs`.
//!
//! The mount is exclusive: the kernel's caches of names, attributes and pages are told once and believed for an hour, and
//! each change the kernel asks for it applies to those caches itself. Nothing here changes a volume on its own.

mod adapter;
mod answer;
mod attr;
mod awake;
pub mod control;
mod device;
mod dirs;
mod errno;
mod gate;
mod handles;
mod handover;
mod handshake;
mod inodes;
mod kernel;
mod mounted;
mod mountpoint;
mod near;
mod opened;
mod options;
mod pace;
mod served;
mod session;
mod signals;
pub mod supervise;
mod syncs;
mod turns;
mod xattrs;

pub use handover::{Coming, Handover};
pub use mounted::{MountedVolume, is_mountpoint, mounted_volumes, vault_of};
pub use mountpoint::{ServeError, suitable_mountpoint, unmount};
pub use options::{MountOptions, OptionError};
pub use session::{Origin, serve};
pub use signals::heeding_signals;
