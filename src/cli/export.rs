//! `strongroom export`: copies a file or tree out of a volume, with modes, times, symlinks, and as root owners. Hard links
//! become files of their own; special files are named and left out. What is damaged is named, and the rest is copied.
//!
//! Invariant: nothing is written outside of the target, which did not exist before.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use indicatif::ProgressBar;

use super::args::{Global, Inside};
use super::exit::{Code, at, explain, failure};
use super::inside::{copy, inside_error, with_node};
use crate::store::{Kind, Time};
use crate::volume::{Attr, Node, Volume};

pub(super) fn export(global: &Global, inside: &Inside, target: &Path) -> anyhow::Result<Code> {
    if target.symlink_metadata().is_ok() {
        return Err(failure(
            Code::Failure,
            format!("{} exists already; name a new target", target.display()),
        ));
    }
    with_node(global, inside, |volume, node, attr| {
        let mut export = Export {
            volume,
            bar: bar(),
            files: 0,
            bytes: 0,
            failed: 0,
        };
        export.object(node, attr, target);
        export.bar.finish_and_clear();
        println!("Copied {} objects, {} bytes.", export.files, export.bytes);
        if export.failed > 0 {
            println!("{} could not be copied.", export.failed);
            return Ok(Code::Damaged);
        }
        Ok(Code::Ok)
    })
}

struct Export<'a> {
    volume: &'a Volume,
    bar: ProgressBar,
    files: u64,
    bytes: u64,
    failed: u64,
}

impl Export<'_> {
    fn object(&mut self, node: &Arc<Node>, attr: &Attr, target: &Path) {
        let copied = match attr.kind {
            Kind::File => self.file(node, attr, target),
            Kind::Dir => self.dir(node, attr, target),
            Kind::Symlink => self.symlink(node, attr, target),
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                Err(failure(Code::Failure, "special files are not copied"))
            }
        };
        match copied {
            Ok(()) => self.files += 1,
            Err(error) => self.fail(target, &error),
        }
        self.bar
            .set_message(format!("{} objects, {} bytes", self.files, self.bytes));
    }

    fn fail(&mut self, target: &Path, error: &anyhow::Error) {
        self.failed += 1;
        let line = format!("strongroom: {}: {}", target.display(), explain(error).1);
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn file(&mut self, node: &Arc<Node>, attr: &Attr, target: &Path) -> anyhow::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target)
            .map_err(at(target))?;
        self.bytes += copy(self.volume, node, target, &mut file)?;
        own(&file, attr, target)
    }

    fn dir(&mut self, node: &Arc<Node>, attr: &Attr, target: &Path) -> anyhow::Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .create(target)
            .map_err(at(target))?;
        let mut from = 0;
        loop {
            let batch = self
                .volume
                .read_dir(node, from)
                .map_err(|error| inside_error(target, error))?;
            let Some(last) = batch.last() else { break };
            from = last.next;
            for entry in &batch {
                let plain = !matches!(entry.name.as_slice(), b"" | b"." | b"..")
                    && !entry.name.contains(&b'/');
                let below = target.join(OsStr::from_bytes(if plain {
                    &entry.name
                } else {
                    b"unnameable"
                }));
                match self.volume.lookup(node, &entry.name) {
                    Ok((child, attr)) if plain => self.object(&child, &attr, &below),
                    Ok(_) => self.fail(&below, &failure(Code::Damaged, "a name that cannot be")),
                    Err(error) => self.fail(&below, &inside_error(&below, error)),
                }
            }
        }
        own(&File::open(target).map_err(at(target))?, attr, target)
    }

    fn symlink(&mut self, node: &Arc<Node>, attr: &Attr, target: &Path) -> anyhow::Result<()> {
        let to = self
            .volume
            .read_link(node)
            .map_err(|error| inside_error(target, error))?;
        std::os::unix::fs::symlink(OsStr::from_bytes(&to), target).map_err(at(target))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(target, Some(attr.uid), Some(attr.gid))
                .map_err(at(target))?;
        }
        Ok(())
    }
}

/// Owner (as root), mode and times, in this order, since each change clears what comes after. Set-id bits are not copied to
/// another owner.
fn own(file: &File, attr: &Attr, target: &Path) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::fchown(file, Some(attr.uid), Some(attr.gid)).map_err(at(target))?;
    }
    let mode = attr.mode & if root { 0o7777 } else { 0o1777 };
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(at(target))?;
    let times = FileTimes::new()
        .set_accessed(system_time(attr.atime))
        .set_modified(system_time(attr.mtime));
    file.set_times(times).map_err(at(target))
}

fn system_time(time: Time) -> SystemTime {
    let nanoseconds = Duration::from_nanos(time.nsec.into());
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    };
    whole
        .and_then(|whole| whole.checked_add(nanoseconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
