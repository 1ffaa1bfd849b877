//! What the kernel does for a mount whose server was killed while another process holds `/dev/fuse`: the ground that
//! docs/SUPERVISOR.md stands on. The server here is a plain pass-through of one flat directory, not Strongroom's daemon.
//!
//! A supervisor mounts, keeps the descriptor and the kernel's INIT, and starts servers; a server replays the INIT over a
//! socket pair, puts the device in that socket's place, and asks for the unanswered requests again (FUSE_NOTIFY_RESEND).
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "resend/intents.rs"]
mod intents;
#[path = "support/lives.rs"]
mod lives;
#[path = "resend/place.rs"]
mod place;
#[path = "resend/plain.rs"]
mod plain;
#[path = "resend/rig.rs"]
mod rig;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lives::{Life, large_lives, lives, mapped_lives};
use rig::Rig;

/// The supervisor and the servers are this binary run again for this one "test", which is none when run without a role.
#[test]
fn plays_a_role_when_asked() {
    match std::env::var(rig::ROLE).as_deref() {
        Ok("supervisor") => rig::supervise(),
        Ok("server") => rig::serve(),
        _ => {}
    }
}

/// Kills a server that holds a read, an exclusive creation and an unlink, each applied and not answered, and a write.
fn survives(mode: &str) {
    let mut rig = Rig::mounted();
    let mnt = rig.mnt();
    rig.start(mode);
    fs::write(mnt.join("a"), vec![7; 300_000]).unwrap();
    fs::write(mnt.join("b"), [1; 4096]).unwrap();
    fs::write(mnt.join("c"), b"goes").unwrap();
    rig.kill();
    rig.start(&format!(
        "{mode},hold-read,hold-create,hold-write,hold-unlink"
    ));
    let in_flight = |held: &str, work: Box<dyn FnOnce() -> std::io::Result<()> + Send>| {
        let thread = thread::spawn(work);
        rig.wait_for(&format!("holds {held}"));
        thread
    };
    let (a, b, c, new) = (mnt.join("a"), mnt.join("b"), mnt.join("c"), mnt.join("new"));
    let read = in_flight(
        "read",
        Box::new(move || {
            let mut bytes = Vec::new();
            File::open(a)?.read_to_end(&mut bytes)?;
            assert_eq!(bytes, vec![7; 300_000]);
            Ok(())
        }),
    );
    let create = in_flight(
        "create",
        Box::new(move || {
            let mut file = OpenOptions::new().create_new(true).write(true).open(new)?;
            file.write_all(b"fresh")
        }),
    );
    let write = in_flight(
        "write",
        Box::new(move || {
            let file = OpenOptions::new().write(true).open(b)?;
            file.write_all_at(&[2; 4096], 0)?; // a whole page: a write-back cache need not read it
            file.sync_all()
        }),
    );
    rig.kill();
    let pause = Instant::now();
    rig.start(mode);
    for thread in [read, create, write] {
        thread.join().unwrap().unwrap();
    }
    eprintln!("{mode}: pause of {:?}", pause.elapsed());
    assert!(rig.log().contains("create again"), "{}", rig.log());
    assert_eq!(fs::read(mnt.join("b")).unwrap(), [2; 4096]);
    assert_eq!(fs::read(mnt.join("new")).unwrap(), b"fresh");
    // Unlink alone: it locks the directory, as creation does.
    rig.kill();
    rig.start(&format!("{mode},hold-unlink"));
    let unlink = thread::spawn(move || fs::remove_file(c));
    rig.wait_for("holds unlink");
    rig.kill();
    rig.start(mode);
    unlink.join().unwrap().unwrap();
    assert!(!mnt.join("c").exists());
}

#[test]
fn requests_in_flight_survive_their_server() {
    survives("through");
}

#[test]
fn requests_in_flight_survive_their_server_with_a_writeback_cache() {
    survives("writeback");
}

/// Without an intent an exclusive creation that was applied and not answered comes back as EEXIST: what a supervisor must
/// not do.
#[test]
fn a_creation_without_an_intent_fails_when_it_is_sent_again() {
    let mut rig = Rig::mounted();
    rig.start("through,no-intents,hold-create");
    let new = rig.mnt().join("new");
    let create = thread::spawn(move || OpenOptions::new().create_new(true).write(true).open(new));
    rig.wait_for("holds create");
    rig.kill();
    rig.start("through,no-intents");
    let error = create.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
}

/// A program that waits for an answer dies once it comes, from whichever server; the mount goes on.
#[test]
fn a_waiting_program_that_is_killed_ends_with_the_next_server() {
    let mut rig = Rig::mounted();
    rig.start("through");
    let name = rig.mnt().join("a");
    fs::write(&name, b"text").unwrap();
    rig.kill();
    rig.start("through,hold-open");
    let mut program = Command::new("cat").arg(&name).spawn().unwrap();
    rig.wait_for("holds open");
    program.kill().unwrap();
    rig.kill();
    assert!(program.try_wait().unwrap().is_none(), "it still waits");
    rig.start("through");
    assert!(!program.wait().unwrap().success());
    assert_eq!(fs::read(&name).unwrap(), b"text");
}

/// The kernel asks the server to interrupt; the request is answered whole all the same, by the next.
#[test]
fn a_signal_to_a_waiting_program_changes_nothing() {
    let mut rig = Rig::mounted();
    rig.start("through");
    let name = rig.mnt().join("a");
    fs::write(&name, b"text").unwrap();
    rig.kill();
    rig.start("through,hold-read");
    let read = thread::spawn(move || {
        let mut bytes = [0; 8];
        let len = File::open(name)?.read_at(&mut bytes, 0)?; // one call, which nobody tries again
        Ok::<_, std::io::Error>(bytes[..len].to_vec())
    });
    rig.wait_for("holds read");
    place::interrupt(&read);
    rig.kill();
    place::interrupt(&read);
    rig.start("through");
    assert_eq!(read.join().unwrap().unwrap(), b"text");
    assert!(rig.log().contains("read again"));
}

/// Each clone of the descriptor that dies with the server takes its own requests with it.
#[test]
fn requests_taken_through_a_clone_fail_with_it() {
    let mut rig = Rig::mounted();
    let mnt = rig.mnt();
    rig.start("through");
    let names: Vec<_> = (0..rig::THREADS)
        .map(|i| mnt.join(format!("f{i}")))
        .collect();
    for name in &names {
        fs::write(name, b"x").unwrap();
    }
    rig.kill();
    rig.start("through,clones,hold-open");
    let opens: Vec<_> = names
        .into_iter()
        .map(|name| thread::spawn(move || File::open(name).map(drop)))
        .collect();
    rig.wait_times("holds open", rig::THREADS);
    rig.kill();
    rig.start("through");
    let failed = opens
        .into_iter()
        .filter_map(|open| open.join().unwrap().err())
        .inspect(|error| assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED)))
        .count();
    assert_eq!(
        failed,
        rig::THREADS - 1,
        "all but the one through the supervisor's own"
    );
}

/// Kills the server again and again while files live.
fn storm(mode: &str, kills: u64, of: &[Life]) {
    // By hand, to see what memory that is not locked costs.
    let unlocked = std::env::var_os("STRONGROOM_RESEND_UNLOCKED").is_some();
    let mode = &mode.replace("locked", if unlocked { "unlocked" } else { "locked" });
    let mut rig = Rig::mounted();
    let mnt = rig.mnt();
    rig.start(mode);
    let stop = AtomicBool::new(false);
    let lived: u64 = thread::scope(|scope| {
        let begin = |(who, life): (usize, &Life)| {
            let (mnt, stop, life) = (&mnt, &stop, *life);
            scope.spawn(move || life(mnt, who, stop))
        };
        let threads: Vec<_> = of.iter().enumerate().map(begin).collect();
        let mut kill = 0;
        while kill < kills || !rig.log().contains(" again") {
            kill += 1;
            thread::sleep(Duration::from_millis(kill * 37 % 90));
            rig.kill();
            let served = rig.log().matches("serves").count();
            rig.start(mode);
            if kill % 4 > 0 {
                rig.wait_times("serves", served + 1); // else the next kill may meet its start
            }
            if threads.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let lived = threads.into_iter().map(|thread| thread.join().unwrap());
        lived.sum()
    });
    let again = rig.log().matches(" again").count();
    let done = rig.log().matches("was done").count();
    eprintln!("{mode}: {kills} kills, {lived} lives, {again} requests again, {done} already done");
    assert_eq!(fs::read_dir(rig.backing()).unwrap().count(), 0);
}

/// Kills that the storms make; more by hand.
fn kills() -> u64 {
    let kills = std::env::var("STRONGROOM_RESEND_KILLS").ok();
    kills.map_or(20, |kills| kills.parse().unwrap())
}

#[test]
fn files_live_through_kills() {
    storm("through,slow,locked", kills(), &[lives as Life; 4]);
}

#[test]
fn files_live_through_kills_with_a_writeback_cache() {
    storm("writeback,slow,locked", kills(), &[lives as Life; 4]);
}

#[test]
fn large_requests_and_mappings_live_through_kills() {
    let of: [Life; 4] = [large_lives, large_lives, mapped_lives, large_lives];
    storm("through,locked", kills(), &of);
}

#[test]
fn large_requests_and_mappings_live_through_kills_with_a_writeback_cache() {
    let of: [Life; 4] = [large_lives, large_lives, mapped_lives, large_lives];
    storm("writeback,locked", kills(), &of);
}
