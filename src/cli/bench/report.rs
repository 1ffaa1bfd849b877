//! What was measured as a table, as one line of JSON, and as a chart.

use std::path::Path;

use serde_json::{Value, json};

use super::chart::{self, Bar, Panel, Role};
use super::ciphers::Speed;
use super::figures::{Figures, number};
use super::workloads::Workload;
use crate::cli::args::BenchArgs;
use crate::cli::text;

/// A workload on both sides.
pub(super) struct Row {
    pub(super) work: &'static Workload,
    pub(super) plain: Figures,
    pub(super) volume: Figures,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.volume.median() / self.plain.median()
    }
}

/// Everything.
pub(super) struct Report {
    directory: String,
    cipher: &'static str,
    options: String,
    size: u64,
    files: u32,
    rounds: u32,
    ciphers: Vec<Speed>,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        directory: &Path,
        ciphers: Vec<Speed>,
        rows: Vec<Row>,
    ) -> Self {
        Self {
            directory: directory.to_string_lossy().into_owned(),
            cipher: args.cipher.name(),
            options: args.options.join(","),
            size: args.size,
            files: args.files,
            rounds: args.rounds,
            ciphers,
            rows,
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let head = ["one core, MB/s", "at a time", "seal", "open"].map(str::to_owned);
        let ciphers = self.ciphers.iter().map(|speed| {
            [
                speed.cipher.name().to_owned(),
                at_a_time(speed.bytes),
                number(speed.seal),
                number(speed.open),
            ]
        });
        let ciphers: Vec<_> = std::iter::once(head).chain(ciphers).collect();
        let head = ["", "unit", "plain directory", "volume", "volume/plain"].map(str::to_owned);
        let rows = self.rows.iter().map(|row| {
            [
                row.work.title.to_owned(),
                row.work.unit.to_owned(),
                row.plain.to_string(),
                row.volume.to_string(),
                format!("{:.2}", row.ratio()),
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        format!(
            "{}\n{} (least–most)\n\n{}\nReads find nothing in memory. Before \"stat them\" the volume was mounted anew; the plain directory's names are in memory.\n",
            text::table(&ciphers),
            self.about(),
            text::table(&rows)
        )
    }

    fn about(&self) -> String {
        let options = if self.options.is_empty() {
            String::new()
        } else {
            format!(" -o {}", self.options)
        };
        let Self {
            directory,
            cipher,
            size,
            files,
            rounds,
            ..
        } = self;
        format!(
            "In {directory}: {cipher}{options}, a file of {size} MiB, {files} small files; medians of {rounds}"
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let figures = |figures: &Figures| json!({"median": figures.median(), "least": figures.least(), "most": figures.most()});
        let ciphers = self.ciphers.iter().map(|speed| {
            json!({
                "cipher": speed.cipher.name(),
                "bytes": speed.bytes,
                "seal_mb_s": speed.seal,
                "open_mb_s": speed.open,
            })
        });
        let workloads = self.rows.iter().map(|row| {
            json!({
                "name": row.work.name,
                "unit": row.work.unit,
                "plain": figures(&row.plain),
                "volume": figures(&row.volume),
                "ratio": row.ratio(),
            })
        });
        json!({
            "directory": self.directory,
            "cipher": self.cipher,
            "options": self.options,
            "size_mib": self.size,
            "files": self.files,
            "rounds": self.rounds,
            "ciphers": ciphers.collect::<Vec<_>>(),
            "workloads": workloads.collect::<Vec<_>>(),
        })
    }

    /// As SVG.
    pub(super) fn chart(&self) -> String {
        let bar = |name: String, value: f64, role: Role| Bar {
            name,
            value,
            shown: number(value),
            role,
        };
        let of_ciphers = [("seal", false), ("open", true)].map(|(title, open)| Panel {
            title: format!("{title}, MB/s on one core"),
            bars: self
                .ciphers
                .iter()
                .map(|speed| {
                    let cipher = speed.cipher.name().trim_start_matches("aes-256-");
                    let name = format!("{cipher}, {}", at_a_time(speed.bytes));
                    bar(name, if open { speed.open } else { speed.seal }, Role::Own)
                })
                .collect(),
        });
        let of_rows = self.rows.iter().map(|row| Panel {
            title: format!("{}, {}", row.work.title, row.work.unit),
            bars: vec![
                bar(
                    "plain directory".to_owned(),
                    row.plain.median(),
                    Role::Reference,
                ),
                bar("volume".to_owned(), row.volume.median(), Role::Own),
            ],
        });
        let panels: Vec<_> = of_ciphers.into_iter().chain(of_rows).collect();
        chart::svg("Strongroom on this machine", &self.about(), &panels)
    }
}

fn at_a_time(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}
