//! More open files than fit one message, or a process: they come through deaths, and what does not fit is refused when it is opened.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{SUITES, Sandbox};
use crate::{ends_whole, ends_whole_but, kill, next, parent};

/// Files in a directory.
const EACH: usize = 1_000;

/// How many files are open at once: `STRONGROOM_FILES`, else some thousand, where this process may have them.
fn files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let told = std::env::var("STRONGROOM_FILES").ok();
    let room = limit.maximum.map_or(usize::MAX, |limit| limit as usize / 4);
    told.map_or(room.min(4_000), |text| text.parse().unwrap())
}

fn path(mnt: &Path, number: usize) -> PathBuf {
    mnt.join(format!("d{}/f{number}", number / EACH))
}

fn made(mnt: &Path, number: usize) -> File {
    if number.is_multiple_of(EACH) {
        fs::create_dir(mnt.join(format!("d{}", number / EACH))).unwrap();
    }
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let file = options.open(path(mnt, number)).unwrap();
    file.write_all_at(&text(number), 0).unwrap();
    if number.is_multiple_of(3) {
        fs::remove_file(path(mnt, number)).unwrap();
    }
    file
}

fn text(number: usize) -> Vec<u8> {
    format!("file {number:08}").into_bytes()
}

fn are_whole(files: &[File]) {
    for (number, file) in files.iter().enumerate() {
        let mut bytes = text(number);
        bytes.fill(0);
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, text(number));
    }
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn thousands_of_open_files_come_through_deaths() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        sandbox.mount_with("supervise");
        let mnt = sandbox.mnt();
        let files: Vec<_> = (0..files()).map(|number| made(&mnt, number)).collect();
        let supervisor = parent(sandbox.server());
        let mut kept = descriptors(supervisor);
        assert!(kept >= files.len());
        for round in 0..3 {
            let worker = sandbox.server();
            let begun = Instant::now();
            kill(worker);
            let asked = fs::symlink_metadata(mnt.join(format!("absent-{round}")));
            assert!(asked.is_err());
            let took = begun.elapsed();
            next(&sandbox, worker);
            println!("{suite}: {} open files, a pause of {took:?}", files.len());
            are_whole(&files);
            let now = descriptors(supervisor);
            assert!(now <= kept + 8, "{kept} descriptors, then {now}");
            kept = now;
        }
        let begun = Instant::now();
        sandbox.ok(&["reexec", "mnt"]);
        let took = begun.elapsed();
        println!("{suite}: a reexec in {took:?}");
        are_whole(&files);
        let supervisor = parent(sandbox.server());
        // Opened for writing after it was open for reading, the file is kept by another descriptor in place of the one before.
        let reads: Vec<_> = (1..200)
            .step_by(3)
            .map(|n| File::open(path(&mnt, n)).unwrap())
            .collect();
        drop(files);
        let writes = |n| File::options().write(true).open(path(&mnt, n)).unwrap();
        let writes: Vec<_> = (1..200).step_by(3).map(writes).collect();
        let worker = sandbox.server();
        kill(worker);
        next(&sandbox, worker);
        let begun = Instant::now();
        while descriptors(supervisor) > 200 {
            assert!(begun.elapsed().as_secs() < 60, "what is not open is kept");
            std::thread::sleep(Duration::from_millis(20));
        }
        for (file, number) in writes.iter().zip((1..200).step_by(3)) {
            file.write_all_at(&text(number + 1), 0).unwrap();
        }
        for (file, number) in reads.iter().zip((1..200).step_by(3)) {
            let mut bytes = text(0);
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, text(number + 1));
        }
        drop((reads, writes));
        ends_whole(&sandbox);
    }
}

/// Where neither worker nor supervisor may have more than 256 descriptors.
#[test]
fn what_could_not_be_kept_is_not_opened() {
    for suite in SUITES {
        let sandbox = Sandbox::with_volume(suite);
        let program = sandbox.command();
        let mut mount = Command::new("prlimit");
        mount.arg("--nofile=256:256").arg(program.get_program());
        mount.current_dir(sandbox.path(""));
        for (name, value) in program.get_envs() {
            value.map(|value| mount.env(name, value));
        }
        let done = mount.args(["mount", "-o", "supervise", "vault", "mnt"]);
        assert!(done.status().unwrap().success());
        let mnt = sandbox.mnt();
        for number in 0..300 {
            fs::create_dir(mnt.join(number.to_string())).unwrap();
            fs::write(mnt.join(format!("{number}/file")), text(number)).unwrap();
        }
        for round in 0..4 {
            let mut open = Vec::new();
            let refused = loop {
                let number = open.len();
                let opened = match round % 2 {
                    // Each with a directory of its own.
                    0 => File::open(mnt.join(format!("{number}/file"))),
                    _ => File::options()
                        .write(true)
                        .read(true)
                        .open(mnt.join(format!("{number}/file"))),
                };
                match opened {
                    Ok(file) => open.push(file),
                    Err(error) => break error,
                }
            };
            assert_eq!(
                refused.raw_os_error(),
                Some(libc::EMFILE),
                "{suite}: after {}",
                open.len()
            );
            assert!(open.len() > 50, "{suite}: {}", open.len());
            let made = File::create_new(mnt.join("new")).unwrap_err();
            assert_eq!(made.raw_os_error(), Some(libc::EMFILE));
            let there = fs::symlink_metadata(mnt.join("new")).unwrap_err();
            assert_eq!(
                there.raw_os_error(),
                Some(libc::ENOENT),
                "nothing is half made"
            );
            for _ in 0..2 {
                let worker = sandbox.server();
                kill(worker);
                next(&sandbox, worker);
                are_whole(&open);
            }
            println!("{suite}: {} files open with 256 descriptors", open.len());
        }
        // Nobody can be let in while every descriptor is in use; it is tried again.
        ends_whole_but(&sandbox, Some("the control socket: Too many open files"));
    }
}
