//! The volume as its callers see it: each method is one call of a module beside this one. Holds what those share; knows
//! nothing of FUSE.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::format::names::{MAX_NAME, root_dir_id};
use crate::store::{File, Host, Kind, RenameMode, Usage};
use crate::volume::attr::{self, Attr, SetAttr};
use crate::volume::dir::{self, OpenDirs};
use crate::volume::dir_id;
use crate::volume::env::Env;
use crate::volume::error::{Error, Result};
use crate::volume::file::FileState;
use crate::volume::files::FileTable;
use crate::volume::handle::{self, Fallocate, OpenFile, OpenFlags, SeekTo};
use crate::volume::held::Held;
use crate::volume::housekeeping::Housekeeping;
use crate::volume::key_loss::KeyLoss;
use crate::volume::key_watch::{KeyWatch, Watching};
use crate::volume::listing::{self, DirEntry, Logged};
use crate::volume::lock_down::LockDown;
use crate::volume::log::Log;
use crate::volume::make::{self, Caller};
use crate::volume::master::Master;
use crate::volume::node::{Node, NodeTable};
use crate::volume::rotate_gate::RotationGate;
use crate::volume::settle::Settler;
use crate::volume::sync::locked;
use crate::volume::{files, link, lookup, rename, symlink, unlink, xattr};

/// An open volume. Every call may come from any thread.
pub struct Volume {
    pub(crate) env: Arc<Env>,
    pub(crate) settler: Arc<Settler>,
    pub(crate) nodes: Arc<NodeTable>,
    pub(crate) files: FileTable,
    pub(crate) held: Held,
    pub(crate) dirs: OpenDirs,
    pub(crate) rotation: RotationGate,
    pub(crate) logged: Logged,
    /// Directories whose last move is not settled.
    pub(crate) moved: Mutex<Vec<Arc<Node>>>,
    /// Whether this process may give objects to other users.
    pub(crate) privileged: bool,
    /// The volume file and what changes it.
    pub(crate) master: Master,
    /// Held by the one rotation at a time.
    pub(crate) rotating: Mutex<()>,
    pub(crate) lockdown: LockDown,
    root: Arc<Node>,
    pub(crate) housekeeping: Housekeeping,
    pub(in crate::volume) key_watch: Mutex<Option<Watching>>,
    pub(crate) closer: Mutex<Option<Box<dyn Closer>>>,
    /// What another process shall find if this one dies.
    pub(crate) log: OnceLock<Arc<Log>>,
}

/// What closes a volume after everything in it was settled.
pub(crate) trait Closer: Send {
    /// Writes the clean mark if it may be written, and releases the lock.
    fn finish(&mut self, env: &Env) -> Result<()>;
    /// The file that holds the lock.
    fn lock(&self) -> Option<Arc<dyn File>> {
        None
    }
    /// Says that this process holds the lock now, which another one gave it.
    fn take_over(&mut self, host: &Host) -> Result<()> {
        let _ = host;
        Ok(())
    }
    /// Leaves lock and volume, as they are, to another process.
    fn leave(&mut self) {}
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.settler.let_go();
    }
}

impl Volume {
    /// Puts an opened volume to work.
    pub(crate) fn start(
        env: Arc<Env>,
        master: Master,
        closer: Box<dyn Closer>,
    ) -> Result<Arc<Self>> {
        let id = root_dir_id(&env.keys()?.dir, &env.volume);
        let (nodes, root) = NodeTable::new(&env.root.stat()?, id);
        let housekeeping = Housekeeping::default();
        let volume = Arc::new(Self {
            settler: Settler::new(Arc::clone(&env), housekeeping.bell()),
            nodes,
            files: FileTable::default(),
            held: Held::default(),
            dirs: OpenDirs::new(),
            rotation: RotationGate::default(),
            logged: Logged::default(),
            moved: Mutex::default(),
            privileged: rustix::process::geteuid().is_root(),
            master,
            rotating: Mutex::default(),
            lockdown: LockDown::default(),
            root,
            housekeeping,
            key_watch: Mutex::default(),
            closer: Mutex::new(Some(closer)),
            log: OnceLock::new(),
            env,
        });
        if !volume.env.read_only {
            volume.env.ring.ready.serve(&volume.env);
        }
        volume.housekeeping.start(&volume)?;
        Ok(volume)
    }

    /// What a thread does, from `watch` on, that asks every so often whether the master key is still there.
    pub(crate) fn set_watch(&self, policy: KeyLoss, every: Duration) {
        if policy != KeyLoss::Keep {
            let watch = Watching::new(KeyWatch::new(policy, every));
            *locked(&self.key_watch) = Some(watch);
        }
    }

    /// Stops and settles everything, writes the clean mark, releases the lock. Called once; later calls do nothing.
    pub fn close(&self) -> Result<()> {
        let Some(mut closer) = locked(&self.closer).take() else {
            return Ok(());
        };
        let watch = locked(&self.key_watch).take();
        drop(watch);
        self.housekeeping.stop();
        self.env.ring.ready.stop();
        self.held.close_all();
        let settled = if self.env.read_only {
            Ok(())
        } else {
            self.settle()
        };
        if settled.is_err() {
            self.env.mark_unclean();
        }
        closer.finish(&self.env).and(settled)
    }

    /// Settles all that waits. A locked volume has no keys for directories that moved, and settled them before.
    pub(crate) fn settle(&self) -> Result<()> {
        self.settler.settle_all()?;
        self.settle_moved();
        Ok(())
    }

    /// Takes moved directories' old places away, where there are keys for it.
    pub(crate) fn settle_moved(&self) {
        if self.env.keys().is_ok()
            && let Err(error) = dir_id::settle_moves(self)
        {
            tracing::warn!("the old place of a moved directory stays: {error}"); // it fits at both, and hurts nothing
        }
    }

    /// The state of a file, writable, without regard to its names.
    pub(crate) fn file_state(&self, node: &Arc<Node>) -> Result<Arc<FileState>> {
        self.settler.make_room();
        files::open_unchecked(self, node, true)
    }

    /// EROFS for a volume opened for reading, EIO in a locked one.
    pub(crate) fn require_writable(&self) -> Result<()> {
        self.require_unlocked()?;
        if self.env.read_only {
            Err(Error::errno(libc::EROFS))
        } else {
            Ok(())
        }
    }

    /// The objects that this mount knows.
    pub fn nodes(&self) -> Arc<NodeTable> {
        Arc::clone(&self.nodes)
    }

    /// The top directory.
    pub fn root(&self) -> Arc<Node> {
        Arc::clone(&self.root)
    }

    /// The object named so in a directory; ENOENT if there is none.
    pub fn lookup(&self, parent: &Arc<Node>, name: &[u8]) -> Result<(Arc<Node>, Attr)> {
        self.require_unlocked()?;
        lookup::lookup(self, parent, name)
    }

    /// The directory above; the root's is itself.
    pub fn parent(&self, node: &Arc<Node>) -> Result<Arc<Node>> {
        self.require_unlocked()?;
        lookup::parent(node)
    }

    /// Attributes.
    pub fn attr(&self, node: &Arc<Node>) -> Result<Attr> {
        // Who unmounts a locked volume must still find the mount; the top directory's attributes need no key.
        if !node.is_root() {
            self.require_unlocked()?;
        }
        attr::attr(self, node)
    }

    /// Changes attributes; `handle`: the open file through which it was asked for.
    pub fn set_attr(
        &self,
        node: &Arc<Node>,
        set: &SetAttr,
        handle: Option<&OpenFile>,
    ) -> Result<Attr> {
        self.require_unlocked()?;
        attr::set_attr(self, node, set, handle)
    }

    /// Makes a file and opens it; EEXIST if the name is taken.
    pub fn create(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        mode: u32,
        caller: &Caller,
        flags: OpenFlags,
    ) -> Result<(Arc<Node>, Attr, OpenFile)> {
        self.require_unlocked()?;
        make::create(self, parent, name, mode, caller, flags)
    }

    /// Opens a file; EISDIR for a directory, EINVAL for anything else that is no regular file.
    pub fn open(&self, node: &Arc<Node>, flags: OpenFlags) -> Result<OpenFile> {
        self.require_unlocked()?;
        handle::open(self, node, flags)
    }

    /// Whether files may be opened when they are needed: not where that takes a key from its home, which may be away while
    /// what programs have open must go on.
    pub fn can_open_by_need(&self) -> bool {
        self.env.ring.is_at_hand()
    }

    /// From now on files are opened by `file`, when they are needed, and those whose last name goes stay to be opened until
    /// their nodes are let go.
    pub fn open_by_need(&self) {
        self.held.use_it();
    }

    /// The file of a node that may have been opened long ago, as far as the caller knows; open for reading, and to `write`.
    ///
    /// # Errors
    /// As `open`.
    pub fn file(&self, node: &Arc<Node>, write: bool) -> Result<Arc<OpenFile>> {
        self.require_unlocked()?;
        self.held.file(self, node, write)
    }

    /// Keeps a file that was just made, as one that `file` opened.
    pub fn keep_open(&self, file: OpenFile) {
        self.held.keep(file);
    }

    /// Closes the file of a node that nobody holds any more.
    pub fn let_go_file(&self, node: &Node) {
        self.held.close(node.id());
    }

    /// Reads at `offset`; short only at the end of the file.
    pub fn read(&self, file: &OpenFile, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.require_unlocked()?;
        handle::read(file, offset, buf)
    }

    /// Writes all of `data` at `offset`, or at the end of a file opened to append.
    pub fn write(&self, file: &OpenFile, offset: u64, data: &[u8]) -> Result<usize> {
        self.require_unlocked()?;
        handle::write(file, offset, data)
    }

    /// Makes everything written to the file durable.
    pub fn fsync(&self, file: &OpenFile, data_only: bool) -> Result<()> {
        self.require_unlocked()?;
        handle::fsync(self, file, data_only)
    }

    /// fallocate(2).
    pub fn allocate(&self, file: &OpenFile, how: Fallocate, offset: u64, len: u64) -> Result<()> {
        self.require_unlocked()?;
        handle::allocate(file, how, offset, len)
    }

    /// SEEK_DATA and SEEK_HOLE; ENXIO past the end.
    pub fn seek(&self, file: &OpenFile, offset: u64, to: SeekTo) -> Result<u64> {
        self.require_unlocked()?;
        handle::seek(file, offset, to)
    }

    /// copy_file_range(2); may copy less than asked.
    pub fn copy_range(
        &self,
        from: &OpenFile,
        from_at: u64,
        to: &OpenFile,
        to_at: u64,
        len: u64,
    ) -> Result<u64> {
        self.require_unlocked()?;
        handle::copy_range(from, from_at, to, to_at, len)
    }

    /// Makes a directory.
    pub fn make_dir(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        mode: u32,
        caller: &Caller,
    ) -> Result<(Arc<Node>, Attr)> {
        self.require_unlocked()?;
        make::make_dir(self, parent, name, mode, caller)
    }

    /// Makes a fifo, socket, device or (Kind::File) an empty file.
    pub fn make_node(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u64,
        caller: &Caller,
    ) -> Result<(Arc<Node>, Attr)> {
        self.require_unlocked()?;
        make::make_node(self, parent, name, kind, mode, rdev, caller)
    }

    /// Makes a symlink; ENAMETOOLONG for a target over 3,039 bytes.
    pub fn make_symlink(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        target: &[u8],
        caller: &Caller,
    ) -> Result<(Arc<Node>, Attr)> {
        self.require_unlocked()?;
        make::make_symlink(self, parent, name, target, caller)
    }

    /// The target of a symlink.
    pub fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        self.require_unlocked()?;
        symlink::read_link(self, node)
    }

    /// Gives an object another name; returns its attributes.
    pub fn link(&self, node: &Arc<Node>, new_parent: &Arc<Node>, name: &[u8]) -> Result<Attr> {
        self.require_unlocked()?;
        link::link(self, node, new_parent, name)
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
        self.require_unlocked()?;
        unlink::unlink(self, parent, name)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
        self.require_unlocked()?;
        unlink::remove_dir(self, parent, name)
    }

    /// renameat2(2).
    pub fn rename(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        new_parent: &Arc<Node>,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.require_unlocked()?;
        rename::rename(self, parent, name, new_parent, new_name, mode)
    }

    /// Some entries of a directory from position `from` (0: the start), without `.` and `..`; empty at the end.
    pub fn read_dir(&self, node: &Arc<Node>, from: u64) -> Result<Vec<DirEntry>> {
        self.require_unlocked()?;
        listing::read_dir(self, node, from)
    }

    /// Makes the entries of a directory durable.
    pub fn fsync_dir(&self, node: &Arc<Node>) -> Result<()> {
        self.require_unlocked()?;
        dir::sync(self, node)
    }

    /// The value of an extended attribute; ENODATA if there is none.
    pub fn xattr(&self, node: &Arc<Node>, name: &[u8]) -> Result<Vec<u8>> {
        self.require_unlocked()?;
        xattr::value(self, node, name)
    }

    /// Sets an extended attribute. `create`: EEXIST if there is one; `replace`: ENODATA if there is none.
    pub fn set_xattr(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.require_unlocked()?;
        xattr::set(self, node, name, value, create, replace)
    }

    /// The names of all extended attributes.
    pub fn xattr_names(&self, node: &Arc<Node>) -> Result<Vec<Vec<u8>>> {
        self.require_unlocked()?;
        xattr::names(self, node)
    }

    /// Removes an extended attribute; ENODATA if there is none.
    pub fn remove_xattr(&self, node: &Arc<Node>, name: &[u8]) -> Result<()> {
        self.require_unlocked()?;
        xattr::remove(self, node, name)
    }

    /// A regular file of the store by a descriptor that another process had open.
    pub fn file_of(&self, descriptor: std::os::fd::OwnedFd) -> Result<Arc<dyn File>> {
        Ok(self.env.store.file_of(descriptor)?)
    }

    /// Totals of the file system under the store; `name_max` in bytes of plaintext.
    pub fn usage(&self) -> Result<Usage> {
        self.require_unlocked()?;
        Ok(Usage {
            name_max: MAX_NAME as u64,
            ..self.env.store.usage()?
        })
    }
}
