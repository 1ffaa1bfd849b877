//! What a mount does when its master key goes away (`-o on-key-loss=`): for a key that is disabled, a token that is removed,
//! and a token whose calls hang.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::Sandbox;
use support::tokens::TestToken;

const TEXT: &[u8] = b"what was written before";

/// A way to lose the key, and to get it back.
enum Loss {
    /// The software key is disabled.
    Disabled,
    /// The token's directory is away; SoftHSM's own, with no token in it, stays.
    Removed(TestToken),
    /// The module's calls do not return.
    Hung(TestToken),
}

/// The directory of the only token.
fn its_directory(token: &TestToken) -> PathBuf {
    let mut entries = fs::read_dir(token.dir.join("tokens")).unwrap();
    entries.next().expect("a token").unwrap().path()
}

fn away(token: &TestToken) -> PathBuf {
    token.dir.join("away")
}

impl Loss {
    /// Those after which the key is lost for sure.
    fn sure() -> [Self; 2] {
        [Self::Disabled, Self::Removed(TestToken::soft_hsm())]
    }

    fn token(&self) -> Option<&TestToken> {
        match self {
            Self::Disabled => None,
            Self::Removed(token) | Self::Hung(token) => Some(token),
        }
    }

    fn lose(&self, sandbox: &Sandbox) {
        match self {
            Self::Disabled => drop(sandbox.ok(&["key", "disable", "alias/default"])),
            Self::Removed(token) => fs::rename(its_directory(token), away(token)).unwrap(),
            Self::Hung(token) => token.shim().say("hang"),
        }
    }

    fn give_back(&self, sandbox: &Sandbox) {
        match self {
            Self::Disabled => drop(sandbox.ok(&["key", "enable", "alias/default"])),
            Self::Removed(token) => {
                let tokens = token.dir.join("tokens");
                fs::rename(away(token), tokens.join("back")).unwrap();
            }
            Self::Hung(token) => token.shim().say(""),
        }
    }

    fn mount(&self, sandbox: &Sandbox, options: &str) {
        let pin = self
            .token()
            .map(|token| token.pin_file().display().to_string());
        let pin: Vec<_> = pin.iter().flat_map(|pin| ["--pin-file", pin]).collect();
        sandbox.ok(&[&pin[..], &["mount", "-o", options, "vault", "mnt"]].concat());
    }

    /// A volume under this key, mounted, with an open file.
    fn mounted(&self, envelope: &str, options: &str) -> (Sandbox, File) {
        let mut sandbox = Sandbox::new();
        let mut init = vec!["init", "--envelope", envelope];
        let uri = self.token().map(|token| token.uri("lost"));
        if let (Some(token), Some(uri)) = (self.token(), &uri) {
            sandbox.with_token(token);
            init.extend(["--key-uri", uri]);
        }
        init.push("vault");
        sandbox.ok(&init);
        self.mount(&sandbox, options);
        let mut open = fs::OpenOptions::new();
        let open = open.read(true).write(true).create_new(true);
        let file = open.open(sandbox.mnt().join("open")).unwrap();
        file.write_all_at(TEXT, 0).unwrap();
        file.sync_all().unwrap();
        (sandbox, file)
    }
}

/// Whether the open file serves its content, past the kernel's cache.
fn serves(file: &File) -> bool {
    let mut bytes = [0; TEXT.len()];
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    let read = file.read_exact_at(&mut bytes, 0).is_ok();
    assert!(!read || bytes == TEXT);
    let written = file
        .write_all_at(TEXT, 0)
        .and_then(|()| file.sync_data())
        .is_ok();
    read && written
}

fn wait_until_locked(sandbox: &Sandbox, file: &File) {
    let patience = Instant::now() + Duration::from_secs(120);
    while serves(file) {
        assert!(Instant::now() < patience, "not locked within two minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        fs::read(sandbox.mnt().join("open")).is_err(),
        "locked, nothing is served"
    );
    assert!(fs::write(sandbox.mnt().join("new"), b"x").is_err());
    assert!(
        fs::read_dir(sandbox.mnt()).is_err() || fs::metadata(sandbox.mnt().join("open")).is_err()
    );
}

/// Unmounts, gives the key back, mounts, and expects the content.
fn comes_back(loss: &Loss, sandbox: &Sandbox, file: File, options: &str) {
    drop(file);
    sandbox.umount();
    loss.give_back(sandbox);
    loss.mount(sandbox, options);
    assert_eq!(fs::read(sandbox.mnt().join("open")).unwrap(), TEXT);
    sandbox.umount();
}

#[test]
fn keep_goes_on_with_what_is_in_memory() {
    for loss in Loss::sure() {
        for envelope in ["direct", "volume"] {
            let options = "on-key-loss=keep,key-check=1s";
            let (sandbox, file) = loss.mounted(envelope, options);
            loss.lose(&sandbox);
            std::thread::sleep(Duration::from_secs(4)); // longer than the key would be asked for
            assert!(serves(&file));
            comes_back(&loss, &sandbox, file, options);
        }
    }
}

#[test]
fn lock_locks_a_mount_whose_key_is_disabled_or_gone() {
    for loss in Loss::sure() {
        for envelope in ["direct", "volume"] {
            let options = "on-key-loss=lock,key-check=1s";
            let (sandbox, file) = loss.mounted(envelope, options);
            assert!(serves(&file));
            loss.lose(&sandbox);
            wait_until_locked(&sandbox, &file);
            comes_back(&loss, &sandbox, file, options);
        }
    }
}

#[test]
fn grace_lets_a_short_loss_pass_and_locks_after_a_long_one() {
    for loss in Loss::sure() {
        // So long that no slow machine takes the short loss for a long one.
        let (sandbox, file) = loss.mounted("volume", "on-key-loss=grace=1h,key-check=1s");
        loss.lose(&sandbox);
        std::thread::sleep(Duration::from_secs(4));
        assert!(serves(&file));
        comes_back(&loss, &sandbox, file, "on-key-loss=grace=1h,key-check=1s");
        let options = "on-key-loss=grace=3s,key-check=1s";
        let (sandbox, file) = loss.mounted("volume", options);
        loss.lose(&sandbox);
        wait_until_locked(&sandbox, &file);
        comes_back(&loss, &sandbox, file, options);
    }
}

#[test]
fn a_token_that_hangs_locks_nothing() {
    let loss = Loss::Hung(TestToken::behind_shim());
    for policy in ["keep", "lock", "grace=1s"] {
        let options = format!("on-key-loss={policy},key-check=1s");
        let (sandbox, file) = loss.mounted("volume", &options);
        loss.lose(&sandbox);
        // Two answers are waited for in vain: a call is given up after ten seconds.
        std::thread::sleep(Duration::from_secs(25));
        assert!(serves(&file), "{policy}: an outage is no revocation");
        loss.give_back(&sandbox);
        std::thread::sleep(Duration::from_secs(3));
        assert!(serves(&file), "{policy}: nor is its end");
        drop(file);
        sandbox.umount();
    }
}

/// Kills the process that serves, as `kill -9` does.
fn kill(sandbox: &Sandbox) {
    let pid = Pid::from_raw(sandbox.server()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn log(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path("state/mount.log")).unwrap_or_default()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < patience, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The mount is over, and every program is told so.
fn is_over(sandbox: &Sandbox, file: &File, why: &str) {
    until("it is over", || log(sandbox).contains("the mount is over"));
    until("programs are told", || {
        let asked = fs::metadata(sandbox.mnt().join("absent")).unwrap_err();
        asked.raw_os_error() == Some(libc::ENOTCONN)
    });
    assert!(!serves(file));
    assert!(log(sandbox).contains(why), "{}", log(sandbox));
}

/// The serving process dies while its key is away: programs wait, for the one that goes on once the key is back.
fn is_followed_when_the_key_is_back(loss: &Loss, sandbox: Sandbox, file: File) {
    kill(&sandbox);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| serves(&file));
        until("the loss is met", || {
            log(&sandbox).contains("nobody serves the mount until its key is back")
        });
        std::thread::sleep(Duration::from_secs(2));
        assert!(!waits.is_finished(), "nobody can serve");
        loss.give_back(&sandbox);
        assert!(waits.join().unwrap(), "a pause, and no error");
    });
    drop(file);
    sandbox.umount();
}

#[test]
fn a_supervised_volume_that_locked_stays_so_when_its_process_dies() {
    for loss in Loss::sure() {
        let options = "supervise,on-key-loss=lock,key-check=1s";
        let (sandbox, file) = loss.mounted("volume", options);
        assert!(serves(&file));
        loss.lose(&sandbox);
        wait_until_locked(&sandbox, &file);
        loss.give_back(&sandbox); // it is locked for good
        assert!(!serves(&file));
        kill(&sandbox);
        is_over(&sandbox, &file, "its master key was lost");
        drop(file);
        sandbox.umount();
        loss.mount(&sandbox, options);
        assert_eq!(fs::read(sandbox.mnt().join("open")).unwrap(), TEXT);
        sandbox.umount();
    }
}

/// The next process needs the key, whatever the policy for one that has it.
#[test]
fn a_process_that_dies_while_the_key_is_away_is_followed_when_that_is_back() {
    for policy in ["keep", "grace=1h"] {
        for loss in Loss::sure() {
            // It is not the watch that is to find the loss.
            let options = format!("supervise,on-key-loss={policy},key-check=1d");
            let (sandbox, file) = loss.mounted("volume", &options);
            loss.lose(&sandbox);
            assert!(serves(&file), "with what is in memory");
            is_followed_when_the_key_is_back(&loss, sandbox, file);
        }
    }
}

#[test]
fn a_process_that_dies_while_the_key_is_away_for_long_ends_the_mount() {
    for policy in ["lock", "grace=3s"] {
        for loss in Loss::sure() {
            let options = format!("supervise,on-key-loss={policy},key-check=1d");
            let (sandbox, file) = loss.mounted("volume", &options);
            loss.lose(&sandbox);
            kill(&sandbox);
            is_over(
                &sandbox,
                &file,
                "the mount is over, since its master key is lost",
            );
            comes_back(&loss, &sandbox, file, &options);
        }
    }
}

/// A key that cannot be asked for is waited for, whatever the policy for one that is lost.
#[test]
fn a_process_that_dies_while_the_token_hangs_is_followed_when_it_answers() {
    let loss = Loss::Hung(TestToken::behind_shim());
    let (sandbox, file) = loss.mounted("volume", "supervise,on-key-loss=lock,key-check=1d");
    loss.lose(&sandbox);
    is_followed_when_the_key_is_back(&loss, sandbox, file);
}

/// Tokens lock after a few wrong PINs.
#[test]
fn what_does_not_open_the_key_any_more_is_tried_once() {
    let loss = Loss::Disabled;
    let (sandbox, file) = loss.mounted("volume", "supervise");
    let other = Sandbox::with_volume("aes-256-xts");
    for name in ["keystore", "keystore.older"] {
        if other.path(name).exists() {
            fs::rename(sandbox.path(name), sandbox.path(&format!("{name}.away"))).unwrap();
            fs::copy(other.path(name), sandbox.path(name)).unwrap();
        }
    }
    kill(&sandbox);
    is_over(&sandbox, &file, "does not open it any more");
    assert_eq!(log(&sandbox).matches("nobody serves").count(), 0);
}

/// A mount that nobody can serve must be to be ended.
#[test]
fn a_signal_ends_a_mount_that_waits_for_its_key() {
    let loss = Loss::Disabled;
    let (sandbox, file) = loss.mounted("volume", "supervise");
    let stat = fs::read_to_string(format!("/proc/{}/stat", sandbox.server())).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    let supervisor: i32 = fields.split(' ').nth(1).unwrap().parse().unwrap();
    loss.lose(&sandbox);
    kill(&sandbox);
    until("the loss is met", || {
        log(&sandbox).contains("nobody serves")
    });
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::TERM).unwrap();
    is_over(&sandbox, &file, "it was to end while its key was away");
    comes_back(&loss, &sandbox, file, "rw");
}
