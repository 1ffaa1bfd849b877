//! What the operations share: the volume with the tables of what the kernel knows of it.

use std::sync::Arc;

use fuser::{FileHandle, Generation, INodeNo, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handles::Handles;
use super::inodes::Inodes;
use super::kernel::Agreed;
use super::near;
use super::opened::by_number;
use super::options::MountOptions;
use super::pace;
use super::syncs::Syncs;
use super::xattrs;
use crate::volume::{Attr, Error, Node, OpenFile, Result, SetAttr, Volume};

/// One generation of inode numbers: a number is not given again while the kernel knows it.
pub(super) const GENERATION: Generation = Generation(0);

/// The handle of every file, where the kernel opens by itself.
const NO_HANDLE: u64 = 0;

/// Set in the number of a request that is sent again (FUSE_UNIQUE_RESEND of linux/fuse.h).
const AGAIN: u64 = 1 << 63;

/// A volume as fuser serves it.
pub(super) struct Adapter {
    pub(super) volume: Arc<Volume>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) handles: Arc<Handles>,
    pub(super) agreed: Agreed,
    pub(super) want_writeback: bool,
    /// Whether the kernel may open files by itself: not where another process must find them open, nor where opening one
    /// later could fail.
    pub(super) may_refuse_open: bool,
    pub(super) syncs: Syncs,
    /// Whether serving threads go where the programs are that they serve.
    tune: bool,
}

impl Adapter {
    /// Serves a volume that nobody else writes.
    pub(super) fn new(volume: Arc<Volume>, options: &MountOptions) -> Self {
        Self {
            inodes: Arc::new(Inodes::new(volume.root(), volume.nodes())),
            handles: Arc::default(),
            agreed: Agreed::default(),
            want_writeback: options.writeback,
            may_refuse_open: !options.supervise && volume.can_open_by_need(),
            syncs: Syncs::new(options.thread_count()),
            tune: options.tune,
            volume,
        }
    }

    /// The same, for another session with the kernel: it knows what this one does.
    pub(super) fn again(&self) -> Self {
        Self {
            volume: Arc::clone(&self.volume),
            inodes: Arc::clone(&self.inodes),
            handles: Arc::clone(&self.handles),
            agreed: Agreed::default(),
            want_writeback: self.want_writeback,
            may_refuse_open: self.may_refuse_open,
            syncs: self.syncs.clone(),
            tune: self.tune,
        }
    }

    /// Before a request with so many bytes of content, of those kinds that programs send many of and wait for.
    pub(super) fn come_to(&self, request: &Request, content: usize) {
        if self.tune {
            pace::moved(content);
            near::come_to(request.pid(), content);
        }
    }

    /// The node of a number; ESTALE for an unknown one.
    pub(super) fn node(&self, number: INodeNo) -> Result<Arc<Node>> {
        self.inodes.find(number)
    }

    /// Does the work of a request that must not be done twice where another process may get it again.
    pub(super) fn once<T: Serialize + DeserializeOwned>(
        &self,
        request: &Request,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let number = request.unique().0;
        self.volume.once(number & !AGAIN, number & AGAIN != 0, work)
    }

    /// Gives an open file a number, which the log knows before the kernel does.
    pub(super) fn opened(&self, file: OpenFile) -> Result<u64> {
        if self.agreed.no_open {
            self.volume.keep_open(file);
            return Ok(NO_HANDLE);
        }
        let number = self.handles.next();
        self.volume.log_opened(number, &file)?;
        self.handles.put(number, file);
        Ok(number)
    }

    /// What a request names: an open file by its number, or one that the kernel opened by itself.
    pub(super) fn file(
        &self,
        number: INodeNo,
        handle: FileHandle,
        write: bool,
    ) -> Result<Arc<OpenFile>> {
        if handle.0 != NO_HANDLE {
            return self.handles.find(handle);
        }
        let node = self.inodes.find(number)?;
        by_number(&node, self.volume.file(&node, write))
    }

    /// Counts a lookup of a node that is about to be named to the kernel.
    pub(super) fn named(&self, (node, attr): (Arc<Node>, Attr)) -> Result<Attr> {
        self.inodes.remember(&node);
        Ok(attr)
    }

    /// As `named`, for what was just made without set-id bits: it has no capabilities either.
    pub(super) fn made(&self, (node, attr): (Arc<Node>, Attr)) -> Result<(Arc<Node>, Attr)> {
        self.inodes.remember(&node);
        node.capability().clear(|| Ok(()))?;
        if attr.mode & 0o6000 == 0 {
            node.set_id().clear(|| Ok(()))?;
        }
        Ok((node, attr))
    }

    /// Clears what a change of the content must clear: capabilities always, set-id bits unless root made it.
    pub(super) fn drop_privileges(&self, node: &Arc<Node>, set_id: bool) -> Result<()> {
        if set_id {
            let kill = SetAttr {
                kill_suid: true,
                ..SetAttr::default()
            };
            node.set_id()
                .clear(|| self.volume.set_attr(node, &kill, None).map(drop))?;
        }
        node.capability()
            .clear(|| xattrs::drop_capability(&self.volume, node))
    }

    /// Reads into a buffer; the part of it that was read.
    pub(super) fn read_at<'a>(
        &self,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let file = self.file(number, handle, false)?;
        let len = self.volume.read(&file, offset, buffer)?;
        buffer.get(..len).ok_or_else(|| Error::errno(libc::EIO))
    }

    /// Writes, with what that clears; `set_id`: the set-id bits too.
    pub(super) fn write_at(
        &self,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        set_id: bool,
    ) -> Result<usize> {
        let file = self.file(number, handle, true)?;
        self.drop_privileges(file.node(), set_id)?;
        self.volume.write(&file, offset, data)
    }

    /// The kernel takes back lookups of a node; with the last, where it opens by itself, it has that open no more.
    pub(super) fn let_go(&self, number: INodeNo, lookups: u64) {
        let node = self.inodes.forget(number.0, lookups);
        if let Some(node) = node.filter(|node| self.agreed.no_open && node.holds() == 0) {
            self.handles.release_all_of(node.id());
            self.volume.let_go_file(&node);
        }
    }

    /// setattr of one inode.
    pub(super) fn change_attr(
        &self,
        number: INodeNo,
        handle: Option<FileHandle>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let node = self.inodes.find(number)?;
        // Only a change of the size goes through it.
        let handle = handle.filter(|_| set.size.is_some());
        let handle = handle.and_then(|handle| self.file(number, handle, true).ok());
        if set.size.is_some() {
            self.drop_privileges(&node, set.kill_suid)?;
        }
        let set = SetAttr {
            unprivileged: node.set_id().are_clear() && node.capability().are_clear(),
            ..*set
        };
        let handle = handle.as_deref();
        let changed = self.volume.set_attr(&node, &set, handle);
        if set.mode.is_some() {
            node.set_id().may_be_set();
        }
        by_number(&node, changed)
    }

    /// Does something to an object that the kernel names by its number.
    pub(super) fn on<T>(
        &self,
        number: INodeNo,
        work: impl FnOnce(&Arc<Node>) -> Result<T>,
    ) -> Result<T> {
        let node = self.node(number)?;
        by_number(&node, work(&node))
    }
}
