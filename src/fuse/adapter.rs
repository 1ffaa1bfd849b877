//! The FUSE operations, each one call of the volume.
//!
//! Every request that Linux sends to a mount like ours has its method here, because fuser's defaults log a warning each (not
//! here: locks and access checks, which the kernel keeps, and bmap, which only mounts of block devices get). Permissions are the
//! kernel's to check (default_permissions); set-id bits and capabilities are ours to clear (HANDLE_KILLPRIV_V2).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::answer::{answer, fill, unanswered};
use super::attr::{TTL, bare_attr, file_attr, file_type, kind_of_mode, time_spec};
use super::dirs::{self, Offered};
use super::handles::with_buffer;
use super::kernel;
use super::served::{Adapter, GENERATION};
use super::{opened, xattrs};
use crate::store::Kind;
use crate::volume::{Attr, Caller, Error, SetAttr};

fn caller(request: &Request, umask: u32) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        umask,
    }
}

fn is_root(request: &Request) -> bool {
    request.uid() == 0
}

fn send_entry(reply: ReplyEntry, attr: Attr) {
    reply.entry(&TTL, &file_attr(&attr), GENERATION);
}

fn send_attr(reply: ReplyAttr, attr: Attr) {
    reply.attr(&TTL, &file_attr(&attr));
}

fn send_ok(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agreed = kernel::agree(config, self.want_writeback, self.may_refuse_open)?;
        if self.agreed.no_open {
            self.volume.open_by_need();
        }
        Ok(())
    }

    /// A name that is not there is told as number 0, so that the kernel remembers that too.
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.come_to(request, 0);
        let found = || match self.volume.lookup(&self.node(parent)?, name.as_bytes()) {
            Ok(found) => Ok(file_attr(&self.named(found)?)),
            Err(error) if opened::is(&error, libc::ENOENT) => Ok(bare_attr(0, Kind::File)),
            Err(error) => Err(error),
        };
        answer("lookup", reply, found, |reply, attr| {
            reply.entry(&TTL, &attr, GENERATION)
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        unanswered("forget", || self.let_go(number, lookups));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer(
            "getattr",
            reply,
            || self.volume.attr(&self.node(number)?),
            send_attr,
        );
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>, // the store sets it
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.come_to(request, 0);
        let kill_suid = size.is_some() && !is_root(request);
        let (atime, mtime) = (atime.map(time_spec), mtime.map(time_spec));
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            kill_suid,
            unprivileged: false, // found out below
        };
        answer(
            "setattr",
            reply,
            || self.change_attr(number, handle, &set),
            send_attr,
        );
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let target = || self.on(number, |node| self.volume.read_link(node));
        answer("readlink", reply, target, |reply, target| {
            reply.data(&target)
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            let kind = kind_of_mode(mode).ok_or_else(|| Error::errno(libc::EINVAL))?;
            let (parent, caller) = (self.node(parent)?, caller(request, umask));
            let made = self.volume.make_node(
                &parent,
                name.as_bytes(),
                kind,
                mode & 0o7777,
                rdev.into(),
                &caller,
            )?;
            Ok(self.made(made)?.1)
        };
        answer("mknod", reply, || self.once(request, make), send_entry);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            let (parent, caller) = (self.node(parent)?, caller(request, umask));
            self.named(
                self.volume
                    .make_dir(&parent, name.as_bytes(), mode & 0o7777, &caller)?,
            )
        };
        answer("mkdir", reply, || self.once(request, make), send_entry);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.come_to(request, 0);
        let remove = || self.volume.unlink(&self.node(parent)?, name.as_bytes());
        answer("unlink", reply, || self.once(request, remove), send_ok);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.volume.remove_dir(&self.node(parent)?, name.as_bytes());
        answer("rmdir", reply, || self.once(request, remove), send_ok);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let make = || {
            let (parent, caller) = (self.node(parent)?, caller(request, 0));
            let target = target.as_os_str().as_bytes();
            self.named(
                self.volume
                    .make_symlink(&parent, name.as_bytes(), target, &caller)?,
            )
        };
        answer("symlink", reply, || self.once(request, make), send_entry);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let mode = opened::rename_mode(flags)?;
            let (parent, new_parent) = (self.node(parent)?, self.node(new_parent)?);
            self.volume.rename(
                &parent,
                name.as_bytes(),
                &new_parent,
                new_name.as_bytes(),
                mode,
            )
        };
        answer("rename", reply, || self.once(request, rename), send_ok);
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        new_parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let link = || {
            let node = self.node(number)?;
            let attr = self
                .volume
                .link(&node, &self.node(new_parent)?, name.as_bytes())?;
            self.named((node, attr))
        };
        answer("link", reply, || self.once(request, link), send_entry);
    }

    fn open(&self, request: &Request, number: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        if self.agreed.no_open {
            return reply.error(Errno::ENOSYS);
        }
        self.come_to(request, 0);
        let open = || {
            self.volume.room_to_open()?;
            let node = self.inodes.find(number)?;
            let file = self.open_file(&node, flags.0, is_root(request))?;
            self.opened(file)
        };
        answer(
            "open",
            reply,
            || self.once(request, open),
            |reply, handle| reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.come_to(request, 0);
        let create = || {
            let (parent, caller) = (self.node(parent)?, caller(request, umask));
            self.create_file(&parent, name, mode & 0o7777, flags, &caller)
        };
        answer(
            "create",
            reply,
            || self.once(request, create),
            |reply, (attr, handle)| {
                let (attr, keep) = (file_attr(&attr), FopenFlags::FOPEN_KEEP_CACHE);
                reply.created(&TTL, &attr, GENERATION, FileHandle(handle), keep);
            },
        );
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.come_to(request, size as usize);
        with_buffer(size as usize, |buffer| {
            answer(
                "read",
                reply,
                move || self.read_at(number, handle, offset, buffer),
                |reply, data| reply.data(data),
            );
        });
    }

    /// Where the kernel says, also for a file opened to append: it holds the size, and pages of a shared mapping are
    /// written through any handle.
    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.come_to(request, data.len());
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let write = || self.write_at(number, handle, offset, data, kill);
        answer("write", reply, write, |reply, len| {
            reply.written(len as u32)
        });
    }

    /// Nothing is held back until close; refused once, the kernel asks no more.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let release = || {
            self.handles.release(handle);
            self.volume.log_closed(handle.0);
            Ok(())
        };
        answer("release", reply, release, send_ok);
    }

    fn fsync(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.come_to(request, 0);
        let (volume, file) = (Arc::clone(&self.volume), self.file(number, handle, false));
        let sync = move || volume.fsync(&*file?, data_only);
        self.syncs.run(|| answer("fsync", reply, sync, send_ok));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: fuser::OpenFlags, reply: ReplyOpen) {
        if self.agreed.no_opendir {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            );
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let list = |reply: &mut ReplyDirectory| {
            dirs::list(&self.volume, &self.inodes.find(number)?, offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                let kind = file_type(entry.kind);
                let full = reply.add(INodeNo(entry.id), entry.next, kind, name);
                Ok(Offered::of_full(full))
            })
        };
        fill("readdir", reply, list, ReplyDirectory::ok);
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let list = |reply: &mut ReplyDirectoryPlus| {
            let directory = self.inodes.find(number)?;
            dirs::list(&self.volume, &directory, offset, |entry| {
                dirs::add_plus(self, &directory, entry, reply)
            })
        };
        fill("readdirplus", reply, list, ReplyDirectoryPlus::ok);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(
            "fsyncdir",
            reply,
            || self.volume.fsync_dir(&self.node(number)?),
            send_ok,
        );
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        answer(
            "statfs",
            reply,
            || self.volume.usage(),
            |reply, usage| {
                let (unit, name_max) = (usage.block_size as u32, usage.name_max as u32);
                let (files, files_free) = (usage.files, usage.files_free);
                reply.statfs(
                    usage.blocks,
                    usage.free,
                    usage.available,
                    files,
                    files_free,
                    unit,
                    name_max,
                    unit,
                );
            },
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = || {
            xattrs::set(
                self,
                &self.inodes.find(number)?,
                name.as_bytes(),
                value,
                flags,
            )
        };
        answer("setxattr", reply, || self.once(request, set), send_ok);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = || {
            let value = xattrs::value(self, &self.inodes.find(number)?, name.as_bytes());
            xattrs::fitting(value?, size)
        };
        answer("getxattr", reply, value, |reply, value| {
            xattrs::send(reply, &value, size)
        });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || {
            let names = self.on(number, |node| self.volume.xattr_names(node))?;
            xattrs::fitting(xattrs::joined(&names, is_root(request)), size)
        };
        answer("listxattr", reply, list, |reply, names| {
            xattrs::send(reply, &names, size)
        });
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.on(number, |node| xattrs::remove(self, node, name.as_bytes()));
        answer("removexattr", reply, || self.once(request, remove), send_ok);
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate = || {
            let how = opened::fallocate_mode(mode)?;
            let file = self.file(number, handle, true)?;
            self.drop_privileges(file.node(), !is_root(request))?;
            self.volume.allocate(&file, how, offset, len)
        };
        answer("fallocate", reply, allocate, send_ok);
    }

    fn lseek(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = || {
            let to = opened::seek_to(whence)?;
            let offset = u64::try_from(offset).map_err(|_| Error::errno(libc::ENXIO))?;
            let found = self
                .volume
                .seek(&*self.file(number, handle, false)?, offset, to)?;
            i64::try_from(found).map_err(|_| Error::errno(libc::EOVERFLOW))
        };
        answer("lseek", reply, seek, ReplyLseek::offset);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from_number: INodeNo,
        from: FileHandle,
        from_offset: u64,
        to_number: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copy = || {
            let from = self.file(from_number, from, false)?;
            let to = self.file(to_number, to, true)?;
            self.drop_privileges(to.node(), !is_root(request))?;
            let len = len.min(u64::from(u32::MAX)); // the reply counts in 32 bits
            self.volume
                .copy_range(&from, from_offset, &to, to_offset, len)
        };
        answer("copy_file_range", reply, copy, |reply, copied| {
            reply.written(copied as u32)
        });
    }

    fn ioctl(
        &self,
        _: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _room: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
