//! What programs do, on any directory: sequential and random reads and writes of a large file; create, stat and delete of
//! small ones. Knows nothing of volumes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::random::Random;
use super::stop;
use crate::crypto::random_bytes;

/// One row of the table.
pub(super) struct Workload {
    /// In JSON.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    /// Whether caches are dropped before.
    pub(super) cold: bool,
    step: fn(&Sizes, &Path) -> anyhow::Result<f64>,
}

/// In the order in which they run: each works on what the ones before left.
pub(super) const WORKLOADS: [Workload; 7] = [
    row(
        "sequential_write",
        "sequential write 1M + fsync",
        MB,
        false,
        write_all,
    ),
    row("sequential_read", "sequential read 1M", MB, true, read_all),
    row(
        "random_read",
        "random read 4K",
        MB,
        true,
        read_here_and_there,
    ),
    row(
        "random_write",
        "random write 4K + fsync",
        MB,
        false,
        write_here_and_there,
    ),
    row("create", "create 4K files", FILES, false, create),
    row("stat", "stat them", FILES, true, stat),
    row("delete", "delete them", FILES, false, delete),
];

const MB: &str = "MB/s";
const FILES: &str = "files/s";

const fn row(
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    cold: bool,
    step: fn(&Sizes, &Path) -> anyhow::Result<f64>,
) -> Workload {
    Workload {
        name,
        title,
        unit,
        cold,
        step,
    }
}

const STREAM: usize = 1 << 20;
const BLOCK: usize = 4096;
/// The large file.
const LARGE: &str = "large";
/// Files in one directory.
const IN_DIR: u32 = 100;

/// How much is done.
pub(super) struct Sizes {
    chunks: u64,
    blocks: u64,
    files: u32,
    /// Bytes that no disk can make smaller.
    noise: Vec<u8>,
}

impl Sizes {
    /// A file of so many MiB, an eighth of which random accesses touch, and so many small files.
    pub(super) fn new(mib: u64, files: u32) -> Self {
        let mut noise = vec![0; STREAM];
        random_bytes(&mut noise);
        Self {
            chunks: mib,
            blocks: (mib << 20) / BLOCK as u64,
            files,
            noise,
        }
    }

    /// Offsets of blocks, the same in each run and on each side.
    fn places(&self) -> impl Iterator<Item = u64> {
        let (blocks, mut random) = (self.blocks, Random::new());
        let next = move || random.next() % blocks * BLOCK as u64;
        std::iter::repeat_with(next).take(usize::try_from(blocks / 8).unwrap_or(usize::MAX))
    }

    fn block(&self) -> &[u8] {
        self.noise.get(..BLOCK).unwrap_or_default()
    }

    fn small(&self, place: &Path) -> impl Iterator<Item = PathBuf> {
        let place = place.to_owned();
        (0..self.files)
            .map(move |number| place.join(format!("dir{}/file{number}", number / IN_DIR)))
    }

    fn dirs(&self, place: &Path) -> impl Iterator<Item = PathBuf> {
        let place = place.to_owned();
        (0..self.files.div_ceil(IN_DIR)).map(move |number| place.join(format!("dir{number}")))
    }
}

impl Workload {
    /// Runs it in a directory; how much a second. An error of the directory is an `io::Error`.
    pub(super) fn run(&self, sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
        (self.step)(sizes, place)
    }
}

/// MB/s, or files/s, since then.
fn per_second(amount: f64, begun: Instant) -> f64 {
    amount / begun.elapsed().as_secs_f64().max(1e-9)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn write_all(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let path = place.join(LARGE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let begun = Instant::now();
    let mut file = File::create_new(&path)?;
    for _ in 0..sizes.chunks {
        stop::check()?;
        file.write_all(&sizes.noise)?;
    }
    file.sync_all()?;
    Ok(per_second(megabytes(sizes.chunks * STREAM as u64), begun))
}

fn read_all(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let mut buffer = vec![0; STREAM];
    let begun = Instant::now();
    let file = File::open(place.join(LARGE))?;
    for chunk in 0..sizes.chunks {
        stop::check()?;
        file.read_exact_at(&mut buffer, chunk * STREAM as u64)?;
    }
    Ok(per_second(megabytes(sizes.chunks * STREAM as u64), begun))
}

fn read_here_and_there(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let mut buffer = vec![0; BLOCK];
    let (begun, mut done) = (Instant::now(), 0);
    let file = File::open(place.join(LARGE))?;
    for offset in sizes.places() {
        stop::check()?;
        file.read_exact_at(&mut buffer, offset)?;
        done += BLOCK as u64;
    }
    Ok(per_second(megabytes(done), begun))
}

fn write_here_and_there(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let (begun, mut done) = (Instant::now(), 0);
    let file = File::options().write(true).open(place.join(LARGE))?;
    for offset in sizes.places() {
        stop::check()?;
        file.write_all_at(sizes.block(), offset)?;
        done += BLOCK as u64;
    }
    file.sync_all()?;
    Ok(per_second(megabytes(done), begun))
}

fn create(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for dir in sizes.dirs(place) {
        fs::create_dir(dir)?;
    }
    for path in sizes.small(place) {
        stop::check()?;
        fs::write(path, sizes.block())?;
    }
    Ok(per_second(f64::from(sizes.files), begun))
}

fn stat(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for path in sizes.small(place) {
        stop::check()?;
        path.symlink_metadata()?;
    }
    Ok(per_second(f64::from(sizes.files), begun))
}

fn delete(sizes: &Sizes, place: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for path in sizes.small(place) {
        stop::check()?;
        fs::remove_file(path)?;
    }
    for dir in sizes.dirs(place) {
        fs::remove_dir(dir)?;
    }
    Ok(per_second(f64::from(sizes.files), begun))
}
