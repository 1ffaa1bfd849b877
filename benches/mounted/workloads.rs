//! The twelve workloads. Before each, everything is written back; before a cold one, the host's caches are dropped.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::process::{Result, run};
use crate::random::Random;

/// One row of the table.
#[derive(Debug)]
pub struct Workload {
    /// As `--workloads` takes it.
    pub name: &'static str,
    pub title: &'static str,
    /// How many times the fastest encrypting peer the goal asks for; `None`: the null mount alone counts.
    pub over_peer: Option<f64>,
    cold: bool,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Fio {
        rw: &'static str,
        jobs: u64,
        more: &'static [&'static str],
        amount: Amount,
    },
    Tree(Tree),
}

/// What of the large file is touched.
#[derive(Debug, Clone, Copy)]
enum Amount {
    Whole,
    Eighth,
    /// A 32nd: each write is synced.
    Little,
}

#[derive(Debug, Clone, Copy)]
enum Tree {
    Untar,
    Stat,
    Md5,
    Remove,
}

impl Workload {
    pub fn unit(&self) -> &'static str {
        match self.action {
            Action::Fio { .. } => "MB/s",
            Action::Tree(_) => "s",
        }
    }

    /// Whether more is better.
    pub fn is_rate(&self) -> bool {
        matches!(self.action, Action::Fio { .. })
    }
}

const fn stream(
    name: &'static str,
    title: &'static str,
    rw: &'static str,
    cold: bool,
    more: &'static [&'static str],
) -> Workload {
    let action = Action::Fio {
        rw,
        jobs: 1,
        more,
        amount: Amount::Whole,
    };
    Workload {
        name,
        title,
        over_peer: Some(2.0),
        cold,
        action,
    }
}

const fn random(name: &'static str, title: &'static str, rw: &'static str, jobs: u64) -> Workload {
    let is_read = matches!(rw.as_bytes(), b"randread");
    let over_peer = if is_read { 1.5 } else { 2.0 };
    let action = Action::Fio {
        rw,
        jobs,
        more: &["--bs=4k", "--end_fsync=1"],
        amount: Amount::Eighth,
    };
    Workload {
        name,
        title,
        over_peer: Some(over_peer),
        cold: is_read,
        action,
    }
}

const fn tree(name: &'static str, title: &'static str, cold: bool, action: Tree) -> Workload {
    Workload {
        name,
        title,
        over_peer: Some(1.5),
        cold,
        action: Action::Tree(action),
    }
}

/// In the order in which they run: later ones work on what earlier ones left.
pub const WORKLOADS: [Workload; 12] = [
    stream(
        "seqwrite",
        "sequential write 1M + fsync",
        "write",
        false,
        &["--bs=1M", "--end_fsync=1"],
    ),
    stream(
        "seqread",
        "sequential read 1M, cold",
        "read",
        true,
        &["--bs=1M"],
    ),
    stream(
        "overwrite",
        "overwrite 1M + fsync",
        "write",
        false,
        &["--bs=1M", "--end_fsync=1"],
    ),
    random("randread", "random read 4K, cold", "randread", 1),
    random("randread4", "random read 4K x4 jobs, cold", "randread", 4),
    random("randwrite", "random write 4K + fsync", "randwrite", 1),
    random(
        "randwrite4",
        "random write 4K x4 jobs + fsync",
        "randwrite",
        4,
    ),
    Workload {
        name: "syncwrite",
        title: "4K write + fdatasync each",
        over_peer: None,
        cold: false,
        action: Action::Fio {
            rw: "randwrite",
            jobs: 1,
            more: &["--bs=4k", "--fdatasync=1"],
            amount: Amount::Little,
        },
    },
    tree("untar", "untar small files", false, Tree::Untar),
    tree("stat", "stat the tree, cold", true, Tree::Stat),
    tree("md5", "md5 of the tree, cold", true, Tree::Md5),
    tree("rm", "rm -rf the tree", false, Tree::Remove),
];

/// What the workloads work with.
pub struct Ground {
    /// Size of the large file, bytes.
    pub size: u64,
    /// A tar of small files.
    pub tar: std::path::PathBuf,
}

impl Ground {
    /// Packs a tree of `files` small files: 20 in a directory, of 0 to 16 KiB, 4 KiB at the median.
    pub fn new(size: u64, files: u32, place: &Path) -> Result<Self> {
        let made = |error: std::io::Error| format!("{}: {error}", place.display());
        let source = place.join("source");
        let mut random = Random::new();
        for file in 0..files {
            let dir = source.join(format!("tree/part{:02}/dir{:03}", file / 400, file / 20));
            fs::create_dir_all(&dir).map_err(made)?;
            let size = (random.next() % 128) * (random.next() % 128);
            let bytes: Vec<u8> = (0..size.div_ceil(8))
                .flat_map(|_| random.next().to_le_bytes())
                .collect();
            fs::write(dir.join(format!("some_file_{file}.txt")), bytes).map_err(made)?;
        }
        let tar = place.join("tree.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(&source)
            .arg("-cf")
            .arg(&tar)
            .arg("tree"))?;
        fs::remove_dir_all(&source).map_err(made)?;
        Ok(Self { size, tar })
    }

    /// Runs one on what is mounted there: MB/s, or seconds.
    pub fn measure(&self, work: &Workload, mnt: &Path) -> Result<f64> {
        self.prepare(work, mnt)?;
        // What the mount holds, then what its backing directory does; not every disk of a host that has other work.
        for place in [mnt, mnt.parent().unwrap_or(mnt)] {
            run(Command::new("sync").arg("--file-system").arg(place))?;
        }
        if work.cold {
            fs::write("/proc/sys/vm/drop_caches", "3")
                .map_err(|error| format!("drop_caches: {error}"))?;
        }
        self.act(work, mnt)
    }

    /// What earlier workloads leave, where they were not asked for.
    fn prepare(&self, work: &Workload, mnt: &Path) -> Result<()> {
        let file = mnt.join("large");
        let (has_file, has_tree) = (file.exists(), mnt.join("tree").exists());
        match work.action {
            Action::Fio { .. } if work.name == "seqwrite" && has_file => {
                fs::remove_file(&file).map_err(|error| error.to_string())
            }
            Action::Fio { .. } if work.name != "seqwrite" && !has_file => {
                self.measure(&WORKLOADS[0], mnt).map(drop)
            }
            Action::Tree(Tree::Untar) if has_tree => self.tree(Tree::Remove, mnt).map(drop),
            Action::Tree(Tree::Untar) | Action::Fio { .. } => Ok(()),
            Action::Tree(_) if !has_tree => self.tree(Tree::Untar, mnt).map(drop),
            Action::Tree(_) => Ok(()),
        }
    }

    fn act(&self, work: &Workload, mnt: &Path) -> Result<f64> {
        match work.action {
            Action::Fio {
                rw,
                jobs,
                more,
                amount,
            } => {
                let all = match amount {
                    Amount::Whole => self.size,
                    Amount::Eighth => self.size / 8,
                    Amount::Little => self.size / 32,
                };
                self.fio(rw, jobs, all / jobs, more, &mnt.join("large"))
            }
            Action::Tree(action) => self.tree(action, mnt),
        }
    }

    fn fio(&self, rw: &str, jobs: u64, each: u64, more: &[&str], file: &Path) -> Result<f64> {
        let mut fio = Command::new("fio");
        fio.args([
            "--output-format=json",
            "--name=mounted",
            "--ioengine=psync",
            "--thread",
            "--group_reporting",
        ]);
        // The bench drops caches itself, and a file is laid out by the workload before.
        fio.args([
            "--invalidate=0",
            "--fallocate=none",
            "--randrepeat=1",
            "--eta=never",
        ]);
        fio.arg(format!("--filename={}", file.display()));
        fio.args([format!("--rw={rw}"), format!("--numjobs={jobs}")]);
        fio.args([format!("--size={}", self.size), format!("--io_size={each}")])
            .args(more);
        let said = run(&mut fio)?;
        let report: Value = serde_json::from_str(&said).map_err(|error| format!("fio: {error}"))?;
        let part = if rw.ends_with("read") {
            "read"
        } else {
            "write"
        };
        let part = &report["jobs"][0][part];
        match (part["io_bytes"].as_u64(), part["bw_bytes"].as_f64()) {
            (Some(done), Some(rate)) if done == each * jobs => Ok(rate / 1e6),
            (done, _) => Err(format!("fio did {done:?} bytes of {}", each * jobs)),
        }
    }

    fn tree(&self, action: Tree, mnt: &Path) -> Result<f64> {
        let mut command = match action {
            Tree::Untar => {
                // Its bytes come from memory on each filesystem alike.
                fs::read(&self.tar).map_err(|error| error.to_string())?;
                let mut tar = Command::new("tar");
                tar.arg("-xf").arg(&self.tar);
                tar
            }
            Tree::Stat => command("find", &["tree", "-printf", "%s %m %T@\n"]),
            Tree::Md5 => command(
                "sh",
                &[
                    "-c",
                    "find tree -type f -print0 | xargs -0 md5sum >/dev/null",
                ],
            ),
            Tree::Remove => command("rm", &["-rf", "tree"]),
        };
        let begun = Instant::now();
        run(command.current_dir(mnt))?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}
