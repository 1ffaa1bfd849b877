//! Real programs at work in a mount, in both suites: what they wrote is whole after a remount.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::image::Loop;
use support::random::pattern;
use support::{SUITES, Sandbox, backing_of, cached, tool};

/// What is compared of every file of a tree: kind and permission bits, and contents or target.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

fn read_tree(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                path.read_link()
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                std::fs::read(&path).unwrap()
            };
            tree.insert(
                path.strip_prefix(top).unwrap().to_path_buf(),
                (meta.mode(), content),
            );
        }
    }
    tree
}

/// The unpacked sources of the crates that this project is built from.
fn crate_sources() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cargo"));
    std::fs::read_dir(home.join("registry/src"))
        .expect("cargo has unpacked the crates")
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .expect("a registry")
}

fn unpacks_a_source_tree(cipher: &str) {
    let sandbox = Sandbox::mounted(cipher);
    let sources = crate_sources();
    let list = Command::new("cargo")
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let metadata: serde_json::Value = serde_json::from_slice(&list.stdout).expect("metadata");
    let crates: Vec<PathBuf> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| {
            Path::new(package["manifest_path"].as_str()?)
                .parent()
                .map(Path::to_path_buf)
        })
        .filter(|path| path.starts_with(&sources))
        .collect();
    let archive = sandbox.path("crates.tar");
    let mut pack = Command::new("tar");
    pack.arg("-cf").arg(&archive).arg("-C").arg(&sources);
    for path in &crates {
        pack.arg(path.file_name().unwrap());
    }
    tool(&mut pack, "tar");
    let reference = sandbox.path("reference");
    for target in [&reference, &sandbox.mnt().join("tree")] {
        std::fs::create_dir(target).unwrap();
        tool(
            Command::new("tar")
                .arg("-xf")
                .arg(&archive)
                .arg("-C")
                .arg(target),
            "tar",
        );
    }
    sandbox.remount();
    let expected = read_tree(&reference);
    let files = expected
        .values()
        .filter(|(mode, _)| mode & 0o170000 == 0o100000)
        .count();
    assert!(
        files > 5_000,
        "only {files} files: too small a tree to prove anything"
    );
    let found = read_tree(&sandbox.mnt().join("tree"));
    assert_eq!(expected.len(), found.len());
    for (path, entry) in &expected {
        assert!(
            found.get(path) == Some(entry),
            "{} differs after a remount",
            path.display()
        );
    }
}

#[test]
fn a_source_tree_is_whole_after_a_remount_gcm_siv() {
    unpacks_a_source_tree(SUITES[0]);
}

#[test]
fn a_source_tree_is_whole_after_a_remount_xts() {
    unpacks_a_source_tree(SUITES[1]);
}

#[test]
fn a_rust_crate_builds_inside() {
    for cipher in SUITES {
        let sandbox = Sandbox::mounted(cipher);
        let home = sandbox.mnt().join("hello");
        tool(
            Command::new("cargo")
                .args(["new", "--vcs", "none", "--quiet"])
                .arg(&home),
            "Rust",
        );
        std::fs::write(
            home.join("src/main.rs"),
            "fn main() { println!(\"built {}\", (1..=10).sum::<u32>()); }",
        )
        .unwrap();
        let mut build = Command::new("cargo");
        build
            .args(["run", "--quiet", "--offline"])
            .current_dir(&home)
            .env("CARGO_TARGET_DIR", home.join("target"));
        assert_eq!(tool(&mut build, "Rust"), "built 55\n", "{cipher}");
        sandbox.remount();
        let built = Command::new(home.join("target/debug/hello"))
            .output()
            .expect("the built program runs");
        assert_eq!(built.stdout, b"built 55\n", "{cipher}");
    }
}

fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.args([
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.invalid",
        "-c",
        "safe.directory=*",
    ])
    .current_dir(dir);
    git
}

#[test]
fn a_git_clone_passes_fsck() {
    for cipher in SUITES {
        let sandbox = Sandbox::mounted(cipher);
        let origin = sandbox.path("origin");
        std::fs::create_dir(&origin).unwrap();
        tool(git(&origin).args(["init", "--quiet"]), "git");
        for part in ["src", "tests", "docs"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(part);
            tool(
                Command::new("cp").arg("-r").arg(from).arg(&origin),
                "coreutils",
            );
            tool(git(&origin).args(["add", "-A"]), "git");
            tool(git(&origin).args(["commit", "--quiet", "-m", part]), "git");
        }
        let clone = sandbox.mnt().join("clone");
        tool(
            git(&sandbox.mnt())
                .args(["clone", "--quiet", "--no-local"])
                .arg(&origin)
                .arg(&clone),
            "git",
        );
        tool(git(&clone).args(["gc", "--quiet"]), "git");
        sandbox.remount();
        tool(git(&clone).args(["fsck", "--full", "--strict"]), "git");
        assert_eq!(
            tool(git(&clone).args(["status", "--porcelain"]), "git"),
            "",
            "{cipher}"
        );
    }
}

#[test]
fn sqlite_keeps_its_integrity_in_wal_and_in_rollback_mode() {
    for cipher in SUITES {
        let sandbox = Sandbox::mounted(cipher);
        for mode in ["wal", "delete"] {
            let database = sandbox.mnt().join(format!("{mode}.db"));
            let mut script = format!(
                "pragma journal_mode={mode}; create table t(a integer primary key, b blob);\n"
            );
            for batch in 0..40 {
                script += "begin; with recursive n(i) as (select 1 union all select i + 1 from n where i < 200) \
                           insert into t(b) select randomblob(300) from n; commit;\n";
                script += &format!(
                    "update t set b = randomblob(200) where a % 7 = {};\n",
                    batch % 7
                );
                script += &format!("delete from t where a % 11 = {};\n", batch % 11);
            }
            script += "vacuum; pragma integrity_check;";
            let said = tool(
                Command::new("sqlite3")
                    .arg("-bail")
                    .arg(&database)
                    .arg(&script),
                "sqlite3",
            );
            assert_eq!(said.lines().last(), Some("ok"), "{cipher} {mode}");
            let dump =
                |path: &Path| tool(Command::new("sqlite3").arg(path).arg(".dump"), "sqlite3");
            let before = dump(&database);
            sandbox.remount();
            let check = tool(
                Command::new("sqlite3")
                    .arg(&database)
                    .arg("pragma integrity_check"),
                "sqlite3",
            );
            assert_eq!(check, "ok\n", "{cipher} {mode}");
            assert!(
                before == dump(&database),
                "{cipher} {mode}: another content after a remount"
            );
        }
    }
}

/// XFS lays out in one piece what goes through its cache, and direct writes one by one.
#[test]
fn a_stream_lies_in_few_pieces_on_xfs_and_is_overwritten_past_its_cache() {
    const SIZE: usize = 64 << 20;
    for suite in SUITES {
        let sandbox = Sandbox::new();
        let disk = Loop::xfs(&sandbox.path("disk.img"), &sandbox.path("disk"), 1024);
        sandbox.ok(&["init", "--cipher", suite, "disk/vault"]);
        // The loop device has sectors of 512 bytes.
        sandbox.ok(&["mount", "-o", "inplace=always", "disk/vault", "mnt"]);
        let path = sandbox.mnt().join("stream");
        for seed in [5, 6] {
            let (file, bytes) = (
                File::options()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(&path),
                pattern(SIZE, seed),
            );
            let file = file.unwrap();
            for (part, at) in bytes.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
                file.write_all_at(part, at).unwrap();
            }
            file.sync_all().unwrap();
            let backing = backing_of(&sandbox.path("disk/vault"), SIZE);
            if seed == 5 {
                let pieces = extents(&backing);
                assert!(pieces < 60, "{suite}: {pieces} extents");
                let stored = File::open(&backing).unwrap();
                rustix::fs::fadvise(&stored, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            } else {
                let pages = cached(&backing);
                assert!(
                    pages < SIZE as u64 / 4096 / 2,
                    "{suite}: {pages} pages are cached"
                );
            }
        }
        sandbox.umount();
        sandbox.ok(&["mount", "disk/vault", "mnt"]);
        assert!(std::fs::read(&path).unwrap() == pattern(SIZE, 6), "{suite}");
        sandbox.end();
        drop(disk);
    }
}

/// Pieces that a file is laid out in.
fn extents(path: &Path) -> u64 {
    let said = Command::new("filefrag").arg(path).output();
    let said = said.expect("filefrag, of e2fsprogs").stdout;
    let said = String::from_utf8_lossy(&said);
    let number = said.split_whitespace().rev().nth(2);
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("filefrag said {said:?}"))
}
