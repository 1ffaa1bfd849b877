//! A store that fails on demand: it passes every call on to another store until a planned fault is due, and then answers
//! an errno instead of making the call.

use std::any::Any;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::Call;
use super::name::errno;
use super::{
    Access, Allocate, Dir, Entry, File, Kind, RenameMode, SetTimes, Stat, Store, Taken, Traits,
    Usage, Xattrs,
};

/// Which calls fail, and from when on.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The kinds of calls that count down and fail.
    pub calls: Vec<Call>,
    /// How many of them still go well.
    pub after: u64,
    /// What they then answer, an errno value.
    pub errno: i32,
    /// Whether all later ones fail too, or only the first.
    pub lasting: bool,
}

#[derive(Default)]
struct Plan {
    fault: Option<Fault>,
    failed: u64,
    /// A write that fails has put its first pages.
    short: bool,
    /// What is done as soon as a call of this kind ended well, before the caller learns of it.
    then: Option<(Call, Box<dyn FnOnce() + Send>)>,
}

#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Plan>>);

impl Gate {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, call: Call) -> io::Result<()> {
        let mut plan = self.plan();
        let Some(fault) = plan
            .fault
            .as_mut()
            .filter(|fault| fault.calls.contains(&call))
        else {
            return Ok(());
        };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let error = errno(fault.errno);
        if !fault.lasting {
            plan.fault = None;
        }
        plan.failed += 1;
        Err(error)
    }

    fn done(&self, call: Call, done: io::Result<()>) -> io::Result<()> {
        let then = self
            .plan()
            .then
            .take_if(|(after, _)| done.is_ok() && *after == call);
        if let Some((_, act)) = then {
            act();
        }
        done
    }
}

/// Wraps a store; without a plan it changes nothing.
pub struct FailingStore {
    inner: Arc<dyn Store>,
    gate: Gate,
}

impl FailingStore {
    /// A wrapper without a plan.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            gate: Gate::default(),
        }
    }

    /// Plans a fault, in place of any earlier one.
    pub fn plan(&self, fault: Fault) {
        self.gate.plan().fault = Some(fault);
    }

    /// One call of these kinds fails, after `after` that go well.
    pub fn fail_once(&self, calls: &[Call], after: u64, errno: i32) {
        self.plan(Fault {
            calls: calls.to_vec(),
            after,
            errno,
            lasting: false,
        });
    }

    /// All calls of these kinds fail, after `after` that go well.
    pub fn fail_from(&self, calls: &[Call], after: u64, errno: i32) {
        self.plan(Fault {
            calls: calls.to_vec(),
            after,
            errno,
            lasting: true,
        });
    }

    /// Whether writes that fail put the first half of their bytes, to the end of a page.
    pub fn shorten_writes(&self, short: bool) {
        self.gate.plan().short = short;
    }

    /// Runs this once, as soon as a name went by such a call (Remove, RemoveDir, Rename): the caller does not know yet.
    pub fn after(&self, call: Call, act: impl FnOnce() + Send + 'static) {
        self.gate.plan().then = Some((call, Box::new(act)));
    }

    /// Drops the plan.
    pub fn heal(&self) {
        self.gate.plan().fault = None;
    }

    /// How many calls were failed so far.
    pub fn failed(&self) -> u64 {
        self.gate.plan().failed
    }
}

impl Store for FailingStore {
    fn root(&self) -> Arc<dyn Dir> {
        Arc::new(Failing {
            inner: self.inner.root(),
            gate: self.gate.clone(),
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.gate.pass(Call::SyncStore)?;
        self.inner.sync()
    }

    fn usage(&self) -> io::Result<Usage> {
        self.gate.pass(Call::Usage)?;
        self.inner.usage()
    }

    fn traits(&self) -> Traits {
        self.inner.traits()
    }
}

/// A file, directory or set of xattrs behind the gate.
struct Failing<T: ?Sized> {
    inner: Arc<T>,
    gate: Gate,
}

impl<T: ?Sized> Failing<T> {
    fn pass(&self, call: Call) -> io::Result<&T> {
        self.gate.pass(call)?;
        Ok(&self.inner)
    }

    fn wrap<U: ?Sized>(&self, inner: Arc<U>) -> Failing<U> {
        Failing {
            inner,
            gate: self.gate.clone(),
        }
    }
}

impl<T: Xattrs + ?Sized> Xattrs for Failing<T> {
    fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.pass(Call::ReadXattr)?.xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> io::Result<()> {
        self.pass(Call::SetXattr)?
            .set_xattr(name, value, create, replace)
    }

    fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.pass(Call::ReadXattr)?.xattr_names()
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        self.pass(Call::RemoveXattr)?.remove_xattr(name)
    }
}

impl File for Failing<dyn File> {
    fn stat(&self) -> io::Result<Stat> {
        self.pass(Call::Stat)?.stat()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.pass(Call::Read)?.read_at(buf, offset)
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.pass(Call::Read)?.read_vectored_at(bufs, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let passed = self.gate.pass(Call::Write);
        if passed.is_err() && self.gate.plan().short {
            let page_end = (offset + buf.len() as u64 / 2) & !4095;
            let half = buf.get(..page_end.saturating_sub(offset) as usize);
            self.inner.write_at(half.unwrap_or_default(), offset)?;
        }
        passed.and_then(|()| self.inner.write_at(buf, offset))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.gate.plan().short {
            let whole: Vec<u8> = bufs.iter().flat_map(|part| part.iter().copied()).collect();
            return self.write_at(&whole, offset);
        }
        self.pass(Call::Write)?.write_vectored_at(bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.pass(Call::SetLen)?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pass(Call::SyncFile)?.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.pass(Call::SyncFile)?.sync_all()
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> io::Result<()> {
        self.pass(Call::Allocate)?.allocate(how, offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.pass(Call::NextData)?.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.pass(Call::NextData)?.next_hole(offset)
    }

    fn will_need(&self, offset: u64, len: u64) {
        self.inner.will_need(offset, len);
    }

    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        self.pass(Call::WriteBack)?.write_back(offset, len)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.pass(Call::SetMode)?.set_mode(mode)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.pass(Call::SetOwner)?.set_owner(uid, gid)
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.pass(Call::SetTimes)?.set_times(times)
    }

    fn take_contents(&self, from: &dyn File) -> io::Result<Taken> {
        self.pass(Call::TakeContents)?.take_contents(from)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.pass(Call::Lock)?.try_lock(exclusive)
    }
}

/// The directory under the wrapper; EXDEV for one that is not wrapped.
fn unwrapped(dir: &dyn Dir) -> io::Result<&dyn Dir> {
    let failing: Option<&Failing<dyn Dir>> = dir.as_any().downcast_ref();
    failing
        .map(|dir| &*dir.inner)
        .ok_or_else(|| errno(libc::EXDEV))
}

impl Dir for Failing<dyn Dir> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn stat(&self) -> io::Result<Stat> {
        self.pass(Call::Stat)?.stat()
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        self.pass(Call::Stat)?.stat_at(name)
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(
            self.wrap(self.pass(Call::Open)?.open(name, access)?),
        ))
    }

    fn create(&self, name: &[u8], mode: u32) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(
            self.wrap(self.pass(Call::Create)?.create(name, mode)?),
        ))
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(
            self.wrap(self.pass(Call::OpenDir)?.open_dir(name)?),
        ))
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.pass(Call::MakeDir)?.make_dir(name, mode)
    }

    fn make_node(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> io::Result<()> {
        self.pass(Call::MakeNode)?.make_node(name, kind, mode, rdev)
    }

    fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.pass(Call::MakeSymlink)?.make_symlink(name, target)
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.pass(Call::ReadLink)?.read_link(name)
    }

    fn link(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> io::Result<()> {
        self.pass(Call::Link)?.link(name, unwrapped(to)?, to_name)
    }

    fn rename(
        &self,
        name: &[u8],
        to: &dyn Dir,
        to_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let done = self
            .pass(Call::Rename)?
            .rename(name, unwrapped(to)?, to_name, mode);
        self.gate.done(Call::Rename, done)
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        let done = self.pass(Call::Remove)?.remove(name);
        self.gate.done(Call::Remove, done)
    }

    fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        let done = self.pass(Call::RemoveDir)?.remove_dir(name);
        self.gate.done(Call::RemoveDir, done)
    }

    fn entries(&self, from: u64) -> io::Result<Vec<Entry>> {
        self.pass(Call::Entries)?.entries(from)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.pass(Call::SetMode)?.set_mode(mode)
    }

    fn set_mode_at(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.pass(Call::SetMode)?.set_mode_at(name, mode)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.pass(Call::SetOwner)?.set_owner(uid, gid)
    }

    fn set_owner_at(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.pass(Call::SetOwner)?.set_owner_at(name, uid, gid)
    }

    fn set_times(&self, times: SetTimes) -> io::Result<()> {
        self.pass(Call::SetTimes)?.set_times(times)
    }

    fn set_times_at(&self, name: &[u8], times: SetTimes) -> io::Result<()> {
        self.pass(Call::SetTimes)?.set_times_at(name, times)
    }

    fn xattrs_at(&self, name: &[u8]) -> io::Result<Box<dyn Xattrs>> {
        let inner: Arc<dyn Xattrs> = Arc::from(self.inner.xattrs_at(name)?);
        Ok(Box::new(self.wrap(inner)))
    }

    fn sync(&self) -> io::Result<()> {
        self.pass(Call::SyncDir)?.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn fails_the_planned_call_and_leaves_the_store_alone() {
        let memory = Arc::new(MemoryStore::new());
        let store = FailingStore::new(memory.clone());
        let root = store.root();
        let file = root.create(b"a", 0o600).unwrap();
        store.fail_once(&[Call::Write, Call::SetLen], 1, libc::ENOSPC);
        file.write_at(b"one", 0).unwrap();
        assert_eq!(
            file.set_len(0).unwrap_err().raw_os_error(),
            Some(libc::ENOSPC)
        );
        assert_eq!(file.stat().unwrap().size, 3);
        assert_eq!(memory.writes().of(Call::SetLen), 0);
        file.set_len(1).unwrap();
        assert_eq!(store.failed(), 1);
    }

    #[test]
    fn a_short_write_puts_whole_pages_and_fails() {
        let memory = Arc::new(MemoryStore::new());
        let store = FailingStore::new(memory.clone());
        let file = store.root().create(b"a", 0o600).unwrap();
        file.set_len(40_000).unwrap();
        store.shorten_writes(true);
        store.fail_once(&[Call::Write], 0, libc::ENOSPC);
        let refused = file.write_vectored_at(
            &[IoSlice::new(&[7; 9000]), IoSlice::new(&[8; 11_000])],
            5000,
        );
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        let mut found = vec![0; 40_000];
        file.read_at(&mut found, 0).unwrap();
        assert_eq!(
            found.iter().filter(|byte| **byte != 0).count(),
            12_288 - 5000
        );
    }

    #[test]
    fn a_lasting_sync_fault_ends_only_when_healed() {
        let memory = Arc::new(MemoryStore::new());
        let store = FailingStore::new(memory.clone());
        let file = store.root().create(b"a", 0o600).unwrap();
        store.fail_from(
            &[Call::SyncFile, Call::SyncDir, Call::SyncStore],
            0,
            libc::EIO,
        );
        for result in [
            file.sync_data(),
            file.sync_all(),
            store.root().sync(),
            store.sync(),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        }
        assert_eq!((memory.syncs(), store.failed()), (0, 4));
        store.heal();
        store.sync().unwrap();
        assert_eq!(memory.syncs(), 1);
    }
}
