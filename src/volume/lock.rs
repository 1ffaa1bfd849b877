//! One writer at a time: `strongroom.lock` in the backing directory, locked with flock and holding who has it. The kernel
//! gives the lock back when a process dies, so a record without a lock behind it is stale, unless it names another host,
//! whose locks may not reach us.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::format::names::LOCK;
use crate::store::{Access, Dir, File, Host};
use crate::volume::error::{Error, Result};

const LIMIT: usize = 4096;

/// The held lock of a volume; dropped, it is free again.
pub(crate) struct VolumeLock {
    file: Arc<dyn File>,
    /// Whether the record is this process's, which empties it at the end.
    recorded: bool,
}

impl VolumeLock {
    /// Takes the lock for a writer. Unusable, with pid and host, while another process holds it. `take_over`: the user
    /// vouches that the other host of the record is gone.
    pub(crate) fn exclusive(root: &Arc<dyn Dir>, host: &Host, take_over: bool) -> Result<Self> {
        let file = match root.open(LOCK, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => root.create(LOCK, 0o600)?,
            opened => opened?,
        };
        let locked = try_patiently(&file, true)?;
        let holder = read_holder(&file)?;
        if !locked {
            return Err(in_use(holder.as_ref()));
        }
        match holder {
            Some(other) if other.name != host.name && !take_over => return Err(foreign(&other)),
            Some(other) => {
                tracing::warn!(
                    "the lock of pid {} on {} is stale: that process is gone",
                    other.pid,
                    other.name
                );
            }
            None => {}
        }
        let mut lock = Self::inherited(file);
        lock.record(host)?;
        Ok(lock)
    }

    /// The lock of another process that goes on as this one, by its descriptor. The record stays that process's until
    /// `record`.
    fn inherited(file: Arc<dyn File>) -> Self {
        Self {
            file,
            recorded: false,
        }
    }

    /// As `inherited`, of this directory; unusable where that has another lock file, so that this is another volume, or a copy.
    pub(crate) fn inherited_in(root: &Arc<dyn Dir>, file: Arc<dyn File>) -> Result<Self> {
        let (there, given) = (root.open(LOCK, Access::Read)?.stat()?, file.stat()?);
        if (there.dev, there.ino) != (given.dev, given.ino) {
            return Err(Error::InUse(
                "the directory at this path is not the one that is mounted: its lock is another"
                    .to_owned(),
            ));
        }
        Ok(Self::inherited(file))
    }

    /// Says who holds it.
    pub(crate) fn record(&mut self, host: &Host) -> io::Result<()> {
        let record =
            serde_json::to_vec(host).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // Neither here nor at the end is the file cut to nothing: on a full disk its block would not come back.
        self.file.write_at(&record, 0)?;
        self.file.set_len(record.len() as u64)?;
        self.recorded = true;
        Ok(())
    }

    /// Leaves the record to the process that goes on with the lock.
    pub(crate) fn leave(&mut self) {
        self.recorded = false;
    }

    /// The locked file.
    pub(crate) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// Takes the lock for a reader, without writing a byte; `None` where there is no lock file to lock.
    pub(crate) fn shared(root: &Arc<dyn Dir>) -> Result<Option<Self>> {
        let file = match root.open(LOCK, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if !try_patiently(&file, false)? {
            return Err(in_use(read_holder(&file)?.as_ref()));
        }
        Ok(Some(Self::inherited(file)))
    }
}

/// No record of anyone.
const NOBODY: &[u8] = b"\n";

impl Drop for VolumeLock {
    fn drop(&mut self) {
        if !self.recorded {
            return;
        }
        let emptied = self.file.write_at(NOBODY, 0);
        if emptied
            .and_then(|()| self.file.set_len(NOBODY.len() as u64))
            .is_err()
        {
            tracing::warn!("the lock file could not be emptied; the next mount will call it stale");
        }
    }
}

/// Who holds the lock of this volume for writing, if its file says so.
pub fn holder(root: &Arc<dyn Dir>) -> Result<Option<Host>> {
    match root.open(LOCK, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => {
            let file = opened?;
            let free = file.try_lock(false)?;
            Ok(if free { None } else { read_holder(&file)? })
        }
    }
}

/// Who only asks who holds a volume has the lock for an instant itself: that is waited for.
fn try_patiently(file: &Arc<dyn File>, exclusive: bool) -> io::Result<bool> {
    for _ in 0..5 {
        if file.try_lock(exclusive)? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    file.try_lock(exclusive)
}

fn read_holder(file: &Arc<dyn File>) -> Result<Option<Host>> {
    let mut bytes = vec![0; LIMIT];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(serde_json::from_slice(&bytes).ok())
}

fn in_use(holder: Option<&Host>) -> Error {
    Error::InUse(match holder {
        Some(holder) => format!(
            "process {} on host {} has this volume mounted",
            holder.pid, holder.name
        ),
        None => "another process reads this volume (a read-only mount or a check)".to_owned(),
    })
}

fn foreign(holder: &Host) -> Error {
    Error::InUse(format!(
        "process {} on host {} mounted this volume and never unmounted it; mount there and unmount, or give --take-over \
         if that host is gone for good",
        holder.pid, holder.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Store};

    fn host(name: &str, pid: u32) -> Host {
        Host {
            name: name.into(),
            boot_id: "b".into(),
            pid,
            since: 1,
        }
    }

    #[test]
    fn a_second_writer_is_refused_with_pid_and_host_of_the_first() {
        let root = MemoryStore::new().root();
        let held = VolumeLock::exclusive(&root, &host("alpha", 7), false).unwrap();
        let refused = VolumeLock::exclusive(&root, &host("alpha", 8), false)
            .err()
            .unwrap()
            .to_string();
        assert!(refused.contains("process 7 on host alpha"), "{refused}");
        assert!(VolumeLock::shared(&root).is_err());
        drop(held);
        assert!(VolumeLock::exclusive(&root, &host("alpha", 8), false).is_ok());
    }

    #[test]
    fn the_lock_of_another_directory_is_not_this_one_s() {
        let stores = [MemoryStore::new(), MemoryStore::new()];
        let roots = stores.each_ref().map(|store| store.root());
        let [ours, other] = roots.each_ref().map(|root| {
            // So that the two files have numbers of their own.
            root.create(b"first", 0o600).unwrap();
            VolumeLock::exclusive(root, &host("alpha", 7), false)
                .unwrap()
                .file()
        });
        let copy = roots[0].create(b"copy", 0o600).unwrap();
        assert!(VolumeLock::inherited_in(&roots[0], ours).is_ok());
        for wrong in [copy, other] {
            let refused = VolumeLock::inherited_in(&roots[0], wrong).err().unwrap();
            assert!(matches!(refused, Error::InUse(_)), "{refused}");
        }
    }

    #[test]
    fn readers_share_and_keep_a_writer_out() {
        let root = MemoryStore::new().root();
        drop(VolumeLock::exclusive(&root, &host("alpha", 7), false).unwrap());
        let one = VolumeLock::shared(&root).unwrap();
        let two = VolumeLock::shared(&root).unwrap();
        assert!(one.is_some() && two.is_some());
        assert!(VolumeLock::exclusive(&root, &host("alpha", 8), false).is_err());
    }

    #[test]
    fn a_stale_record_of_this_host_is_taken_over_and_one_of_another_host_only_on_demand() {
        let root = MemoryStore::new().root();
        let leave = |who: Host| {
            let file = root
                .create(LOCK, 0o600)
                .or_else(|_| root.open(LOCK, Access::ReadWrite))
                .unwrap();
            file.set_len(0).unwrap();
            file.write_at(&serde_json::to_vec(&who).unwrap(), 0)
                .unwrap();
        };
        leave(host("alpha", 7));
        assert!(VolumeLock::exclusive(&root, &host("alpha", 8), false).is_ok());
        leave(host("beta", 7));
        assert!(VolumeLock::exclusive(&root, &host("alpha", 8), false).is_err());
        assert!(VolumeLock::exclusive(&root, &host("alpha", 8), true).is_ok());
    }
}
