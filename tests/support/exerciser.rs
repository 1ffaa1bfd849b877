//! `fsx` in a mount, over and over while something goes on: it compares all that it reads, also by mappings, with what it wrote.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{Sandbox, tool};

/// Runs it until `meanwhile`, which learns when it has begun, is over.
pub fn exercised(sandbox: &Sandbox, seed: &str, meanwhile: impl FnOnce(&AtomicBool)) {
    let config = sandbox.path("fsx.toml");
    std::fs::write(
        &config,
        "flen = 300000\nnomsyncafterwrite = true\n[opsize]\nmin = 1\nmax = 20000\n[weights]\nclose_open = 0.3\nmapread = 1\n\
         mapwrite = 1\nread = 1\nwrite = 1\ntruncate = 0.1\nfsync = 0.02\npunch_hole = 0.1\ncopy_file_range = 0.2\n",
    )
    .unwrap();
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) || !begun.load(Ordering::Relaxed) {
                begun.store(true, Ordering::Relaxed);
                let mut fsx = Command::new("fsx");
                fsx.args(["-q", "-N", "400", "-S", seed, "-f"]).arg(&config);
                fsx.arg("-P").arg(sandbox.path(""));
                tool(
                    fsx.arg(sandbox.mnt().join("fsx")),
                    "fsx (cargo install fsx)",
                );
            }
        });
        meanwhile(&begun);
        over.store(true, Ordering::Relaxed);
    });
}
