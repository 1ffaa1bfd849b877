//! The volume that moves, its daemon, and the homes that its key moves between.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::load::Load;
use super::support::tokens::{Kind, TestToken};
use super::support::{Sandbox, is_mounted};

/// Where a master key is, and what it wraps.
pub struct Home<'a> {
    /// `None`: the keystore.
    token: Option<&'a TestToken>,
    envelope: &'static str,
    to: String,
}

/// When a move is killed.
#[derive(Debug)]
pub enum Kill {
    /// So long after its command was begun.
    Begun(Duration),
    /// So long after the volume file allowed both keys.
    Walking(Duration),
}

impl<'a> Home<'a> {
    pub fn keystore(envelope: &'static str) -> Self {
        Self {
            token: None,
            envelope,
            to: "alias/default".to_owned(),
        }
    }

    pub fn token(token: &'a TestToken, envelope: &'static str) -> Self {
        Self {
            token: Some(token),
            envelope,
            to: token.uri("moves"),
        }
    }

    /// Whether a kill during C_Login destroys the token: SoftHSM2 empties its file and writes it anew at every login.
    pub fn dies_in_login(&self) -> bool {
        self.token.is_some_and(|token| token.kind == Kind::SoftHsm)
    }
}

impl fmt::Display for Home<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.map_or("keystore", |token| &token.label);
        write!(f, "{token}/{}", self.envelope)
    }
}

/// A volume with its daemon, as long as it is mounted.
pub struct Vault<'a> {
    sandbox: Sandbox,
    tokens: &'a [TestToken],
    daemon: Option<Child>,
}

impl Drop for Vault<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

impl<'a> Vault<'a> {
    pub fn new(tokens: &'a [TestToken], at: &Home) -> Self {
        let mut sandbox = Sandbox::new();
        for token in tokens {
            sandbox.with_token(token);
        }
        sandbox.ok(&["init", "--envelope", at.envelope, "vault"]);
        Self {
            sandbox,
            tokens,
            daemon: None,
        }
    }

    pub fn mnt(&self) -> PathBuf {
        self.sandbox.mnt()
    }

    fn info(&self) -> Value {
        json(&self.sandbox.ok(&["info", "vault", "--json"]))
    }

    /// The PIN of every token that the volume has a key in now.
    fn pins(&self) -> Vec<String> {
        let info = self.info();
        let keys = info["keys"].as_array().unwrap();
        let held = |token: &&TestToken| keys.iter().any(|key| key["token"] == token.label.as_str());
        let files = self.tokens.iter().filter(held);
        files
            .flat_map(|token| {
                let file = format!("{}={}", token.label, token.pin_file().display());
                ["--pin-file".to_owned(), file]
            })
            .collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command();
        command.args(self.pins()).args(args).stdin(Stdio::null());
        command
    }

    pub fn mount(&mut self) {
        let mut command = self.command(&["mount", "--foreground", "vault", "mnt"]);
        let log = fs::File::create(self.sandbox.path("daemon.log")).unwrap();
        let mut daemon = command.stderr(log).spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while !is_mounted(&self.mnt()) {
            let ended = daemon.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {}", self.log());
            assert!(Instant::now() < patience, "no mount within a minute");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.daemon = Some(daemon);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.sandbox.path("daemon.log")).unwrap()
    }

    pub fn unmount(&mut self) {
        self.sandbox.umount();
        let mut daemon = self.daemon.take().expect("a daemon");
        assert!(daemon.wait().unwrap().success(), "{}", self.log());
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(self.mnt())
                .output();
        }
    }

    fn rekey(&self, to: &Home, unmounted: bool) -> Command {
        let volume = if unmounted { "vault" } else { "mnt" };
        let args = [
            "rekey",
            volume,
            "--to",
            &to.to,
            "--envelope",
            to.envelope,
            "--json",
        ];
        if unmounted {
            return self.command(&args);
        }
        let mut command = self.sandbox.command();
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Moves it, and expects the proof; how long the walk took.
    pub fn move_to(&self, to: &Home, unmounted: bool) -> Duration {
        let output = self.rekey(to, unmounted).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let sorry = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{}: {sorry}{}",
            output.status,
            self.log()
        );
        let report = json(&said);
        assert_eq!(
            (&report["remaining"], &report["damaged"]),
            (&0.into(), &0.into()),
            "{report}"
        );
        assert!(report["headers"].as_u64() > Some(1_000), "{report}");
        println!(
            "  {} re-wrapped in {} s",
            report["rewrapped"], report["seconds"]
        );
        Duration::from_secs_f64(report["seconds"].as_f64().unwrap())
    }

    /// Begins a move and kills what makes it, with SIGKILL; a killed daemon is followed by another. Whether that left a move
    /// to finish.
    pub fn move_and_kill(&mut self, to: &Home, at: Kill, unmounted: bool, load: &Load) -> bool {
        let mut rekey = self.rekey(to, unmounted);
        let rekey = rekey.stdout(Stdio::null()).stderr(Stdio::null());
        let mut rekey = rekey.spawn().unwrap();
        let mut ended = || rekey.try_wait().unwrap().is_some();
        if let Kill::Walking(_) = at {
            while self.info()["unfinished"] == false && !ended() {}
        }
        let (Kill::Begun(after) | Kill::Walking(after)) = at;
        std::thread::sleep(after);
        if unmounted {
            rekey.kill().unwrap();
        } else {
            load.pause();
            self.kill();
        }
        let ended = rekey.wait().unwrap();
        if !unmounted {
            self.mount();
            load.go_on();
        }
        let unfinished = self.info()["unfinished"] == true;
        println!("  killed at {at:?}: {ended}, unfinished: {unfinished}");
        unfinished
    }

    /// The volume is there whole: one key, in this home, in this envelope, and nothing of a former move left.
    pub fn assert_is_at(&self, home: &Home) {
        let info = self.info();
        assert_eq!(info["unfinished"], false, "{info}");
        assert_eq!(info["keys"].as_array().unwrap().len(), 1, "{info}");
        assert_eq!(info["envelope"], home.envelope, "{info}");
        match home.token {
            Some(token) => assert_eq!(info["token"], token.label.as_str(), "{info}"),
            None => assert_eq!(info["provider"], "software", "{info}"),
        }
    }

    pub fn fill(&self, files: usize) {
        for n in 0..files {
            let path = self.mnt().join(path(n));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content(n)).unwrap();
        }
    }

    pub fn assert_whole(&self, files: usize) {
        for n in 0..files {
            assert!(
                fs::read(self.mnt().join(path(n))).unwrap() == content(n),
                "file {n} reads otherwise"
            );
        }
    }

    /// Reads everything without a mount.
    pub fn assert_exports(&mut self, files: usize) {
        self.unmount();
        let output = self
            .command(&["export", "vault", "/", "out"])
            .output()
            .unwrap();
        let sorry = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{sorry}");
        for n in 0..files {
            let exported = self.sandbox.path("out").join(path(n));
            assert!(
                fs::read(exported).unwrap() == content(n),
                "file {n} exports otherwise"
            );
        }
        self.mount();
    }
}

fn json(said: &str) -> Value {
    let line = said.lines().rfind(|line| line.starts_with('{'));
    serde_json::from_str(line.expect("a JSON object")).expect("JSON")
}

fn content(n: usize) -> Vec<u8> {
    format!("file {n} ").repeat(1 + n % 900).into_bytes()
}

fn path(n: usize) -> String {
    format!("d{:02}/f{n:05}", n % 50)
}
