//! The command-line contract of `docs/CLI.md`: exit codes, where secrets come from, JSON. What needs no mount.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;
use support::Sandbox;

const CHEAP: [&str; 4] = ["--argon2-memory", "1", "--argon2-passes", "1"];

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Runs it, expects this code, and one sentence on stderr that begins as all do; the sentence.
fn fails(sandbox: &Sandbox, expected: i32, args: &[&str]) -> String {
    let output = sandbox.run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(code(&output), expected, "strongroom {args:?}: {said}");
    let sentences: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("strongroom: "))
        .collect();
    assert_eq!(sentences.len(), 1, "strongroom {args:?}: {said}");
    sentences[0].to_owned()
}

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}

fn secret_file(sandbox: &Sandbox, name: &str, text: &str) -> String {
    let path = sandbox.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    name.to_owned()
}

fn keystore_with_passphrase(sandbox: &Sandbox) -> String {
    secret_file(sandbox, "pw", "correct horse\n");
    let args = [&["keystore", "init", "--passphrase-file", "pw"][..], &CHEAP].concat();
    sandbox.ok(&args)
}

fn recovery_key(said: &str) -> String {
    let mut lines = said.lines().map(str::trim);
    lines
        .rfind(|line| line.len() == 71 && line.matches('-').count() == 11)
        .unwrap()
        .to_owned()
}

#[test]
fn a_keystore_opens_by_all_its_secrets_and_no_other() {
    let sandbox = Sandbox::new();
    let said = keystore_with_passphrase(&sandbox);
    secret_file(&sandbox, "recovery", &recovery_key(&said).to_lowercase());
    secret_file(&sandbox, "wrong", "wrong horse\n");
    sandbox.ok(&[
        "--passphrase-file",
        "pw",
        "keystore",
        "add-slot",
        "--new-key-file",
        "kf",
        "--label",
        "usb stick",
    ]);
    for secret in [
        ["--passphrase-file", "pw"],
        ["--recovery-key-file", "recovery"],
        ["--key-file", "kf"],
    ] {
        sandbox.ok(&[&secret[..], &["key", "list"]].concat());
    }
    let mut by_variable = sandbox.command();
    by_variable
        .env("STRONGROOM_PASSPHRASE_FILE", sandbox.path("pw"))
        .args(["key", "list"]);
    assert_eq!(code(&by_variable.output().unwrap()), 0);
    assert!(
        fails(&sandbox, 3, &["--passphrase-file", "wrong", "key", "list"])
            .contains("does not open")
    );
    assert!(
        fails(
            &sandbox,
            3,
            &["--passphrase-file", "missing", "key", "list"]
        )
        .contains("missing")
    );
    assert!(fails(&sandbox, 3, &["--key-file", "pw", "key", "list"]).contains("not a key file"));
    assert!(
        fails(&sandbox, 3, &["--recovery-key-file", "pw", "key", "list"]).contains("recovery key")
    );
    // No secret named, no key file beside it, no terminal.
    assert!(fails(&sandbox, 3, &["key", "list"]).contains("--passphrase-file"));
}

#[test]
fn a_passphrase_comes_from_a_descriptor_or_a_credential() {
    let sandbox = Sandbox::new();
    keystore_with_passphrase(&sandbox);
    let program = env!("CARGO_BIN_EXE_strongroom");
    let run = |script: String| {
        let keystore = sandbox.path("keystore");
        let mut shell = std::process::Command::new("sh");
        shell
            .arg("-c")
            .arg(script)
            .current_dir(sandbox.path(""))
            .env("STRONGROOM_KEYSTORE", keystore);
        shell
            .env("CREDENTIALS_DIRECTORY", sandbox.path("credentials"))
            .output()
            .unwrap()
    };
    assert_eq!(
        code(&run(format!("{program} --passphrase-fd 7 key list 7<pw"))),
        0
    );
    assert_eq!(
        code(&run(format!(
            "printf 'correct horse' | {program} --passphrase-fd 0 key list"
        ))),
        0
    );
    assert_eq!(
        code(&run(format!("{program} --passphrase-fd 9 key list"))),
        3
    );
    assert_eq!(
        code(&run(format!("{program} --passphrase-fd 1 key list"))),
        3
    );
    fs::create_dir(sandbox.path("credentials")).unwrap();
    fs::copy(sandbox.path("pw"), sandbox.path("credentials/vault")).unwrap();
    assert_eq!(
        code(&run(format!("{program} --credential vault key list"))),
        0
    );
    assert_eq!(
        code(&run(format!("{program} --credential ../pw key list"))),
        3
    );
    assert_eq!(
        code(&run(format!("{program} --credential other key list"))),
        3
    );
}

#[test]
fn a_changed_or_removed_slot_no_longer_opens() {
    let sandbox = Sandbox::new();
    keystore_with_passphrase(&sandbox);
    secret_file(&sandbox, "new", "battery staple\n");
    let slots = json(&sandbox.ok(&["--passphrase-file", "pw", "keystore", "slots", "--json"]));
    assert_eq!(slots["slots"].as_array().unwrap().len(), 2);
    assert_eq!(slots["slots"][0]["argon2id"]["memory_kib"], 1024);
    let slot = slots["slots"][0]["slot"].as_str().unwrap();
    let refused = fails(
        &sandbox,
        1,
        &["--passphrase-file", "pw", "keystore", "remove-slot", slot],
    );
    assert!(refused.contains("add-slot"), "{refused}");
    fails(
        &sandbox,
        1,
        &[
            "--passphrase-file",
            "pw",
            "keystore",
            "remove-slot",
            "0123456789abcdef",
        ],
    );
    let change = [
        "--passphrase-file",
        "pw",
        "keystore",
        "change-slot",
        slot,
        "--new-passphrase-file",
        "new",
    ];
    sandbox.ok(&[&change[..], &CHEAP].concat());
    fails(&sandbox, 3, &["--passphrase-file", "pw", "key", "list"]);
    sandbox.ok(&[
        "--passphrase-file",
        "new",
        "keystore",
        "add-slot",
        "--new-key-file",
        "keystore.key",
    ]);
    sandbox.ok(&["keystore", "remove-slot", slot]);
    fails(&sandbox, 3, &["--passphrase-file", "new", "key", "list"]);
    assert!(!sandbox.path("keystore.older").exists());
}

#[test]
fn init_makes_a_keystore_and_prints_its_recovery_key_once() {
    let sandbox = Sandbox::new();
    let said = sandbox.ok(&["init", "vault"]);
    secret_file(&sandbox, "recovery", &recovery_key(&said));
    let again = sandbox.ok(&["init", "--cipher", "aes-256-xts", "other"]);
    assert!(!again.contains("Recovery key"));
    for name in ["keystore", "keystore.key"] {
        assert_eq!(
            fs::metadata(sandbox.path(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600,
            "{name}"
        );
    }
    fs::remove_file(sandbox.path("keystore.key")).unwrap();
    fails(&sandbox, 3, &["key", "list"]);
    sandbox.ok(&["--recovery-key-file", "recovery", "key", "list"]);
}

#[test]
fn keys_are_made_listed_disabled_and_enabled() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["keystore", "init", "--no-recovery-key"]);
    let made = json(&sandbox.ok(&["key", "create", "alias/backup", "--json"]));
    let id = made["key"].as_str().unwrap();
    assert_eq!(
        json(&sandbox.ok(&["key", "list", "--json"]))["keys"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for name in [id, "alias/backup"] {
        let described = json(&sandbox.ok(&["key", "describe", name, "--json"]));
        assert_eq!(
            (
                described["key"].as_str(),
                described["current_version"].as_u64()
            ),
            (Some(id), Some(1))
        );
    }
    sandbox.ok(&["key", "disable", "alias/backup"]);
    assert_eq!(
        json(&sandbox.ok(&["key", "describe", id, "--json"]))["state"],
        "Disabled"
    );
    assert!(fails(&sandbox, 6, &["init", "--key", "alias/backup", "vault"]).contains("key enable"));
    sandbox.ok(&["key", "enable", "alias/backup"]);
    sandbox.ok(&["init", "--key", "alias/backup", "vault"]);
    assert_eq!(json(&sandbox.ok(&["info", "vault", "--json"]))["key"], id);
    fails(&sandbox, 1, &["key", "create", "alias/backup"]);
    fails(&sandbox, 1, &["key", "create", "backup"]);
    fails(&sandbox, 5, &["key", "describe", "alias/none"]);
    fails(&sandbox, 5, &["init", "--key", "alias/none", "other"]);
}

#[test]
fn a_damaged_missing_or_foreign_keystore_has_its_own_code() {
    let sandbox = Sandbox::new();
    assert!(fails(&sandbox, 12, &["key", "list"]).contains("keystore init"));
    sandbox.ok(&["keystore", "init"]);
    fails(&sandbox, 1, &["keystore", "init"]);
    let path = sandbox.path("keystore");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(fails(&sandbox, 4, &["key", "list"]).contains("damaged"));
    fs::write(&path, "hello\n").unwrap();
    assert!(fails(&sandbox, 4, &["key", "list"]).contains("not a Strongroom keystore"));
    fs::write(&path, "strongroom keystore 2\n{}\n").unwrap();
    assert!(fails(&sandbox, 4, &["key", "list"]).contains("newer"));
}

#[test]
fn init_takes_only_an_empty_or_missing_directory() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/mine"), "mine").unwrap();
    fails(&sandbox, 8, &["init", "full"]);
    assert_eq!(fs::read_dir(sandbox.path("full")).unwrap().count(), 1);
    sandbox.ok(&["init", "vault"]);
    fails(&sandbox, 8, &["init", "vault"]);
    fails(&sandbox, 8, &["info", "full"]);
    fails(&sandbox, 8, &["ls", "full"]);
    fails(&sandbox, 8, &["mount", "full", "mnt"]);
}

#[test]
fn usage_errors_have_code_2_and_touch_nothing() {
    let sandbox = Sandbox::new();
    for args in [
        &[][..],
        &["nonsense"],
        &["init"],
        &["init", "--cipher", "rot13", "vault"],
        &["mount", "vault"],
        &["keystore", "add-slot"],
        &[
            "keystore",
            "add-slot",
            "--new-passphrase",
            "--new-recovery-key",
        ],
        &["keystore", "init", "--argon2-memory", "64"],
        &["--passphrase", "secret", "key", "list"],
    ] {
        let output = sandbox.run(args);
        assert_eq!(code(&output), 2, "{args:?}");
    }
    assert_eq!(code(&sandbox.run(&["--help"])), 0);
    assert_eq!(code(&sandbox.run(&["--version"])), 0);
    assert!(!sandbox.path("keystore").exists());
}
