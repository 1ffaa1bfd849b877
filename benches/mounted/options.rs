//! What to measure, from the command line.

use std::path::PathBuf;

use clap::Parser;

use crate::filesystems::{ALL, Kind};
use crate::workloads::{WORKLOADS, Workload};

/// Encrypting filesystems side by side on one disk: medians, their spread, a table and a chart.
#[derive(Debug, Parser)]
#[command(name = "mounted", bin_name = "cargo bench --bench mounted --")]
pub struct Options {
    /// Rounds; each measures every filesystem in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Only these filesystems, separated by commas (default: all)
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    only: Vec<&'static Kind>,
    /// Only these workloads, separated by commas (default: all)
    #[arg(long, value_delimiter = ',', value_parser = workload)]
    workloads: Vec<&'static Workload>,
    /// Size of the large file in MiB; random workloads touch an eighth of it
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..))]
    pub size: u64,
    /// Small files in the tree
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u32).range(20..))]
    pub files: u32,
    /// Directory on the disk to measure (default: in the target directory)
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Write the result into docs/PERFORMANCE.md, with its chart (a run of everything does)
    #[arg(long)]
    record: bool,
    /// Only print
    #[arg(long, conflicts_with = "record")]
    no_record: bool,
    /// Also write the chart here
    #[arg(long, value_name = "FILE")]
    pub chart: Option<PathBuf>,
    /// What cargo tells every bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub fn kinds(&self) -> Vec<&'static Kind> {
        ALL.iter()
            .filter(|kind| {
                self.only.is_empty() || self.only.iter().any(|only| only.name == kind.name)
            })
            .collect()
    }

    pub fn workloads(&self) -> Vec<&'static Workload> {
        WORKLOADS
            .iter()
            .filter(|work| {
                self.workloads.is_empty()
                    || self.workloads.iter().any(|only| only.name == work.name)
            })
            .collect()
    }

    pub fn records(&self) -> bool {
        self.record || !self.no_record && self.only.is_empty() && self.workloads.is_empty()
    }
}

fn kind(name: &str) -> Result<&'static Kind, String> {
    ALL.iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| format!("known are {}", names(ALL.iter().map(|kind| kind.name))))
}

fn workload(name: &str) -> Result<&'static Workload, String> {
    WORKLOADS
        .iter()
        .find(|work| work.name == name)
        .ok_or_else(|| {
            format!(
                "known are {}",
                names(WORKLOADS.iter().map(|work| work.name))
            )
        })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
