//! `check --repair`: what can be brought back is, the rest is moved aside with what can be read of it, nothing is deleted,
//! and what was sound stays as it was.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;
#[path = "support/victim.rs"]
mod victim;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::{SUITES, Sandbox};
use victim::*;

fn run(sandbox: &Sandbox, args: &[&str]) -> (i32, Value) {
    let output = sandbox.run(args);
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code().unwrap(), report)
}

fn repair(sandbox: &Sandbox) -> (i32, Value) {
    run(sandbox, &["check", "--repair", "--json", "vault"])
}

/// Repairs and expects that everything found was repaired; a check afterwards finds nothing damaged.
fn repaired(sandbox: &Sandbox) -> Value {
    let (code, report) = repair(sandbox);
    assert_eq!(code, 15, "{report:#}");
    let (code, after) = run(sandbox, &["check", "--json", "vault"]);
    assert_eq!(code, 0, "{after:#}");
    report
}

/// Every file, directory and link below a directory by its path, with content or target.
fn tree(top: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let content = if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if kind.is_dir() {
                left.push(path.clone());
                b"a directory".to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(top).unwrap().to_owned(), content);
        }
    }
    found
}

/// What the mount shows, without and with `lost+found`.
fn shown(sandbox: &Sandbox) -> (BTreeMap<PathBuf, Vec<u8>>, BTreeMap<PathBuf, Vec<u8>>) {
    sandbox.mount();
    let all = tree(&sandbox.mnt());
    sandbox.umount();
    all.into_iter()
        .partition(|(path, _)| !path.starts_with("lost+found"))
}

/// The one thing in `lost+found` whose name contains this.
fn kept<'a>(lost: &'a BTreeMap<PathBuf, Vec<u8>>, part: &str) -> &'a Vec<u8> {
    let mut found = lost.iter().filter(|(path, _)| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.contains(part) && !name.contains("(report)")
    });
    let (_, content) = found
        .next()
        .unwrap_or_else(|| panic!("no {part} in {:?}", lost.keys()));
    assert!(
        found.next().is_none(),
        "more than one {part}: {:?}",
        lost.keys()
    );
    content
}

#[test]
fn a_sound_volume_stays_as_it_is_but_for_the_mount_file() {
    for suite in SUITES {
        let victim = Victim::new(suite);
        let vault = victim.sandbox.vault();
        let before = tree(&vault);
        let (code, report) = repair(&victim.sandbox);
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["done"], Value::Array(Vec::new()));
        let changed: Vec<_> = tree(&vault)
            .into_iter()
            .filter(|(path, content)| before.get(path) != Some(content))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(changed, [PathBuf::from("strongroom.mount")]);
        assert_eq!(tree(&vault).len(), before.len());
    }
}

#[test]
fn sound_blocks_of_a_damaged_file_are_kept_at_their_offsets() {
    let victim = Victim::new(SUITES[0]);
    let raw = fs::read(&victim.target).unwrap();
    flip(&victim.target, slot_page(1, 0) * PAGE + 5); // block 32
    flip(&victim.target, slot_page(1, 1) * PAGE + 5); // block 33
    zero(&victim.target, group_page(2) * PAGE + 64, 64); // the record of block 97
    let report = repaired(&victim.sandbox);
    assert_eq!(report["found"]["damaged"], 1, "{report:#}");
    let (tree, lost) = shown(&victim.sandbox);
    assert_eq!(tree, BTreeMap::from([("other".into(), content(2))]));
    let mut expected = content(1);
    for block in [32, 33, 97] {
        expected[block * 4096..(block + 1) * 4096].fill(0);
    }
    assert!(kept(&lost, "target (3 of 147 blocks lost)") == &expected);
    let text = lost
        .iter()
        .find(|(path, _)| path.to_string_lossy().contains("(report)"))
        .unwrap()
        .1;
    let text = String::from_utf8_lossy(text);
    assert!(
        text.contains("blocks 32 to 33") && text.contains("/target"),
        "{text}"
    );
    // The ciphertext itself is still there, whole, where the report says.
    let hidden = text.split("Kept as: ").nth(1).unwrap().trim();
    let hidden = find(&victim.sandbox.vault(), hidden);
    assert_eq!(fs::read(hidden).unwrap().len(), raw.len());
}

fn find(dir: &Path, name: &str) -> PathBuf {
    let found = tree(dir)
        .into_keys()
        .find(|path| path.file_name().unwrap() == name);
    dir.join(found.unwrap_or_else(|| panic!("no {name}")))
}

#[test]
fn every_damage_of_the_table_is_repaired_or_moved_aside_and_nothing_else_changes() {
    let victim = Victim::new(SUITES[0]);
    let sandbox = &victim.sandbox;
    let saved = sandbox.path("saved");
    support::tool(
        std::process::Command::new("cp")
            .arg("-a")
            .args([sandbox.vault(), saved.clone()]),
        "coreutils",
    );
    for (what, damage) in moved(&victim) {
        damage(&victim.target);
        let (code, report) = repair(sandbox);
        assert_eq!(code, 15, "{what}: {report:#}");
        let (code, after) = run(sandbox, &["check", "--json", "vault"]);
        assert_eq!(code, 0, "{what}: {after:#}");
        let (tree, lost) = shown(sandbox);
        assert!(
            tree.get(Path::new("other")) == Some(&content(2)),
            "{what}: the other file"
        );
        match tree.get(Path::new("target")) {
            Some(read) => assert!(*read == content(1), "{what}: other bytes in its place"),
            None => assert!(!lost.is_empty(), "{what}: nothing is left of it"),
        }
        fs::remove_dir_all(sandbox.vault()).unwrap();
        fs::remove_dir_all(sandbox.path("state")).unwrap();
        support::tool(
            std::process::Command::new("cp")
                .arg("-a")
                .args([saved.clone(), sandbox.vault()]),
            "coreutils",
        );
    }
}

#[test]
fn lengths_and_halves_that_do_not_hold_are_mended_in_place() {
    let victim = Victim::new(SUITES[0]);
    let length = victim.target.metadata().unwrap().len();
    let expected = BTreeMap::from([("target".into(), content(1)), ("other".into(), content(2))]);
    let expect_mended = |what: &str, damage: &dyn Fn()| {
        damage();
        repaired(&victim.sandbox);
        let (tree, _) = shown(&victim.sandbox);
        assert!(tree == expected, "{what}");
        assert_eq!(victim.target.metadata().unwrap().len(), length, "{what}");
    };
    expect_mended("longer", &|| {
        edit(&victim.target).set_len(length + 5000).unwrap()
    });
    expect_mended("longer, with bytes", &|| {
        fs::write(
            &victim.target,
            [fs::read(&victim.target).unwrap(), vec![7; 5000]].concat(),
        )
        .unwrap();
    });
    expect_mended("without its last spare slots", &|| {
        edit(&victim.target).set_len(length - 4096).unwrap()
    });
    expect_mended("rubbish in the key area that does not count", &|| {
        use std::os::unix::fs::FileExt;
        let mut areas = [0; 1024];
        edit(&victim.target).read_exact_at(&mut areas, 512).unwrap();
        let free = if areas[..512].iter().all(|byte| *byte == 0) {
            512
        } else {
            1024
        };
        edit(&victim.target).write_all_at(&[9; 512], free).unwrap();
    });
    expect_mended("rubbish in the state that does not count", &|| {
        use std::os::unix::fs::FileExt;
        let free = if active_state(&victim.target) == 1536 {
            1792
        } else {
            1536
        };
        edit(&victim.target).write_all_at(&[9; 256], free).unwrap();
    });
}

#[test]
fn the_files_of_the_volume_itself_are_brought_back() {
    for suite in SUITES {
        let victim = Victim::new(suite);
        let sandbox = &victim.sandbox;
        let expected =
            BTreeMap::from([("target".into(), content(1)), ("other".into(), content(2))]);
        let (volume, mount) = (
            sandbox.vault().join("strongroom.volume"),
            sandbox.vault().join("strongroom.mount"),
        );
        sandbox.ok(&["rotate", "vault"]); // leaves an older generation
        type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
        let damages: Vec<Damage> = vec![
            (
                "no mount file",
                Box::new(|| fs::remove_file(&mount).unwrap()),
            ),
            ("a changed mount file", Box::new(|| flip(&mount, 20))),
            (
                "an empty mount file",
                Box::new(|| fs::write(&mount, b"").unwrap()),
            ),
            (
                "no volume file",
                Box::new(|| fs::remove_file(&volume).unwrap()),
            ),
            ("a changed volume file", Box::new(|| flip(&volume, 100))),
            (
                "neither",
                Box::new(|| {
                    fs::remove_file(&mount).unwrap();
                    fs::write(&volume, b"{}").unwrap();
                }),
            ),
        ];
        for (what, damage) in &damages {
            damage();
            let (code, report) = run(sandbox, &["check", "--json", "vault"]);
            assert_eq!(code, 9, "{what}: {report:#}");
            assert_eq!(report["files"], 2, "{what}: the check goes on");
            repaired(sandbox);
            assert!(shown(sandbox).0 == expected, "{what}");
        }
    }
}

fn stored_dirs(vault: &Path) -> Vec<PathBuf> {
    tree(vault)
        .into_iter()
        .filter(|(_, content)| content == b"a directory")
        .map(|(path, _)| vault.join(path))
        .collect()
}

#[test]
fn the_lost_id_of_a_moved_directory_is_found_again() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let mnt = sandbox.mnt();
    fs::create_dir_all(mnt.join("from/album/deep")).unwrap();
    fs::create_dir(mnt.join("to")).unwrap();
    fs::write(mnt.join("from/album/picture"), b"a picture").unwrap();
    fs::write(mnt.join("from/album/deep/note"), b"a note").unwrap();
    fs::rename(mnt.join("from/album"), mnt.join("to/album")).unwrap();
    sandbox.umount();
    let expected = shown(&sandbox).0;
    let dir_file = find(&sandbox.vault(), "strongroom.dir");
    let bytes = fs::read(&dir_file).unwrap();
    for damage in [None, Some(b"short".to_vec()), Some(vec![3; 48])] {
        match &damage {
            None => fs::remove_file(&dir_file).unwrap(),
            Some(bytes) => fs::write(&dir_file, bytes).unwrap(),
        }
        repaired(&sandbox);
        assert_eq!(
            shown(&sandbox),
            (expected.clone(), BTreeMap::new()),
            "{damage:?}"
        );
        assert_eq!(
            fs::read(&dir_file).unwrap()[..16],
            bytes[..16],
            "the same id"
        );
    }
}

#[test]
fn what_is_in_a_directory_whose_id_is_lost_for_good_is_saved() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let mnt = sandbox.mnt();
    fs::create_dir_all(mnt.join("one/deep")).unwrap();
    fs::write(mnt.join("one/file"), b"first").unwrap();
    fs::write(mnt.join("one/deep/file"), b"second").unwrap();
    fs::write(mnt.join("beside"), b"beside").unwrap();
    fs::rename(mnt.join("one"), mnt.join("two")).unwrap();
    sandbox.umount();
    for path in tree(&sandbox.vault()).into_keys() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "strongroom.dir" || name.starts_with("strongroom.gone.") {
            fs::remove_file(sandbox.vault().join(path)).unwrap();
        }
    }
    repaired(&sandbox);
    let (tree, lost) = shown(&sandbox);
    assert_eq!(tree[Path::new("beside")], b"beside");
    let saved: Vec<_> = lost.values().map(Vec::as_slice).collect();
    assert!(
        saved.contains(&b"first".as_slice()) && saved.contains(&b"second".as_slice()),
        "{:?}",
        lost.keys()
    );
}

#[test]
fn swapped_directories_and_files_are_moved_aside_with_what_they_hold() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let mnt = sandbox.mnt();
    for name in ["a", "b"] {
        fs::create_dir(mnt.join(name)).unwrap();
        fs::rename(mnt.join(name), mnt.join(format!("{name}2"))).unwrap(); // has a strongroom.dir
        fs::write(mnt.join(format!("{name}2/file")), name).unwrap();
    }
    fs::write(mnt.join("beside"), b"beside").unwrap();
    sandbox.umount();
    let dirs = stored_dirs(&sandbox.vault());
    assert_eq!(dirs.len(), 2);
    let third = sandbox.path("third");
    fs::rename(&dirs[0], &third).unwrap();
    fs::rename(&dirs[1], &dirs[0]).unwrap();
    fs::rename(&third, &dirs[1]).unwrap();
    repaired(&sandbox);
    let (tree, lost) = shown(&sandbox);
    assert_eq!(tree.keys().collect::<Vec<_>>(), [Path::new("beside")]);
    let mut files: Vec<_> = lost
        .values()
        .filter(|content| content.len() == 1)
        .cloned()
        .collect();
    files.sort();
    assert_eq!(files, [b"a", b"b"], "{:?}", lost.keys());
}

#[test]
fn names_links_and_attributes_that_are_lost_are_kept_aside() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let mnt = sandbox.mnt();
    fs::write(mnt.join("n".repeat(200)), b"a long name").unwrap();
    fs::create_dir(mnt.join("d".repeat(200))).unwrap();
    fs::write(mnt.join("d".repeat(200)).join("in it"), b"in it").unwrap();
    std::os::unix::fs::symlink("target", mnt.join("link")).unwrap();
    fs::write(mnt.join("marked"), b"marked").unwrap();
    support::tool(
        std::process::Command::new("setfattr")
            .args(["-n", "user.note", "-v", "v"])
            .arg(mnt.join("marked")),
        "attr",
    );
    sandbox.umount();
    let vault = sandbox.vault();
    for path in tree(&vault).into_keys().map(|path| vault.join(path)) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".name") {
            fs::remove_file(&path).unwrap();
        } else if path.is_symlink() {
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        } else if path.is_file() {
            let listed = support::tool(
                std::process::Command::new("getfattr")
                    .args(["--absolute-names", "-m", "^user[.]strongroom[.]"])
                    .arg(&path),
                "attr",
            );
            for name in listed
                .lines()
                .filter(|line| line.starts_with("user.strongroom."))
            {
                support::tool(
                    std::process::Command::new("setfattr")
                        .args(["-n", name, "-v", "x"])
                        .arg(&path),
                    "attr",
                );
            }
        }
    }
    let report = repaired(&sandbox);
    let (tree, lost) = shown(&sandbox);
    assert_eq!(
        tree,
        BTreeMap::from([("marked".into(), b"marked".to_vec())]),
        "{report:#}"
    );
    let saved: Vec<_> = lost.values().map(Vec::as_slice).collect();
    assert!(
        saved.contains(&b"a long name".as_slice()) && saved.contains(&b"in it".as_slice()),
        "{:?}",
        lost.keys()
    );
}

/// The daemon of a sandbox's mount, killed.
fn kill_daemon(sandbox: &Sandbox) {
    let info = run(sandbox, &["info", "--json", "vault"]).1;
    let pid = info["holder"]["pid"].as_u64().unwrap();
    support::tool(
        std::process::Command::new("kill").args(["-9", &pid.to_string()]),
        "util-linux",
    );
    support::tool(
        std::process::Command::new("umount")
            .arg("--lazy")
            .arg(sandbox.mnt()),
        "mount",
    );
    while Path::new(&format!("/proc/{pid}")).exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn after_a_kill_everything_in_doubt_is_settled_and_strict_again() {
    for suite in SUITES {
        let victim = Victim::new(suite);
        let sandbox = &victim.sandbox;
        sandbox.mount();
        for round in 0..20 {
            fs::write(sandbox.mnt().join(format!("new {round}")), content(round)).unwrap();
        }
        fs::write(sandbox.mnt().join("target"), content(9)).unwrap();
        kill_daemon(sandbox);
        let (code, before) = run(sandbox, &["check", "--json", "vault"]);
        assert_eq!(code, 0, "{before:#}");
        assert!(before["in_doubt"].as_u64().unwrap() > 0);
        let report = repaired(sandbox);
        assert!(report["after"]["in_doubt"] == 0, "{report:#}");
        let (tree, lost) = shown(sandbox);
        assert!(lost.is_empty());
        assert!(tree[Path::new("target")] == content(9) && tree[Path::new("other")] == content(2));
        assert!((0..20).all(|round| tree[Path::new(&format!("new {round}"))] == content(round)));
        assert_eq!(repair(sandbox).0, 0, "a second repair has nothing to do");
    }
}

#[test]
fn a_repair_that_is_killed_can_be_run_again() {
    let victim = Victim::new(SUITES[0]);
    let sandbox = &victim.sandbox;
    sandbox.mount();
    for number in 0..30 {
        fs::write(
            sandbox.mnt().join(format!("file {number}")),
            content(number),
        )
        .unwrap();
    }
    sandbox.umount();
    let files: Vec<_> = stored_files(&sandbox.vault())
        .into_iter()
        .filter(|path| *path != victim.other)
        .collect();
    for (number, path) in files
        .iter()
        .enumerate()
        .filter(|(number, _)| number % 2 == 0)
    {
        flip(path, slot_page(1, number as u64) * PAGE);
    }
    let mut killed = 0;
    for round in 0..40 {
        let mut child = sandbox
            .command()
            .args(["check", "--repair", "vault"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + 13 * round));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if ended {
            break;
        }
        killed += 1;
    }
    assert!(killed > 0, "no repair was killed");
    let (code, report) = repair(sandbox);
    assert!(code == 0 || code == 15, "{report:#}");
    let (code, after) = run(sandbox, &["check", "--json", "vault"]);
    assert_eq!(code, 0, "{after:#}");
    let (tree, lost) = shown(sandbox);
    assert!(tree[Path::new("other")] == content(2));
    let whole = tree
        .keys()
        .filter(|path| path.to_string_lossy().starts_with("file"))
        .count();
    let broken = files.len().div_ceil(2);
    assert_eq!(
        tree.len(),
        1 + files.len() - broken,
        "{whole} {:?}",
        tree.keys()
    );
    let copies = lost
        .keys()
        .filter(|path| path.to_string_lossy().contains("of 147 blocks lost"))
        .count();
    assert!(copies >= broken, "{:?}", lost.keys());
}
