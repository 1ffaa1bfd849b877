//! The backing directory turns read-only under the mount, is unmounted, or is emptied.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::process::Signal;

use crate::support::daemon::Daemon;
use crate::support::image::Backed;
use crate::support::{SUITES, is_mounted};
use crate::{code, pattern};

/// The errno that a call failed with.
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    code(&result.expect_err("a refusal"))
}

#[test]
fn a_disk_that_takes_no_more_writes_is_said_and_read_on() {
    for suite in SUITES {
        let backed = Backed::new(suite, 64, 512);
        let sandbox = &backed.sandbox;
        let mut daemon = Daemon::of(sandbox);
        let path = |name: &str| sandbox.mnt().join(name);
        fs::write(path("file"), pattern(300_000, 1)).unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path("file"))
            .unwrap();
        file.sync_all().unwrap();
        file.write_all_at(b"not synced", 100_000).unwrap();
        // What the kernel does with errors=remount-ro when the disk fails.
        backed.image().remount("abort");
        assert_eq!(errno(File::create(path("new"))), libc::EROFS, "{suite}");
        assert_eq!(
            errno(fs::rename(path("file"), path("other"))),
            libc::EROFS,
            "{suite}"
        );
        assert_eq!(errno(fs::create_dir(path("dir"))), libc::EROFS, "{suite}");
        let failed = errno(file.write_all_at(&[7; 10], 0));
        assert!(
            [libc::EROFS, libc::EIO].contains(&failed),
            "{suite}: write said {failed}"
        );
        for _ in 0..2 {
            let failed = errno(file.sync_all());
            assert!(
                [libc::EROFS, libc::EIO].contains(&failed),
                "{suite}: fsync said {failed}"
            );
        }
        let mut wanted = pattern(300_000, 1);
        wanted[100_000..100_010].copy_from_slice(b"not synced");
        assert!(
            fs::read(path("file")).unwrap() == wanted,
            "{suite}: reads go on"
        );
        drop(file);
        daemon.signal(Signal::TERM);
        let mut ended = None;
        daemon.wait_until("the daemon ends", |daemon| {
            ended = daemon.child.try_wait().unwrap();
            ended.is_some()
        });
        assert!(!is_mounted(&sandbox.mnt()), "{suite}");
        backed.image().detach();
        backed.image().attach();
        sandbox.mount();
        let found = fs::read(path("file")).unwrap();
        let old = pattern(300_000, 1);
        let is_either = found.len() == 300_000
            && found
                .chunks(4096)
                .zip(old.chunks(4096))
                .zip(wanted.chunks(4096))
                .all(|((found, old), new)| found == old || found == new);
        assert!(is_either, "{suite}: what was synced is there");
        fs::write(path("file"), b"goes on").unwrap();
    }
}

#[test]
fn a_backing_directory_unmounted_under_the_mount_is_served_to_its_end() {
    for suite in SUITES {
        let backed = Backed::new(suite, 64, 512);
        let sandbox = &backed.sandbox;
        sandbox.mount();
        let path = |name: &str| sandbox.mnt().join(name);
        fs::write(path("before"), pattern(300_000, 1)).unwrap();
        backed.image().detach();
        assert_eq!(fs::read_dir(sandbox.vault()).unwrap().count(), 0);
        fs::write(path("after"), pattern(200_000, 2)).unwrap();
        File::open(path("after")).unwrap().sync_all().unwrap();
        assert!(
            fs::read(path("before")).unwrap() == pattern(300_000, 1),
            "{suite}"
        );
        sandbox.umount();
        assert_eq!(
            fs::read_dir(sandbox.vault()).unwrap().count(),
            0,
            "{suite}: nothing was put beside it"
        );
        backed.image().attach();
        sandbox.mount();
        assert!(
            fs::read(path("before")).unwrap() == pattern(300_000, 1),
            "{suite}"
        );
        assert!(
            fs::read(path("after")).unwrap() == pattern(200_000, 2),
            "{suite}"
        );
    }
}

#[test]
fn a_backing_directory_emptied_under_the_mount_is_an_error_and_no_hang() {
    for suite in SUITES {
        let backed = Backed::new(suite, 64, 512);
        let sandbox = &backed.sandbox;
        let mut daemon = Daemon::of(sandbox);
        let path = |name: &str| sandbox.mnt().join(name);
        fs::create_dir(path("dir")).unwrap();
        for name in ["file", "dir/file"] {
            fs::write(path(name), pattern(300_000, 1)).unwrap();
        }
        let open = File::open(path("file")).unwrap();
        for entry in fs::read_dir(sandbox.vault()).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_dir() {
                fs::remove_dir_all(entry).unwrap();
            } else {
                fs::remove_file(entry).unwrap();
            }
        }
        let mut found = vec![0; 300_000];
        open.read_exact_at(&mut found, 0).unwrap();
        assert!(
            found == pattern(300_000, 1),
            "{suite}: an open file is read on"
        );
        drop(open);
        let gone = [libc::ENOENT, libc::ESTALE, libc::EIO];
        for name in ["file", "dir/file"] {
            // One that waits to be settled is still open in the daemon; else it is gone.
            match fs::read(path(name)) {
                Ok(found) => assert!(found == pattern(300_000, 1), "{suite}: {name}"),
                Err(error) => assert!(gone.contains(&code(&error)), "{suite}: {name}: {error}"),
            }
        }
        let _ = File::create(path("new")); // either way, but an answer
        daemon.signal(Signal::TERM);
        daemon.wait_until("the daemon ends", |daemon| {
            daemon.child.try_wait().unwrap().is_some()
        });
        assert!(!is_mounted(&sandbox.mnt()), "{suite}");
    }
}
