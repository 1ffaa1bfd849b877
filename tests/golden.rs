//! The golden volumes of format version 1, made when it froze (tests/data/make-golden): every later program reads them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{SUITES, Sandbox, tool};

/// Mode, link count, attribute and content or target of everything below a directory.
fn describe(top: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let kind = meta.file_type();
            let content = if kind.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                path.read_link()
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if kind.is_fifo() {
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            let links = if kind.is_dir() { 0 } else { meta.nlink() };
            let relative = path.strip_prefix(top).unwrap().to_path_buf();
            found.insert(relative, (meta.mode(), links, attribute(&path), content));
        }
    }
    found
}

fn attribute(path: &Path) -> Vec<u8> {
    let mut ask = Command::new("getfattr");
    ask.args(["--no-dereference", "--only-values", "-n", "user.comment"])
        .arg(path);
    ask.output()
        .expect("getfattr (package attr; tests/all installs it)")
        .stdout
}

fn unpack(archive: &str, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(archive);
    tool(
        Command::new("tar")
            .args(["--xattrs", "-xzf"])
            .arg(archive)
            .arg("-C")
            .arg(target),
        "tar",
    );
}

#[test]
fn golden_volumes_of_version_1_stay_readable() {
    for cipher in SUITES {
        let sandbox = Sandbox::new();
        unpack("golden-v1-plain.tar.gz", &sandbox.path("plain"));
        unpack(&format!("golden-v1-{cipher}.tar.gz"), &sandbox.path("."));
        sandbox.mount();
        let (expected, found) = (describe(&sandbox.path("plain")), describe(&sandbox.mnt()));
        assert_eq!(
            expected.keys().collect::<Vec<_>>(),
            found.keys().collect::<Vec<_>>(),
            "{cipher}"
        );
        for (path, entry) in &expected {
            assert!(
                found[path] == *entry,
                "{cipher}: {} reads otherwise",
                path.display()
            );
        }
        // And it can still be worked on.
        std::fs::write(
            sandbox.mnt().join("renamed/new"),
            "written by a later program",
        )
        .unwrap();
        sandbox.ok(&["rotate", "mnt"]);
        sandbox.remount();
        assert_eq!(
            std::fs::read(sandbox.mnt().join("renamed/new")).unwrap(),
            b"written by a later program"
        );
    }
}
