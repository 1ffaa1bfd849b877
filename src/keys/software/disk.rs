//! Where a keystore lies: one file in a directory of a store, its lock, its older generation, its replacement. Knows
//! nothing of what the bytes mean, except which generation made their root key.
//!
//! Invariant: at every instant the file's name leads to one whole generation. A copy that holds a superseded root key is
//! overwritten with zeros before it is removed.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::KeystoreError;
use super::file::{MAX_FILE, superseded};
use crate::broken::{Rule, broken};
use crate::store::{Access, Dir, File, RealStore, RenameMode, Store};

/// What the older generation's name adds to the keystore's.
const OLDER: &[u8] = b".older";
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A keystore's place: a directory and a file name in it.
#[derive(Clone)]
pub struct Place {
    dir: Arc<dyn Dir>,
    name: Vec<u8>,
}

/// The keystore's exclusive lock among processes; goes with this value.
pub(super) struct Lock(#[allow(dead_code, reason = "held for its descriptor")] Arc<dyn File>);

impl Place {
    /// A file of this name in this directory.
    pub fn new(dir: Arc<dyn Dir>, name: &[u8]) -> Self {
        Self {
            dir,
            name: name.to_vec(),
        }
    }

    /// A file by its path. The directory must exist; the file need not.
    ///
    /// # Errors
    /// The directory cannot be opened, or the path has no file name.
    pub fn at(path: &Path) -> Result<Self, KeystoreError> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let store = RealStore::open(parent).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeystoreError::Missing(path.display().to_string()),
            _ => KeystoreError::Io(error),
        })?;
        Ok(Self::new(store.root(), name.as_bytes()))
    }

    /// The file's name, for sentences.
    pub(super) fn label(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// The whole file.
    pub(super) fn read(&self) -> Result<Vec<u8>, KeystoreError> {
        let file = match self.dir.open(&self.name, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeystoreError::Missing(self.label()));
            }
            other => other?,
        };
        read_bounded(file.as_ref())
    }

    /// Takes the lock, waiting up to 10 s.
    pub(super) fn lock(&self) -> Result<Lock, KeystoreError> {
        let name = self.beside(b".lock");
        let file = loop {
            match self.dir.create(&name, 0o600) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => break other?,
            }
            match self.dir.open(&name, Access::ReadWrite) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => break other?,
            }
        };
        let deadline = Instant::now() + LOCK_PATIENCE;
        while !file.try_lock(true)? {
            if Instant::now() > deadline {
                return Err(KeystoreError::Busy);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Ok(Lock(file))
    }

    /// Makes durable which file stands there.
    pub(super) fn sync(&self) -> Result<(), KeystoreError> {
        Ok(self.dir.sync()?)
    }

    /// Puts the first generation there.
    pub(super) fn create(&self, _lock: &Lock, bytes: &[u8]) -> Result<(), KeystoreError> {
        let new = self.write_new(bytes)?;
        match self
            .dir
            .rename(&new, self.dir.as_ref(), &self.name, RenameMode::NoReplace)
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.dir.remove(&new)?;
                return Err(KeystoreError::Exists(self.label()));
            }
            // A store without the flag: the lock keeps other keystores away, and this look any other file.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                if self.dir.stat_at(&self.name).is_ok() {
                    self.dir.remove(&new)?;
                    return Err(KeystoreError::Exists(self.label()));
                }
                self.dir
                    .rename(&new, self.dir.as_ref(), &self.name, RenameMode::Replace)?;
            }
            other => other?,
        }
        Ok(self.dir.sync()?)
    }

    /// Replaces the file; the generation that stood there, `old`, is kept beside it.
    pub(super) fn replace(
        &self,
        _lock: &Lock,
        old: &[u8],
        bytes: &[u8],
    ) -> Result<(), KeystoreError> {
        let new = self.write_new(bytes)?;
        let kept = self.write(self.beside(b".kept"), old)?;
        self.dir.rename(
            &kept,
            self.dir.as_ref(),
            &self.beside(OLDER),
            RenameMode::Replace,
        )?;
        self.dir
            .rename(&new, self.dir.as_ref(), &self.name, RenameMode::Replace)?;
        if broken(Rule::KeystoreNameUnsynced) {
            return Ok(());
        }
        Ok(self.dir.sync()?)
    }

    /// Replaces the file by one with a new root key, then erases every copy of the old one. By an exchange, so that a
    /// crash leaves the old one under a name where `tidy` finds it.
    pub(super) fn replace_and_erase(
        &self,
        _lock: &Lock,
        bytes: &[u8],
    ) -> Result<(), KeystoreError> {
        let new = self.write_new(bytes)?;
        match self
            .dir
            .rename(&new, self.dir.as_ref(), &self.name, RenameMode::Exchange)
        {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let old = self.dir.open(&self.name, Access::ReadWrite)?;
                self.dir
                    .rename(&new, self.dir.as_ref(), &self.name, RenameMode::Replace)?;
                self.dir.sync()?;
                erase(old.as_ref())?;
            }
            other => {
                other?;
                self.dir.sync()?;
                self.erase_if_there(&new)?;
            }
        }
        self.erase_if_there(&self.beside(OLDER))?;
        Ok(self.dir.sync()?)
    }

    /// Finishes what a crash interrupted: erases an older generation from before this root key, and hidden files that
    /// never got or just lost the keystore's name.
    pub(super) fn tidy(&self, _lock: &Lock, root_generation: u64) -> Result<(), KeystoreError> {
        for name in [self.beside(b".new"), self.beside(b".kept")] {
            self.erase_if_there(&name)?;
        }
        let older = match self.dir.open(&self.beside(OLDER), Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if superseded(&read_bounded(older.as_ref())?, root_generation) {
            self.erase_if_there(&self.beside(OLDER))?;
            self.dir.sync()?;
        }
        Ok(())
    }

    fn erase_if_there(&self, name: &[u8]) -> Result<(), KeystoreError> {
        match self.dir.open(name, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => erase(other?.as_ref())?,
        }
        Ok(self.dir.remove(name)?)
    }

    fn write_new(&self, bytes: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        self.write(self.beside(b".new"), bytes)
    }

    fn write(&self, name: Vec<u8>, bytes: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        self.erase_if_there(&name)?;
        let file = self.dir.create(&name, 0o600)?;
        file.write_at(bytes, 0)?;
        if !broken(Rule::KeystoreUnsynced) {
            file.sync_all()?;
        }
        Ok(name)
    }

    /// `.older` is for people to find; the others are hidden.
    fn beside(&self, suffix: &[u8]) -> Vec<u8> {
        let dot: &[u8] = if suffix == OLDER { b"" } else { b"." };
        [dot, &self.name, suffix].concat()
    }
}

fn read_bounded(file: &dyn File) -> Result<Vec<u8>, KeystoreError> {
    let size = usize::try_from(file.stat()?.size).unwrap_or(usize::MAX);
    if size > MAX_FILE {
        return Err(KeystoreError::Damaged("it is over 4 MiB long".to_owned()));
    }
    let mut bytes = vec![0; size];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn erase(file: &dyn File) -> Result<(), KeystoreError> {
    let zeros = vec![0; usize::try_from(file.stat()?.size).unwrap_or(0)];
    file.write_at(&zeros, 0)?;
    Ok(file.sync_all()?)
}
