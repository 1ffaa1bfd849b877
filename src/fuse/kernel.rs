//! What is agreed with the kernel at the start: the protocol's flags and sizes (FUSE_INIT).
//!
//! Every flag is asked for only where the kernel offers it. Never asked for, because fuser 0.18 cannot keep the promise:
//! OVER_IO_URING (every request would wait for ever), SETXATTR_EXT (a panic), ALLOW_IDMAP (every request malformed),
//! ABORT_ERROR (an error at the end of each mount), SECURITY_CTX, CREATE_SUPP_GROUP. Neither POSIX_LOCKS nor FLOCK_LOCKS:
//! the mount is exclusive, so the kernel keeps the locks itself. Nor ATOMIC_O_TRUNC: the kernel would have us cut a file
//! before it refuses the open, as it does for O_RDONLY with O_TRUNC of a program that runs.

use std::io;

use fuser::{InitFlags, KernelConfig};

/// The largest write and read, bytes: the kernel's own limit of 256 pages.
const MAX_WRITE: u32 = 1 << 20;
/// Requests in the background (readahead, writeback, releases) before the kernel holds more back.
const BACKGROUND: u16 = 64;

/// What the kernel agreed to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Agreed {
    /// opendir may be refused once and for all; listings are stateless then.
    pub(super) no_opendir: bool,
    /// The same of open: the kernel opens files by itself, and names them by their nodes.
    pub(super) no_open: bool,
    /// Writes gather in the kernel's cache.
    pub(super) writeback: bool,
}

/// Each with what it brings.
const WANTED: [InitFlags; 10] = [
    InitFlags::FUSE_PARALLEL_DIROPS, // lookups and listings of one directory run side by side
    InitFlags::FUSE_ASYNC_DIO,       // a large direct read or write is in flight in parts
    InitFlags::FUSE_DO_READDIRPLUS,  // attributes with a listing,
    InitFlags::FUSE_READDIRPLUS_AUTO, // where lookups follow it
    InitFlags::FUSE_CACHE_SYMLINKS,  // targets are read once
    InitFlags::FUSE_HANDLE_KILLPRIV_V2, // no security.capability lookup before each write; we clear set-id bits ourselves
    InitFlags::FUSE_DONT_MASK,          // the umask comes to us: a default ACL takes its place
    InitFlags::FUSE_POSIX_ACL,          // the kernel checks and inherits ACLs
    InitFlags::FUSE_NO_OPENDIR_SUPPORT, // no opendir and releasedir
    InitFlags::FUSE_EXPLICIT_INVAL_DATA, // pages are dropped only when we say so: nobody else writes
];

/// Settles flags and sizes.
pub(super) fn agree(
    config: &mut KernelConfig,
    writeback: bool,
    no_open: bool,
) -> io::Result<Agreed> {
    let offered = config.capabilities();
    let ask = |config: &mut KernelConfig, flag| {
        offered.contains(flag) && config.add_capabilities(flag).is_ok()
    };
    for flag in WANTED {
        ask(config, flag);
    }
    let refused = |nearest: u32| {
        io::Error::other(format!("fuser takes {nearest} instead of a size asked for"))
    };
    config.set_max_write(MAX_WRITE).map_err(refused)?;
    config
        .set_max_background(BACKGROUND)
        .map_err(|nearest| refused(nearest.into()))?;
    config
        .set_congestion_threshold(BACKGROUND)
        .map_err(|nearest| refused(nearest.into()))?;
    Ok(Agreed {
        no_opendir: offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
        no_open: no_open && offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
        writeback: writeback && ask(config, InitFlags::FUSE_WRITEBACK_CACHE),
    })
}
