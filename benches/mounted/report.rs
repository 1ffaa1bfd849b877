//! Results as Markdown and as a chart, with the machine they come from.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use crate::chart::{self, Bar, Panel};
use crate::figures::number;
use crate::filesystems::Kind;
use crate::process::{Result, finish};
use crate::results::{Cell, Results};
use crate::workloads::Workload;

/// What of docs/PERFORMANCE.md the bench writes; prose around it stays.
const BEGIN: &str =
    "<!-- mounted: begin (cargo bench --bench mounted writes what stands between) -->";
const END: &str = "<!-- mounted: end -->";
const CHART: &str = "performance-mounted.svg";

/// A whole report.
pub struct Report<'a> {
    pub results: &'a Results,
    pub kinds: &'a [&'static Kind],
    pub works: &'a [&'static Workload],
    /// Filesystems that could not be measured, or failed in a workload, and why.
    pub missing: &'a [String],
    pub versions: &'a [String],
    pub machine: &'a [String],
    pub command: &'a str,
}

impl Report<'_> {
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for line in self.machine.iter().chain(self.versions).chain(self.missing) {
            let _ = writeln!(out, "* {line}");
        }
        let shown: Vec<_> = self
            .kinds
            .iter()
            .filter(|kind| {
                self.results
                    .cells
                    .iter()
                    .any(|cell| cell.kind.name == kind.name)
            })
            .collect();
        let _ = writeln!(
            out,
            "\nMedians, in brackets least to most. `{}`\n",
            self.command
        );
        row(
            &mut out,
            "workload",
            shown.iter().map(|kind| kind.title.to_owned()),
        );
        row(&mut out, "---", shown.iter().map(|_| "---".to_owned()));
        for work in self.works {
            let cells = shown.iter().map(|kind| {
                self.results
                    .cell(kind.name, work)
                    .map_or_else(|| "–".to_owned(), |cell| cell.values.to_string())
            });
            row(&mut out, &format!("{}, {}", work.title, work.unit()), cells);
        }
        self.verdicts(&mut out);
        out
    }

    fn verdicts(&self, out: &mut String) {
        let all: Vec<_> = self
            .works
            .iter()
            .filter_map(|work| Some((work, self.results.verdict(work)?)))
            .collect();
        if all.is_empty() {
            return;
        }
        out.push_str("\nStrongroom's default (GCM-SIV, write-through) against the goal; ratios of speeds, above 1 it is faster:\n\n");
        let heads = [
            "to null",
            "to the best encrypting peer",
            "to plain",
            "goal",
            "of the goal",
            "met",
        ];
        row(out, "workload", heads.map(str::to_owned).into_iter());
        row(out, "---", heads.map(|_| "---".to_owned()).into_iter());
        for (work, verdict) in all {
            let ratio = |value: Option<f64>| {
                value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"))
            };
            let cells = [
                ratio(verdict.to_null),
                verdict.to_peer.map_or_else(
                    || "not measured".to_owned(),
                    |(name, value)| format!("{value:.2} ({name})"),
                ),
                ratio(verdict.to_plain),
                verdict.wanted.map_or_else(
                    || "not known".to_owned(),
                    |wanted| format!("{} {}", number(wanted), work.unit()),
                ),
                ratio(verdict.of_wanted),
                match verdict.met {
                    Some(true) => "yes",
                    Some(false) => "**no**",
                    None => "not known",
                }
                .to_owned(),
            ];
            row(out, work.title, cells.into_iter());
        }
    }

    pub fn chart(&self) -> String {
        let panels: Vec<_> = self
            .works
            .iter()
            .map(|work| Panel {
                title: format!(
                    "{}, {}{}",
                    work.title,
                    work.unit(),
                    if work.is_rate() {
                        ""
                    } else {
                        " (shorter is better)"
                    }
                ),
                bars: self
                    .kinds
                    .iter()
                    .filter_map(|kind| bar(self.results.cell(kind.name, work)?))
                    .collect(),
            })
            .collect();
        let note = self.machine.first().cloned().unwrap_or_default();
        chart::svg(
            "Strongroom beside other encrypting filesystems",
            &note,
            &panels,
        )
    }

    /// Puts the report between the marks of docs/PERFORMANCE.md, and the chart beside it.
    pub fn record(&self) -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let page = docs.join("PERFORMANCE.md");
        let text = std::fs::read_to_string(&page)
            .map_err(|error| format!("{}: {error}", page.display()))?;
        let (before, rest) = text
            .split_once(BEGIN)
            .ok_or("docs/PERFORMANCE.md has lost its mark")?;
        let (_, after) = rest
            .split_once(END)
            .ok_or("docs/PERFORMANCE.md has lost its second mark")?;
        let report = self.markdown();
        let new =
            format!("{before}{BEGIN}\n\n{report}\n![The same as a chart]({CHART})\n\n{END}{after}");
        std::fs::write(&page, new).map_err(|error| error.to_string())?;
        std::fs::write(docs.join(CHART), self.chart()).map_err(|error| error.to_string())
    }
}

fn row(out: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<_> = cells.collect();
    let _ = writeln!(out, "| {first} | {} |", cells.join(" | "));
}

fn bar(cell: &Cell) -> Option<Bar> {
    let value = cell.values.median();
    value.is_finite().then(|| Bar {
        name: cell.kind.title.to_owned(),
        value,
        shown: number(value),
        role: cell.kind.role,
    })
}

/// What the figures come from.
pub fn machine(place: &Path, rounds: u32, size: u64, files: u32) -> Vec<String> {
    let said =
        |program: &str, args: &[&str]| finish(Command::new(program).args(args)).unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of_cpu = |field: &str| {
        let line = cpuinfo
            .lines()
            .find(|line| line.starts_with(field))
            .unwrap_or_default();
        line.split_once(':')
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned()
    };
    let flags = of_cpu("flags");
    let has = |flag: &str| {
        if flags.split(' ').any(|other| other == flag) {
            "with"
        } else {
            "without"
        }
    };
    let processors = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let place = place.display().to_string();
    let disk = said(
        "findmnt",
        &["-n", "-o", "SOURCE,FSTYPE,OPTIONS", "--target", &place],
    );
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split(' ').take(3).collect();
    vec![
        format!(
            "{}, {processors} processors (family {}, model {}, {} VAES, {} AVX-512), {} GiB, Linux {}",
            of_cpu("model name"),
            of_cpu("cpu family"),
            of_cpu("model\t"),
            has("vaes"),
            has("avx512f"),
            kib >> 20,
            said("uname", &["-r"])
        ),
        format!(
            "Disk: {}",
            disk.split_whitespace().collect::<Vec<_>>().join(" ")
        ),
        format!(
            "{}, {rounds} rounds, a file of {size} MiB, a tree of {files} files; load before: {}; fio: {}",
            said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            load.join(" "),
            said("fio", &["--version"])
        ),
    ]
}
