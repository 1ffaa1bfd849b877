//! `reexec` of a supervised mount: another supervisor and its worker take the place of those that have it, also while workers die.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::held::stays_open;
use crate::lives::{Life, large_lives, lives, mapped_lives};
use crate::named::named_lives;
use crate::support::daemon::Daemon;
use crate::support::{SUITES, Sandbox, is_mounted};
use crate::{child, ends_whole, kill, log, next, parent};

/// Gives the mount to another supervisor.
pub fn reexec(sandbox: &Sandbox) {
    let before = sandbox.server();
    let supervisor = parent(before);
    sandbox.ok(&["reexec", "mnt"]);
    let after = sandbox.server();
    assert!(
        after != before && parent(after) != supervisor,
        "both are others"
    );
    is_gone(supervisor);
}

pub fn is_gone(pid: i32) {
    let begun = Instant::now();
    while Path::new(&format!("/proc/{pid}/fd/0")).exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{pid} stays");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the volume was closed as it should be.
fn is_clean(sandbox: &Sandbox) -> bool {
    let mount = fs::read_to_string(sandbox.vault().join("strongroom.mount")).unwrap();
    let mut parts = serde_json::Deserializer::from_str(&mount).into_iter::<serde_json::Value>();
    parts.next().unwrap().unwrap()["clean"] == true
}

fn stays_open_over_both(suite: &str, options: &str) {
    let changes = Cell::new(0);
    let change = |sandbox: &Sandbox| {
        changes.set(changes.get() + 1);
        if changes.get() % 3 > 0 {
            reexec(sandbox);
        }
        if changes.get() % 3 < 2 {
            let before = sandbox.server();
            kill(before);
            next(sandbox, before);
        }
    };
    stays_open(suite, options, change, ends_whole);
}

#[test]
fn what_is_open_stays_open_over_reexecs_and_deaths_under_gcm_siv() {
    stays_open_over_both(SUITES[0], "supervise");
}

#[test]
fn what_is_open_stays_open_over_reexecs_and_deaths_under_xts() {
    stays_open_over_both(SUITES[1], "supervise,writeback,max-threads=2");
}

/// Without a death nothing is in doubt, however often the mount went to another supervisor.
#[test]
fn what_is_open_stays_open_over_reexecs_and_ends_clean() {
    for (suite, options) in [(SUITES[0], "supervise,writeback"), (SUITES[1], "supervise")] {
        stays_open(suite, options, reexec, |sandbox| {
            ends_whole(sandbox);
            assert!(is_clean(sandbox));
            let said = log(sandbox);
            assert!(!said.contains("another goes on"), "{said}");
        });
    }
}

/// Changes of each kind in each storm.
fn changes() -> u64 {
    let changes = std::env::var("STRONGROOM_KILLS").ok();
    changes.map_or(6, |changes| changes.parse().unwrap())
}

/// Replaces supervisors, and kills workers before, after and while that is under way. However it comes out, the mount stays.
fn replace_and_kill(sandbox: &Sandbox) {
    let mut done = [0, 0];
    let mut took = Vec::new();
    for round in 0..2 * changes() {
        thread::sleep(Duration::from_millis(round * 37 % 150));
        let before = sandbox.server();
        let begun = Instant::now();
        if round % 4 == 3 {
            done[usize::from(reexec_under_a_kill_of_the_one_that_comes(sandbox, round))] += 1;
        } else if round % 2 == 0 {
            reexec(sandbox);
            took.push(begun.elapsed());
            let before = sandbox.server();
            kill(before);
            next(sandbox, before);
        } else {
            let output = thread::scope(|scope| {
                let command = scope.spawn(|| sandbox.run(&["reexec", "mnt"]));
                thread::sleep(Duration::from_millis(round * 61 % 290));
                // Of a process that another one has followed nothing is left to be killed.
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_raw(before).unwrap(),
                    rustix::process::Signal::KILL,
                );
                command.join().unwrap()
            });
            done[usize::from(output.status.success())] += 1;
            next(sandbox, before);
        }
        let absent = sandbox.mnt().join(format!("absent-{round}"));
        let asked = fs::symlink_metadata(absent).unwrap_err();
        assert_eq!(asked.raw_os_error(), Some(libc::ENOENT));
    }
    took.sort();
    eprintln!(
        "{:?} in the middle; under a kill {} broke off and {} went through",
        took[took.len() / 2],
        done[0],
        done[1]
    );
}

/// Whether it went through.
fn reexec_under_a_kill_of_the_one_that_comes(sandbox: &Sandbox, round: u64) -> bool {
    let mut command = sandbox.command();
    let mut command = command.args(["reexec", "mnt"]).spawn().unwrap();
    let supervisor = child(command.id() as i32, 0);
    let worker = child(supervisor, 0);
    thread::sleep(Duration::from_millis(round * 61 % 290));
    kill(worker);
    let went = command.wait().unwrap().success();
    next(sandbox, worker);
    went
}

fn storm(suite: &str, options: &str) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.mount_with(options);
    let (mnt, stop) = (sandbox.mnt(), AtomicBool::new(false));
    let of: [Life; 4] = [lives, named_lives, large_lives, mapped_lives];
    thread::scope(|scope| {
        for (who, life) in of.iter().enumerate() {
            let (mnt, stop) = (&mnt, &stop);
            scope.spawn(move || assert!(life(mnt, who, stop) > 0));
        }
        replace_and_kill(&sandbox);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0);
    ends_broken_off(&sandbox);
}

/// As `ends_whole`, where `reexec` may have broken off, which the log says.
fn ends_broken_off(sandbox: &Sandbox) {
    sandbox.umount();
    sandbox.ok(&["check", "vault"]);
}

#[test]
fn files_live_through_reexecs_and_deaths_under_gcm_siv() {
    storm(SUITES[0], "supervise");
}

#[test]
fn files_live_through_reexecs_and_deaths_with_a_writeback_cache_under_xts() {
    storm(SUITES[1], "supervise,writeback");
}

/// A volume with a file and many open ones, supervised.
fn mounted() -> (Sandbox, Vec<fs::File>) {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    sandbox.mount_with("supervise");
    let made = |number: u8| {
        let path = sandbox.mnt().join(format!("held-{number}"));
        fs::write(&path, [number; 3_000]).unwrap();
        let file = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file
    };
    let held = (0..60).map(made).collect();
    (sandbox, held)
}

fn are_whole(held: &[fs::File]) {
    for (number, file) in (0..).zip(held) {
        let mut bytes = vec![0; 3_000];
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
        assert!(bytes == vec![number; 3_000]);
    }
}

/// The mount stays where it was, with another worker; a program that is in order can have it then.
fn stays_with(sandbox: &Sandbox, supervisor: i32, held: &[fs::File]) {
    let now = sandbox.server();
    assert_eq!(parent(now), supervisor);
    are_whole(held);
    kill(now);
    next(sandbox, now);
    are_whole(held);
}

/// The program under `env`, so that it can be run with limits or other options.
fn with_its_environment(sandbox: &Sandbox, command: &mut Command) {
    let program = sandbox.command();
    command.current_dir(program.get_current_dir().unwrap());
    for (name, value) in program.get_envs() {
        value.map(|value| command.env(name, value));
    }
}

/// One that cannot take all that is open, one that would agree with the kernel on other things, and one that is not let in.
#[test]
fn a_program_that_cannot_go_on_leaves_the_mount_to_the_one_that_has_it() {
    let (sandbox, held) = mounted();
    let program = sandbox.command().get_program().to_owned();
    let supervisor = parent(sandbox.server());
    let first = sandbox.server();
    fs::write(sandbox.path("wrong"), [7; 32]).unwrap();
    let wrong = sandbox.path("wrong");
    let refused = sandbox.run(&["--key-file", wrong.to_str().unwrap(), "reexec", "mnt"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(sandbox.server(), first, "nothing stopped for it");
    let refused = sandbox.run(&["reexec", "vault"]);
    assert_eq!(refused.status.code(), Some(11), "{refused:?}");

    let mut poor = Command::new("prlimit");
    with_its_environment(&sandbox, &mut poor);
    poor.arg("--nofile=40:40").arg(&program);
    let refused = poor.args(["reexec", "mnt"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("open files"),
        "{said}"
    );
    next(&sandbox, first);
    stays_with(&sandbox, supervisor, &held);

    let second = sandbox.server();
    let mut other = Command::new(&program);
    with_its_environment(&sandbox, &mut other);
    other.args(["mount", "--foreground", "--succeed", "-o"]);
    let refused = other.args(["supervise,writeback", "vault", "mnt"]).output();
    let refused = refused.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(11), "{said}");
    assert!(said.contains("agrees with the kernel on other"), "{said}");
    next(&sandbox, second);
    stays_with(&sandbox, supervisor, &held);

    reexec(&sandbox);
    are_whole(&held);
    drop(held);
    ends_broken_off(&sandbox);
}

/// A supervisor that comes, as far as a test plays it.
struct Comes {
    line: OwnedFd,
    answers: BufReader<UnixStream>,
}

impl Comes {
    fn to(sandbox: &Sandbox) -> Self {
        let kind = SocketType::SEQPACKET;
        let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (line, theirs) = pair.unwrap();
        let connection = UnixStream::connect(sandbox.socket()).unwrap();
        let theirs = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(&theirs)));
        let asked = [IoSlice::new(b"{\"command\":\"take-over\"}\n")];
        sendmsg(&connection, &asked, &mut beside, SendFlags::empty()).unwrap();
        Self {
            line,
            answers: BufReader::new(connection),
        }
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer
    }

    /// The next message; what came beside it is let go. Empty: nobody is there.
    fn hears(&self) -> String {
        let mut bytes = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&self.line, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC);
        let len = got.unwrap().bytes;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                came.for_each(drop);
            }
        }
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    fn says(&self, word: &str) {
        rustix::io::write(&self.line, word.as_bytes()).unwrap();
    }
}

/// Everything that a supervisor which comes can do wrong before it says that it can serve.
#[test]
fn a_supervisor_that_comes_and_breaks_off_takes_nothing() {
    type Play = fn(&mut Comes);
    let plays: [Play; 6] = [
        |_| {},
        |comes| assert!(comes.answer().contains("leaving")),
        |comes| assert!(comes.hears().contains("Mount")),
        |comes| {
            while !comes.hears().contains("Go") {}
        },
        |comes| {
            while !comes.hears().contains("Go") {}
            comes.says("{\"Refused\":{\"code\":11,\"sentence\":\"a test\"}}");
            assert_eq!(comes.hears(), "", "nothing more is said to it");
        },
        |comes| {
            assert!(comes.hears().contains("Mount"));
            comes.says("nonsense");
        },
    ];
    let (sandbox, held) = mounted();
    let supervisor = parent(sandbox.server());
    for _ in 0..2 {
        for play in plays {
            let before = sandbox.server();
            let mut comes = Comes::to(&sandbox);
            play(&mut comes);
            drop(comes);
            next(&sandbox, before);
            assert_eq!(parent(sandbox.server()), supervisor);
            are_whole(&held);
        }
    }
    assert!(log(&sandbox).contains("a test"), "{}", log(&sandbox));
    // A request of the other kind is for mounts without a supervisor.
    let mut connection = UnixStream::connect(sandbox.socket()).unwrap();
    connection
        .write_all(b"{\"command\":\"take-over\"}\n")
        .unwrap();
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).unwrap();
    assert!(answer.contains("supervis"), "{answer}");
    stays_with(&sandbox, supervisor, &held);
    reexec(&sandbox);
    are_whole(&held);
    drop(held);
    ends_broken_off(&sandbox);
    let plain = Sandbox::mounted(SUITES[0]);
    assert!(Comes::to(&plain).answer().contains("not supervised"));
    plain.umount();
}

/// Whoever started it would take its end for the mount's.
#[test]
fn a_supervised_mount_in_the_foreground_is_not_given_away() {
    let sandbox = Sandbox::with_volume(SUITES[0]);
    let mut daemon = Daemon::with(&sandbox, "supervise");
    daemon.wait_until("it answers", |_| sandbox.path("run").exists());
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    let before = sandbox.server();
    for _ in 0..2 {
        let worker = sandbox.server();
        let refused = sandbox.run(&["reexec", "mnt"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(14), "{said}");
        assert!(said.contains("foreground"), "{said}");
        assert_eq!(sandbox.server(), worker);
        kill(worker);
        next(&sandbox, worker);
    }
    assert_ne!(sandbox.server(), before);
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    sandbox.umount();
    daemon.wait_for_success();
}

/// The supervisor that came forwards signals, and one that meets no worker waits for the next.
#[test]
fn a_signal_to_the_supervisor_that_came_unmounts() {
    let sandbox = Sandbox::with_volume(SUITES[1]);
    sandbox.mount_with("supervise");
    fs::write(sandbox.mnt().join("file"), b"text").unwrap();
    reexec(&sandbox);
    let worker = sandbox.server();
    let supervisor = parent(worker);
    kill(worker);
    let term = rustix::process::Signal::TERM;
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, term).unwrap();
    is_gone(supervisor);
    assert!(!is_mounted(&sandbox.mnt()));
    sandbox.mount();
    assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
    sandbox.umount();
}
