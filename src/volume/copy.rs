//! A copy of a volume in an empty directory, under another key: a volume of its own, with its own id and secret. Contents
//! get new data keys, or, shared, keep ciphertext and data key under a new header.
//!
//! Invariant: `strongroom.volume` appears last, when all else is whole and durable: a copy that was killed is no volume.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::broken::{Rule, broken};
use crate::crypto::Secret;
use crate::format::ids::{KeyId, VolumeId};
use crate::format::mount_file::MountFile;
use crate::format::names;
use crate::format::suite::Envelope;
use crate::format::volume_file::VolumeFile;
use crate::keys::KeyProvider;
use crate::store::{Host, Kind, Store, Taken, TimeSpec};
use crate::volume::attr::{Attr, SetAttr};
use crate::volume::create::{CreateOptions, NewVolume};
use crate::volume::env::{Env, Epochs};
use crate::volume::error::{Error, Result};
use crate::volume::facade::{Closer, Volume};
use crate::volume::file::body::Place;
use crate::volume::handle::OpenFlags;
use crate::volume::keyring::KeyRing;
use crate::volume::listing::DirEntry;
use crate::volume::lock::VolumeLock;
use crate::volume::make::Caller;
use crate::volume::master::{Master, Modules};
use crate::volume::node::Node;
use crate::volume::path::{at, join};
use crate::volume::redo::Redo;
use crate::volume::rekey_data::copy_contents;
use crate::volume::replace::replace;
use crate::volume::{dir, files, listing, xattr};

/// The epoch in which a copy is written.
const EPOCH: u64 = 1;
/// How often a file of the source is settled before it is given up.
const TRIES: usize = 4;

/// How a volume is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyOptions {
    /// What wraps the copy's data keys; `None`: as in the source, where the key can.
    pub envelope: Option<Envelope>,
    /// Contents keep their ciphertext and data keys: nothing is decrypted, and blocks are shared where the store can. Who
    /// has the data keys of one volume can read what is written to the other later.
    pub share_data_keys: bool,
}

/// What a copy holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CopyReport {
    /// The new volume's id, in hex.
    pub volume: String,
    /// Files; one with several names counts once.
    pub files: u64,
    /// Their sizes together, bytes.
    pub bytes: u64,
    /// Files that share their blocks with the source.
    pub shared: u64,
    /// Further names of files.
    pub links: u64,
    /// Directories, without the top one.
    pub dirs: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Fifos, sockets and devices.
    pub specials: u64,
}

/// How far a copy is, after each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    /// Entries copied so far.
    pub entries: u64,
    /// Bytes of contents copied so far.
    pub bytes: u64,
}

/// Copies all of `source`, which nobody else writes, into the empty directory `store`, as a new volume under this key. With
/// shared data keys the source must be open for writing, since files are settled before.
///
/// # Errors
/// NotAVolume where the directory is not empty (also where a copy before was interrupted). The first object that cannot
/// be read or made ends the copy, with its path in the error; nothing that is a volume is left then.
pub fn copy(
    source: &Arc<Volume>,
    store: Arc<dyn Store>,
    provider: Arc<dyn KeyProvider>,
    key: &KeyId,
    options: &CopyOptions,
    host: &Host,
    progress: &mut dyn FnMut(CopyProgress),
) -> Result<CopyReport> {
    source.require_unlocked()?;
    if options.share_data_keys {
        source.require_writable()?;
    }
    let shape = CreateOptions {
        suite: source.env.suite,
        bind_names: source.env.bind_names,
        sparse: source.env.sparse,
        envelope: options
            .envelope
            .or(source.envelope_where_it_can(&*provider, key)?),
    };
    let new = NewVolume::begin(&store.root(), &*provider, key, &shape, host)?;
    let id = new.file.volume;
    let whole = Arc::new(AtomicBool::new(false));
    let share = options.share_data_keys;
    let copy = start(source, store, provider, new, (host, share), &whole)?;
    let mut run = Run {
        from: source,
        to: &copy,
        share,
        links: HashMap::new(),
        entries: 0,
        report: CopyReport {
            volume: id.to_string(),
            ..CopyReport::default()
        },
        progress,
    };
    let copied = run.tree();
    let report = run.report;
    whole.store(copied.is_ok(), Ordering::Release);
    let closed = copy.close();
    copied?;
    closed?;
    if !whole.load(Ordering::Acquire) {
        return Err(io::Error::other(
            "a sync failed while this copy was written, so it was not made a volume: empty the directory and copy again",
        )
        .into());
    }
    Ok(report)
}

impl Volume {
    /// The envelope of the current key, if the key `to` can wrap as it asks.
    fn envelope_where_it_can(
        &self,
        provider: &dyn KeyProvider,
        to: &KeyId,
    ) -> Result<Option<Envelope>> {
        let envelope = self.env.ring.chain().current().stored.envelope;
        let direct = provider.describe(to)?.algorithm.wraps_data_keys();
        Ok(Some(envelope).filter(|envelope| direct || *envelope == Envelope::Volume))
    }
}

/// The new volume at work, before there is a volume file.
fn start(
    source: &Volume,
    store: Arc<dyn Store>,
    provider: Arc<dyn KeyProvider>,
    new: NewVolume,
    (host, share): (&Host, bool),
    whole: &Arc<AtomicBool>,
) -> Result<Arc<Volume>> {
    let NewVolume {
        file,
        secret,
        keys,
        at_hand,
        lock,
        ..
    } = new;
    let ring = KeyRing::of(&file, provider.into(), &at_hand)?;
    let closer = Publish {
        file: file.clone(),
        mount: MountFile {
            epoch: EPOCH,
            clean: true,
            boot_id: host.boot_id.clone(),
            start: host.since,
            listed: Vec::new(),
        },
        mac: Arc::clone(&keys.mac),
        whole: Arc::clone(whole),
        share,
        lock: Some(lock),
    };
    let env = Arc::new(Env::new(
        store,
        file.volume,
        file.suite,
        file.bind_names,
        !file.no_sparse,
        false,
        source.env.in_place,
        Redo::default(),
        keys,
        ring,
        Epochs {
            running: EPOCH,
            listed: Vec::new(),
        },
    ));
    let master = Master::new(file, secret, None, Modules::new());
    Volume::start(env, master, Box::new(closer))
}

/// Ends a copy: a volume, if it is whole.
struct Publish {
    file: VolumeFile,
    mount: MountFile,
    mac: Arc<Secret<32>>,
    /// Before the end: all is copied. After it: the copy is a volume.
    whole: Arc<AtomicBool>,
    /// There is ciphertext that no `FileState` wrote, nor could write again.
    share: bool,
    lock: Option<VolumeLock>,
}

impl Closer for Publish {
    fn finish(&mut self, env: &Env) -> Result<()> {
        let _lock = self.lock.take();
        if !self.whole.swap(false, Ordering::AcqRel) || !env.may_end_clean() {
            return Ok(()); // `copy` tells why
        }
        if self.share && !broken(Rule::ShareForgotten) {
            env.store_never_failed()?;
        }
        let root = &env.root;
        if !broken(Rule::CopyUnsynced) {
            env.store.sync()?;
            root.sync()?;
        }
        if broken(Rule::CopyEarly) {
            replace(root, names::VOLUME, &self.file.encode(&self.mac)?)?;
        }
        replace(root, names::MOUNT, &self.mount.encode(&self.mac)?)?;
        replace(root, names::VOLUME, &self.file.encode(&self.mac)?)?;
        self.whole.store(true, Ordering::Release);
        Ok(())
    }
}

/// A directory whose entries are being copied.
struct Frame {
    from: Arc<Node>,
    to: Arc<Node>,
    path: Vec<u8>,
    /// As it was before it was listed.
    attr: Attr,
    position: u64,
    batch: std::vec::IntoIter<DirEntry>,
}

struct Run<'a> {
    from: &'a Volume,
    to: &'a Volume,
    share: bool,
    /// Objects with further names to come: what they are in the copy, and how many.
    links: HashMap<u64, (Arc<Node>, u32)>,
    entries: u64,
    report: CopyReport,
    progress: &'a mut dyn FnMut(CopyProgress),
}

impl Run<'_> {
    fn tree(&mut self) -> Result<()> {
        let (from, to) = (self.from.root(), self.to.root());
        let attr = self.from.attr(&from).map_err(at(b""))?;
        let mut frames = vec![Frame {
            from,
            to,
            path: Vec::new(),
            attr,
            position: 0,
            batch: Vec::new().into_iter(),
        }];
        while let Some(frame) = frames.last_mut() {
            if let Some(entry) = frame.batch.next() {
                let path = join(&frame.path, &entry.name);
                let below = self.entry(frame, &entry.name, &path).map_err(at(&path))?;
                self.told();
                frames.extend(below);
                continue;
            }
            let batch = listing::read_dir_whole(self.from, &frame.from, frame.position);
            let batch = batch.map_err(at(&frame.path))?;
            if let Some(last) = batch.last() {
                frame.position = last.next;
                frame.batch = batch.into_iter();
                continue;
            }
            // Last: its entries have changed its times, and its mode or ACL may forbid us to make them.
            if let Some(done) = frames.pop() {
                self.finish_dir(&done).map_err(at(&done.path))?;
            }
        }
        Ok(())
    }

    fn told(&mut self) {
        self.entries += 1;
        (self.progress)(CopyProgress {
            entries: self.entries,
            bytes: self.report.bytes,
        });
    }

    /// Copies one entry; a directory's frame, to go on with.
    fn entry(&mut self, above: &Frame, name: &[u8], path: &[u8]) -> Result<Option<Frame>> {
        let (node, attr) = self.from.lookup(&above.from, name)?;
        if attr.kind == Kind::Dir {
            let (to, _) = self.to.make_dir(&above.to, name, 0o700, &owner(&attr))?;
            self.report.dirs += 1;
            return Ok(Some(Frame {
                from: node,
                to,
                path: path.to_vec(),
                attr,
                position: 0,
                batch: Vec::new().into_iter(),
            }));
        }
        if let Some((made, left)) = self.links.get_mut(&attr.id) {
            if attr.kind == Kind::File {
                files::open(self.from, &node, false)?; // this name, too, must be one that the file is bound to
            }
            self.to.link(made, &above.to, name)?;
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.links.remove(&attr.id);
            }
            self.report.links += 1;
            return Ok(None);
        }
        let made = match attr.kind {
            Kind::File => self.file(&node, &attr, &above.to, name)?,
            Kind::Symlink => {
                let target = self.from.read_link(&node)?;
                self.report.symlinks += 1;
                self.to
                    .make_symlink(&above.to, name, &target, &owner(&attr))?
                    .0
            }
            kind => {
                self.report.specials += 1;
                self.to
                    .make_node(&above.to, name, kind, 0o600, attr.rdev, &owner(&attr))?
                    .0
            }
        };
        self.attributes(&node, &made, &attr)?;
        if attr.nlink > 1 {
            self.links.insert(attr.id, (made, attr.nlink - 1));
        }
        Ok(None)
    }

    fn file(
        &mut self,
        node: &Arc<Node>,
        attr: &Attr,
        above: &Arc<Node>,
        name: &[u8],
    ) -> Result<Arc<Node>> {
        let flags = OpenFlags {
            read: true,
            write: true,
            ..OpenFlags::default()
        };
        let (made, _, to) = self.to.create(above, name, 0o600, &owner(attr), flags)?;
        let from = files::open(self.from, node, self.share)?;
        let size = from.size()?;
        if self.share {
            for tries in 1.. {
                if !from.wants_settling()? {
                    break;
                }
                if tries > TRIES {
                    return Err(Error::errno(libc::EBUSY));
                }
                if let Some(error) = self.from.settler.pass(Duration::ZERO).error {
                    return Err(error);
                }
            }
            let location = made.location()?;
            let place = Place {
                dir: dir::id(self.to, above)?,
                stored: location.stored,
            };
            let backing = to.state().backing();
            let taken = from.share(&self.to.env, &*backing, &place)?;
            self.report.shared += u64::from(taken == Some(Taken::Shared));
        } else {
            copy_contents(&from, to.state(), size)?;
        }
        self.report.files += 1;
        self.report.bytes += size;
        Ok(made)
    }

    /// Extended attributes, mode and times; the owner is given when it is made. What the store would not sync with all
    /// the rest is synced here.
    fn attributes(&self, from: &Arc<Node>, to: &Arc<Node>, attr: &Attr) -> Result<()> {
        for name in xattr::names_whole(self.from, from)? {
            let value = self.from.xattr(from, &name)?;
            self.to.set_xattr(to, &name, &value, false, false)?;
        }
        let times = SetAttr {
            mode: Some(attr.mode),
            atime: Some(TimeSpec::At(attr.atime)),
            mtime: Some(TimeSpec::At(attr.mtime)),
            ..SetAttr::default()
        };
        self.to.set_attr(to, &times, None)?;
        if !self.to.env.store.traits().syncfs_reports && attr.kind == Kind::File {
            files::open_unchecked(self.to, to, true)?.sync(true)?;
        }
        Ok(())
    }

    fn finish_dir(&self, done: &Frame) -> Result<()> {
        if done.to.is_root() && self.to.privileged {
            let owner = SetAttr {
                uid: Some(done.attr.uid),
                gid: Some(done.attr.gid),
                ..SetAttr::default()
            };
            self.to.set_attr(&done.to, &owner, None)?;
        }
        self.attributes(&done.from, &done.to, &done.attr)?;
        if !self.to.env.store.traits().syncfs_reports {
            self.to.fsync_dir(&done.to)?;
        }
        Ok(())
    }
}

fn owner(attr: &Attr) -> Caller {
    Caller {
        uid: attr.uid,
        gid: attr.gid,
        umask: 0,
    }
}

impl CopyReport {
    /// The new volume's id.
    pub fn id(&self) -> Option<VolumeId> {
        self.volume.parse().ok()
    }
}
