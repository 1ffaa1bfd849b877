//! Changes of names while the server dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Changes of names of every kind, each of which would be seen if it were made twice or not at all.
pub fn named_lives(mnt: &Path, who: usize, stop: &AtomicBool) -> u64 {
    let at = |name: &str| mnt.join(format!("{who}-{name}"));
    let code = |done: io::Result<()>| done.err().and_then(|error| error.raw_os_error());
    let mut round = 0;
    while round == 0 || !stop.load(Ordering::Relaxed) {
        round += 1;
        let long = "l".repeat(200 + round as usize % 30);
        let (dir, moved) = (at("dir"), at(&long));
        fs::create_dir(&dir).expect("a mkdir");
        assert_eq!(code(fs::create_dir(&dir)), Some(libc::EEXIST));
        let (first, second) = (dir.join("first"), dir.join(&long));
        fs::write(&first, round.to_string()).expect("a file");
        fs::hard_link(&first, &second).expect("a link");
        assert_eq!(code(fs::hard_link(&first, &second)), Some(libc::EEXIST));
        symlink("first", dir.join("symlink")).expect("a symlink");
        assert_eq!(fs::metadata(&first).expect("a stat").nlink(), 2);
        let held = File::open(&first).expect("an open");
        fs::rename(&dir, &moved).expect("a rename of a directory");
        assert_eq!(code(fs::rename(&dir, &moved)), Some(libc::ENOENT));
        fs::remove_file(moved.join("first")).expect("an unlink");
        fs::write(moved.join("other"), "other").expect("a file");
        fs::rename(moved.join("other"), moved.join(&long)).expect("a rename onto a file");
        let mut read = vec![0; 40];
        let len = held
            .read_at(&mut read, 0)
            .expect("a read of what has no name");
        assert_eq!(read[..len], *round.to_string().as_bytes());
        assert_eq!(held.metadata().expect("a stat").nlink(), 0);
        let number = held.metadata().expect("a stat").ino();
        let new = fs::metadata(moved.join(&long)).expect("a stat");
        assert!(new.ino() != number && new.nlink() == 1);
        assert_eq!(
            fs::read(moved.join("symlink")).err().unwrap().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(fs::read(moved.join(&long)).expect("a read"), b"other");
        assert_eq!(code(fs::remove_dir(&moved)), Some(libc::ENOTEMPTY));
        fs::create_dir(at("target")).expect("a mkdir");
        fs::create_dir(moved.join("below")).expect("a mkdir");
        fs::rename(moved.join("below"), at("target")).expect("a rename onto a directory");
        let mut names: Vec<_> = fs::read_dir(&moved)
            .expect("a listing")
            .map(|entry| entry.expect("an entry").file_name().len())
            .collect();
        names.sort_unstable();
        assert_eq!(names, [7, long.len()]);
        fs::remove_file(moved.join("symlink")).expect("an unlink");
        fs::remove_file(moved.join(&long)).expect("an unlink");
        fs::remove_dir(&moved).expect("an rmdir");
        fs::remove_dir(at("target")).expect("an rmdir");
        assert_eq!(code(fs::remove_dir(&moved)), Some(libc::ENOENT));
    }
    round
}
