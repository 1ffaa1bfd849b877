//! `fsx`: random operations on one file by eight runs, mapped pages among them, each read compared with what was written.
//! Half of the seeds on a disk, half on a file system in memory, where cutting a file (which syncs) costs nothing and so can
//! be had more often.

use std::path::Path;
use std::process::Command;

use crate::support::{SUITES, Sandbox, tool};

/// Operations for each seed and suite: `STRONGROOM_FSX` (by hand 125,000, a million in all; fewer in tests/all), else enough to find a
/// mistake made today.
fn operations() -> String {
    std::env::var("STRONGROOM_FSX").unwrap_or_else(|_| "3000".to_owned())
}

/// All operations that Linux has, none of no bytes (posix_fallocate refuses those). `cuts`: how often the file is cut, against 1 for a read or a write; `longest` in bytes.
fn configuration(cuts: f64, longest: u32) -> String {
    format!(
        "flen = 700000\nnomsyncafterwrite = true\n[opsize]\nmin = 1\nmax = {longest}\n[weights]\nclose_open = 0.3\n\
         invalidate = 0.02\nmapread = 1\nmapwrite = 1\nread = 1\nwrite = 1\ntruncate = {cuts}\nfsync = 0.005\n\
         fdatasync = 0.005\nposix_fallocate = 0.05\npunch_hole = {cuts}\nsendfile = 0.2\nposix_fadvise = 0.1\n\
         copy_file_range = 0.2\n"
    )
}

fn exercise(suite: &str, place: &Path, cuts: f64, longest: u32, seed: &str) {
    let sandbox = Sandbox::new_in(place).init(suite);
    sandbox.mount();
    let config = sandbox.path("fsx.toml");
    std::fs::write(&config, configuration(cuts, longest)).unwrap();
    let mut fsx = Command::new("fsx");
    fsx.args(["-q", "-N", &operations(), "-S", seed, "-f"]);
    fsx.arg(&config).arg("-P").arg(sandbox.path(""));
    tool(
        fsx.arg(sandbox.mnt().join("fsx")),
        "fsx (cargo install fsx)",
    );
}

fn exercise_with_four_seeds(suite: &str) {
    let (disk, memory) = (std::env::temp_dir(), Path::new("/dev/shm"));
    exercise(suite, &disk, 0.03, 9_000, "20261124");
    exercise(suite, memory, 0.4, 9_000, "4242");
    exercise(suite, &disk, 0.03, 5_000, "77");
    exercise(suite, memory, 0.2, 40_000, "1");
}

#[test]
fn fsx_finds_nothing_under_gcm_siv() {
    exercise_with_four_seeds(SUITES[0]);
}

#[test]
fn fsx_finds_nothing_under_xts() {
    exercise_with_four_seeds(SUITES[1]);
}
