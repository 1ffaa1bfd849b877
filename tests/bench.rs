//! `strongroom bench`: on a real mount with small sizes. Whatever ends it, nothing is left: no mount, no process, no file.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::Sandbox;
use support::image::Loop;
use support::user::OrdinaryUser;

const SMALL: [&str; 6] = ["--size", "4", "--files", "150", "--rounds", "2"];
/// Does not end by itself while a test waits.
const LONG: [&str; 6] = ["--size", "64", "--files", "2000", "--rounds", "100"];

/// A sandbox with a directory to measure in, and one for what programs put into the temporary directory.
fn ground() -> Sandbox {
    let sandbox = Sandbox::new();
    for dir in ["disk", "tmp"] {
        fs::create_dir(sandbox.path(dir)).unwrap();
    }
    sandbox
}

/// Runs it with a temporary directory of its own.
fn command(sandbox: &Sandbox, sizes: &[&str], args: &[&str]) -> Command {
    let mut command = sandbox.command();
    command
        .arg("bench")
        .args(sizes)
        .args(args)
        .env("TMPDIR", sandbox.path("tmp"));
    command.stdin(Stdio::null());
    command
}

fn assert_nothing_left(sandbox: &Sandbox) {
    for dir in ["disk", "tmp"] {
        let left: Vec<_> = fs::read_dir(sandbox.path(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // Neither keystore nor pins of the user's.
    for file in ["keystore", "keystore.key", "state", "run"] {
        assert!(!sandbox.path(file).exists(), "{file}");
    }
    let top = sandbox.path("disk");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(top.to_str().unwrap()), "{mounts}");
    // A daemon ends right after its last answer.
    let begun = Instant::now();
    while let Some(process) = daemon(&top) {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "process {process} is left"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that was told a keystore below this directory.
fn daemon(top: &Path) -> Option<String> {
    let needle = top.as_os_str().as_encoded_bytes();
    fs::read_dir("/proc").unwrap().find_map(|process| {
        let process = process.ok()?;
        let told = fs::read(process.path().join("cmdline")).ok()?;
        let names_us = told.windows(needle.len()).any(|part| part == needle);
        let is_bench = told.split(|byte| *byte == 0).any(|arg| arg == b"bench");
        (names_us && !is_bench).then(|| process.file_name().to_string_lossy().into_owned())
    })
}

#[test]
fn measures_both_suites_and_leaves_nothing() {
    let sandbox = ground();
    for cipher in support::SUITES {
        let output = command(
            &sandbox,
            &SMALL,
            &["--json", "--cipher", cipher, "--chart", "chart.svg", "disk"],
        )
        .output()
        .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["cipher"], cipher);
        assert_eq!(report["rounds"], 2);
        let ciphers = report["ciphers"].as_array().unwrap();
        assert_eq!(ciphers.len(), 4);
        for speed in ciphers {
            assert!(
                speed["seal_mb_s"].as_f64().unwrap() > 0.0
                    && speed["open_mb_s"].as_f64().unwrap() > 0.0,
                "{speed}"
            );
        }
        let rows = report["workloads"].as_array().unwrap();
        let names: Vec<_> = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        let expected = [
            "sequential_write",
            "sequential_read",
            "random_read",
            "random_write",
            "create",
            "stat",
            "delete",
        ];
        assert_eq!(names, expected);
        for side in rows.iter().flat_map(|row| [&row["plain"], &row["volume"]]) {
            let [least, median, most] =
                ["least", "median", "most"].map(|name| side[name].as_f64().unwrap());
            assert!(0.0 < least && least <= median && median <= most, "{side}");
        }
        let chart = fs::read_to_string(sandbox.path("chart.svg")).unwrap();
        assert!(chart.starts_with("<svg ") && chart.ends_with("</svg>\n"));
        assert_eq!(chart.matches(">volume</text>").count(), expected.len());
        fs::remove_file(sandbox.path("chart.svg")).unwrap();
        assert_nothing_left(&sandbox);
    }
    let output = command(&sandbox, &SMALL, &["-o", "writeback", "disk"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("aes-256-gcm-siv -o writeback"), "{said}");
    assert!(said.contains("random write 4K + fsync"), "{said}");
    assert_nothing_left(&sandbox);
}

/// Waits until it has mounted its volume, and a while longer.
fn interrupted(sandbox: &Sandbox, signal: Signal, after: Duration) -> Child {
    let disk = sandbox.path("disk");
    let mut child = command(sandbox, &LONG, &["disk"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(disk.to_str().unwrap())
    {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it never mounted"
        );
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(after);
    kill_process(Pid::from_child(&child), signal).unwrap();
    child
}

#[test]
fn a_signal_at_any_time_leaves_nothing() {
    for (signal, after) in [
        (Signal::INT, 0),
        (Signal::INT, 700),
        (Signal::INT, 3100),
        (Signal::TERM, 1500),
        (Signal::HUP, 2300),
    ] {
        let sandbox = ground();
        let child = interrupted(&sandbox, signal, Duration::from_millis(after));
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said, "strongroom: stopped; nothing is left behind\n");
        assert_nothing_left(&sandbox);
    }
}

#[test]
fn more_signals_while_it_takes_everything_away_change_nothing() {
    let mut more = 0;
    for after in [0, 900, 2100] {
        let sandbox = ground();
        let mut child = interrupted(&sandbox, Signal::TERM, Duration::from_millis(after));
        while child.try_wait().unwrap().is_none() {
            let signal = [Signal::INT, Signal::TERM, Signal::HUP][more % 3];
            kill_process(Pid::from_child(&child), signal).unwrap();
            more += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        let output = child.wait_with_output().unwrap();
        // Between the last sentence and the end, signals are handled no longer.
        assert!(matches!(output.status.code(), Some(1) | None), "{output:?}");
        assert_nothing_left(&sandbox);
    }
    assert!(more > 3, "it ended within {more} signals"); // how many, is a matter of time
}

#[test]
fn what_cannot_be_taken_away_is_named() {
    let sandbox = ground();
    let child = interrupted(&sandbox, Signal::STOP, Duration::ZERO);
    let made = |dir: &str| {
        let mut made = fs::read_dir(sandbox.path(dir)).unwrap();
        made.next().unwrap().unwrap().path()
    };
    let (top, sockets) = (made("disk"), made("tmp"));
    let in_use = fs::File::open(top.join("mnt")).unwrap();
    for signal in [Signal::TERM, Signal::CONT] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let mnt = top.join("mnt");
    let [begin, end] = [
        format!("strongroom: {} could not be unmounted (", mnt.display()),
        format!(
            "): unmount it, then remove {} and {}\n",
            top.display(),
            sockets.display()
        ),
    ];
    assert!(said.starts_with(&begin) && said.ends_with(&end), "{said}");
    // As it says.
    drop(in_use);
    rustix::mount::unmount(&mnt, rustix::mount::UnmountFlags::empty()).unwrap();
    while daemon(&top).is_some() {
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::remove_dir_all(top).unwrap();
    fs::remove_dir_all(sockets).unwrap();
    assert_nothing_left(&sandbox);
}

#[test]
fn a_temporary_directory_may_have_a_long_name() {
    let sandbox = ground();
    let place = sandbox.path("tmp");
    let tmp = place.join("t".repeat(57 - 1 - place.as_os_str().len()));
    fs::create_dir(&tmp).unwrap();
    let output = command(&sandbox, &SMALL, &["disk"])
        .env("TMPDIR", &tmp)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", tmp.display());
    fs::remove_dir(tmp).unwrap(); // empty
    assert_nothing_left(&sandbox);
}

#[test]
fn ctrl_c_reaches_the_whole_process_group_and_leaves_nothing() {
    // As a terminal does it, so also whatever it has started; before there is a mount, too.
    for after in [30, 60, 120, 250, 500, 1000] {
        let sandbox = ground();
        let mut bench = command(&sandbox, &LONG, &["disk"]);
        std::os::unix::process::CommandExt::process_group(&mut bench, 0);
        let child = bench
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after));
        rustix::process::kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        // In its first milliseconds it has made nothing and the signal ends it at once.
        assert!(matches!(output.status.code(), Some(1) | None), "{output:?}");
        assert_nothing_left(&sandbox);
    }
}

#[test]
fn refuses_what_cannot_be_measured_with_one_sentence() {
    let sandbox = ground();
    fs::write(sandbox.path("file"), "").unwrap();
    let full = Loop::ext4(&sandbox.path("image"), &sandbox.path("small"), 16);
    let many = "1000000";
    for (code, args, sentence) in [
        (
            1,
            &["nowhere"][..],
            "there is no directory nowhere to measure in",
        ),
        (1, &["file"], "file is not a directory"),
        (1, &["small"], "small has"),
        (1, &["--files", many, "--size", "1", "small"], "small has"),
        (
            2,
            &["--chart", "nowhere/chart.svg", "disk"],
            "no chart can be written to nowhere/chart.svg",
        ),
        (
            2,
            &["-o", "bogus", "disk"],
            "there is no mount option \"bogus\"",
        ),
        (2, &["--size", "0", "disk"], "error: invalid value '0'"),
        (
            2,
            &["--rounds", "none", "disk"],
            "error: invalid value 'none'",
        ),
    ] {
        let output = command(&sandbox, &[], args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(
            said.trim_start_matches("strongroom: ")
                .starts_with(sentence),
            "{args:?}: {said}"
        );
        assert!(
            said.starts_with("error: ") || said.lines().count() == 1,
            "{said}"
        );
        assert!(output.stdout.is_empty());
        assert_nothing_left(&sandbox);
    }
    drop(full);
}

#[test]
fn refuses_where_there_is_no_fuse() {
    let sandbox = ground();
    let bench = command(&sandbox, &SMALL, &["disk"]);
    let mut shell = Command::new("unshare");
    shell
        .args([
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /dev && exec \"$@\"",
            "sh",
        ])
        .arg(bench.get_program())
        .args(bench.get_args());
    for (name, value) in bench.get_envs() {
        value.map(|value| shell.env(name, value));
    }
    let output = shell.current_dir(sandbox.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert_eq!(
        said,
        "strongroom: /dev/fuse is not there: load the kernel's fuse module (modprobe fuse)\n"
    );
    assert_nothing_left(&sandbox);
}

#[test]
fn an_ordinary_user_can_measure() {
    let sandbox = ground();
    let user = OrdinaryUser::of(&sandbox, &["disk", "tmp"]);
    let mut bench = user.strongroom(&[&["bench", "--json"], &SMALL[..], &["disk"]].concat());
    let output = bench.env("TMPDIR", sandbox.path("tmp")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said} (needs the package fuse3)");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["workloads"].as_array().unwrap().len(), 7);
    assert_nothing_left(&sandbox);
}
