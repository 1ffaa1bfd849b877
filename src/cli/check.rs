//! `strongroom check`: opens the volume, shows what the check finds. Text or one line of JSON.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::args::{CheckArgs, Global};
use super::exit::{Code, failure};
use super::providers::{self, Known, Opened};
use super::{mounts, opening};
use crate::keys::Providers;
use crate::store::Store;
use crate::volume::{self, CheckOptions, CheckProgress, OpenOptions, Repair, Report, Severity};

pub(super) fn check(global: &Global, args: &CheckArgs) -> anyhow::Result<Code> {
    let found = mounts::find(&args.directory)?;
    if let Some(mounted) = &found.mounted {
        let at = mounted.mountpoint.display();
        return Err(failure(
            Code::InUse,
            format!("the volume is mounted at {at}: unmount it first"),
        ));
    }
    let options = CheckOptions {
        metadata_only: args.metadata_only,
        ..CheckOptions::default()
    };
    let store = mounts::store(&found.vault)?;
    let known = Known::anyway(&store)?;
    let secrets = providers::gather(global, &known, &args.trust)?;
    let opened = providers::open(global, &known, &secrets, &args.trust)?;
    let open = opening::options(&opened, &args.trust)?;
    let Opened { providers, .. } = opened;
    let bar = Bar::new();
    let mut progress = |progress| bar.show(&progress);
    if args.repair {
        let repaired = repair(&store, providers, &open, &mut progress);
        bar.bar.finish_and_clear();
        return tell_repair(&repaired?, args.output.json);
    }
    let report = volume::check(store, providers, &open, &options, &mut progress);
    bar.bar.finish_and_clear();
    let report = report?;
    if args.output.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    } else {
        tell(&report)?;
    }
    Ok(if report.is_sound() {
        Code::Ok
    } else {
        Code::Damaged
    })
}

fn repair(
    store: &Arc<dyn Store>,
    providers: Providers,
    open: &OpenOptions,
    progress: &mut dyn FnMut(CheckProgress),
) -> anyhow::Result<Repair> {
    let open = OpenOptions {
        read_only: false,
        ..open.clone()
    };
    let mut restored = volume::restore(store, &providers, &open, progress)?;
    let volume = volume::open(Arc::clone(store), providers, &open)?;
    let repaired = volume.repair(progress);
    let closed = volume.close();
    let mut repaired = repaired?;
    closed?;
    restored.append(&mut repaired.done);
    repaired.done = restored;
    Ok(repaired)
}

fn tell_repair(repair: &Repair, json: bool) -> anyhow::Result<Code> {
    if json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(repair)?)?;
    } else {
        let out = &mut std::io::stdout().lock();
        show(out, &repair.found)?;
        for action in &repair.done {
            writeln!(out, "repaired: {}: {}", action.path, action.what)?;
        }
        for action in &repair.failed {
            writeln!(out, "not repaired: {}: {}", action.path, action.what)?;
        }
        writeln!(out, "{} files were settled.", repair.settled)?;
    }
    if !json {
        tell(&repair.after)?;
    }
    Ok(match (repair.is_sound(), repair.done.is_empty()) {
        (false, _) => Code::Damaged,
        (true, false) => Code::Repaired,
        (true, true) => Code::Ok,
    })
}

fn show(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    for finding in &report.findings {
        let mark = match finding.severity {
            Severity::Damaged => "damaged",
            Severity::Left => "left",
        };
        writeln!(
            out,
            "{mark}: {}: {}: {}",
            finding.path, finding.part, finding.what
        )?;
    }
    if report.not_listed > 0 {
        writeln!(out, "... and {} more findings.", report.not_listed)?;
    }
    Ok(())
}

fn tell(report: &Report) -> anyhow::Result<()> {
    let out = &mut std::io::stdout().lock();
    show(out, report)?;
    let seconds = report.seconds.max(0.001);
    writeln!(
        out,
        "Checked {} files, {} directories and {} other objects in {:.1} s: {:.0} files/s, {} of {} read ({}/s).",
        report.files,
        report.directories,
        report.others,
        report.seconds,
        report.files as f64 / seconds,
        HumanBytes(report.bytes_read),
        HumanBytes(report.bytes_stored),
        HumanBytes((report.bytes_read as f64 / seconds) as u64),
    )?;
    if report.metadata_only {
        writeln!(out, "Headers and records only: no data was read.")?;
    }
    if report.in_doubt > 0 {
        writeln!(
            out,
            "{} files were left in doubt by an unclean end; they are mended as they are used, or by check --repair.",
            report.in_doubt
        )?;
    }
    if report.older_versions > 0 {
        writeln!(
            out,
            "{} headers name an older version of the master key; \"strongroom rotate\" takes the rotation up.",
            report.older_versions
        )?;
    }
    match report.damaged {
        0 => writeln!(out, "Nothing is damaged.")?,
        1 => writeln!(out, "1 object is damaged.")?,
        count => writeln!(out, "{count} objects are damaged.")?,
    }
    Ok(())
}

/// Only on a terminal.
struct Bar {
    bar: ProgressBar,
    started: Instant,
}

impl Bar {
    fn new() -> Self {
        let started = Instant::now();
        if !std::io::stderr().is_terminal() {
            let bar = ProgressBar::hidden();
            return Self { bar, started };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, started }
    }

    fn show(&self, progress: &CheckProgress) {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!(
            "{} objects, {} read, {:.0} objects/s, {}/s, {} damaged",
            progress.objects,
            HumanBytes(progress.bytes),
            progress.objects as f64 / seconds,
            HumanBytes((progress.bytes as f64 / seconds) as u64),
            progress.damaged
        ));
    }
}
