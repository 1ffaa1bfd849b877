//! What every command does to its own process before it reads a secret: no core dump, no tracer of the same user, memory
//! that may be locked, descriptors enough, and no umask of its own.

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

/// Hardens this process. What the system refuses is said in the log and does not stop the program.
pub(super) fn process() {
    if let Err(error) = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    ) {
        tracing::warn!("core dumps could not be turned off: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("core dumps could not be turned off: {error}");
    }
    raise(Resource::Memlock);
    raise(Resource::Nofile);
    // Modes of new files are what the caller of the filesystem asked for; our own files give theirs explicitly.
    umask(Mode::empty());
}

/// The soft limit becomes the hard one; root's memory limit goes.
fn raise(resource: Resource) {
    let limit = getrlimit(resource);
    if resource == Resource::Memlock
        && rustix::process::geteuid().is_root()
        && setrlimit(
            resource,
            Rlimit {
                current: None,
                maximum: None,
            },
        )
        .is_ok()
    {
        return;
    }
    let _ = setrlimit(
        resource,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
