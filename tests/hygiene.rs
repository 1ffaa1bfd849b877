//! What a daemon's memory shows: keys stand in locked pages only while a volume is mounted, and nowhere once it is unmounted or
//! locked. The memory is another process's, read through `/proc`, so nothing of the test itself is found.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "hygiene/at_exit.rs"]
mod at_exit;
#[path = "hygiene/known.rs"]
mod known;
#[path = "hygiene/memory.rs"]
mod memory;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use at_exit::Traced;
use known::{Known, known_keys};
use memory::{Needles, Process};
use support::{SUITES, Sandbox, tool};

const PASSPHRASE: &str = "Quartz jackdaws vex my big sphinx 0123456789";

/// A volume under a passphrase, mounted, and its daemon.
fn mounted(suite: &str, more: &[&str]) -> (Sandbox, u32) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("pw"), PASSPHRASE).unwrap();
    fs::set_permissions(sandbox.path("pw"), fs::Permissions::from_mode(0o600)).unwrap();
    let cost = ["--argon2-memory", "1", "--argon2-passes", "1"];
    let with = |args: &[&str]| sandbox.ok(&[&["--passphrase-file", "pw"], args].concat());
    with(&[&["keystore", "init"], &cost[..]].concat());
    with(&["init", "--cipher", suite, "vault"]);
    let mut mount = sandbox.command();
    mount
        .env("STRONGROOM_LOG", "trace")
        .args(["--passphrase-file", "pw", "mount"]);
    tool(mount.args(more).args(["vault", "mnt"]), "strongroom");
    let pid = daemon(&sandbox);
    (sandbox, pid)
}

fn daemon(sandbox: &Sandbox) -> u32 {
    let said = sandbox.ok(&["info", "mnt", "--json"]);
    let info: serde_json::Value = serde_json::from_str(&said).unwrap();
    info["holder"]["pid"].as_u64().unwrap() as u32
}

/// Uses every kind of key: contents, names, long names, links, attributes, old files opened anew, a rotation.
fn use_it(sandbox: &Sandbox) {
    let mnt = sandbox.mnt();
    fs::write(mnt.join("held"), vec![7; 100_000]).unwrap();
    for round in 0..20 {
        let dir = mnt.join(format!("dir{round}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), vec![round as u8; 300_000]).unwrap();
        fs::write(dir.join("n".repeat(200)), "long").unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        assert_eq!(
            fs::read_link(dir.join("link")).unwrap().to_str(),
            Some("file")
        );
        assert_eq!(fs::read(dir.join("file")).unwrap().len(), 300_000);
    }
}

/// Backing files right below the root.
fn stored_files(vault: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(vault)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_own = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("strongroom.")
    };
    entries
        .filter(|path| path.is_file() && !is_own(path))
        .collect()
}

fn assert_nowhere(hits: &[String], when: &str) {
    assert!(
        hits.is_empty(),
        "{when}: {} places\n{}",
        hits.len(),
        hits[..hits.len().min(40)].join("\n")
    );
}

/// The same while the daemon runs: what a thread has on its stack in the midst of its work goes, what is left behind stays.
fn assert_not_left(process: &Process, keys: &Needles, when: &str) {
    let mut left = Vec::new();
    for _ in 0..5 {
        left = process.finds(keys, true);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_nowhere(&left, when);
}

fn passphrase() -> Needles {
    let mut needles = Needles::default();
    needles.add(PASSPHRASE.as_bytes(), "the passphrase");
    needles
}

/// A file that stays open for writing, so that the daemon holds its keys.
fn holds(sandbox: &Sandbox) -> File {
    let file = File::options()
        .write(true)
        .open(sandbox.mnt().join("held"))
        .unwrap();
    file.write_all_at(b"again", 0).unwrap();
    file
}

/// All keys that the daemon holds, as the locked memory shows them, and those that we know it had.
fn keys_of(process: &Process, known: &[Known]) -> Needles {
    let mut keys = process.secrets();
    assert!(keys.len() > 20, "{} half keys in locked memory", keys.len());
    for Known { name, key, is_held } in known {
        if *is_held && !keys.contains(key) {
            let mut one = Needles::default();
            one.add(key, name);
            panic!(
                "the {name} is not in locked memory, but: {:?} {key:02x?}",
                process.finds(&one, false)
            );
        }
        keys.add(key, name);
    }
    assert!(
        !process.finds(&keys, false).is_empty(),
        "the search finds nothing"
    );
    keys
}

#[test]
fn keys_are_in_locked_pages_only_and_gone_at_the_end() {
    for suite in SUITES {
        let (sandbox, pid) = mounted(suite, &[]);
        use_it(&sandbox);
        sandbox.ok(&["--passphrase-file", "pw", "rotate", "mnt"]);
        let process = Process::new(pid);
        let open = holds(&sandbox);
        let known = known_keys(&sandbox, PASSPHRASE);
        assert_eq!(known.len(), 4 + 3);
        let keys = keys_of(&process, &known);
        assert_not_left(&process, &keys, &format!("{suite}, mounted"));
        assert_nowhere(
            &process.finds(&passphrase(), false),
            &format!("{suite}, passphrase"),
        );
        drop(open);
        let umount = std::thread::scope(|scope| {
            // Dropped when a check below fails, or the daemon would wait, and umount for it.
            let traced = Traced::until_exit(pid);
            let umount = scope.spawn(|| sandbox.run(&["umount", "mnt"]));
            traced.wait();
            assert_nowhere(&process.finds(&keys, false), &format!("{suite}, unmounted"));
            drop(traced);
            umount.join().unwrap()
        });
        assert!(umount.status.success(), "{umount:?}");
    }
}

#[test]
fn a_locked_volume_has_one_key_left_and_it_opens_nothing() {
    let (sandbox, pid) = mounted(SUITES[0], &["-o", "on-key-loss=lock,key-check=1s"]);
    use_it(&sandbox);
    let process = Process::new(pid);
    let open = holds(&sandbox);
    let known = known_keys(&sandbox, PASSPHRASE);
    let mut keys = keys_of(&process, &known);
    let mac = known.iter().find(|known| known.name == "MAC key").unwrap();
    keys.remove(&mac.key);
    sandbox.ok(&["--passphrase-file", "pw", "key", "disable", "alias/default"]);
    // EIO comes first, then what was written is settled, then the keys go.
    let refused = || {
        open.write_at(b"more", 0)
            .is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
    };
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let left = process.finds(&keys, false);
        if refused() && left.is_empty() {
            break;
        }
        if Instant::now() > patience {
            assert!(refused(), "the volume is not locked");
            assert_nowhere(&left, "locked");
        }
    }
}

/// A supervisor needs it for the next process, and the process that serves does not.
#[test]
fn a_supervisor_has_the_passphrase_in_locked_pages_until_the_volume_locks() {
    let options = "supervise,on-key-loss=lock,key-check=1s";
    let (sandbox, pid) = mounted(SUITES[0], &["-o", options]);
    use_it(&sandbox);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    let supervisor = Process::new(fields.split(' ').nth(1).unwrap().parse().unwrap());
    let worker = Process::new(pid);
    assert_nowhere(&worker.finds(&passphrase(), false), "the worker");
    assert_nowhere(&supervisor.finds(&passphrase(), true), "outside");
    assert!(
        !supervisor.finds(&passphrase(), false).is_empty(),
        "the search finds nothing"
    );
    sandbox.ok(&["--passphrase-file", "pw", "key", "disable", "alias/default"]);
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let left = supervisor.finds(&passphrase(), false);
        if left.is_empty() {
            break;
        }
        if Instant::now() > patience {
            assert_nowhere(&left, "locked");
        }
    }
}

#[test]
fn neither_log_nor_arguments_nor_environment_show_a_key() {
    let (sandbox, pid) = mounted(SUITES[0], &[]);
    use_it(&sandbox);
    let process = Process::new(pid);
    let _open = holds(&sandbox);
    let mut keys = keys_of(&process, &known_keys(&sandbox, PASSPHRASE));
    keys.add(PASSPHRASE.as_bytes(), "the passphrase");
    sandbox.ok(&["--passphrase-file", "pw", "rotate", "mnt"]);
    let log = fs::read(sandbox.path("state/mount.log")).unwrap();
    assert!(!log.is_empty(), "nothing was logged at trace level");
    assert!(!keys.is_shown_in(&log), "log");
    for name in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{pid}/{name}")).unwrap();
        assert!(!keys.is_shown_in(&shown), "{name}");
    }
}
