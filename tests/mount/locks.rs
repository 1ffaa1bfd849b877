//! Locks between processes: flock and POSIX.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::in_both;
use crate::support::tool;

/// Whether another process gets the lock.
fn another_gets(call: &str, path: &Path) -> bool {
    let script = format!(
        "import fcntl,sys\n\
         f=open(sys.argv[1],'r+')\n\
         try: fcntl.{call}(f,fcntl.LOCK_EX|fcntl.LOCK_NB); print('got')\n\
         except BlockingIOError: print('held')"
    );
    tool(
        Command::new("python3").args(["-c", &script]).arg(path),
        "python3",
    ) == "got\n"
}

#[test]
fn flock_holds_between_processes() {
    in_both(|_, mnt| {
        let path = mnt.join("lock");
        fs::write(&path, b"x").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        assert!(!another_gets("flock", &path));
        flock(&file, FlockOperation::Unlock).unwrap();
        assert!(another_gets("flock", &path));
        flock(&file, FlockOperation::LockExclusive).unwrap();
        drop(file);
        assert!(another_gets("flock", &path), "closing lets go");
    });
}

#[test]
fn posix_locks_hold_between_processes() {
    in_both(|_, mnt| {
        let path = mnt.join("lock");
        fs::write(&path, b"x").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(!another_gets("lockf", &path));
        drop(OpenOptions::new().read(true).open(&path).unwrap());
        assert!(
            another_gets("lockf", &path),
            "closing any handle lets go, as POSIX has it"
        );
    });
}
