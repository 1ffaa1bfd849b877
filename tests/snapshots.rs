//! A power cut on a real file system: ciphertext on ext4 in an image that lies on XFS; the image is cloned (FICLONE) at random
//! moments under load, its journal replayed, the volume in it mounted: every file that fsync acknowledged before is whole,
//! also in directories that were new, and every block overwritten in place is one of those that were written.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::image::Loop;
use support::{SUITES, Sandbox, tool};

const WRITERS: u64 = 3;
const PAGE: usize = 4096;
/// Pages of a file that is overwritten in place.
const PAGES: u64 = 64;
/// The shortest load between two clones, in fsyncs.
const LEAST: usize = 40;

/// Clones of each suite: `STRONGROOM_SNAPSHOTS`, else 4.
fn snapshots() -> u64 {
    let told = std::env::var("STRONGROOM_SNAPSHOTS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// What stands in a page: its writer, its place and how often it was written, all over.
fn page(writer: u64, number: u64, times: u64) -> Vec<u8> {
    let words = [writer, number, times, writer ^ number ^ times].map(u64::to_le_bytes);
    words.concat().repeat(PAGE / 32)
}

/// One program at work below a directory of its own.
struct Writer {
    number: u64,
    /// Files that an fsync acknowledged, with their length in pages.
    files: Mutex<Vec<(PathBuf, u64)>>,
    /// How often each page of the file in place was written: begun, acknowledged.
    begun: Vec<AtomicU64>,
    sure: Vec<AtomicU64>,
}

/// What was acknowledged at a moment.
struct Acknowledged {
    files: Vec<(PathBuf, u64)>,
    sure: Vec<u64>,
}

impl Writer {
    fn new(number: u64) -> Self {
        let zeros = || (0..PAGES).map(|_| AtomicU64::new(0)).collect();
        Self {
            number,
            files: Mutex::default(),
            begun: zeros(),
            sure: zeros(),
        }
    }

    fn dir(&self) -> PathBuf {
        format!("w{}", self.number).into()
    }

    /// Makes what is overwritten.
    fn begin(&self, mnt: &Path) {
        fs::create_dir(mnt.join(self.dir())).unwrap();
        let mut file = File::create(mnt.join(self.dir()).join("in-place")).unwrap();
        for number in 0..PAGES {
            file.write_all(&page(self.number, number, 0)).unwrap();
        }
        file.sync_all().unwrap();
    }

    /// Makes files in new directories, syncs each, and overwrites pages one by one, until told.
    fn work(&self, mnt: &Path, stop: &AtomicBool) {
        let in_place = File::options()
            .write(true)
            .open(mnt.join(self.dir()).join("in-place"));
        let in_place = in_place.unwrap();
        let mut round = self.files.lock().unwrap().len() as u64;
        while !stop.load(Ordering::SeqCst) {
            round += 1;
            let dir = self.dir().join(format!("new{}", round / 5)).join("deeper");
            fs::create_dir_all(mnt.join(&dir)).unwrap();
            let path = dir.join(format!(
                "{}{round}",
                "n".repeat(if round.is_multiple_of(3) { 190 } else { 1 })
            ));
            let length = 1 + round * 7 % 40;
            let mut file = File::create_new(mnt.join(&path)).unwrap();
            (0..length)
                .for_each(|number| file.write_all(&page(self.number, number, round)).unwrap());
            file.sync_all().unwrap();
            self.files.lock().unwrap().push((path, length));
            // One, or more than there are spare slots for.
            let some = (0..1 + round % 3 * 20).map(|nth| (round * 13 + nth * 7) % PAGES);
            let some: Vec<(u64, u64)> = some
                .map(|number| (number, self.begin_page(number)))
                .collect();
            for (number, times) in &some {
                let text = page(self.number, *number, *times);
                in_place.write_all_at(&text, number * PAGE as u64).unwrap();
            }
            in_place.sync_data().unwrap();
            for (number, times) in some {
                self.sure[number as usize].store(times, Ordering::SeqCst);
            }
        }
    }

    fn begin_page(&self, number: u64) -> u64 {
        self.begun[number as usize].fetch_add(1, Ordering::SeqCst) + 1
    }

    fn acknowledged(&self) -> Acknowledged {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        Acknowledged {
            files: files.clone(),
            sure: self
                .sure
                .iter()
                .map(|sure| sure.load(Ordering::SeqCst))
                .collect(),
        }
    }

    /// Compares what a clone shows with what was acknowledged before it was made.
    fn verify(&self, mnt: &Path, then: &Acknowledged, when: &str) {
        for (path, length) in &then.files {
            let found = fs::read(mnt.join(path));
            let found = found.unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()));
            let name = path.file_name().unwrap().to_str().unwrap();
            let round = name.trim_start_matches('n').parse().unwrap();
            let pages = (0..*length).map(|number| page(self.number, number, round));
            let is_whole = found == pages.collect::<Vec<_>>().concat();
            assert!(
                is_whole,
                "{when}: {} is not what was synced",
                path.display()
            );
        }
        let found = fs::read(mnt.join(self.dir()).join("in-place")).unwrap();
        assert_eq!(found.len(), PAGES as usize * PAGE, "{when}");
        for (number, text) in found.chunks(PAGE).enumerate() {
            let times = u64::from_le_bytes(text[16..24].try_into().unwrap());
            let range = then.sure[number]..=self.begun[number].load(Ordering::SeqCst);
            assert!(
                range.contains(&times),
                "{when}: page {number}: {times} not in {range:?}"
            );
            assert_eq!(
                text,
                page(self.number, number as u64, times),
                "{when}: page {number}"
            );
        }
    }
}

/// A sandbox whose vault lies on an ext4 in an image on an XFS. Fields in the order in which they go, but for the ext4.
struct Bench {
    sandbox: Sandbox,
    ext4: Option<Loop>,
    _xfs: Loop,
    home: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sandbox.end();
        drop(self.ext4.take()); // the sandbox cannot be removed with it
    }
}

impl Bench {
    fn new(cipher: &str) -> Self {
        let home = tempfile::Builder::new()
            .prefix("strongroom-test-")
            .tempdir()
            .unwrap();
        let xfs = Loop::xfs(&home.path().join("xfs.img"), &home.path().join("xfs"), 1024);
        let image = home.path().join("xfs/ext4.img");
        let sandbox = Sandbox::new();
        let ext4 = Loop::ext4(&image, &sandbox.path("disk"), 384);
        std::os::unix::fs::symlink("disk/vault", sandbox.path("vault")).unwrap();
        sandbox.ok(&["init", "--cipher", cipher, "disk/vault"]);
        Self {
            sandbox,
            ext4: Some(ext4),
            _xfs: xfs,
            home,
        }
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("xfs/ext4.img")
    }

    /// The image as it is at this moment.
    fn clone_image(&self) -> PathBuf {
        let clone = self.home.path().join("xfs/clone.img");
        let to = File::create(&clone).unwrap();
        rustix::fs::ioctl_ficlone(&to, File::open(self.image()).unwrap()).unwrap();
        clone
    }

    /// Mounts the volume that a clone holds, by itself, as after a power cut, and looks.
    fn look(&self, clone: &Path, check: impl Fn(&Path)) {
        let after = After::mount(&self.sandbox, clone);
        check(&after.sandbox.mnt());
        after.sandbox.umount();
        let mut checked = after.sandbox.command();
        tool(checked.args(["check", "disk/vault"]), "strongroom");
    }
}

/// A volume after a power cut.
struct After {
    sandbox: Sandbox,
    disk: Option<Loop>,
}

impl Drop for After {
    fn drop(&mut self) {
        self.sandbox.end();
        drop(self.disk.take()); // the sandbox cannot be removed with it
    }
}

impl After {
    fn mount(before: &Sandbox, clone: &Path) -> Self {
        let sandbox = Sandbox::new();
        let disk = Loop::mount(clone, &sandbox.path("disk"));
        for name in ["keystore", "keystore.key"] {
            fs::copy(before.path(name), sandbox.path(name)).unwrap();
        }
        sandbox.ok(&["mount", "disk/vault", "mnt"]);
        Self {
            sandbox,
            disk: Some(disk),
        }
    }
}

fn survives_cuts(suite: &str) {
    let bench = Bench::new(suite);
    bench.sandbox.ok(&["mount", "disk/vault", "mnt"]);
    let mnt = bench.sandbox.mnt();
    let writers: Vec<_> = (0..WRITERS).map(Writer::new).collect();
    writers.iter().for_each(|writer| writer.begin(&mnt));
    let count = || {
        writers
            .iter()
            .map(|writer| writer.files.lock().unwrap().len())
            .sum::<usize>()
    };
    let mut compared = 0;
    for cut in 0..snapshots() {
        let (stop, before) = (AtomicBool::new(false), count());
        let (clone, then) = std::thread::scope(|scope| {
            let at_work: Vec<_> = writers
                .iter()
                .map(|writer| scope.spawn(|| writer.work(&mnt, &stop)))
                .collect();
            let start = Instant::now();
            while count() < before + LEAST + (cut as usize * 17 % 29)
                && start.elapsed() < Duration::from_secs(60)
            {
                assert!(
                    !at_work.iter().any(|writer| writer.is_finished()),
                    "a writer was refused"
                );
                std::thread::sleep(Duration::from_micros(100 + 37 * cut));
            }
            let then: Vec<_> = writers.iter().map(Writer::acknowledged).collect();
            let clone = bench.clone_image();
            stop.store(true, Ordering::SeqCst);
            (clone, then)
        });
        compared += then.iter().map(|then| then.files.len()).sum::<usize>();
        bench.look(&clone, |mnt| {
            for (writer, then) in writers.iter().zip(&then) {
                writer.verify(
                    mnt,
                    then,
                    &format!("{suite}, cut {cut}, writer {}", writer.number),
                );
            }
        });
        fs::remove_file(clone).unwrap();
    }
    println!(
        "{suite}: {} cuts, {} files synced, {compared} compared after cuts",
        snapshots(),
        count()
    );
    assert!(count() >= LEAST, "only {} files were synced", count());
    bench.sandbox.umount();
}

#[test]
fn a_power_cut_loses_nothing_that_fsync_acknowledged_gcm_siv() {
    survives_cuts(SUITES[0]);
}

#[test]
fn a_power_cut_loses_nothing_that_fsync_acknowledged_xts() {
    survives_cuts(SUITES[1]);
}
