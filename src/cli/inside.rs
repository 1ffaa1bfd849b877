//! `ls` and `cat` of a path in a volume without FUSE, and what `export` shares with them.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use serde_json::json;

use super::args::{Global, Inside};
use super::exit::{Code, failure};
use super::{mounts, opening, text};
use crate::store::Kind;
use crate::volume::{Attr, Error, Node, OpenFlags, Volume};

/// Bytes of one read.
pub(super) const CHUNK: usize = 1 << 20;

/// Opens the volume read-only, does the work on what the path names, and closes it.
pub(super) fn with_node<T>(
    global: &Global,
    inside: &Inside,
    work: impl FnOnce(&Volume, &Arc<Node>, &Attr) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let found = mounts::find(&inside.directory)?;
    if let Some(mounted) = &found.mounted {
        let at = mounted.mountpoint.display();
        return Err(failure(
            Code::InUse,
            format!("the volume is mounted at {at}: look there, or unmount it first"),
        ));
    }
    let volume = opening::open(global, &found.vault, &inside.trust, true)?.volume;
    let done = walk(&volume, &inside.path).and_then(|(node, attr)| work(&volume, &node, &attr));
    let closed = volume.close();
    let done = done?;
    closed?;
    Ok(done)
}

/// Follows a path from the root of the volume; symlinks are not followed.
fn walk(volume: &Volume, path: &Path) -> anyhow::Result<(Arc<Node>, Attr)> {
    let mut node = volume.root();
    let mut attr = volume.attr(&node)?;
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name,
            Component::ParentDir | Component::Prefix(_) => {
                return Err(failure(Code::Usage, "a path inside a volume has no \"..\""));
            }
        };
        (node, attr) = volume
            .lookup(&node, name.as_bytes())
            .map_err(|error| inside_error(path, error))?;
    }
    Ok((node, attr))
}

/// A sentence with the path, for what POSIX refuses; else the error as it is.
pub(super) fn inside_error(path: &Path, error: Error) -> anyhow::Error {
    match error {
        Error::Refused(errno) => said(path, &io::Error::from_raw_os_error(errno)),
        Error::Store(error) => said(path, &error),
        other => other.into(),
    }
}

fn said(path: &Path, error: &io::Error) -> anyhow::Error {
    failure(
        Code::Failure,
        format!("{} in the volume: {error}", path.display()),
    )
}

pub(super) fn ls(global: &Global, inside: &Inside, json: bool) -> anyhow::Result<()> {
    with_node(global, inside, |volume, node, attr| {
        let mut entries = Vec::new();
        if attr.kind == Kind::Dir {
            let mut from = 0;
            loop {
                let batch = volume.read_dir(node, from)?;
                let Some(last) = batch.last() else { break };
                from = last.next;
                for entry in batch {
                    let attr = volume.lookup(node, &entry.name).map(|(_, attr)| attr);
                    entries.push((entry.name, attr));
                }
            }
        } else {
            let name = inside
                .path
                .file_name()
                .unwrap_or_default()
                .as_bytes()
                .to_vec();
            entries.push((name, Ok(*attr)));
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        show(&entries, json)
    })
}

type Listed = (Vec<u8>, Result<Attr, Error>);

fn show(entries: &[Listed], json: bool) -> anyhow::Result<()> {
    let out = &mut std::io::stdout().lock();
    if json {
        let list: Vec<_> = entries.iter().map(entry_json).collect();
        writeln!(out, "{}", json!({ "entries": list }))?;
        return Ok(());
    }
    for (name, attr) in entries {
        match attr {
            Ok(attr) => write!(
                out,
                "{}{:04o} {:>5} {:>5} {:>12} {} ",
                letter(attr.kind),
                attr.mode & 0o7777,
                attr.uid,
                attr.gid,
                attr.size,
                text::date(u64::try_from(attr.mtime.sec).unwrap_or(0))
            )?,
            Err(error) => write!(out, "? ({error}) ")?,
        }
        out.write_all(name)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn entry_json((name, attr): &Listed) -> serde_json::Value {
    let name = String::from_utf8_lossy(name);
    match attr {
        Ok(attr) => json!({
            "name": name,
            "kind": format!("{:?}", attr.kind).to_lowercase(),
            "mode": attr.mode & 0o7777,
            "uid": attr.uid,
            "gid": attr.gid,
            "size": attr.size,
            "mtime": attr.mtime.sec,
        }),
        Err(error) => json!({ "name": name, "error": error.to_string() }),
    }
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    }
}

pub(super) fn cat(global: &Global, inside: &Inside) -> anyhow::Result<()> {
    with_node(global, inside, |volume, node, attr| {
        if attr.kind != Kind::File {
            return Err(failure(
                Code::Failure,
                format!("{} is not a regular file", inside.path.display()),
            ));
        }
        copy(volume, node, &inside.path, &mut std::io::stdout().lock())?;
        Ok(())
    })
}

/// Writes a file's content; how many bytes.
pub(super) fn copy(
    volume: &Volume,
    node: &Arc<Node>,
    path: &Path,
    out: &mut dyn Write,
) -> anyhow::Result<u64> {
    let flags = OpenFlags {
        read: true,
        ..OpenFlags::default()
    };
    let file = volume
        .open(node, flags)
        .map_err(|error| inside_error(path, error))?;
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = volume
            .read(&file, offset, &mut buffer)
            .map_err(|error| inside_error(path, error))?;
        let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else {
            break;
        };
        out.write_all(data)?;
        offset += length as u64;
    }
    out.flush()?;
    Ok(offset)
}
