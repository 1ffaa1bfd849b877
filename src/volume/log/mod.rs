//! A log of what a volume must find again if its process dies while programs use it: nodes and their names, how often the
//! kernel looked them up, handles, the changes of names that are under way, and the answers to them. It is kept outside of
//! the process, by a `Keeper`.
//!
//! Invariants: what a request changed is in the log before its answer is sent; a change that would not come out the same if
//! it were made twice is in the log before it is begun. An entry says how a thing is, not what happened to it, and is taken
//! and written under one lock: the last entry about a thing is true.

mod decide;
mod entry;
mod rebuild;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::entry::{Answer, Entry, FileEntry, NodeEntry};
pub use self::entry::{Generation, Opened};
pub(crate) use self::entry::{Gone, Intent, Moved};
pub use self::rebuild::{Left, Rebuilt};
use crate::store::File;
use crate::volume::carry::{CarriedFile, CarriedNode, CarriedReplaced, names_of, text};
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::file::FileState;
use crate::volume::handle::OpenFile;
use crate::volume::node::{Node, Replaced};
use crate::volume::sync::locked;

/// A log is written anew when it is longer than this and than twice what it was when it was new, bytes.
const LENGTH: usize = 4 << 20;

/// Where a log is kept.
pub trait Keeper: Send + Sync {
    /// Adds bytes at the end of the log; a process that dies in between may leave a part of them.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Begins another log with these bytes, in the place of the one before, at once.
    fn renew(&self, bytes: &[u8]) -> io::Result<()>;
    /// Keeps an open file under a number.
    fn keep(&self, key: u64, file: &Arc<dyn File>) -> io::Result<()>;
    /// Whether another file can be kept beside so many.
    fn has_room(&self, kept: usize) -> bool;
    /// Keeps it no longer.
    fn let_go(&self, key: u64);
    /// After this process no other one shall go on.
    fn doom(&self, why: &str);
}

/// The log of a volume.
pub(crate) struct Log {
    keeper: Box<dyn Keeper>,
    head: Value,
    generation: Generation,
    doomed: AtomicBool,
    /// Files that the keeper has, as of the last entry: whoever opens one looks before it, and waits for nobody.
    kept: AtomicUsize,
    written: Mutex<Written>,
}

/// What is in it, so far as the volume itself does not know.
#[derive(Default)]
struct Written {
    len: usize,
    first: usize,
    keys: u64,
    /// By the number of the file's state.
    files: HashMap<u64, Kept>,
    handles: BTreeMap<u64, Opened>,
    /// No handle had a greater number.
    last_handle: u64,
    /// Changes under way, by the number of the request.
    begun: HashMap<u64, Intent>,
    /// Answers that may not have been sent yet.
    answers: HashMap<u64, Answer>,
}

/// An open file that the keeper has.
struct Kept {
    state: Arc<FileState>,
    key: u64,
    writable: bool,
    handles: usize,
}

thread_local! {
    /// The request that this thread works for; 0: none that could be sent again.
    static REQUEST: Cell<u64> = const { Cell::new(0) };
    /// The one before, whose answer was sent since.
    static SENT: Cell<u64> = const { Cell::new(0) };
    static OPENED: RefCell<Vec<Opened>> = const { RefCell::new(Vec::new()) };
    /// What the keeper has under these numbers is in the log until the entry about what was opened is.
    static OUTDATED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Ends the work for a request also where it panicked.
struct Working<'a> {
    volume: &'a Volume,
    log: &'a Log,
    request: u64,
    answer: Answer,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        REQUEST.set(0);
        SENT.set(self.request);
        let answer = std::mem::replace(&mut self.answer, Answer::Refused(libc::EIO));
        let opened = OPENED.take();
        self.log.write(self.volume, |entry, written| {
            written.begun.remove(&self.request);
            written.answers.insert(self.request, answer.clone());
            for opened in opened {
                written.last_handle = written.last_handle.max(opened.number);
                written.handles.insert(opened.number, opened.clone());
                entry.opened.push(opened);
            }
            entry.done.push((self.request, answer));
        });
        for key in OUTDATED.take() {
            self.log.keeper.let_go(key);
        }
    }
}

impl Volume {
    /// Keeps a log from here on, which goes on with what was rebuilt.
    ///
    /// # Errors
    /// Where the keeper does not take it.
    pub fn keep_log(
        &self,
        keeper: Box<dyn Keeper>,
        head: Value,
        generation: Generation,
        rebuilt: Option<&Rebuilt>,
    ) -> Result<()> {
        self.nodes.watch_changes();
        let log = Arc::new(Log {
            keeper,
            head,
            generation,
            doomed: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
            written: Mutex::default(),
        });
        let mut written = locked(&log.written);
        if let Some(rebuilt) = rebuilt {
            written.begun.clone_from(&rebuilt.begun);
            written.answers.clone_from(&rebuilt.answers);
            written.last_handle = rebuilt.last_handle;
            for (opened, file) in &rebuilt.handles {
                let state = file.state();
                if let Some(key) = rebuilt.keys.get(&state.number) {
                    written.hold_again(state, *key);
                }
                let file = state.number;
                let opened = Opened {
                    file,
                    ..opened.clone()
                };
                written.handles.insert(opened.number, opened);
            }
        }
        log.renew(self, &mut written)?;
        log.kept.store(written.files.len(), Ordering::Relaxed);
        drop(written);
        for key in rebuilt.iter().flat_map(|rebuilt| &rebuilt.unneeded) {
            log.keeper.let_go(*key);
        }
        self.env.when_distrusted({
            let log = Arc::clone(&log);
            Box::new(move |why| log.doom(why))
        });
        self.log.set(log).map_err(|_| Error::errno(libc::EALREADY))
    }

    /// Does the work of a request that may be sent again, and that must not be done twice; `again`: it was sent again. What
    /// the process before answered, or would have, is answered without more ado.
    pub fn once<T: Serialize + DeserializeOwned>(
        &self,
        request: u64,
        again: bool,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let Some(log) = self.log.get() else {
            return work();
        };
        let sent = SENT.replace(0);
        {
            let mut written = locked(&log.written);
            if sent != request {
                written.answers.remove(&sent);
            }
            if again && let Some(answer) = written.answers.get(&request) {
                SENT.set(request);
                return answer.give();
            }
        }
        REQUEST.set(request);
        OPENED.take();
        let mut working = Working {
            volume: self,
            log,
            request,
            answer: Answer::Refused(libc::EIO),
        };
        let done = work();
        working.answer = Answer::of(&done);
        done
    }

    /// Before a change is made in a request under `once`.
    pub(crate) fn intend(&self, intent: impl FnOnce() -> Result<Intent>) -> Result<()> {
        let request = REQUEST.get();
        let Some(log) = self.log.get().filter(|_| request != 0) else {
            return Ok(());
        };
        let intent = intent()?;
        log.write(self, |entry, written| {
            written.begun.insert(request, intent.clone());
            entry.begun.push((request, intent));
        });
        Ok(())
    }

    /// Whether changes are to be announced by `intend` now.
    pub(crate) fn intends(&self) -> bool {
        REQUEST.get() != 0 && self.log.get().is_some()
    }

    /// Before a change that is made only on a condition: whether it is to be made, for which `holds` says whether the
    /// condition holds, or held before the same request was begun the first time.
    pub fn on_condition(&self, holds: impl FnOnce() -> Result<()>) -> Result<bool> {
        let request = REQUEST.get();
        let Some(log) = self.log.get().filter(|_| request != 0) else {
            return Ok(false);
        };
        if !locked(&log.written).begun.contains_key(&request) {
            holds()?;
            self.intend(|| Ok(Intent::Attribute))?;
        }
        Ok(true)
    }

    /// EMFILE where no other file could be kept for another process, so that none may be opened.
    pub fn room_to_open(&self) -> Result<()> {
        match self.log.get() {
            Some(log) if !log.keeper.has_room(log.kept.load(Ordering::Relaxed)) => {
                Err(Error::errno(libc::EMFILE))
            }
            _ => Ok(()),
        }
    }

    /// Notes that a file was opened under this number, in a request under `once`. Before the answer.
    pub fn log_opened(&self, number: u64, file: &OpenFile) -> Result<()> {
        let Some(log) = self.log.get() else {
            return Ok(());
        };
        log.hold(&mut locked(&log.written), file)?;
        let flags = file.flags();
        let opened = Opened {
            number,
            node: file.node().id(),
            file: file.state().number,
            read: flags.read,
            write: flags.write,
        };
        OPENED.with_borrow_mut(|all| all.push(opened));
        Ok(())
    }

    /// Notes that the kernel has no such handle any more.
    pub fn log_closed(&self, number: u64) {
        if let Some(log) = self.log.get() {
            let mut kept = None;
            log.write(self, |entry, written| {
                if let Some(opened) = written.handles.remove(&number) {
                    entry.closed.push(number);
                    kept = written.let_go(opened.file);
                }
            });
            if let Some(kept) = kept {
                log.keeper.let_go(kept.key);
            }
        }
    }

    /// Brings the log up to date, before an answer.
    pub fn log_changes(&self) {
        if let Some(log) = self.log.get() {
            log.write(self, |_, _| ());
        }
    }

    /// Whether none shall.
    pub fn is_doomed(&self) -> bool {
        let log = self.log.get();
        log.is_some_and(|log| log.doomed.load(Ordering::Acquire))
    }

    /// After this process no other one shall go on with the mount.
    pub(crate) fn doom(&self, why: &str) {
        if let Some(log) = self.log.get() {
            log.doom(why);
        }
    }
}

impl Written {
    /// The keeper has this file already, for another handle of it too.
    fn hold_again(&mut self, state: &Arc<FileState>, key: u64) {
        let kept = self.files.entry(state.number).or_insert_with(|| Kept {
            state: Arc::clone(state),
            key,
            writable: state.descriptor_in_use().1,
            handles: 0,
        });
        kept.handles += 1;
    }

    /// A handle of this file was closed; the file, if that was its last.
    fn let_go(&mut self, file: u64) -> Option<Kept> {
        let kept = self.files.get_mut(&file)?;
        kept.handles = kept.handles.saturating_sub(1);
        match kept.handles {
            0 => self.files.remove(&file),
            _ => None,
        }
    }
}

impl Log {
    fn doom(&self, why: &str) {
        if !self.doomed.swap(true, Ordering::AcqRel) {
            self.keeper.doom(why);
        }
    }

    /// Writes an entry: what `fill` says, and every node that changed. Without either nothing is written.
    fn write(&self, volume: &Volume, fill: impl FnOnce(&mut Entry, &mut Written)) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = Entry::default();
        fill(&mut entry, &mut written);
        let mut nodes = Vec::new(); // dropped after the lock: one may be the last hold
        let done = self.put(volume, &mut written, &mut entry, &mut nodes);
        self.kept.store(written.files.len(), Ordering::Relaxed);
        drop(written);
        if let Err(error) = done {
            self.doom(&format!(
                "what is known of the mount cannot be kept: {error}"
            ));
        }
    }

    fn put(
        &self,
        volume: &Volume,
        written: &mut Written,
        entry: &mut Entry,
        nodes: &mut Vec<Arc<Node>>,
    ) -> Result<()> {
        for number in volume.nodes.take_changed() {
            match volume.nodes.numbered(number) {
                Some(node) if node.is_root() => {}
                Some(node) => {
                    entry.nodes.push(image(&node)?);
                    if let Some(file) = written.file_of(volume, &node)? {
                        entry.files.push(file);
                    }
                    nodes.push(node);
                }
                None => entry.gone.push(number),
            }
        }
        for opened in &entry.opened {
            if let Some(kept) = written.files.get(&opened.file) {
                entry.files.push(kept.entry(opened.node)?);
            }
        }
        if entry.is_empty() || self.doomed.load(Ordering::Acquire) {
            return Ok(());
        }
        let bytes = entry.bytes()?;
        written.len += bytes.len();
        if written.len > LENGTH.max(2 * written.first) {
            return self.renew(volume, written);
        }
        Ok(self.keeper.append(&bytes)?)
    }

    /// Begins anew with all there is.
    fn renew(&self, volume: &Volume, written: &mut Written) -> Result<()> {
        drop(volume.nodes.take_changed());
        let mut entry = Entry {
            head: Some(self.head.clone()),
            generation: self.generation,
            begun: written.begun.clone().into_iter().collect(),
            done: written.answers.clone().into_iter().collect(),
            opened: written.handles.values().cloned().collect(),
            last_handle: Some(written.last_handle),
            ..Entry::default()
        };
        let nodes = volume.nodes.all();
        for node in nodes.iter().filter(|node| !node.is_root()) {
            entry.nodes.push(image(node)?);
        }
        for opened in written.handles.values() {
            if let Some(kept) = written.files.get(&opened.file) {
                entry.files.push(kept.entry(opened.node)?);
            }
        }
        let bytes = entry.bytes()?;
        self.keeper.renew(&bytes)?;
        (written.len, written.first) = (bytes.len(), bytes.len());
        Ok(())
    }

    /// Has the keeper hold the file of another handle.
    fn hold(&self, written: &mut Written, file: &OpenFile) -> Result<()> {
        let state = file.state();
        let (descriptor, writable) = state.descriptor_in_use();
        let known = written.files.get_mut(&state.number);
        if let Some(kept) = known.filter(|kept| kept.writable >= writable) {
            kept.handles += 1;
            return Ok(());
        }
        written.keys += 1;
        let key = self.generation.key(written.keys);
        self.keeper.keep(key, &descriptor)?;
        let before = written.files.remove(&state.number);
        let handles = before.as_ref().map_or(0, |kept| kept.handles) + 1;
        let kept = Kept {
            state: Arc::clone(state),
            key,
            writable,
            handles,
        };
        written.files.insert(state.number, kept);
        OUTDATED.with_borrow_mut(|all| all.extend(before.map(|before| before.key)));
        Ok(())
    }
}

impl Written {
    fn file_of(&self, volume: &Volume, node: &Arc<Node>) -> Result<Option<FileEntry>> {
        if self.files.is_empty() {
            return Ok(None);
        }
        let state = volume.files.live(node);
        let kept = state.and_then(|state| self.files.get(&state.number));
        kept.map(|kept| kept.entry(node.id())).transpose()
    }
}

impl Kept {
    fn entry(&self, node: u64) -> Result<FileEntry> {
        let (place, named) = self.state.last_place();
        Ok(FileEntry {
            file: self.state.number,
            key: self.key,
            carried: CarriedFile {
                node,
                writable: self.writable,
                dir: place.dir.0,
                stored: text(&place.stored)?,
                named,
            },
        })
    }
}

fn image(node: &Arc<Node>) -> Result<NodeEntry> {
    // The descriptor of a file whose name another took is not kept: who opens it by that is told to look again (ESTALE).
    let replaced = match node.replaced() {
        Some(Replaced::Symlink(sealed)) => Some(CarriedReplaced::Symlink(sealed)),
        _ => None,
    };
    Ok(NodeEntry {
        node: CarriedNode::of(node, names_of(node)?, replaced),
        lookups: node.holds(),
    })
}
