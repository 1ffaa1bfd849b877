//! What programs hold over deaths of the serving process, and how a supervised mount begins and ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::held::{bytes, opened, stays_open};
use crate::support::daemon::Daemon;
use crate::support::{SUITES, Sandbox, is_mounted};
use crate::{child, ends_whole, kill, log, next, parent};

fn dies(sandbox: &Sandbox) {
    let before = sandbox.server();
    kill(before);
    next(sandbox, before);
}

fn is_kept(suite: &str, options: &str) {
    stays_open(suite, options, dies, ends_whole);
}

#[test]
fn what_is_open_stays_open_under_gcm_siv() {
    is_kept(SUITES[0], "supervise");
}

#[test]
fn what_is_open_stays_open_under_xts() {
    is_kept(SUITES[1], "supervise,max-threads=2");
}

#[test]
fn what_is_open_stays_open_with_a_writeback_cache_under_gcm_siv() {
    is_kept(SUITES[0], "supervise,writeback");
}

#[test]
fn what_is_open_stays_open_with_a_writeback_cache_under_xts() {
    is_kept(SUITES[1], "supervise,writeback");
}

/// The store gives the number of a removed file to the next one, while the kernel still knows the first.
#[test]
fn numbers_that_were_given_again_stay_two() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        sandbox.mount_with("supervise");
        let at = |name: String| sandbox.mnt().join(name);
        let made = |number: u8| {
            let path = at(format!("gone-{number}"));
            fs::write(&path, [number; 3_000]).unwrap();
            let file = opened(&path);
            fs::remove_file(&path).unwrap();
            fs::write(at(format!("new-{number}")), [100 + number; 3_000]).unwrap();
            file
        };
        let held: Vec<_> = (0..20).map(made).collect();
        let numbers = || -> Vec<_> {
            held.iter()
                .map(|file| file.metadata().unwrap().ino())
                .collect()
        };
        let before = numbers();
        dies(&sandbox);
        fs::create_dir(at("after".to_owned())).unwrap();
        assert_eq!(numbers(), before);
        for (number, file) in (0..20).zip(&held) {
            assert!(bytes(file) == vec![number; 3_000]);
            let new = fs::read(at(format!("new-{number}"))).unwrap();
            assert!(new == vec![100 + number; 3_000]);
        }
        drop(held);
        ends_whole(&sandbox);
    }
}

#[test]
fn a_signal_to_the_supervisor_unmounts_after_a_death_too() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let mut daemon = Daemon::with(&sandbox, "supervise");
    daemon.wait_until("it answers", |_| sandbox.path("run").exists());
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let worker = sandbox.server();
    assert_eq!(parent(worker), daemon.pid() as i32);
    dies(&sandbox);
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    daemon.signal(Signal::TERM);
    daemon.wait_for_success();
    assert!(!is_mounted(&sandbox.mnt()));
    sandbox.mount();
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    sandbox.umount();
}

/// Programs that wait must not wait for ever.
#[test]
fn five_deaths_without_an_answer_end_the_mount() {
    let sandbox = Sandbox::with_volume(SUITES[1]);
    sandbox.mount_with("supervise");
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let mut worker = sandbox.server();
    let supervisor = parent(worker);
    kill(worker);
    for _ in 0..5 {
        worker = child(supervisor, worker);
        kill(worker);
    }
    let begun = Instant::now();
    while !log(&sandbox).contains("the mount is over: 5 processes") {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{}",
            log(&sandbox)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let code = loop {
        match fs::metadata(sandbox.mnt().join("absent")) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => break libc::ENOTCONN,
            Err(error) if begun.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(code, libc::ENOTCONN);
    let done = Command::new("umount").arg(sandbox.mnt()).status().unwrap();
    assert!(done.success());
    sandbox.mount();
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    sandbox.umount();
    sandbox.ok(&["check", "vault"]);
}

#[test]
fn what_cannot_be_supervised_is_refused() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    sandbox.mount_with("supervise");
    fs::create_dir(sandbox.path("second")).unwrap();
    let refused = sandbox.run(&["mount", "-o", "supervise", "vault", "second"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(7), "{said}");
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let refused = sandbox.run(&["rekey-data", "mnt"]);
    assert!(!refused.status.success());
    let before = sandbox.server();
    sandbox.ok(&["rotate", "mnt"]);
    kill(before);
    next(&sandbox, before);
    assert!(sandbox.socket().exists());
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    sandbox.umount();
    sandbox.ok(&["check", "vault"]);
}
