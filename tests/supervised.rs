//! `mount -o supervise`: the serving process is killed while programs use the mount. Each sees a pause, and nothing else.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "support/exerciser.rs"]
mod exerciser;
#[path = "support/held.rs"]
mod held;
#[path = "support/lives.rs"]
mod lives;
mod support;

#[path = "supervised/errors.rs"]
mod errors;
#[path = "supervised/kept.rs"]
mod kept;
#[path = "supervised/many.rs"]
mod many;
#[path = "supervised/named.rs"]
mod named;
#[path = "supervised/reading.rs"]
mod reading;
#[path = "supervised/replaced.rs"]
mod replaced;
#[path = "supervised/storms.rs"]
mod storms;

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use strongroom::fuse::control::Client;
use support::Sandbox;

/// Kills the worker, as `kill -9` does.
fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// The process that started this one.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The worker of a supervisor that is another than this one, as soon as there is one.
fn child(supervisor: i32, before: i32) -> i32 {
    let begun = Instant::now();
    loop {
        // It is the main thread that starts them.
        let path = format!("/proc/{supervisor}/task/{supervisor}/children");
        let children = std::fs::read_to_string(path).unwrap();
        let mut children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        if let Some(child) = children.find(|child| *child != before) {
            return child;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no other worker");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Another one than this, once it answers.
fn next(sandbox: &Sandbox, before: i32) -> i32 {
    let begun = Instant::now();
    loop {
        let asked = Client::connect(&sandbox.socket()).and_then(|client| client.info());
        let now = asked.ok().and_then(|about| about["pid"].as_i64());
        if let Some(now) = now.filter(|now| *now != i64::from(before)) {
            return now as i32;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no other worker: {}",
            log(sandbox)
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn log(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.path("state/mount.log")).unwrap_or_default()
}

/// Unmounts, has `check` look at every byte, and the log hold nothing but what belongs there.
fn ends_whole(sandbox: &Sandbox) {
    ends_whole_but(sandbox, None);
}

/// The same, where the log may also say this.
fn ends_whole_but(sandbox: &Sandbox, expected: Option<&str>) {
    sandbox.umount();
    sandbox.ok(&["check", "vault"]);
    let log = log(sandbox);
    let wanted = [
        "does not journal data in order",
        "another goes on",
        // Of a first write to a file, over which a worker died; it was made again.
        "remains of a header that never arrived",
    ];
    let said = log.lines().find(|line| {
        let mut wanted = wanted.iter().copied().chain(expected);
        !line.contains(" INFO ") && !wanted.any(|part| line.contains(part))
    });
    assert_eq!(said, None, "{log}");
}
