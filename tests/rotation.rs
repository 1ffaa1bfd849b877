//! Rotation of the master key: complete, cheap, online, and resumable after any kill.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use support::{SUITES, Sandbox};

/// Where page 0 keeps its two key areas: the only bytes that a rotation may change.
const KEY_AREAS: std::ops::Range<usize> = 512..1536;

fn content(n: usize) -> Vec<u8> {
    format!("file {n} ").repeat(1 + n % 900).into_bytes()
}

fn path(n: usize) -> String {
    format!("d{:02}/f{n:05}", n % 50)
}

/// Writes this many files below `top`.
fn fill(top: &Path, files: usize) {
    for dir in 0..50.min(files) {
        std::fs::create_dir(top.join(format!("d{dir:02}"))).unwrap();
    }
    for n in 0..files {
        std::fs::write(top.join(path(n)), content(n)).unwrap();
    }
}

fn assert_whole(top: &Path, files: usize) {
    for n in 0..files {
        assert!(
            std::fs::read(top.join(path(n))).unwrap() == content(n),
            "file {n} reads otherwise"
        );
    }
}

/// Every file of a backing directory that holds a user's data, with its bytes.
fn bytes_below(top: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let ours = path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("strongroom.");
            if path.is_dir() {
                left.push(path);
            } else if !ours {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn rotated(said: &str) -> serde_json::Value {
    let line = said
        .lines()
        .rfind(|line| line.starts_with('{'))
        .expect("a JSON object");
    serde_json::from_str(line).expect("JSON")
}

/// Rotates the unmounted volume; its report, and the bytes that it wrote with whatever call (proc_pid_io(5), `wchar`: a
/// shell's count has those of the children that it waited for).
fn rotate_counting(sandbox: &Sandbox) -> (serde_json::Value, u64) {
    let program = sandbox.command();
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "\"$0\" rotate vault --json && cat /proc/$$/io"])
        .arg(program.get_program())
        .current_dir(program.get_current_dir().unwrap())
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let said = support::tool(&mut shell, "sh");
    let written = said
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .expect("wchar");
    (rotated(&said), written.parse().unwrap())
}

#[test]
fn over_ten_thousand_files_only_key_areas_change() {
    const FILES: usize = 10_050;
    for cipher in SUITES {
        let sandbox = Sandbox::mounted(cipher);
        fill(&sandbox.mnt(), FILES);
        sandbox.umount();
        let before = bytes_below(&sandbox.vault());
        let (report, written) = rotate_counting(&sandbox);
        assert!(
            written <= 8192 * FILES as u64,
            "{written} bytes written for {FILES} files"
        );
        assert_eq!(report["headers"], FILES, "{report}");
        assert_eq!(report["rewrapped"], FILES, "{report}");
        assert_eq!(report["remaining"], 0, "{report}");
        assert_eq!(
            report["to_version"].as_u64(),
            report["from_version"].as_u64().map(|version| version + 1)
        );
        let after = bytes_below(&sandbox.vault());
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>()
        );
        let mut changed = 0;
        for (path, old) in &before {
            if path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("strongroom.")
            {
                continue;
            }
            let new = &after[path];
            assert_eq!(old.len(), new.len());
            assert!(
                old[..KEY_AREAS.start] == new[..KEY_AREAS.start],
                "{}",
                path.display()
            );
            assert!(
                old[KEY_AREAS.end..] == new[KEY_AREAS.end..],
                "{}: data changed",
                path.display()
            );
            changed += usize::from(old[KEY_AREAS] != new[KEY_AREAS]);
        }
        assert_eq!(changed, FILES);
        sandbox.mount();
        assert_whole(&sandbox.mnt(), FILES);
    }
}

#[test]
fn a_mounted_volume_rotates_while_programs_write() {
    for cipher in SUITES {
        let sandbox = Sandbox::mounted(cipher);
        fill(&sandbox.mnt(), 1_000);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let busy = sandbox.mnt().join("busy");
                std::fs::create_dir(&busy).unwrap();
                let mut n = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::write(busy.join(format!("new{n}")), content(n)).unwrap();
                    if n % 3 == 0 {
                        std::fs::rename(
                            busy.join(format!("new{n}")),
                            busy.join(format!("moved{n}")),
                        )
                        .unwrap();
                    }
                    n += 1;
                }
                n
            });
            for round in 0..3 {
                let report = rotated(&sandbox.ok(&["rotate", "mnt", "--json"]));
                assert_eq!(report["remaining"], 0, "round {round}: {report}");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            writer.join().unwrap()
        });
        sandbox.remount();
        assert_whole(&sandbox.mnt(), 1_000);
        for n in 0..made {
            let name = if n % 3 == 0 {
                format!("moved{n}")
            } else {
                format!("new{n}")
            };
            assert!(std::fs::read(sandbox.mnt().join("busy").join(name)).unwrap() == content(n));
        }
    }
}

#[test]
fn killed_twenty_times_it_goes_on_and_ends() {
    const FILES: usize = 3_000;
    let sandbox = Sandbox::mounted(SUITES[0]);
    fill(&sandbox.mnt(), FILES);
    sandbox.umount();
    let mut killed = 0;
    let mut seed = 7u64;
    for _ in 0..20 {
        let mut child = sandbox
            .command()
            .args(["rotate", "vault", "--json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(5 + (seed >> 33) % 250));
        killed += u32::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(
        killed > 0,
        "every rotation ended before it was killed: nothing was shown"
    );
    let report = rotated(&sandbox.ok(&["rotate", "vault", "--json"]));
    assert_eq!(report["remaining"], 0, "{report}");
    sandbox.mount();
    assert_whole(&sandbox.mnt(), FILES);
}

#[test]
fn file_times_survive_a_rotation() {
    use std::os::unix::fs::MetadataExt;
    let sandbox = Sandbox::mounted(SUITES[0]);
    fill(&sandbox.mnt(), 20);
    sandbox.umount();
    sandbox.mount();
    let times = || -> Vec<(i64, i64)> {
        (0..20)
            .map(|n| sandbox.mnt().join(path(n)).metadata().unwrap())
            .map(|m| (m.mtime(), m.mtime_nsec()))
            .collect()
    };
    let before = times();
    sandbox.ok(&["rotate", "mnt"]);
    sandbox.remount();
    assert_eq!(before, times());
}

#[test]
fn a_damaged_header_is_counted_and_keeps_the_old_version_allowed() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fill(&sandbox.mnt(), 5);
    sandbox.umount();
    let victim = bytes_below(&sandbox.vault()).into_keys().next().unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(victim)
        .unwrap();
    file.write_all_at(&[0xff; 32], 48).unwrap(); // the commitment
    let output = sandbox.run(&["rotate", "vault", "--json"]);
    assert!(
        !output.status.success(),
        "a rotation with a damaged header must not look like a success"
    );
    let report = rotated(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(report["damaged"], 1, "{report}");
    assert_eq!(report["rewrapped"], 4, "{report}");
}
