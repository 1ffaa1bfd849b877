//! `check`: every object of a volume looked at, in parallel, and what is wrong with it said. Owns the walk and its report;
//! what a header, record or name must look like is for the modules that read them. Writes nothing.
//!
//! Invariant: memory does not grow with the number of files: directories are listed and files looked at some at a time.

mod finding;
mod object;
mod queue;
mod walk;

pub use finding::{CheckProgress, Finding, Part, Report, Severity};
pub(crate) use finding::{Locus, Note};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::keys::Providers;
use crate::store::Store;
use crate::volume::error::Result;
use crate::volume::open::anyway;
use crate::volume::{OpenOptions, Volume};
use walk::Walk;

/// How often progress is told.
const TOLD: Duration = Duration::from_millis(100);

/// What a check does.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Read headers and tag pages only, no data.
    pub metadata_only: bool,
    /// Threads; 0: one for each processor, two at least.
    pub threads: usize,
}

impl CheckOptions {
    fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(2, usize::from);
        match self.threads {
            0 => processors().clamp(2, 16),
            threads => threads,
        }
    }
}

/// Opens a volume that nobody uses for reading, also where its own files are damaged, and checks it.
///
/// # Errors
/// As `open`'s, where neither generation of the volume file can be used.
pub fn check(
    store: Arc<dyn Store>,
    providers: Providers,
    open: &OpenOptions,
    options: &CheckOptions,
    progress: &mut dyn FnMut(CheckProgress),
) -> Result<Report> {
    let (volume, notes) = anyway::open(store, providers, open, true)?;
    let report = volume.check(options, progress);
    volume.close()?;
    let mut report = report?;
    report.damaged += notes.len() as u64;
    for (name, note) in notes {
        report.findings.insert(0, Finding::of_volume(name, note));
    }
    Ok(report)
}

impl Volume {
    /// Looks at every object of the volume, which nothing else may change meanwhile. What is wrong with one does not end
    /// the check.
    pub fn check(
        &self,
        options: &CheckOptions,
        progress: &mut dyn FnMut(CheckProgress),
    ) -> Result<Report> {
        let started = Instant::now();
        let walk = Walk::new(self, *options)?;
        walk.begin();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..options.threads())
                .map(|_| scope.spawn(|| walk.work()))
                .collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                progress(walk.progress());
                walk.queue.wait_for_end(TOLD);
            }
        });
        progress(walk.progress());
        let mut report = walk.into_report();
        report.metadata_only = options.metadata_only;
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }
}

fn add(counter: &std::sync::atomic::AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
