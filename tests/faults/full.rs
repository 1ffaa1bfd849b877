//! Filled through the mount to the last block, emptied, filled again.

use std::fs::{self, File};
use std::io::Write;

use crate::support::SUITES;
use crate::support::image::Backed;
use crate::{check, fill, pattern};

const ROUNDS: u64 = 20;

fn fill_and_empty(suite: &str) {
    let backed = Backed::new(suite, 64, 512);
    let sandbox = &backed.sandbox;
    sandbox.mount();
    fs::create_dir(sandbox.mnt().join("kept")).unwrap();
    let kept: Vec<_> = [1, 100, 4096, 5000, 130_000, 131_073, 400_000, 2_000_000]
        .iter()
        .enumerate()
        .map(|(n, len)| {
            (
                sandbox.mnt().join("kept").join(format!("file-{n}")),
                pattern(*len, 900 + n as u64),
            )
        })
        .collect();
    for (path, content) in &kept {
        let mut file = File::create_new(path).unwrap();
        file.write_all(content).unwrap();
        file.sync_all().unwrap();
    }
    File::open(sandbox.mnt().join("kept"))
        .unwrap()
        .sync_all()
        .unwrap();
    for round in 0..ROUNDS {
        let when = format!("{suite}, round {round}");
        let dir = sandbox.mnt().join(format!("round-{round}"));
        fs::create_dir(&dir).unwrap();
        let filled = fill(&dir, round);
        let bytes: usize = filled.iter().map(|(_, content)| content.len()).sum();
        assert!(bytes > 35 << 20, "{when}: only {bytes} bytes went in");
        check(&filled, &when);
        check(&kept, &when);
        if round % 5 == 4 {
            sandbox.remount(); // settles all of it, on a full disk
            check(&filled, &format!("{when}, mounted again"));
        }
        fs::remove_dir_all(&dir).unwrap();
        check(&kept, &format!("{when}, emptied"));
        if round == 0 {
            println!("{suite}: {} files, {bytes} bytes fit", filled.len());
        }
    }
    for (path, content) in &kept {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
    sandbox.umount();
    assert_eq!(
        backed.image().check(),
        "",
        "{suite}: the file system itself"
    );
}

#[test]
fn a_disk_filled_and_emptied_twenty_times_loses_nothing_synced_gcm_siv() {
    fill_and_empty(SUITES[0]);
}

#[test]
fn a_disk_filled_and_emptied_twenty_times_loses_nothing_synced_xts() {
    fill_and_empty(SUITES[1]);
}
