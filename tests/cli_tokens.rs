//! The command-line contract of `docs/CLI.md` where the master key is in a token: `init`, `mount`, `rotate`, `rekey`, where
//! PINs and libraries come from, and what is refused. With SoftHSM; every other token has `tests/providers.rs`.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

#[path = "cli_tokens/moves.rs"]
mod moves;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use support::tokens::TestToken;
use support::{Sandbox, is_mounted};

const PIN: [&str; 2] = ["--pin-file", "pin"];

/// A sandbox whose programs find the token, with the PIN in `pin` and another in `wrong`.
fn sandbox(token: &TestToken) -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.with_token(token);
    for (name, pin) in [("pin", token.pin.as_str()), ("wrong", "00000000")] {
        let path = sandbox.path(name);
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    sandbox
}

fn uri(token: &TestToken, object: &str) -> String {
    format!(
        "pkcs11:token={};object={object}?module-path={}",
        token.label,
        token.module.display()
    )
}

/// A volume whose key "kt" is in the token.
fn with_volume(token: &TestToken, more: &[&str]) -> Sandbox {
    let sandbox = sandbox(token);
    let uri = uri(token, "kt");
    let args = [&PIN[..], &["init", "--key-uri", &uri], more, &["vault"]].concat();
    sandbox.ok(&args);
    sandbox
}

fn with_pin(sandbox: &Sandbox, args: &[&str]) -> String {
    sandbox.ok(&[&PIN[..], args].concat())
}

/// Runs it, expects this code and one sentence on stderr; the sentence.
fn fails(sandbox: &Sandbox, expected: i32, args: &[&str]) -> String {
    let output = sandbox.run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(expected),
        "strongroom {args:?}: {said}"
    );
    let mut sentences = said.lines().filter(|line| line.starts_with("strongroom: "));
    let sentence = sentences.next().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(sentences.next(), None, "{said}");
    sentence.to_owned()
}

fn info(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&sandbox.ok(&["info", "vault", "--json"])).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// How many secret keys the token shows to who logged in, by label.
fn objects(token: &TestToken, label: &str) -> usize {
    let pin = token.pin.clone();
    let shown = token.pkcs11_tool(&[
        "--token-label",
        &token.label,
        "--login",
        "--pin",
        &pin,
        "-O",
    ]);
    let labelled = |line: &&str| line.trim().strip_prefix("label:").map(str::trim) == Some(label);
    shown.lines().filter(labelled).count()
}

#[test]
fn init_makes_a_key_in_the_token_and_mount_remembers_the_library() {
    let token = TestToken::soft_hsm();
    let sandbox = with_volume(&token, &[]);
    assert_eq!(objects(&token, "kt"), 1);
    assert!(
        !sandbox.path("keystore").exists(),
        "a key in a token needs no keystore"
    );
    let about = info(&sandbox);
    assert_eq!(about["provider"], "pkcs11");
    assert_eq!(about["token"], token.label.as_str());
    assert_eq!(about["object"], "kt");
    assert_eq!(about["envelope"], "direct");
    assert_eq!(about["algorithm"], "aes-256-gcm");
    assert_eq!(about["unfinished"], false);
    assert_eq!(
        about["keys"][0]["module"],
        token.module.to_str().unwrap(),
        "from this host's pin"
    );
    with_pin(&sandbox, &["mount", "vault", "mnt"]);
    fs::write(sandbox.mnt().join("hello"), "world").unwrap();
    sandbox.umount();
    assert_eq!(with_pin(&sandbox, &["cat", "vault", "hello"]), "world");
    with_pin(&sandbox, &["export", "vault", "/", "out"]);
    assert_eq!(fs::read(sandbox.path("out/hello")).unwrap(), b"world");
    assert!(with_pin(&sandbox, &["ls", "vault"]).contains("hello"));
}

#[test]
fn nothing_in_the_volume_names_the_library_or_the_pin() {
    let token = TestToken::soft_hsm();
    let sandbox = with_volume(&token, &["--envelope", "volume"]);
    with_pin(&sandbox, &["mount", "vault", "mnt"]);
    fs::write(sandbox.mnt().join("hello"), "world").unwrap();
    sandbox.umount();
    let module = token.module.file_name().unwrap().to_str().unwrap();
    let mut files = vec![sandbox.vault()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for text in [module, token.pin.as_str()] {
            let found = bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes());
            assert!(!found, "{} holds {text:?}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 2, "the volume's files were looked at");
}

#[test]
fn a_key_that_is_there_is_taken_and_two_volumes_share_it() {
    let token = TestToken::soft_hsm();
    let sandbox = with_volume(&token, &[]);
    let first = info(&sandbox)["key"].clone();
    let again = uri(&token, "kt");
    with_pin(&sandbox, &["init", "--key", &again, "second"]);
    assert_eq!(objects(&token, "kt"), 1);
    let about = json(&sandbox.ok(&["info", "second", "--json"]));
    assert_eq!(about["key"], first);
    // The other volume needs the older version, as far as this host knows.
    let said = fails(
        &sandbox,
        7,
        &["--pin-file", "pin", "rotate", "--destroy-old", "vault"],
    );
    assert!(said.contains(about["volume"].as_str().unwrap()), "{said}");
    assert_eq!(info(&sandbox)["version"], 1, "nothing was done");
    with_pin(
        &sandbox,
        &["rotate", "--destroy-old", "--even-if-shared", "vault"],
    );
    assert_eq!(objects(&token, "kt"), 0);
    fails(&sandbox, 5, &["--pin-file", "pin", "ls", "second"]);
}

#[test]
fn up_and_pins_from_everywhere_but_arguments() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    let uri = uri(&token, "kt");
    let said = with_pin(&sandbox, &["up", "--key-uri", &uri, "vault", "mnt"]);
    assert!(said.contains("back the token up"), "{said}");
    assert!(is_mounted(&sandbox.mnt()));
    sandbox.umount();
    assert_eq!(
        with_pin(&sandbox, &["up", "vault", "mnt"]).lines().count(),
        3
    );
    sandbox.umount();
    let mut by_variable = sandbox.command();
    by_variable.env("STRONGROOM_PIN_FILE", sandbox.path("pin"));
    by_variable.args(["ls", "vault"]);
    assert!(by_variable.output().unwrap().status.success());
    // A descriptor, which a shell inherits to us.
    let mut shell = std::process::Command::new("sh");
    let program = sandbox.command();
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let script = format!(
        "exec {} --pin-fd 7 mount vault mnt 7<pin",
        env!("CARGO_BIN_EXE_strongroom")
    );
    shell.args(["-c", &script]).current_dir(sandbox.path(""));
    assert!(shell.status().unwrap().success());
    assert!(is_mounted(&sandbox.mnt()));
    let arguments = format!("/proc/{}/cmdline", info(&sandbox)["holder"]["pid"]);
    let arguments = fs::read(arguments).unwrap();
    assert!(
        !String::from_utf8_lossy(&arguments).contains(&token.pin),
        "the daemon's arguments"
    );
    sandbox.umount();
    let said = fails(&sandbox, 3, &["ls", "vault"]);
    assert!(said.contains("--pin-file"), "{said}");
}

#[test]
fn a_pin_in_a_uri_is_refused_unread() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    for separator in ["?", ";", "&"] {
        let uri = format!("{}{separator}pin-value={}", uri(&token, "kt"), token.pin);
        let said = fails(&sandbox, 2, &["init", "--key-uri", &uri, "vault"]);
        assert!(!said.contains(&token.pin), "{said}");
    }
    let uri = format!("{}&pin-value={}", uri(&token, "kt"), token.pin);
    let said = fails(&sandbox, 2, &["init", "--key-uri", &uri, "vault"]);
    assert!(said.contains("pin-value") && said.contains("--pin-file"));
    assert!(!sandbox.vault().exists());
    assert_eq!(objects(&token, "kt"), 0);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let token = TestToken::behind_shim();
    let sandbox = with_volume(&token, &[]);
    let tries = || token.shim().calls("C_Login");
    for args in [
        &["mount", "vault", "mnt"][..],
        &["ls", "vault"],
        &["rotate", "vault"],
        &["up", "vault", "mnt"],
    ] {
        let before = tries().len();
        let said = fails(&sandbox, 3, &[&["--pin-file", "wrong"], args].concat());
        assert!(said.contains("PIN"), "{said}");
        let after = tries();
        assert_eq!(after.len(), before + 1, "{args:?}: {after:x?}");
        assert_ne!(after.last(), Some(&0));
    }
    let before = tries().len();
    let uri = uri(&token, "other");
    fails(
        &sandbox,
        3,
        &["--pin-file", "wrong", "init", "--key-uri", &uri, "second"],
    );
    assert_eq!(tries().len(), before + 1);
    assert!(!sandbox.path("second").exists());
}

#[test]
fn another_library_than_the_remembered_one_is_not_loaded() {
    let token = TestToken::soft_hsm();
    let sandbox = with_volume(&token, &[]);
    // Loading it would leave a trace.
    let trace = sandbox.path("trace");
    let source = sandbox.path("planted.c");
    fs::write(
        &source,
        format!(
            "#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen(\"{}\", \"w\")); }}\n",
            trace.display()
        ),
    )
    .unwrap();
    let planted = sandbox.path("planted.so");
    let mut compile = std::process::Command::new("gcc");
    compile
        .args(["-shared", "-fPIC", "-o"])
        .arg(&planted)
        .arg(&source);
    support::tool(&mut compile, "gcc");
    let planted = planted.to_str().unwrap();
    for args in [
        &["ls", "vault"][..],
        &["mount", "vault", "mnt"],
        &["rotate", "vault"],
    ] {
        let args = [&PIN[..], &["--module", planted], args].concat();
        let said = fails(&sandbox, 10, &args);
        assert!(
            said.contains(planted) && said.contains("--expect-volume"),
            "{said}"
        );
        assert!(!trace.exists(), "{args:?} loaded it");
    }
    let same = token.module.to_str().unwrap();
    with_pin(&sandbox, &["--module", same, "ls", "vault"]);
    // What the test relies on: it does leave one where it is loaded.
    let mut elsewhere = sandbox.command();
    elsewhere.env("STRONGROOM_STATE_DIR", sandbox.path("state2"));
    elsewhere.args([&PIN[..], &["--module", planted, "ls", "vault"]].concat());
    assert!(!elsewhere.output().unwrap().status.success());
    assert!(trace.exists());
}

#[test]
fn a_host_that_knows_no_library_says_what_to_give() {
    let token = TestToken::soft_hsm();
    let sandbox = with_volume(&token, &[]);
    fs::rename(sandbox.path("state"), sandbox.path("gone")).unwrap();
    for args in [&["ls", "vault"][..], &["mount", "vault", "mnt"]] {
        let said = fails(&sandbox, 2, &[&PIN[..], args].concat());
        assert!(
            said.contains("--module") && said.contains(&token.label),
            "{said}"
        );
    }
    let said = fails(
        &sandbox,
        2,
        &["--pin-file", "pin", "--module", "lib.so", "ls", "vault"],
    );
    assert!(said.contains("absolute"), "{said}");
    let module = token.module.to_str().unwrap();
    with_pin(&sandbox, &["--module", module, "ls", "vault"]);
    with_pin(&sandbox, &["ls", "vault"]);
}

#[test]
fn uris_are_refused_with_a_sentence_and_before_anything_is_made() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    let module = token.module.display();
    for (uri, said) in [
        ("alias/default".to_owned(), "pkcs11:"),
        (format!("pkcs11:object=kt?module-path={module}"), "token="),
        (
            format!("pkcs11:token=strong?module-path={module}"),
            "object=",
        ),
        ("pkcs11:token=strong;object=kt".to_owned(), "--module"),
        (
            "pkcs11:token=strong;object=kt?module-path=lib.so".to_owned(),
            "absolute",
        ),
        ("pkcs11:token=strong;object=k%2".to_owned(), "%20"),
        (
            "pkcs11:token=strong;object=k?pin-source=|cat".to_owned(),
            "command",
        ),
    ] {
        let refused = fails(
            &sandbox,
            2,
            &["--pin-file", "pin", "init", "--key-uri", &uri, "vault"],
        );
        assert!(refused.contains(said), "{uri}: {refused}");
        assert!(!sandbox.vault().exists());
    }
    let there = format!("pkcs11:token=absent;object=kt?module-path={module}");
    let refused = fails(
        &sandbox,
        5,
        &["--pin-file", "pin", "init", "--key-uri", &there, "vault"],
    );
    assert!(refused.contains("absent"), "{refused}");
    let uri = uri(&token, "kt");
    for (option, value, code) in [
        ("--mechanism", "aes-kw", 2),
        ("--mechanism", "rsa-oaep", 0),
        ("--envelope", "both", 2),
    ] {
        let args = [&PIN[..], &["init", "--key-uri", &uri, option, value, "v"]].concat();
        let output = sandbox.run(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("SHA-1"), value == "rsa-oaep", "{said}");
    }
    fails(&sandbox, 2, &["init", "--mechanism", "aes-gcm", "vault"]);
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/file"), "x").unwrap();
    let other = self::uri(&token, "unused");
    fails(
        &sandbox,
        8,
        &["--pin-file", "pin", "init", "--key-uri", &other, "full"],
    );
    assert_eq!(objects(&token, "unused"), 0, "no key was made in vain");
}
