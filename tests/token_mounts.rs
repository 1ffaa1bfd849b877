//! Mounted volumes whose key is in a token: the daemon initialises the module after it has forked, two daemons share a
//! token, and a token that hangs or goes away holds no program for ever.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use serde_json::Value;
use support::Sandbox;
use support::tokens::{Access, KINDS, TestToken};

/// A volume whose key "mounted" is in the token.
fn volume_on(token: &Access, more: &[&str]) -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.with_token(token);
    let uri = token.uri("mounted");
    sandbox.ok(&[&["init", "--key-uri", &uri], more, &["vault"]].concat());
    sandbox
}

fn mount(sandbox: &Sandbox, token: &Access) {
    let pin = token.pin_file();
    sandbox.ok(&["--pin-file", pin.to_str().unwrap(), "mount", "vault", "mnt"]);
}

fn write(sandbox: &Sandbox, files: usize) {
    for n in 0..files {
        fs::write(sandbox.mnt().join(format!("f{n}")), vec![n as u8; 5_000]).unwrap();
    }
}

fn assert_whole(sandbox: &Sandbox, files: usize) {
    for n in 0..files {
        let read = fs::read(sandbox.mnt().join(format!("f{n}"))).unwrap();
        assert!(read == vec![n as u8; 5_000], "file {n}");
    }
}

#[test]
fn a_daemon_in_the_background_works_on_every_token() {
    for kind in KINDS {
        let token = TestToken::start(kind);
        let sandbox = volume_on(&token, &[]);
        for round in 0..2 {
            mount(&sandbox, &token);
            write(&sandbox, 100 * (1 - round));
            assert_whole(&sandbox, 100);
            sandbox.umount();
        }
        println!("{kind:?} works");
    }
}

#[test]
fn two_daemons_share_a_token() {
    for kind in KINDS {
        let token = TestToken::start(kind);
        let (one, two) = (volume_on(&token, &[]), volume_on(&token, &[]));
        mount(&one, &token);
        mount(&two, &token);
        std::thread::scope(|scope| {
            for sandbox in [&one, &two] {
                scope.spawn(|| {
                    write(sandbox, 100);
                    assert_whole(sandbox, 100);
                });
            }
        });
        one.umount();
        mount(&one, &token);
        assert_whole(&one, 100);
        assert_whole(&two, 100);
        one.umount();
        two.umount();
    }
}

#[test]
fn a_wrong_pin_is_tried_once_by_a_mount() {
    let token = TestToken::behind_shim();
    let sandbox = volume_on(&token, &[]);
    let logins = || token.shim().calls("C_Login");
    let before = logins().len();
    let wrong = sandbox.path("wrong");
    fs::write(&wrong, "00000000").unwrap();
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = sandbox.run(&[
        "--pin-file",
        wrong.to_str().unwrap(),
        "mount",
        "vault",
        "mnt",
    ]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("PIN"), "{said}");
    assert_eq!(logins()[before..], [0xa0]);
    mount(&sandbox, &token);
    sandbox.umount();
}

#[test]
fn a_token_that_hangs_under_a_mount_holds_no_program_for_ever() {
    let token = TestToken::behind_shim();
    let sandbox = volume_on(&token, &["--envelope", "direct"]);
    mount(&sandbox, &token);
    write(&sandbox, 50);
    sandbox.umount();
    mount(&sandbox, &token);
    let mut options = fs::OpenOptions::new();
    let open = options
        .read(true)
        .write(true)
        .open(sandbox.mnt().join("f0"))
        .unwrap();
    token.shim().say("hang");
    let begun = Instant::now();
    // What is open goes on: its data key is here.
    open.write_all_at(&[0; 8_000], 0).unwrap();
    open.sync_all().unwrap();
    open.set_len(5_000).unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    // A file that needs the token fails, after a bounded time.
    std::thread::scope(|scope| {
        for n in 1..7 {
            let path = sandbox.mnt().join(format!("f{n}"));
            scope.spawn(move || assert!(fs::read(path).is_err()));
        }
    });
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        fs::read_dir(sandbox.mnt()).unwrap().count(),
        50,
        "names need no token"
    );
    token.shim().say("");
    let patience = Instant::now() + Duration::from_secs(60);
    while fs::read(sandbox.mnt().join("f1")).is_err() {
        assert!(
            Instant::now() < patience,
            "the token is back, the files are not"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(open);
    write(&sandbox, 60);
    assert_whole(&sandbox, 60);
    sandbox.umount();
    mount(&sandbox, &token);
    assert_whole(&sandbox, 60);
    // Nor does it hold the end of a mount.
    token.shim().say("hang");
    let begun = Instant::now();
    sandbox.umount();
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
    token.shim().say("");
}

#[test]
fn a_token_that_was_away_serves_the_mount_again() {
    let token = TestToken::soft_hsm();
    let sandbox = volume_on(&token, &["--envelope", "direct"]);
    mount(&sandbox, &token);
    write(&sandbox, 50);
    sandbox.umount();
    mount(&sandbox, &token);
    let (here, away) = (token.dir.join("tokens"), token.dir.join("away"));
    fs::rename(&here, &away).unwrap();
    assert!(fs::read(sandbox.mnt().join("f1")).is_err());
    let _ = fs::remove_dir_all(&here);
    fs::rename(&away, &here).unwrap();
    assert_whole(&sandbox, 50);
    write(&sandbox, 60);
    assert_whole(&sandbox, 60);
    sandbox.umount();
}

/// The files of a vault by their stored names.
fn stored(sandbox: &Sandbox) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(sandbox.vault()).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file() && !path.ends_with("strongroom.lock"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn a_volume_whose_key_is_in_a_token_is_repaired_and_without_the_token_left_alone() {
    for envelope in ["direct", "volume"] {
        let token = TestToken::soft_hsm();
        let sandbox = volume_on(&token, &["--envelope", envelope]);
        let pin = token.pin_file();
        let check = |more: &[&str]| {
            let args = [&["--pin-file", pin.to_str().unwrap(), "check"], more];
            let output = sandbox.run(&[&args.concat()[..], &["--json", "vault"]].concat());
            let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            (output.status.code().unwrap(), report)
        };
        mount(&sandbox, &token);
        write(&sandbox, 1);
        let before = stored(&sandbox);
        let mut names = before
            .keys()
            .filter(|name| !name.starts_with("strongroom."));
        let target = sandbox.vault().join(names.next().unwrap());
        assert_eq!(names.next(), None);
        write(&sandbox, 4);
        fs::write(sandbox.mnt().join("f0"), [7; 5_000]).unwrap();
        let note = || "user.note".to_owned();
        rustix::fs::setxattr(
            sandbox.mnt().join("f0"),
            note(),
            b"kept",
            XattrFlags::empty(),
        )
        .unwrap();
        sandbox.umount();

        let damaged = fs::OpenOptions::new().write(true).open(&target).unwrap();
        damaged.write_all_at(&[0xA5; 16], 4096 + 100).unwrap();
        fs::remove_file(sandbox.vault().join("strongroom.mount")).unwrap();
        let before = stored(&sandbox);
        let (here, away) = (token.dir.join("tokens"), token.dir.join("away"));
        fs::rename(&here, &away).unwrap();
        let (code, report) = check(&["--repair"]);
        assert!(![0, 15].contains(&code), "{report:#}");
        assert!(
            stored(&sandbox) == before,
            "what cannot be judged is changed"
        );
        let _ = fs::remove_dir_all(&here);
        fs::rename(&away, &here).unwrap();

        let (code, report) = check(&["--repair"]);
        assert_eq!(code, 15, "{report:#}");
        let (code, report) = check(&[]);
        assert_eq!(
            (code, &report["damaged"]),
            (0, &Value::from(0)),
            "{report:#}"
        );
        mount(&sandbox, &token);
        for n in 1..4 {
            let read = fs::read(sandbox.mnt().join(format!("f{n}"))).unwrap();
            assert!(read == vec![n as u8; 5_000], "file {n}");
        }
        assert!(!sandbox.mnt().join("f0").exists());
        let saved = sandbox.mnt().join("lost+found/f0 (1 of 2 blocks lost)");
        let content = fs::read(&saved).unwrap();
        assert!(content == [vec![0; 4096], vec![7; 904]].concat());
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&saved, note(), &mut value[..]).unwrap();
        assert_eq!(value[..length], *b"kept");
        write(&sandbox, 6);
        assert_whole(&sandbox, 6);
        sandbox.umount();
        assert_eq!(check(&[]).0, 0);
    }
}
