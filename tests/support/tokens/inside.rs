//! Runs the body of a test in a child of the test's process, which has the token's environment from its start: a variable
//! set in a process with threads is undefined behaviour, and a module that crashes takes only the child with it.

use std::process::Command;

use super::{Access, Kind, TestToken};

const ACCESS: &str = "STRONGROOM_TEST_TOKEN";

/// Runs `body` with a fresh token of this kind, in a child that runs nothing but the test called `test` (its full path in
/// the binary). Called again in that child, it finds the token and runs the body.
pub fn on_token(kind: Kind, test: &str, body: impl FnOnce(&Access)) {
    in_child(|| TestToken::start(kind), test, body);
}

/// As `on_token`, on SoftHSM behind the shim.
pub fn behind_shim(test: &str, body: impl FnOnce(&Access)) {
    in_child(TestToken::behind_shim, test, body);
}

fn in_child(start: impl FnOnce() -> TestToken, test: &str, body: impl FnOnce(&Access)) {
    if let Some(access) = std::env::var_os(ACCESS) {
        let access = access.into_string().expect("JSON");
        return body(&serde_json::from_str(&access).expect("what the parent wrote"));
    }
    let token = start();
    let mut child = Command::new(std::env::current_exe().expect("the test binary"));
    child.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let access: &Access = &token;
    let kind = access.kind;
    child.env(ACCESS, serde_json::to_string(access).expect("JSON"));
    let output = token
        .configure(&mut child)
        .output()
        .expect("the test binary starts");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    print!("{said}");
    assert!(
        output.status.success(),
        "{test} on {kind:?}: {}",
        output.status
    );
    assert!(
        said.contains("1 passed"),
        "{test} is no test of this binary"
    );
}
