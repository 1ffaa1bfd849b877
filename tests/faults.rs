//! A backing file system that has no room, takes no more writes, or is gone: the error reaches the caller, and what was
//! there stays. Each on a real ext4.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

#[path = "faults/full.rs"]
mod full;
#[path = "faults/gone.rs"]
mod gone;
#[path = "faults/overwrite.rs"]
mod overwrite;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::random::pattern;

fn code(error: &io::Error) -> i32 {
    error.raw_os_error().expect("an errno")
}

/// Writes new files of smaller and smaller pieces below `dir` until nothing more fits, not even an empty file or a byte.
/// What each must hold; every third file was synced. The last error of every size was ENOSPC.
fn fill(dir: &Path, seed: u64) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for piece in [1 << 20, 65_536, 4096, 1] {
        'files: for n in 0.. {
            let path = dir.join(format!("fill-{piece}-{n}"));
            let file = match File::create_new(&path) {
                Ok(file) => file,
                Err(error) => {
                    assert_eq!(code(&error), libc::ENOSPC, "{}", path.display());
                    break;
                }
            };
            let wanted = pattern(piece * 8, seed + n + piece as u64);
            for at in 0..8 {
                let range = at * piece..(at + 1) * piece;
                if let Err(error) = file.write_all_at(&wanted[range.clone()], range.start as u64) {
                    assert_eq!(code(&error), libc::ENOSPC, "{}", path.display());
                    files.push((path, wanted[..range.start].to_vec()));
                    break 'files;
                }
            }
            if n % 3 == 0
                && let Err(error) = file.sync_all()
            {
                assert_eq!(code(&error), libc::ENOSPC, "{}", path.display());
            }
            files.push((path, wanted));
        }
    }
    files
}

/// Every file holds at least these bytes, and then nothing else than what was being written.
fn check(files: &[(std::path::PathBuf, Vec<u8>)], when: &str) {
    for (path, wanted) in files {
        let found = std::fs::read(path)
            .unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()));
        assert!(
            found.starts_with(wanted),
            "{when}: {} holds other bytes ({} of {})",
            path.display(),
            found.len(),
            wanted.len()
        );
    }
}
