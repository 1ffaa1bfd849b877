//! Twelve workloads side by side: a plain directory, a FUSE mount that encrypts nothing, other encrypting filesystems, and
//! Strongroom in four modes. `cargo bench --bench mounted -- --help` says what can be chosen. Needs root (it mounts, and drops
//! the host's caches), fio, and what of the peers is to be compared with: `apt-get install fio gocryptfs securefs encfs cryfs`.
//!
//! All are mounted at the same time, and each workload runs on one after the other, so that what else the host does meets all
//! alike; each round begins with another one.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that fails has no result

#[allow(dead_code, unused_imports)] // its tests run with the library
#[path = "../../src/cli/bench/chart.rs"]
mod chart;
#[allow(dead_code, unused_imports)] // its tests run with the library
#[path = "../../src/cli/bench/figures.rs"]
mod figures;
mod filesystems;
mod null;
mod options;
mod process;
#[path = "../../src/cli/bench/random.rs"]
mod random;
mod report;
mod results;
mod workloads;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use filesystems::{Kind, Mounted};
use options::Options;
use process::{Result, is_stopped};
use report::Report;
use results::Results;
use workloads::Ground;

fn main() -> ExitCode {
    let options = Options::parse();
    match process::until_stopped(|| bench(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mounted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything that is there could be measured.
fn bench(options: &Options) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        return Err("run it as root: it mounts, and drops the host's caches (strongroom bench needs no root)".to_owned());
    }
    process::finish(std::process::Command::new("fio").arg("--version"))
        .map_err(|_| "apt-get install fio")?;
    let place = tempfile::Builder::new()
        .prefix("strongroom-mounted-")
        .tempdir_in(
            options
                .dir
                .as_deref()
                .unwrap_or(Path::new(env!("CARGO_TARGET_TMPDIR"))),
        )
        .map_err(|error| format!("no directory to work in: {error}"))?;
    let (mut kinds, mut versions, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for kind in options.kinds() {
        match kind.version() {
            Ok(version) => {
                versions.push(format!("{}: {version}", kind.title));
                kinds.push(kind);
            }
            Err(error) => missing.push(format!("**Missing: {}**: {error}", kind.title)),
        }
    }
    missing.iter().for_each(|line| eprintln!("{line}"));
    let machine = report::machine(place.path(), options.rounds, options.size, options.files);
    let works = options.workloads();
    let ground = Ground::new(options.size << 20, options.files, place.path())?;
    let mut results = Results::default();
    let mut failed = Vec::new();
    for round in 0..options.rounds {
        measure(
            round,
            &kinds,
            options,
            &ground,
            place.path(),
            &mut results,
            &mut failed,
        )?;
    }
    let all_went_well = failed.is_empty();
    missing.extend(failed);
    let report = Report {
        results: &results,
        kinds: &kinds,
        works: &works,
        missing: &missing,
        versions: &versions,
        machine: &machine,
        command: &command_line(),
    };
    println!("{}", report.markdown());
    if let Some(file) = &options.chart {
        std::fs::write(file, report.chart())
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if options.records() && all_went_well {
        report.record()?;
    }
    Ok(all_went_well)
}

/// One round: every filesystem fresh, every workload on each in turn.
fn measure(
    round: u32,
    kinds: &[&'static Kind],
    options: &Options,
    ground: &Ground,
    place: &Path,
    results: &mut Results,
    failed: &mut Vec<String>,
) -> Result<()> {
    let mut mounted = Vec::new();
    for kind in kinds {
        match Mounted::new(kind, place) {
            Ok(one) => mounted.push(one),
            Err(error) => failed.push(format!(
                "**Failed: {}**, round {}: {error}",
                kind.title,
                round + 1
            )),
        }
        stop_if_asked()?;
    }
    let first = round as usize % mounted.len().max(1);
    mounted.rotate_left(first);
    for work in options.workloads() {
        for one in &mounted {
            let measured = ground.measure(work, &one.path());
            stop_if_asked()?;
            match measured {
                Ok(value) => {
                    eprintln!(
                        "round {} {:12} {:20} {value:9.2} {}",
                        round + 1,
                        work.name,
                        one.kind.name,
                        work.unit()
                    );
                    results.add(one.kind, work, value);
                }
                Err(error) => failed.push(format!(
                    "**Failed: {}** in {}, round {}: {error}",
                    one.kind.title,
                    work.title,
                    round + 1
                )),
            }
        }
    }
    Ok(())
}

fn stop_if_asked() -> Result<()> {
    if is_stopped() {
        Err("stopped by a signal".to_owned())
    } else {
        Ok(())
    }
}

fn command_line() -> String {
    let args: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let rest = if args.is_empty() {
        String::new()
    } else {
        format!(" -- {}", args.join(" "))
    };
    format!("cargo bench --bench mounted{rest}")
}
