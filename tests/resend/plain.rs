//! A server that passes one flat directory through. It keeps nothing between requests: a node's number is the inode's, a
//! handle's too, so a successor needs no table. That is what Strongroom's daemon cannot do.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::intents::{AGAIN, Intent, Intents};

const TTL: Duration = Duration::from_secs(3600);

pub struct Plain {
    pub dir: PathBuf,
    pub log: File,
    pub mode: String,
    pub intents: Intents,
    pub serves: Once,
}

impl Plain {
    /// Whether the mode names this.
    pub fn does(&self, what: &str) -> bool {
        self.mode.split(',').any(|word| word == what)
    }

    fn say(&self, line: &str) {
        (&self.log)
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    fn begin(&self, call: &str, request: &Request) {
        self.serves.call_once(|| self.say("serves"));
        if request.unique().0 & AGAIN != 0 {
            self.say(&format!("{call} again"));
        }
    }

    /// The change is made, the answer not sent: where a kill is to meet it.
    fn hold(&self, call: &str) {
        if self.does(&format!("hold-{call}")) {
            self.say(&format!("holds {call}"));
            loop {
                thread::park();
            }
        }
        if self.does("slow") {
            thread::sleep(Duration::from_micros(500));
        }
    }

    fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        if ino == INodeNo::ROOT {
            return Ok(self.dir.clone());
        }
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.ino() == ino.0) {
                return Ok(path);
            }
        }
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn attr(&self, path: &Path) -> io::Result<(FileAttr, Generation)> {
        let meta = fs::symlink_metadata(path)?;
        let root = path == self.dir;
        let born = meta.created()?.duration_since(UNIX_EPOCH).unwrap();
        let attr = FileAttr {
            ino: if root {
                INodeNo::ROOT
            } else {
                INodeNo(meta.ino())
            },
            size: meta.len(),
            blocks: meta.blocks(),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: (meta.mode() & 0o7777) as u16,
            nlink: meta.nlink() as u32,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        // An inode number comes back at once for a new file: its birth tells the two apart, for every server alike.
        Ok((attr, Generation(born.as_nanos() as u64)))
    }

    /// Does a change of names once, however often its request is sent.
    fn once(
        &self,
        request: &Request,
        intent: &Intent,
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let unique = request.unique().0;
        if self.intents.was_done(unique) {
            self.say("was done");
            return Ok(());
        }
        self.intents.note(unique, intent);
        change()
    }

    fn ino(&self, name: &str) -> io::Result<u64> {
        Ok(fs::symlink_metadata(self.dir.join(name))?.ino())
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

fn text(name: &OsStr) -> &str {
    name.to_str().unwrap()
}

fn send(reply: ReplyEmpty, done: io::Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Plain {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.set_max_write(1 << 20).unwrap();
        if self.does("writeback") {
            config
                .add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE)
                .unwrap();
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.begin("lookup", request);
        match self.attr(&self.dir.join(name)) {
            Ok((attr, generation)) => reply.entry(&TTL, &attr, generation),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.begin("getattr", request);
        match self.path(ino).and_then(|path| self.attr(&path)) {
            Ok((attr, _)) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.begin("setattr", request);
        let set = || {
            let path = self.path(ino)?;
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            self.attr(&path)
        };
        match set() {
            Ok((attr, _)) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.begin("open", request);
        self.hold("open");
        reply.opened(FileHandle(ino.0), FopenFlags::empty());
    }

    fn create(
        &self,
        request: &Request,
        _: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        self.begin("create", request);
        let path = self.dir.join(name);
        let made = self
            .once(request, &Intent::Create(text(name).to_owned()), || {
                let mut options = OpenOptions::new();
                options.create_new(true).write(true).mode(mode & 0o777);
                options.open(&path).map(drop)
            })
            .and_then(|()| self.attr(&path));
        self.hold("create");
        match made {
            Ok((attr, generation)) => {
                let handle = FileHandle(attr.ino.0);
                reply.created(&TTL, &attr, generation, handle, FopenFlags::empty());
            }
            Err(error) => reply.error(errno(&error)),
        }
        self.intents.drop(request.unique().0);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.begin("read", request);
        let mut bytes = vec![0; size as usize];
        let read = self
            .path(ino)
            .and_then(|path| File::open(path)?.read_at(&mut bytes, offset));
        self.hold("read");
        match read {
            Ok(len) => reply.data(&bytes[..len]),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.begin("write", request);
        let write = || {
            let file = OpenOptions::new().write(true).open(self.path(ino)?)?;
            file.write_all_at(data, offset)
        };
        let written = write();
        self.hold("write");
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, request: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.begin("flush", request);
        self.hold("flush");
        reply.ok();
    }

    fn release(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.begin("release", request);
        reply.ok();
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.begin("fsync", request);
        let synced = self.path(ino).and_then(|path| File::open(path)?.sync_all());
        send(reply, synced);
    }

    fn unlink(&self, request: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.begin("unlink", request);
        let intent = self.ino(text(name)).unwrap_or(0);
        let intent = Intent::Unlink(text(name).to_owned(), intent);
        let gone = self.once(request, &intent, || fs::remove_file(self.dir.join(name)));
        self.hold("unlink");
        send(reply, gone);
        self.intents.drop(request.unique().0);
    }

    fn rename(
        &self,
        request: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.begin("rename", request);
        let ino = self.ino(text(from)).unwrap_or(0);
        let intent = Intent::Rename(text(from).to_owned(), text(to).to_owned(), ino);
        let done = self.once(request, &intent, || {
            fs::rename(self.dir.join(from), self.dir.join(to))
        });
        self.hold("rename");
        send(reply, done);
        self.intents.drop(request.unique().0);
    }
}
