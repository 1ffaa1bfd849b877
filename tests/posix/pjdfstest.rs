//! `pjdfstest` as root: no test of it fails, or is left out, on a mount that passes on plain ext4.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::image::Ext4Image;
use crate::support::{SUITES, Sandbox};

/// What pjdfstest 0.2.2 has.
const TESTS: usize = 398;
/// Tests that plain ext4 passes and a mount does not, each with its reason in docs/SEMANTICS.md. FUSE does not pass
/// pathconf on, so nobody can ask a mount for its largest number of links.
const EXCEPTIONS: [&str; 1] = ["link::link_count_max"];

/// Two users of a bare Debian, each with a group of its own; the times are those of the tool's own configuration for ext4.
fn configuration(remount: bool) -> String {
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = {remount}\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
    )
}

/// `mount -o remount,ro` asks a FUSE file system's own program; the kernel's own call is what is meant here. It says busy
/// until removed files are let go, which the kernel tells a FUSE file system in the background.
const MOUNT: &str = "#!/bin/sh\nfor try in $(seq 100); do\n  /bin/mount --internal-only \"$@\" && exit 0\n  sleep 0.1\ndone\nexit 1\n";

/// Runs the tests whose name has `pattern`; how each ended: ok, skipped or FAILED.
fn run(sandbox: &Sandbox, top: &Path, pattern: &str, remount: bool) -> BTreeMap<String, String> {
    let (config, bin) = (sandbox.path("pjdfstest.toml"), sandbox.path("bin"));
    std::fs::write(&config, configuration(remount)).unwrap();
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("mount"), MOUNT).unwrap();
    std::fs::set_permissions(bin.join("mount"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut tests = Command::new("pjdfstest");
    tests.arg("-c").arg(config).arg("-p").arg(top);
    tests.args(["-s", "/dev/shm", "--", pattern]);
    let output = tests.env("PATH", path).current_dir("/").output();
    let output = output.expect("pjdfstest; cargo install pjdfstest (tests/all does)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let end = rest.trim();
        let is_test = name.contains("::") && ["ok", "skipped", "FAILED"].contains(&end);
        is_test.then(|| (name.to_owned(), end.to_owned()))
    };
    let results: BTreeMap<_, _> = said.lines().filter_map(result).collect();
    for (name, _) in results.iter().filter(|(_, end)| *end == "FAILED") {
        let detail = said
            .lines()
            .skip_while(|line| !line.starts_with(name.as_str()));
        println!("{}", detail.take(4).collect::<Vec<_>>().join("\n"));
    }
    results
}

/// All tests, in two runs: those that remount the file system read-only need one that no test before left busy.
fn run_all(sandbox: &Sandbox, top: &Path) -> BTreeMap<String, String> {
    let mut results = run(sandbox, top, "::", false);
    results.extend(run(sandbox, top, "erofs", true));
    assert_eq!(results.len(), TESTS, "tests of pjdfstest: another version?");
    results
}

fn passed(results: &BTreeMap<String, String>) -> Vec<&str> {
    let passed = results.iter().filter(|(_, end)| *end == "ok");
    passed.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn pjdfstest_fails_nowhere_where_ext4_does_not() {
    let sandbox = Sandbox::new();
    let image = Ext4Image::new(&sandbox.path(""), "ext4", 2048, 512);
    for dir in [&sandbox.path(""), image.top()] {
        std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    let plain = run_all(&sandbox, image.top());
    println!("ext4: {} of {TESTS} pass", passed(&plain).len());
    assert!(passed(&plain).len() > TESTS - 5, "ext4 itself: {plain:?}");
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        std::fs::set_permissions(sandbox.path(""), Permissions::from_mode(0o755)).unwrap();
        sandbox.mount_with("allow_other,suid,dev");
        std::fs::set_permissions(sandbox.mnt(), Permissions::from_mode(0o755)).unwrap();
        let found = run_all(&sandbox, &sandbox.mnt());
        println!("{suite}: {} of {TESTS} pass", passed(&found).len());
        let worse: Vec<_> = passed(&plain)
            .into_iter()
            .filter(|name| found[*name] != "ok" && !EXCEPTIONS.contains(name))
            .collect();
        assert!(worse.is_empty(), "{suite}: pass on ext4 only: {worse:?}");
        assert!(
            EXCEPTIONS.iter().all(|name| found[*name] == "skipped"),
            "{suite}: an exception that is none any more"
        );
    }
}
