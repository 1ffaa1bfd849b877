//! `strongroom reexec`: a mount that goes from one process to another while programs use it. Each sees a pause, and nothing else.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "support/exerciser.rs"]
mod exerciser;
#[path = "support/held.rs"]
mod held;
#[path = "support/lives.rs"]
mod lives;
mod support;

#[path = "reexec/broken_off.rs"]
mod broken_off;
#[path = "reexec/kept.rs"]
mod kept;
#[path = "reexec/storms.rs"]
mod storms;

use support::Sandbox;

/// Gives the mount to another process.
fn reexec(sandbox: &Sandbox) {
    let before = sandbox.server();
    sandbox.ok(&["reexec", "mnt"]);
    assert_ne!(sandbox.server(), before, "another process serves");
}

/// Unmounts, and has `check` look at every byte.
fn ends_whole(sandbox: &Sandbox) {
    sandbox.umount();
    let mount = std::fs::read_to_string(sandbox.vault().join("strongroom.mount")).unwrap();
    let mut parts = serde_json::Deserializer::from_str(&mount).into_iter::<serde_json::Value>();
    assert_eq!(parts.next().unwrap().unwrap()["clean"], true, "{mount}");
    sandbox.ok(&["check", "vault"]);
}

/// As `ends_whole`, where no daemon had anything to complain of.
fn ends_without_a_word(sandbox: &Sandbox) {
    ends_whole(sandbox);
    let log = std::fs::read_to_string(sandbox.path("state/mount.log")).unwrap();
    let journal = "does not journal data in order";
    let said = log
        .lines()
        .find(|line| !line.contains(journal) && !line.contains(" INFO "));
    assert_eq!(said, None, "{log}");
}
