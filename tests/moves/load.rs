//! A writer and a reader that work below the mount all the time, but for when it is down.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// Names that the writer uses in turn.
const NAMES: usize = 40;

/// For the load to begin.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Load {
    dir: PathBuf,
    down: AtomicBool,
    times_down: AtomicUsize,
    stop: AtomicBool,
    reads: AtomicUsize,
    /// Held for one operation at a time, so that a check sees none under way.
    written: Mutex<BTreeMap<usize, usize>>,
}

/// Ends the load when dropped, also by a panic.
pub struct Running<'a>(&'a Load);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

impl Load {
    /// Works in a new directory below the mount.
    pub fn below(mnt: &Path) -> Self {
        let dir = mnt.join("busy");
        fs::create_dir(&dir).unwrap();
        Self {
            dir,
            ..Self::default()
        }
    }

    pub fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Running<'scope> {
        scope.spawn(|| self.write());
        scope.spawn(|| self.read());
        Running(self)
    }

    /// From now on the mount may be away: what fails is tried again later.
    pub fn pause(&self) {
        self.times_down.fetch_add(1, Ordering::SeqCst);
        self.down.store(true, Ordering::SeqCst);
    }

    /// The mount is back.
    pub fn go_on(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    /// Everything that was written and synced reads as it was written; waits for the load to have begun.
    pub fn assert_whole(&self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && !self.worked() {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(self.worked(), "the load did not work");
        let written = self.lock();
        for (name, round) in &*written {
            assert!(
                fs::read(self.path(*name)).unwrap() == content(*round),
                "{name} of round {round}"
            );
        }
    }

    fn worked(&self) -> bool {
        self.lock().len() > 1 && self.reads.load(Ordering::SeqCst) > 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.written
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn path(&self, name: usize) -> PathBuf {
        self.dir.join(format!("f{name}"))
    }

    /// Does this again and again; an error counts unless the mount is down.
    fn repeat(&self, mut work: impl FnMut(usize) -> io::Result<()>) {
        let mut round = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let times = self.times_down.load(Ordering::SeqCst);
            if !self.down.load(Ordering::SeqCst) {
                match work(round) {
                    Ok(()) => round += 1,
                    Err(_) if self.times_down.load(Ordering::SeqCst) != times => {}
                    Err(error) => panic!("{error} while the volume was mounted"),
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn write(&self) {
        self.repeat(|round| {
            let mut written = self.lock();
            let next = self.dir.join("next");
            let mut file = File::create(&next)?;
            file.write_all(&content(round))?;
            file.sync_all()?;
            // Until the directory is synced, a crash may leave either.
            written.remove(&(round % NAMES));
            fs::rename(next, self.path(round % NAMES))?;
            File::open(&self.dir)?.sync_all()?;
            written.insert(round % NAMES, round);
            Ok(())
        });
    }

    fn read(&self) {
        self.repeat(|round| {
            let name = round % NAMES;
            let written = self.lock();
            let Some(wrote) = written.get(&name) else {
                return Ok(());
            };
            assert!(
                fs::read(self.path(name))? == content(*wrote),
                "{name} of round {wrote}"
            );
            self.reads.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
    }
}

fn content(round: usize) -> Vec<u8> {
    format!("round {round} ")
        .repeat(1 + round % 700)
        .into_bytes()
}
