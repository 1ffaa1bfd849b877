//! Every request and every system call that ordinary work costs, exactly: what a change adds or saves shows here. A mount
//! with one serving thread, traced.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "counts/trace.rs"]
mod trace;

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use support::Sandbox;
use support::daemon::Daemon;
use trace::Trace;

/// A mount whose every request is told.
struct Counted {
    mnt: PathBuf,
    trace: Trace,
    wanted: Vec<(&'static str, &'static str)>,
}

impl Counted {
    fn on(sandbox: &Sandbox, daemon: &Daemon) -> Self {
        let mnt = sandbox.mnt();
        Self {
            trace: Trace::of(daemon.pid(), &mnt, sandbox.path("strace.log")),
            mnt,
            wanted: Vec::new(),
        }
    }

    /// Does some work; what it costs is not looked at.
    fn prepare(&mut self, work: impl FnOnce(&Path)) {
        work(&self.mnt);
        // What the last change let the kernel forget of the top directory is asked for here, not in what is counted.
        fs::metadata(&self.mnt).unwrap();
        self.trace.mark();
        self.wanted.push(("", ""));
    }

    /// Does some work, which must cost this.
    fn costs<T>(
        &mut self,
        what: &'static str,
        wanted: &'static str,
        work: impl FnOnce(&Path) -> T,
    ) -> T {
        self.prepare(|_| {});
        let done = work(&self.mnt);
        self.trace.mark();
        self.wanted.push((what, wanted));
        done
    }

    fn check(self) {
        let seen = self.trace.end(self.wanted.len());
        let differ =
            |((what, wanted), seen): &(&(&str, &str), &String)| !what.is_empty() && wanted != seen;
        let wrong: Vec<_> = self
            .wanted
            .iter()
            .zip(&seen)
            .filter(differ)
            .map(|((what, wanted), seen)| format!("{what}\n  wanted {wanted}\n  seen   {seen}"))
            .collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

fn write_new(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn read_whole(path: &Path) {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY, Mode::empty()).unwrap();
    let mut bytes = vec![0; 1 << 16];
    while rustix::io::read(&file, &mut bytes).unwrap() > 0 {}
}

/// As tar does: owner, mode and times after the content.
fn unpack(path: &Path, bytes: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)).unwrap();
    rustix::io::write(&file, bytes).unwrap();
    let time = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(&file, &times).unwrap();
    rustix::fs::fchown(
        file.as_fd(),
        Some(Uid::from_raw(1000)),
        Some(Gid::from_raw(1000)),
    )
    .unwrap();
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).unwrap();
}

fn list_with_attributes(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
}

/// A volume of this cipher, mounted with one thread, with a few files that are settled.
fn with_volume(cipher: &str, work: impl FnOnce(&mut Counted)) {
    let sandbox = Sandbox::with_volume(cipher);
    sandbox.mount();
    let mnt = sandbox.mnt();
    for name in ["old", "moved", "gone"] {
        fs::write(mnt.join(name), [7; 3000]).unwrap();
    }
    fs::write(mnt.join("large"), vec![7; 1 << 20]).unwrap();
    for dir in ["dir", "other"] {
        fs::create_dir(mnt.join(dir)).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(mnt.join(dir).join(name), "some text").unwrap();
        }
    }
    fs::create_dir(mnt.join("empty")).unwrap();
    sandbox.umount();
    let daemon = Daemon::with(&sandbox, "max-threads=1,no-tune");
    let mut counted = Counted::on(&sandbox, &daemon);
    // What the kernel asks for once in a mount, and believes the refusal: OPEN, FLUSH, OPENDIR, STATX.
    counted.prepare(|mnt| {
        list_with_attributes(&mnt.join("other"));
        read_whole(&mnt.join("other/a"));
    });
    work(&mut counted);
    counted.check();
}

#[test]
fn making_things_costs_no_more_than_this() {
    with_volume("aes-256-gcm-siv", |mount| {
        mount.prepare(|mnt| write_new(&mnt.join("first"), b"x"));
        mount.costs(
            "create, write, close",
            "LOOKUP:newfstatat CREATE:openat,fstat GETXATTR WRITE:ftruncate,pwritev",
            |mnt| write_new(&mnt.join("new"), &[1; 3000]),
        );
        mount.costs(
            "create, write, set owner, mode and times, close",
            "LOOKUP:newfstatat CREATE:openat,fstat GETXATTR WRITE:ftruncate,pwritev SETATTR:utimensat,fstat GETXATTR SETATTR:fchown,fstat SETATTR:fchmod,fstat",
            |mnt| {
                unpack(&mnt.join("unpacked"), &[1; 5000]);
            },
        );
        mount.costs(
            "mkdir",
            "LOOKUP:newfstatat MKDIR:newfstatat,mkdirat,newfstatat",
            |mnt| fs::create_dir(mnt.join("made")).unwrap(),
        );
        mount.costs("the first file of a new directory", "LOOKUP:openat,fstat,newfstatat CREATE:fstat,fgetxattr,openat,fstat GETXATTR WRITE:ftruncate,pwritev", |mnt| {
            write_new(&mnt.join("made/first"), b"x");
        });
        mount.costs(
            "symlink",
            "LOOKUP:newfstatat SYMLINK:symlinkat,newfstatat",
            |mnt| std::os::unix::fs::symlink("target", mnt.join("link")).unwrap(),
        );
    });
}

#[test]
fn reading_costs_no_more_than_this() {
    with_volume("aes-256-gcm-siv", |mount| {
        mount.costs("stat, cold", "LOOKUP:newfstatat", |mnt| {
            fs::metadata(mnt.join("moved")).unwrap()
        });
        mount.costs("stat, warm", "", |mnt| {
            fs::metadata(mnt.join("moved")).unwrap()
        });
        mount.costs(
            "a name that is not there, cold",
            "LOOKUP:newfstatat",
            |mnt| fs::metadata(mnt.join("none")).unwrap_err(),
        );
        mount.costs("a name that is not there, warm", "", |mnt| {
            fs::metadata(mnt.join("none")).unwrap_err()
        });
        mount.costs(
            "open, read, close, cold",
            "LOOKUP:newfstatat READ:openat,fstat,pread64,pread64",
            |mnt| read_whole(&mnt.join("old")),
        );
        mount.costs("open, read, close, in the kernel's cache", "", |mnt| {
            read_whole(&mnt.join("old"))
        });
        mount.costs("open to write, close", "", |mnt| {
            File::options().append(true).open(mnt.join("old")).unwrap()
        });
        mount.costs("ls -l of three files, cold", "LOOKUP:newfstatat READDIRPLUS:openat,fstat,openat,openat,lseek,getdents64,newfstatat,newfstatat,newfstatat READDIRPLUS:lseek,getdents64,close", |mnt| {
            list_with_attributes(&mnt.join("dir"))
        });
        mount.costs("ls -l of three files, warm", "GETATTR:newfstatat", |mnt| {
            list_with_attributes(&mnt.join("dir"))
        });
    });
}

#[test]
fn changing_things_costs_no_more_than_this() {
    with_volume("aes-256-gcm-siv", |mount| {
        let large = File::options()
            .write(true)
            .open(mount.mnt.join("large"))
            .unwrap();
        mount.prepare(|_| large.write_all_at(&[1; 4096], 0).unwrap());
        mount.costs(
            "overwrite 4 KiB of a group whose records were not read yet",
            "WRITE:pread64,pwrite64,pwrite64",
            |_| large.write_all_at(&[2; 4096], 409_600).unwrap(),
        );
        mount.costs("overwrite 4 KiB", "WRITE:pwrite64,pwrite64", |_| {
            large.write_all_at(&[3; 4096], 405_504).unwrap();
        });
        mount.costs(
            "overwrite 4 KiB, fdatasync",
            "WRITE:pwrite64,pwrite64 FSYNC:fdatasync",
            |_| {
                large.write_all_at(&[4; 4096], 413_696).unwrap();
                large.sync_data().unwrap();
            },
        );
        mount.costs("fdatasync of what is durable", "FSYNC", |_| {
            large.sync_data().unwrap()
        });
        let log = File::options()
            .append(true)
            .open(mount.mnt.join("old"))
            .unwrap();
        mount.prepare(|_| (&log).write_all(&[1; 100]).unwrap());
        mount.costs(
            "append 100 bytes",
            "WRITE:ftruncate,pread64,pwrite64,pwrite64,pwrite64",
            |_| (&log).write_all(&[2; 100]).unwrap(),
        );
        let end = File::options()
            .append(true)
            .open(mount.mnt.join("large"))
            .unwrap();
        mount.prepare(|_| (&end).write_all(&[1; 4096]).unwrap());
        mount.costs(
            "append 4 KiB",
            "WRITE:ftruncate,pwrite64,pwrite64,pwrite64",
            |_| (&end).write_all(&[2; 4096]).unwrap(),
        );
    });
}

#[test]
fn names_cost_no_more_than_this() {
    with_volume("aes-256-gcm-siv", |mount| {
        // Held, so that the kernel knows the names whatever becomes of its caches meanwhile.
        let hold = |name| {
            rustix::fs::openat(CWD, mount.mnt.join(name), OFlags::PATH, Mode::empty()).unwrap()
        };
        let _held = ["moved", "gone", "empty"].map(hold);
        mount.prepare(|_| {});
        mount.costs("rename a settled file", "LOOKUP:newfstatat RENAME:newfstatat,newfstatat,openat,fstat,pread64,fstat,pwrite64,fdatasync,fstat,utimensat,renameat2", |mnt| {
            fs::rename(mnt.join("moved"), mnt.join("there")).unwrap()
        });
        mount.costs(
            "unlink",
            "UNLINK:newfstatat,openat,fstat,unlinkat,fstat",
            |mnt| fs::remove_file(mnt.join("gone")).unwrap(),
        );
        mount.costs("rmdir", "RMDIR:newfstatat,newfstatat,unlinkat", |mnt| {
            fs::remove_dir(mnt.join("empty")).unwrap()
        });
        mount.prepare(|mnt| {
            let file = File::create(mnt.join("new")).unwrap();
            (&file).write_all(b"some text").unwrap();
            file.sync_all().unwrap();
        });
        mount.costs("rename a file just written and synced", "LOOKUP:newfstatat RENAME:newfstatat,newfstatat,fstat,pwrite64,fstat,utimensat,openat,fstat,renameat2,fstat", |mnt| {
            fs::rename(mnt.join("new"), mnt.join("old")).unwrap();
        });
    });
}

#[test]
fn without_tags_it_costs_no_more_than_this() {
    with_volume("aes-256-xts", |mount| {
        mount.prepare(|mnt| write_new(&mnt.join("first"), b"x"));
        mount.costs(
            "create, write, close",
            "LOOKUP:newfstatat CREATE:openat,fstat GETXATTR WRITE:ftruncate,pwritev",
            |mnt| write_new(&mnt.join("new"), &[1; 3000]),
        );
        let large = File::options()
            .write(true)
            .open(mount.mnt.join("large"))
            .unwrap();
        mount.prepare(|_| large.write_all_at(&[1; 4096], 0).unwrap());
        mount.costs("overwrite 4 KiB", "WRITE:pwrite64", |_| {
            large.write_all_at(&[2; 4096], 409_600).unwrap()
        });
        let end = File::options()
            .append(true)
            .open(mount.mnt.join("large"))
            .unwrap();
        mount.prepare(|_| (&end).write_all(&[1; 4096]).unwrap());
        mount.costs("append 4 KiB", "WRITE:ftruncate,pwrite64", |_| {
            (&end).write_all(&[2; 4096]).unwrap()
        });
    });
}
