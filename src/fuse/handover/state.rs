//! What is known of a mount, as it goes from one process to another: JSON in a sealed memory file. Nothing in it is a key, and names
//! are as they are stored.

use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use super::Connection;
use crate::fuse::handshake::Handshake;
use crate::volume::{Carried, CarriedFile, CarriedNode, Error, Result};

/// The form of all this, which is understood like those before it. 2: the kernel may open files by itself.
const FORM: u32 = 2;

/// What comes before the lists, and how long those are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    form: u32,
    /// The version of the program that wrote it, for people.
    pub(super) program: String,
    pub(super) handshake: Handshake,
    pub(super) last_handle: u64,
    /// Whether something failed that forbids a clean end.
    pub(super) unclean: bool,
    nodes: usize,
    lookups: usize,
    files: usize,
    handles: usize,
}

/// How often the kernel looked a node up.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lookups {
    pub(super) node: u64,
    pub(super) count: u64,
}

/// An open file as the kernel knows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) node: u64,
    /// Its place among the files.
    pub(super) file: usize,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// All of it.
pub(super) struct State {
    pub(super) head: Head,
    pub(super) nodes: Vec<CarriedNode>,
    pub(super) lookups: Vec<Lookups>,
    pub(super) files: Vec<CarriedFile>,
    pub(super) handles: Vec<Opened>,
}

/// What is known of a mount at rest, and the files that are open in it.
pub(super) fn of(connection: &Connection) -> Result<(State, Carried)> {
    let adapter = &connection.adapter;
    let mut carried = Carried::default();
    let mut lookups = Vec::new();
    for (node, count) in adapter.inodes.all() {
        carried.add_node(&node)?;
        let node = node.id();
        lookups.push(Lookups { node, count });
    }
    let mut handles = Vec::new();
    for (number, file) in adapter.handles.all() {
        let flags = file.flags();
        handles.push(Opened {
            number,
            node: file.node().id(),
            file: carried.add_open(&file)?,
            read: flags.read,
            write: flags.write, // what was to be cut is cut, and the kernel says where to append
        });
    }
    let (nodes, files) = (
        std::mem::take(&mut carried.nodes),
        std::mem::take(&mut carried.files),
    );
    let head = Head {
        form: FORM,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        handshake: connection.handshake.clone(),
        last_handle: adapter.handles.last(),
        unclean: adapter.volume.predecessor().unclean,
        nodes: nodes.len(),
        lookups: lookups.len(),
        files: files.len(),
        handles: handles.len(),
    };
    let state = State {
        head,
        nodes,
        lookups,
        files,
        handles,
    };
    Ok((state, carried))
}

impl State {
    /// Writes it into a memory file that nobody can change afterwards.
    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("strongroom", flags)?;
        let mut out = BufWriter::with_capacity(1 << 20, To(&memory));
        serde_json::to_writer(&mut out, &self.head)?;
        each(&mut out, &self.nodes)?;
        each(&mut out, &self.lookups)?;
        each(&mut out, &self.files)?;
        each(&mut out, &self.handles)?;
        out.flush()?;
        drop(out);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok(memory)
    }

    /// Reads it.
    pub(super) fn read(memory: &OwnedFd) -> Result<Self> {
        let bytes = whole(memory)?;
        let mut input = serde_json::Deserializer::from_slice(&bytes);
        let head = Head::deserialize(&mut input).map_err(unreadable)?;
        if !(1..=FORM).contains(&head.form) {
            let program = &head.program;
            return Err(Error::Damaged(format!(
                "the mount is served by version {program}, which leaves it in another form: unmount and mount again"
            )));
        }
        Ok(Self {
            nodes: some(&mut input, head.nodes)?,
            lookups: some(&mut input, head.lookups)?,
            files: some(&mut input, head.files)?,
            handles: some(&mut input, head.handles)?,
            head,
        })
    }
}

fn each<T: Serialize>(out: &mut impl Write, all: &[T]) -> io::Result<()> {
    for one in all {
        out.write_all(b"\n")?;
        serde_json::to_writer(&mut *out, one)?;
    }
    Ok(())
}

fn some<'a, T: Deserialize<'a>>(
    input: &mut serde_json::Deserializer<serde_json::de::SliceRead<'a>>,
    count: usize,
) -> Result<Vec<T>> {
    (0..count)
        .map(|_| T::deserialize(&mut *input).map_err(unreadable))
        .collect()
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Damaged(format!("what the other process left: {error}"))
}

pub(in crate::fuse) fn whole(memory: &OwnedFd) -> io::Result<Vec<u8>> {
    let len = usize::try_from(rustix::fs::fstat(memory)?.st_size).unwrap_or_default();
    let mut bytes = vec![0; len];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match rustix::io::retry_on_intr(|| rustix::io::pread(memory, &mut *rest, at as u64))? {
            0 => break,
            read => at += read,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

struct To<'a>(&'a OwnedFd);

impl Write for To<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::write(self.0.as_fd(), bytes)
        })?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
