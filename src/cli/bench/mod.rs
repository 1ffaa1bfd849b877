//! `strongroom bench`: how fast the ciphers are on this machine, and a volume on this disk beside a plain directory.
//!
//! Invariant: everything it makes lies in directories of its own, which go at the end, also after a failure or a signal.

mod chart;
mod ciphers;
mod clock;
mod figures;
mod random;
mod report;
mod stop;
mod temporary;
mod workloads;

use std::path::{Path, PathBuf};

use indicatif::HumanBytes;

use self::figures::Figures;
use self::report::{Report, Row};
use self::temporary::Temporary;
use self::workloads::{WORKLOADS, Workload};
use super::args::BenchArgs;
use super::exit::{Code, at, failure};
use super::rotate;
use crate::fuse;

/// Room beside what is measured: journal, tag pages, the keystore.
const SPARE: u64 = 64 << 20;
/// What a small file takes at most on either side, its directory's part included, bytes.
const PER_FILE: u64 = 16 << 10;

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let directory = suitable(args)?;
    let report = fuse::heeding_signals(stop::request, || {
        let report = measure(args, &directory)?;
        stop::check().map(|()| report)
    })??;
    if args.output.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    match &args.chart {
        Some(file) => std::fs::write(file, report.chart()).map_err(at(file)),
        None => Ok(()),
    }
}

/// The directory, absolute, if it can be measured there; nothing is made before.
fn suitable(args: &BenchArgs) -> anyhow::Result<PathBuf> {
    let shown = args.directory.display();
    let path = match args.directory.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let sentence = format!("there is no directory {shown} to measure in");
            return Err(failure(Code::Failure, sentence));
        }
        Err(error) => return Err(at(&args.directory)(error)),
    };
    if !path.is_dir() {
        return Err(failure(
            Code::Failure,
            format!("{shown} is not a directory"),
        ));
    }
    if let Some(file) = &args.chart {
        let above = file.parent().filter(|above| !above.as_os_str().is_empty());
        if file.is_dir() || above.is_some_and(|above| !above.is_dir()) {
            let sentence = format!("no chart can be written to {}", file.display());
            return Err(failure(Code::Usage, sentence));
        }
    }
    if !Path::new("/dev/fuse").exists() {
        let sentence = "/dev/fuse is not there: load the kernel's fuse module (modprobe fuse)";
        return Err(failure(Code::Mount, sentence));
    }
    enough_room(args, &path)?;
    Ok(path)
}

fn enough_room(args: &BenchArgs, path: &Path) -> anyhow::Result<()> {
    let about = rustix::fs::statvfs(path).map_err(|error| at(path)(error.into()))?;
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    // A plain file, and one whose ciphertext takes up to a quarter more.
    let needed = (args.size << 20) / 4 * 9 + u64::from(args.files) * 2 * PER_FILE + SPARE;
    let shown = args.directory.display();
    let sentence = if free < needed {
        let (free, needed) = (HumanBytes(free), HumanBytes(needed));
        format!(
            "{shown} has {free} free and this needs {needed}: give a smaller --size or another directory"
        )
    } else if about.f_files > 0 && about.f_favail < u64::from(args.files) * 2 + 1000 {
        let left = about.f_favail;
        format!("{shown} has room for {left} more files: give fewer --files or another directory")
    } else {
        return Ok(());
    };
    Err(failure(Code::Failure, sentence))
}

fn measure(args: &BenchArgs, directory: &Path) -> anyhow::Result<Report> {
    let bar = rotate::bar();
    let tell = |what: String| bar.set_message(what);
    let mut temporary = Temporary::new(directory)?;
    // First what can fail: a volume that cannot be made or mounted is told at once.
    tell("making a volume".to_owned());
    let measured = temporary.make(args.cipher, &args.options).and_then(|()| {
        tell("measuring ciphers".to_owned());
        let ciphers = ciphers::measure()?;
        let rows = rounds(args, &mut temporary, &tell)?;
        Ok(Report::new(args, directory, ciphers, rows))
    });
    tell("taking everything away".to_owned());
    let removed = temporary.remove();
    bar.finish_and_clear();
    match (measured, removed) {
        (Ok(report), Ok(())) => Ok(report),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(left)) => {
            if !stop::is_asked() {
                tracing::error!("{error}");
            }
            Err(left)
        }
    }
}

fn rounds(
    args: &BenchArgs,
    temporary: &mut Temporary,
    tell: &dyn Fn(String),
) -> anyhow::Result<Vec<Row>> {
    let sizes = workloads::Sizes::new(args.size, args.files);
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=args.rounds {
        for (number, work) in WORKLOADS.iter().enumerate() {
            let say = |on: &str| {
                let of = args.rounds;
                tell(format!("round {round} of {of}: {}, {on}", work.title));
            };
            say("plain directory");
            let plain = one(work, &sizes, temporary, false)?;
            say("volume");
            let volume = one(work, &sizes, temporary, true)?;
            match rows.get_mut(number) {
                Some(row) => {
                    row.plain.add(plain);
                    row.volume.add(volume);
                }
                None => rows.push(Row {
                    work,
                    plain: Figures::of(plain),
                    volume: Figures::of(volume),
                }),
            }
        }
    }
    Ok(rows)
}

/// Runs a workload on one side.
fn one(
    work: &Workload,
    sizes: &workloads::Sizes,
    temporary: &mut Temporary,
    in_volume: bool,
) -> anyhow::Result<f64> {
    stop::check()?;
    if work.cold {
        temporary.forget(in_volume)?;
    }
    let place = temporary.place(in_volume);
    work.run(sizes, &place)
        .map_err(|error| match error.downcast() {
            Ok(error) => at(&place)(error),
            Err(error) => error,
        })
}
