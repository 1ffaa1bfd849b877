//! `check`: every object of a volume looked at, in parallel, and what is wrong with it said. Owns the walk and its report;
//! what a header, record or name must look like is for the modules that read them. Writes nothing.
//!
//! Invariant: memory does not grow with the number of files: directories are listed and files looked at some at a time.

mod finding;
mod object;
mod queue;
mod walk;

pub(crate) use finding::Note;
pub use finding::{CheckProgress, Finding, Part, Report, Severity};

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::volume::Volume;
use crate::volume::error::Result;
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
