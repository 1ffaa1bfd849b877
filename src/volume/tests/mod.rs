//! Names, directories and attributes of a whole volume over a store in memory.

mod ahead;
mod carry;
mod copy;
mod faults;
mod held;
mod key_loss;
mod log;
mod model;
mod names;
mod power;
mod redo;
mod rekey_data;
mod reused;
mod rules;
mod streams;
mod tags;

use std::sync::Arc;

use crate::crypto::Secret;
use crate::format::ids::KeyVersion;
use crate::format::suite::Suite;
use crate::store::{MemoryStore, Store};
use crate::volume::env::Env;
use crate::volume::error::Result;
use crate::volume::facade::Closer;
use crate::volume::fixture::{Fixture, Mounted, READ_WRITE, volume_file};
use crate::volume::master::{Master, Modules};
use crate::volume::{Caller, OpenFlags, Volume};

/// A volume in memory and its mounts.
pub(super) struct Bench {
    pub(super) fixture: Fixture,
    pub(super) store: Arc<MemoryStore>,
    epoch: u64,
    listed: Vec<u64>,
}

struct NothingToClose;

impl Closer for NothingToClose {
    fn finish(&mut self, _: &Env) -> Result<()> {
        Ok(())
    }
}

impl Bench {
    pub(super) fn new(suite: Suite) -> Self {
        Self {
            fixture: Fixture::new(suite),
            store: Arc::new(MemoryStore::new()),
            epoch: 0,
            listed: Vec::new(),
        }
    }

    /// Mounts it again after it was closed.
    pub(super) fn open(&mut self) -> Arc<Volume> {
        self.epoch += 1;
        self.open_on(self.store.clone())
    }

    /// Mounts it after an end without `close`: a kill.
    pub(super) fn open_after_kill(&mut self) -> Arc<Volume> {
        self.listed.push(self.epoch);
        self.open()
    }

    /// Mounts it for reading.
    pub(super) fn open_read_only(&self) -> Arc<Volume> {
        let Mounted { env, settler, .. } =
            self.fixture
                .mount(self.store.clone(), self.epoch, &self.listed);
        drop(settler);
        let mut env = Arc::into_inner(env).unwrap();
        env.read_only = true;
        start(Arc::new(env))
    }

    pub(super) fn open_on(&self, store: Arc<dyn Store>) -> Arc<Volume> {
        start(self.fixture.mount(store, self.epoch, &self.listed).env)
    }
}

fn start(env: Arc<Env>) -> Arc<Volume> {
    let master = Master::new(
        volume_file(env.suite, &[KeyVersion(1)]),
        Secret::random(),
        None,
        Modules::new(),
    );
    Volume::start(env, master, Box::new(NothingToClose)).unwrap()
}

/// Whoever runs the daemon, so that nothing needs to be given away.
pub(super) fn me() -> Caller {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    Caller { uid, gid, umask: 0 }
}

/// The code of a result, 0 for success.
pub(super) fn code<T>(result: &Result<T>) -> i32 {
    result.as_ref().err().map_or(0, |error| error.code())
}

/// Every name of a directory.
pub(super) fn list(volume: &Volume, dir: &Arc<crate::volume::Node>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut from = 0;
    loop {
        let batch = volume.read_dir(dir, from)?;
        let Some(last) = batch.last() else {
            return Ok(names);
        };
        from = last.next;
        names.extend(batch.into_iter().map(|entry| entry.name));
    }
}
