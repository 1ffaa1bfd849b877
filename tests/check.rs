//! `check`: whatever is damaged is found and named, with the rest of the volume looked at as well.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;
#[path = "support/victim.rs"]
mod victim;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{SUITES, Sandbox};
use victim::*;

/// Runs `check` and gives its exit code and report.
fn check(sandbox: &Sandbox, more: &[&str]) -> (i32, Value) {
    let output = sandbox.run(&[&["check", "--json"], more, &["vault"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code().unwrap(), report)
}

fn findings(report: &Value) -> Vec<(String, String, String, String)> {
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            (
                text(finding, "path"),
                text(finding, "part"),
                text(finding, "severity"),
                text(finding, "what"),
            )
        })
        .collect()
}

/// Damages the target, checks, and mends it again; the parts that were found damaged, all of the target alone.
fn found_under(
    victim: &Victim,
    more: &[&str],
    what: &str,
    damage: impl FnOnce(&Path),
) -> Vec<String> {
    let saved = fs::read(&victim.target).unwrap();
    damage(&victim.target);
    let (code, report) = check(&victim.sandbox, more);
    fs::write(&victim.target, saved).unwrap();
    let found = findings(&report);
    assert_eq!(
        code == 9,
        !found.is_empty(),
        "{what}: exit code {code}, {found:?}"
    );
    for (path, _, severity, text) in &found {
        assert_eq!(path, "/target", "{what}: {text}");
        assert_eq!(severity, "damaged", "{what}: {text}");
    }
    assert_eq!(
        report["files"], 2,
        "{what}: the other file is looked at, too"
    );
    found.into_iter().map(|(_, part, _, _)| part).collect()
}

#[test]
fn every_damaged_region_is_found_and_named() {
    let victim = Victim::new(SUITES[0]);
    assert!(found_under(&victim, &[], "a sound volume", |_| {}).is_empty());
    for (field, offset) in HEADER {
        let parts = found_under(&victim, &[], field, |path| flip(path, *offset));
        assert!(
            parts.iter().any(|part| part == "header"),
            "{field}: {parts:?}"
        );
    }
    let state = active_state(&victim.target);
    for (field, offset) in STATE {
        let parts = found_under(&victim, &[], field, |path| flip(path, state + offset));
        assert_eq!(parts, ["header"], "{field}");
    }
    for record in [2048, group_page(1) * PAGE, group_page(2) * PAGE] {
        for field in [0, 12, 28, 29] {
            let half = active_half(&victim.target, record);
            let parts = found_under(&victim, &[], "a record", |path| flip(path, half + field));
            assert!(
                parts.iter().all(|part| part == "record" || part == "block") && !parts.is_empty(),
                "record at {record}, byte {field}: {parts:?}"
            );
        }
    }
    for group in 0..3 {
        for slot in [0, 7, 31] {
            let offset = slot_page(group, slot) * PAGE + 2000;
            let parts = found_under(&victim, &[], "a slot", |path| flip(path, offset));
            assert_eq!(parts, ["block"], "slot {slot} of group {group}");
        }
    }
    for (what, damage) in moved(&victim) {
        let parts = found_under(&victim, &[], what, |path| damage(path));
        assert!(!parts.is_empty(), "{what}");
    }
}

#[test]
fn without_data_headers_records_and_lengths_are_found_and_little_is_read() {
    let victim = Victim::new(SUITES[0]);
    let quick = &["--metadata-only"];
    for (field, offset) in HEADER {
        assert!(
            !found_under(&victim, quick, field, |path| flip(path, *offset)).is_empty(),
            "{field}"
        );
    }
    let half = active_half(&victim.target, group_page(1) * PAGE);
    let parts = found_under(&victim, quick, "a kind", |path| flip(path, half + 29));
    assert_eq!(parts, ["record"]);
    let parts = found_under(&victim, quick, "a tag page", |path| {
        zero(path, group_page(1) * PAGE, 4096)
    });
    assert_eq!(parts, ["record"]);
    let length = victim.target.metadata().unwrap().len();
    let parts = found_under(&victim, quick, "a length", |path| {
        edit(path).set_len(length + 1).unwrap()
    });
    assert_eq!(parts, ["length"]);
    let parts = found_under(&victim, quick, "a block", |path| {
        flip(path, slot_page(1, 3) * PAGE)
    });
    assert!(parts.is_empty(), "data is not read: {parts:?}");
    let (_, report) = check(&victim.sandbox, quick);
    let share = report["bytes_read"].as_f64().unwrap() / report["bytes_stored"].as_f64().unwrap();
    assert!(share < 0.05, "{share}");
}

#[test]
fn headers_are_checked_in_both_suites_and_xts_blocks_cannot_be() {
    let victim = Victim::new(SUITES[1]);
    for offset in [0, 16, 32, 48, 544, 948] {
        let parts = found_under(&victim, &[], "a header", |path| flip(path, offset));
        assert_eq!(parts, ["header"], "byte {offset}");
    }
    assert!(found_under(&victim, &[], "a block", |path| flip(path, PAGE + 100)).is_empty());
    let parts = found_under(&victim, &[], "a cut header", |path| {
        edit(path).set_len(PAGE).unwrap()
    });
    assert_eq!(parts, ["length"]);
}

/// A volume with one of everything below `tree`.
fn tree() -> Sandbox {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let tree = sandbox.mnt().join("tree");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    fs::write(tree.join("sub/file"), b"content").unwrap();
    fs::write(tree.join("sub/deep/file"), b"content").unwrap();
    fs::write(tree.join("n".repeat(200)), b"a long name").unwrap();
    fs::write(tree.join("with xattr"), b"content").unwrap();
    std::os::unix::fs::symlink("target", tree.join("link")).unwrap();
    support::tool(
        std::process::Command::new("setfattr")
            .args(["-n", "user.note", "-v", "value"])
            .arg(tree.join("with xattr")),
        "attr",
    );
    fs::rename(tree.join("sub"), tree.join("moved")).unwrap();
    sandbox.umount();
    sandbox
}

/// Every entry of the vault below its top directory, hidden ones too.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found
}

fn stored(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The one entry that `wanted` wants.
fn only(vault: &Path, wanted: impl Fn(&Path) -> bool) -> PathBuf {
    let mut found: Vec<_> = entries(vault)
        .into_iter()
        .filter(|path| wanted(path))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.pop().unwrap()
}

#[test]
fn a_tree_with_one_of_everything_is_sound() {
    let sandbox = tree();
    let (code, report) = check(&sandbox, &[]);
    assert_eq!((code, findings(&report)), (0, Vec::new()));
    assert_eq!(
        (&report["files"], &report["directories"], &report["others"]),
        (&4.into(), &4.into(), &1.into())
    );
}

#[test]
fn damaged_names_directories_links_and_attributes_are_found() {
    let sandbox = tree();
    let vault = sandbox.vault();
    let is = |name: &'static str| move |path: &Path| stored(path) == name;
    let dir_file = only(&vault, is("strongroom.dir"));
    let side = only(&vault, |path| stored(path).ends_with(".name"));
    let link = only(&vault, |path| path.is_symlink());
    let with_xattr = only(&vault, |path| {
        path.is_file() && !xattr_names(path).is_empty() && !stored(path).starts_with("strongroom.")
    });
    let one = |what: &str, path: &str, part: &str| {
        let (code, report) = check(&sandbox, &[]);
        let found = findings(&report);
        assert_eq!(code, 9, "{what}: {found:?}");
        assert!(
            found
                .iter()
                .any(|found| found.0.starts_with(path) && found.1 == part && found.2 == "damaged"),
            "{what}: {found:?}"
        );
    };

    let saved = fs::read(&dir_file).unwrap();
    flip(&dir_file, 3);
    one("an id", "/tree/moved", "directory");
    fs::write(&dir_file, b"short").unwrap();
    one("a short directory file", "/tree/moved", "directory");
    fs::remove_file(&dir_file).unwrap();
    one("a lost id", "/tree/moved", "name");
    fs::write(&dir_file, saved).unwrap();

    let saved = fs::read(&side).unwrap();
    flip(&side, 1);
    one("a side file", "/tree/<", "name");
    fs::remove_file(&side).unwrap();
    one("no side file", "/tree/<", "name");
    fs::write(&side, saved).unwrap();

    let renamed = link.with_file_name("A".repeat(30));
    fs::rename(&link, &renamed).unwrap();
    one("a foreign name", "/tree/<", "name");
    fs::remove_file(&renamed).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    one("a foreign target", "/tree/link", "symlink");
    fs::remove_file(&link).unwrap();

    let name = xattr_names(&with_xattr).pop().unwrap();
    support::tool(
        std::process::Command::new("setfattr")
            .args(["-n", &name, "-v", "AAAA"])
            .arg(&with_xattr),
        "attr",
    );
    one("an xattr value", "/tree/with xattr", "xattr");
    support::tool(
        std::process::Command::new("setfattr")
            .args(["-x", &name])
            .arg(&with_xattr),
        "attr",
    );

    let (code, report) = check(&sandbox, &[]);
    assert_eq!((code, findings(&report)), (0, Vec::new()));
}

fn xattr_names(path: &Path) -> Vec<String> {
    let listed = support::tool(
        std::process::Command::new("getfattr")
            .args(["--absolute-names", "-m", "^user[.]strongroom[.]"])
            .arg(path.as_os_str()),
        "attr",
    );
    assert!(!path.as_os_str().as_bytes().is_empty());
    listed
        .lines()
        .filter(|line| line.starts_with("user.strongroom."))
        .map(str::to_owned)
        .collect()
}

#[test]
fn swapped_files_and_directories_are_found() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let mut stored = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let path = sandbox.mnt().join(name);
        if name < "c" {
            fs::write(&path, name).unwrap();
        } else {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), name).unwrap();
        }
        let now: Vec<_> = fs::read_dir(sandbox.vault())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                !path
                    .file_name()
                    .unwrap()
                    .as_bytes()
                    .starts_with(b"strongroom.")
            })
            .collect();
        stored.push(now.into_iter().find(|path| !stored.contains(path)).unwrap());
    }
    sandbox.umount();
    let swap = |a: &Path, b: &Path| {
        let third = sandbox.path("third");
        fs::rename(a, &third).unwrap();
        fs::rename(b, a).unwrap();
        fs::rename(&third, b).unwrap();
    };
    swap(&stored[0], &stored[1]);
    let (code, report) = check(&sandbox, &[]);
    let parts: Vec<_> = findings(&report)
        .into_iter()
        .map(|found| (found.0, found.1))
        .collect();
    let tag = |path: &str| (path.to_owned(), "name-tag".to_owned());
    assert_eq!((code, parts), (9, vec![tag("/a"), tag("/b")]));
    swap(&stored[0], &stored[1]);
    swap(&stored[2], &stored[3]);
    let (code, report) = check(&sandbox, &[]);
    assert_eq!(code, 9);
    let found = findings(&report);
    assert!(found.iter().all(|found| found.1 == "name"), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn leftovers_are_told_without_being_called_damage() {
    let sandbox = tree();
    let tree = only(&sandbox.vault(), |path| stored(path) == "strongroom.dir");
    let dir = tree.parent().unwrap();
    for name in [
        "strongroom.tmp.0123456789abcdef",
        "strongroom.lost.0123456789abcdef",
        "strongroom.volume",
        "strongroom.something",
        &format!("strongroom.long.{}.name", "A".repeat(43)),
    ] {
        fs::write(dir.join(name), b"x").unwrap();
    }
    let (code, report) = check(&sandbox, &[]);
    let found = findings(&report);
    assert_eq!((code, found.len()), (0, 5), "{found:?}");
    assert!(
        found
            .iter()
            .all(|found| found.0.starts_with("/tree/moved/<")
                && found.1 == "hidden"
                && found.2 == "left"),
        "{found:?}"
    );
}

#[test]
fn a_volume_in_use_and_a_directory_that_is_none_are_refused() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    assert_eq!(sandbox.run(&["check", "vault"]).status.code(), Some(7));
    sandbox.umount();
    assert_eq!(sandbox.run(&["check", "mnt"]).status.code(), Some(8));
}

#[test]
fn a_check_changes_no_byte() {
    let sandbox = tree();
    let image = |vault: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let mut all: Vec<_> = entries(vault)
            .into_iter()
            .filter(|path| path.is_file() && !path.is_symlink())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = image(&sandbox.vault());
    check(&sandbox, &[]);
    check(&sandbox, &["--metadata-only"]);
    assert_eq!(before, image(&sandbox.vault()));
}
