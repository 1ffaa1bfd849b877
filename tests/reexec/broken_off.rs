//! Take-overs that break off: the mount stays with the process that has it, and programs in it see a pause all the same.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::lives::{Life, large_lives, lives, mapped_lives};
use crate::support::{SUITES, Sandbox};
use crate::{ends_whole, reexec};

/// Says these lines in turn, each after an answer; the last answer, or what came before the other side hung up.
fn said(sandbox: &Sandbox, lines: &[&str]) -> String {
    let mut connection = UnixStream::connect(sandbox.socket()).unwrap();
    let mut answers = BufReader::new(connection.try_clone().unwrap());
    let mut answer = String::new();
    for line in lines {
        let before = std::mem::take(&mut answer);
        let asked = writeln!(connection, "{line}");
        if let Err(error) = asked.and_then(|()| answers.read_line(&mut answer)) {
            answer = format!("{before}, then {error}");
            break;
        }
    }
    hang_up(&connection);
    answer
}

/// Also where a child that another test of this process just forked still has the socket: before it runs its own program it
/// closes what it has in the mount, which waits for whoever waits for this.
fn hang_up(connection: &UnixStream) {
    connection.shutdown(Shutdown::Both).unwrap();
}

const ASK: &str = "{\"command\":\"take-over\"}";
const MORE: &str = "{\"more\":{}}";
const FAILED: &str = "{\"failed\":{\"message\":\"a test\"}}";

/// Everything that a process that comes can do wrong before it says that it is ready, and what it hears last.
const WRONG: [(&[&str], &str); 6] = [
    (&[ASK], "resting"),
    (&[ASK, MORE], "descriptors"),
    (&[ASK, "nonsense"], "error"),
    (&[ASK, "{\"ready\":{}}"], "error"), // it was given nothing yet
    (&[ASK, FAILED], "a test"),
    (&[ASK, MORE, FAILED], "a test"),
];

#[test]
fn a_take_over_that_breaks_off_leaves_the_mount_as_it_was() {
    for (suite, options) in [(SUITES[0], "rw"), (SUITES[1], "writeback")] {
        let sandbox = Sandbox::with_volume(suite);
        sandbox.mount_with(options);
        let (mnt, first) = (sandbox.mnt(), sandbox.server());
        let held = fs::File::create(mnt.join("held")).unwrap();
        fs::remove_file(mnt.join("held")).unwrap();
        let stop = AtomicBool::new(false);
        let of: [Life; 3] = [lives, large_lives, mapped_lives];
        thread::scope(|scope| {
            for (who, life) in of.iter().enumerate() {
                let (mnt, stop) = (&mnt, &stop);
                scope.spawn(move || life(mnt, who, stop));
            }
            let tried = WRONG.iter().cycle().take(24);
            let heard: Vec<_> = tried.map(|(wrong, _)| said(&sandbox, wrong)).collect();
            stop.store(true, Ordering::Relaxed);
            for (heard, (wrong, wanted)) in heard.iter().zip(WRONG.iter().cycle()) {
                assert!(heard.contains(wanted), "{wrong:?}: {heard}");
            }
        });
        assert_eq!(sandbox.server(), first);
        (&held).write_all(b"still there").unwrap();
        reexec(&sandbox); // nothing that broke off is in the way of one that does not
        assert_eq!(held.metadata().unwrap().len(), 11);
        drop(held);
        ends_whole(&sandbox);
    }
}

/// One that says it is ready and hears nothing more has not taken the mount: only the last word gives it away.
#[test]
fn a_process_that_is_gone_before_the_last_word_takes_nothing() {
    for options in ["rw", "ro"] {
        let sandbox = Sandbox::mounted(SUITES[0]);
        fs::write(sandbox.mnt().join("file"), b"text").unwrap();
        sandbox.umount();
        sandbox.mount_with(options);
        let first = sandbox.server();
        let held = fs::File::open(sandbox.mnt().join("file")).unwrap();
        for _ in 0..3 {
            let mut connection = UnixStream::connect(sandbox.socket()).unwrap();
            let mut answers = BufReader::new(connection.try_clone().unwrap());
            for (line, wanted) in [(ASK, "resting"), (MORE, "descriptors")] {
                writeln!(connection, "{line}").unwrap();
                let mut answer = String::new();
                answers.read_line(&mut answer).unwrap();
                assert!(answer.contains(wanted), "{answer}");
            }
            connection.shutdown(Shutdown::Read).unwrap();
            writeln!(connection, "{{\"ready\":{{}}}}").unwrap();
            hang_up(&connection);
            assert_eq!(fs::read(sandbox.mnt().join("file")).unwrap(), b"text");
        }
        assert_eq!(sandbox.server(), first);
        reexec(&sandbox);
        assert_eq!(held.metadata().unwrap().len(), 4);
        drop(held);
        ends_whole(&sandbox);
    }
}
