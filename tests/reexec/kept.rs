//! What programs hold while the mount goes to another process: files, also without a name, mappings, locks, directories.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use strongroom::fuse::control::Client;

use crate::held::{bytes, opened, stays_open};
use crate::support::daemon::Daemon;
use crate::support::{SUITES, Sandbox};
use crate::{ends_whole, ends_without_a_word, reexec};

fn is_kept(suite: &str, options: &str) {
    stays_open(suite, options, reexec, ends_without_a_word);
}

#[test]
fn what_is_open_stays_open_under_gcm_siv() {
    is_kept(SUITES[0], "rw");
}

#[test]
fn what_is_open_stays_open_under_xts() {
    is_kept(SUITES[1], "rw");
}

#[test]
fn what_is_open_stays_open_with_a_writeback_cache_under_gcm_siv() {
    is_kept(SUITES[0], "writeback,max-threads=2");
}

#[test]
fn what_is_open_stays_open_with_a_writeback_cache_under_xts() {
    is_kept(SUITES[1], "writeback");
}

/// The store gives the number of a removed file to the next one, while the kernel still knows the first.
#[test]
fn numbers_that_were_given_again_stay_two() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        let at = |name: String| sandbox.mnt().join(name);
        let held: Vec<_> = (0..20)
            .map(|number| {
                let path = at(format!("gone-{number}"));
                let file = opened(&path);
                file.write_all_at(&[number; 3_000], 0).unwrap();
                fs::remove_file(&path).unwrap();
                fs::write(at(format!("new-{number}")), [100 + number; 3_000]).unwrap();
                file
            })
            .collect();
        let number = |file: &File| file.metadata().unwrap().ino();
        let before: Vec<_> = held.iter().map(number).collect();
        reexec(&sandbox);
        fs::create_dir(at("after".to_owned())).unwrap();
        assert_eq!(held.iter().map(number).collect::<Vec<_>>(), before);
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
fn a_mount_that_is_read_only_stays_so() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        fs::write(sandbox.mnt().join("file"), b"text").unwrap();
        sandbox.umount();
        sandbox.mount_with("ro");
        let file = File::open(sandbox.mnt().join("file")).unwrap();
        reexec(&sandbox);
        assert_eq!(bytes(&file), b"text");
        let refused = fs::write(sandbox.mnt().join("new"), b"").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        drop(file);
        ends_whole(&sandbox);
    }
}

#[test]
fn the_next_process_answers_the_control_socket_and_holds_the_lock() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let first = sandbox.server();
    reexec(&sandbox);
    let rotation = Client::connect(&sandbox.socket()).unwrap();
    let rotation = rotation.rotate(&mut |_| {}).unwrap();
    assert_eq!((rotation.headers, rotation.remaining), (1, 0));
    fs::create_dir(sandbox.path("second")).unwrap();
    let refused = sandbox.run(&["mount", "vault", "second"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(7), "{said}");
    assert!(
        said.contains(&format!("process {} ", sandbox.server())),
        "{said}"
    );
    let gone = |pid: i32| !Path::new(&format!("/proc/{pid}/fd/0")).exists();
    for _ in 0..500 {
        if gone(first) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(gone(first), "the first process ended");
    reexec(&sandbox);
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    ends_whole(&sandbox);
}

/// As `mount`, it asks for what opens the volume: a daemon keeps nothing of that.
#[test]
fn a_wrong_secret_is_refused_before_anything_stops() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let first = sandbox.server();
    fs::write(sandbox.path("wrong"), [7; 32]).unwrap();
    let wrong = sandbox.path("wrong");
    let refused = sandbox.run(&["--key-file", wrong.to_str().unwrap(), "reexec", "mnt"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(sandbox.server(), first);
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    let refused = sandbox.run(&["reexec", "vault"]);
    assert_eq!(refused.status.code(), Some(11), "{refused:?}");
    ends_whole(&sandbox);
}

/// Whoever started it would take its end for the mount's.
#[test]
fn a_mount_in_the_foreground_is_not_given_away() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let _daemon = Daemon::of(&sandbox);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let refused = sandbox.run(&["reexec", "mnt"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(14), "{said}");
    assert!(said.contains("foreground"), "{said}");
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
}

/// A program that waits in the mount, works in it and has the daemon's command run there.
#[test]
fn a_command_run_in_the_mount_does_not_wait_for_itself() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::create_dir(sandbox.mnt().join("dir")).unwrap();
    let before = sandbox.server();
    let program = sandbox.command();
    let mut command = Command::new(program.get_program());
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let out = File::create(sandbox.mnt().join("out")).unwrap();
    command.current_dir(sandbox.mnt().join("dir")).stdout(out);
    let done = command.arg("reexec").arg(sandbox.mnt()).output().unwrap();
    drop(command); // and what it holds
    assert!(done.status.success(), "{done:?}");
    assert_ne!(sandbox.server(), before);
    ends_whole(&sandbox);
}

/// What a shell holds open in the mount is not the daemon's, which could never be unmounted with it.
#[test]
fn a_daemon_holds_nothing_of_the_shell_that_starts_it() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let program = sandbox.command();
    let mut shell = Command::new("sh");
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let before = sandbox.server();
    let script = "exec 7<mnt/file; \"$0\" reexec mnt";
    let done = shell
        .current_dir(sandbox.mnt().parent().unwrap())
        .args(["-c", script])
        .arg(program.get_program())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_ne!(sandbox.server(), before);
    ends_whole(&sandbox);
}
