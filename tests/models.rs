//! Runs the executable models of the on-disk format (`tests/models`): each must hold, and each must fail with any one of its
//! rules broken. A change to a rule of the format goes into a model first.

use std::process::Command;

#[test]
fn models_hold_and_find_every_broken_rule() {
    let runner = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/run.py");
    let output = Command::new("python3")
        .args(["-B", runner])
        .output()
        .expect("python3 could not be started: install it (apt-get install python3)");
    let lines = String::from_utf8_lossy(&output.stdout);
    println!("{lines}");
    assert!(
        output.status.success(),
        "a model did not do as expected:\n{lines}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
