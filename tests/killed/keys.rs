//! Rotations of the master key, and changes of the keystore's slots, that are cut off.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::Sandbox;

/// Rotates the master key of the mounted volume, over and over.
pub struct Rotation<'a> {
    sandbox: &'a Sandbox,
    /// Rotations that ended well.
    pub done: usize,
}

impl<'a> Rotation<'a> {
    pub fn new(sandbox: &'a Sandbox) -> Self {
        Self { sandbox, done: 0 }
    }

    /// Until the daemon is killed, which cuts one off.
    pub fn work(&mut self, killed: &AtomicBool) {
        while !killed.load(Ordering::SeqCst) {
            let rotated = self.sandbox.run(&["rotate", "mnt"]);
            let said = String::from_utf8_lossy(&rotated.stderr).into_owned();
            let is_excused = killed.load(Ordering::SeqCst) || rotated.status.code() == Some(14);
            assert!(rotated.status.success() || is_excused, "rotate: {said}");
            self.done += usize::from(rotated.status.success());
        }
    }

    /// The last one is taken up and leaves no header on an older version.
    pub fn finish(&self) {
        let report: serde_json::Value =
            serde_json::from_str(&self.sandbox.ok(&["rotate", "mnt", "--json"])).unwrap();
        assert_eq!(
            (&report["remaining"], &report["damaged"]),
            (&0.into(), &0.into()),
            "{report}"
        );
        let info: serde_json::Value =
            serde_json::from_str(&self.sandbox.ok(&["info", "vault", "--json"])).unwrap();
        assert_eq!(info["versions"].as_array().map(Vec::len), Some(1), "{info}");
    }
}

/// Adds slots to the keystore and removes them; the program that does it is killed with the daemon.
pub struct Slots<'a> {
    sandbox: &'a Sandbox,
    next: usize,
    /// Key files of slots that were acknowledged, and the labels of those slots.
    known: Vec<(PathBuf, String)>,
    /// Changes that ended well.
    pub done: usize,
}

impl<'a> Slots<'a> {
    pub fn new(sandbox: &'a Sandbox) -> Self {
        Self {
            sandbox,
            next: 0,
            known: Vec::new(),
            done: 0,
        }
    }

    pub fn work(&mut self, killed: &AtomicBool) {
        while !killed.load(Ordering::SeqCst) {
            if self.known.len() < 3 {
                self.add(killed);
            } else {
                self.remove(killed);
            }
        }
    }

    fn add(&mut self, killed: &AtomicBool) {
        let label = format!("slot-{}", self.next);
        self.next += 1;
        let file = self.sandbox.path(&label);
        let arg = file.to_str().unwrap().to_owned();
        let args = [
            "keystore",
            "add-slot",
            "--new-key-file",
            &arg,
            "--label",
            &label,
        ];
        if self.run(&args, killed) == Some(true) {
            self.known.push((file, label));
        }
    }

    fn remove(&mut self, killed: &AtomicBool) {
        let (file, label) = self.known.remove(0);
        let Some(number) = self.number(&label) else {
            panic!("an acknowledged slot is gone: {label}")
        };
        match self.run(&["keystore", "remove-slot", &number], killed) {
            Some(true) => {
                let opened = self.opens(&file);
                assert!(!opened, "a removed slot still opens the keystore");
            }
            Some(false) => self.known.push((file, label)),
            None => {} // cut off: it may be there or not
        }
    }

    /// Whether a change went well; `None` if it was cut off, false if another one was under way.
    fn run(&mut self, args: &[&str], killed: &AtomicBool) -> Option<bool> {
        let mut command = self.sandbox.command();
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
                let is_busy = status.code() == Some(14);
                assert!(status.success() || is_busy, "{args:?}: {said}");
                self.done += usize::from(status.success());
                return Some(status.success());
            }
            if killed.load(Ordering::SeqCst) {
                child.kill().unwrap();
                child.wait().unwrap();
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Labels and numbers of the slots that this test added.
    fn slots(&self) -> Vec<(String, String)> {
        let slots: serde_json::Value =
            serde_json::from_str(&self.sandbox.ok(&["keystore", "slots", "--json"])).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let slots = slots["slots"].as_array().unwrap().iter();
        slots
            .map(|slot| (text(&slot["label"]), text(&slot["slot"])))
            .filter(|(label, _)| label.starts_with("slot-"))
            .collect()
    }

    fn number(&self, label: &str) -> Option<String> {
        let slot = self.slots().into_iter().find(|(known, _)| known == label)?;
        Some(slot.1)
    }

    fn opens(&self, file: &std::path::Path) -> bool {
        let args = ["keystore", "slots", "--key-file", file.to_str().unwrap()];
        self.sandbox.run(&args).status.success()
    }

    /// Every slot that was acknowledged opens the keystore. Those of changes that were cut off go: a keystore has 32.
    pub fn verify(&self) {
        for (label, number) in self.slots() {
            if self.known.iter().all(|(_, known)| *known != label) {
                self.sandbox.ok(&["keystore", "remove-slot", &number]);
            }
        }
        for (file, label) in &self.known {
            assert!(
                self.opens(file),
                "{label} does not open the keystore any more"
            );
        }
    }
}
