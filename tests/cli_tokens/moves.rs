//! Rotating, moving, copying and encrypting anew from the command line.

use super::*;

#[test]
fn rotates_in_both_envelopes_and_destroys_what_is_old() {
    for envelope in ["direct", "volume"] {
        for mounted in [false, true] {
            let token = TestToken::soft_hsm();
            let sandbox = with_volume(&token, &["--envelope", envelope]);
            with_pin(&sandbox, &["mount", "vault", "mnt"]);
            for at in 0..20 {
                fs::write(sandbox.mnt().join(at.to_string()), "content").unwrap();
            }
            let (pin, place): (&[&str], _) = if mounted {
                (&[], "mnt")
            } else {
                sandbox.umount();
                (&PIN, "vault")
            };
            let run = |args: &[&str]| json(&sandbox.ok(&[pin, args, &["--json", place]].concat()));
            let rotation = run(&["rotate"]);
            assert_eq!(rotation["remaining"], 0);
            assert_eq!(rotation["headers"], 20);
            assert_eq!(objects(&token, "kt"), 1);
            assert_eq!(objects(&token, "kt.v2"), 1);
            let rotation = run(&["rotate", "--destroy-old"]);
            assert_eq!(rotation["destroyed"], serde_json::json!([1, 2]));
            assert_eq!((objects(&token, "kt"), objects(&token, "kt.v2")), (0, 0));
            assert_eq!(objects(&token, "kt.v3"), 1);
            assert_eq!(info(&sandbox)["version"], 3);
            if mounted {
                sandbox.umount();
            }
            assert_eq!(with_pin(&sandbox, &["cat", "vault", "7"]), "content");
        }
    }
}

fn write_some(mnt: &Path) {
    for at in 0..20 {
        fs::write(mnt.join(at.to_string()), format!("content {at}")).unwrap();
    }
}

fn assert_reads(sandbox: &Sandbox, pin: &[&str]) {
    for at in [0, 7, 19] {
        let name = at.to_string();
        let read = sandbox.ok(&[pin, &["cat", "vault", &name]].concat());
        assert_eq!(read, format!("content {at}"));
    }
}

#[test]
fn moves_from_the_keystore_to_a_token_and_back() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    sandbox.ok(&["init", "vault"]);
    sandbox.mount();
    write_some(&sandbox.mnt());
    sandbox.umount();
    let before = info(&sandbox)["key"].clone();
    let uri = uri(&token, "moved");
    let to = [
        "rekey",
        "--to",
        &uri,
        "--to-pin-file",
        "pin",
        "--envelope",
        "volume",
        "--json",
        "vault",
    ];
    let moved = json(&sandbox.ok(&to));
    assert_eq!(moved["from_key"], before);
    assert_eq!(
        (&moved["remaining"], &moved["rewrapped"]),
        (&0.into(), &20.into())
    );
    let about = info(&sandbox);
    assert_eq!(about["key"], moved["to_key"]);
    assert_eq!(about["provider"], "pkcs11");
    assert_eq!(about["envelope"], "volume");
    assert_eq!(about["keys"].as_array().unwrap().len(), 1);
    let (keystore, aside) = (sandbox.path("keystore"), sandbox.path("aside"));
    fs::rename(&keystore, &aside).unwrap();
    assert_reads(&sandbox, &PIN);
    fs::rename(&aside, &keystore).unwrap();
    let back = [
        "rekey",
        "--to",
        "alias/default",
        "--envelope",
        "direct",
        "vault",
    ];
    assert!(with_pin(&sandbox, &back).contains(before.as_str().unwrap()));
    assert_eq!(info(&sandbox)["key"], before);
    assert_reads(&sandbox, &[]);
}

#[test]
fn moves_while_mounted_with_secrets_that_no_line_holds() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    sandbox.ok(&["init", "vault"]);
    sandbox.mount();
    write_some(&sandbox.mnt());
    let key = info(&sandbox)["key"].clone();
    let uri = uri(&token, "moved");
    // A wrong PIN, a key that is not there: the same codes as unmounted, and the volume stays as it was.
    let wrong = ["rekey", "--to", &uri, "--to-pin-file", "wrong", "mnt"];
    assert!(fails(&sandbox, 3, &wrong).contains("PIN"));
    fails(&sandbox, 5, &["rekey", "--to", "alias/absent", "mnt"]);
    assert_eq!(info(&sandbox)["key"], key);
    let to = [
        "rekey",
        "--to",
        &uri,
        "--to-pin-file",
        "pin",
        "--json",
        "mnt",
    ];
    let moved = json(&sandbox.ok(&to));
    assert_eq!(moved["remaining"], 0);
    assert_ne!(info(&sandbox)["key"], key);
    fs::write(sandbox.mnt().join("after"), "moved").unwrap();
    // To another key of the token that the daemon has open: no PIN is needed.
    let next = format!("pkcs11:token={};object=next", token.label);
    sandbox.ok(&["rekey", "--to", &next, "mnt"]);
    assert_eq!(info(&sandbox)["object"], "next");
    sandbox.ok(&["rotate", "mnt"]);
    sandbox.umount();
    assert_reads(&sandbox, &PIN);
    with_pin(&sandbox, &["mount", "vault", "mnt"]);
    assert_eq!(fs::read(sandbox.mnt().join("after")).unwrap(), b"moved");
    sandbox.ok(&["rekey", "--to", "alias/default", "mnt"]);
    sandbox.umount();
    assert_reads(&sandbox, &[]);
}

#[test]
fn moves_from_one_token_to_another() {
    let token = TestToken::soft_hsm();
    token.add_soft_hsm("second");
    let sandbox = with_volume(&token, &[]);
    with_pin(&sandbox, &["mount", "vault", "mnt"]);
    write_some(&sandbox.mnt());
    sandbox.umount();
    let module = token.module.to_str().unwrap();
    let to = "pkcs11:token=second;object=there";
    let args = [
        "rekey",
        "--to",
        to,
        "--to-module",
        module,
        "--to-pin-file",
        "pin",
        "vault",
    ];
    with_pin(&sandbox, &args);
    assert_eq!(info(&sandbox)["token"], "second");
    assert_reads(&sandbox, &["--pin-file", "second=pin"]);
    assert_reads(&sandbox, &PIN);
}

#[test]
fn a_disabled_key_has_its_code_also_when_a_daemon_meets_it() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    sandbox.ok(&["init", "vault"]);
    sandbox.ok(&["mount", "vault", "mnt"]);
    sandbox.ok(&["key", "disable", "alias/default"]);
    assert!(fails(&sandbox, 6, &["rotate", "mnt"]).contains("key enable"));
    sandbox.ok(&["key", "enable", "alias/default"]);
    sandbox.ok(&["rotate", "mnt"]);
    sandbox.umount();
    sandbox.ok(&["mount", "--read-only", "vault", "mnt"]);
    assert!(fails(&sandbox, 7, &["rotate", "mnt"]).contains("read-only"));
}

#[test]
fn copies_a_volume_under_another_key() {
    let token = TestToken::soft_hsm();
    let sandbox = sandbox(&token);
    sandbox.ok(&["init", "source"]);
    sandbox.ok(&["mount", "source", "mnt"]);
    write_some(&sandbox.mnt());
    let uri = uri(&token, "copy");
    let copy = |dest: &str, more: &[&str]| {
        let args = [
            &["copy", "--to", &uri, "--to-pin-file", "pin"],
            more,
            &["source", dest],
        ];
        args.concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let run = |args: &[String]| {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        sandbox.ok(&args)
    };
    let refused = |code, args: &[String]| {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        fails(&sandbox, code, &args)
    };
    refused(7, &copy("vault", &[]));
    assert!(!sandbox.vault().exists());
    sandbox.umount();
    let report = json(&run(&copy("vault", &["--json"])));
    assert_eq!(report["files"], 20);
    assert_eq!(info(&sandbox)["object"], "copy");
    assert_ne!(
        info(&sandbox)["volume"],
        json(&sandbox.ok(&["info", "source", "--json"]))["volume"]
    );
    assert_reads(&sandbox, &PIN);
    with_pin(&sandbox, &["mount", "vault", "mnt"]);
    fs::write(sandbox.mnt().join("new"), "x").unwrap();
    sandbox.umount();
    assert!(!sandbox.ok(&["ls", "source"]).contains("new"));
    let said = run(&copy("shared", &["--share-data-keys"]));
    assert!(said.contains("same data keys"), "{said}");
    assert_eq!(with_pin(&sandbox, &["cat", "shared", "7"]), "content 7");
    let said = refused(8, &copy("shared", &[]));
    assert!(said.contains("volume"), "{said}");
}

#[test]
fn encrypts_files_again_mounted_and_not() {
    let token = TestToken::soft_hsm();
    let sandbox = with_volume(&token, &[]);
    with_pin(&sandbox, &["mount", "vault", "mnt"]);
    write_some(&sandbox.mnt());
    fs::create_dir(sandbox.mnt().join("dir")).unwrap();
    for at in 0..50 {
        let name = format!("dir/{}{at}", "n".repeat(200));
        fs::write(sandbox.mnt().join(name), "in dir").unwrap();
    }
    let stored = || {
        let mut bytes = Vec::new();
        for entry in fs::read_dir(sandbox.vault()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                bytes.push((entry.file_name(), fs::read(entry.path()).unwrap()));
            }
        }
        bytes.sort();
        bytes
    };
    let report = json(&sandbox.ok(&["rekey-data", "mnt", "7", "dir", "--json"]));
    assert_eq!(
        (&report["files"], &report["refused"]),
        (&51.into(), &0.into())
    );
    let through = sandbox.mnt().join("8");
    let mut many: Vec<String> = (0..50)
        .map(|at| format!("dir/{}{at}", "n".repeat(200)))
        .collect();
    many.push(through.to_str().unwrap().to_owned());
    let args: Vec<_> = ["rekey-data", "mnt", "--json"]
        .into_iter()
        .chain(many.iter().map(String::as_str))
        .collect();
    let report = json(&sandbox.ok(&args));
    assert_eq!(report["files"], 51, "in several requests");
    let open = fs::File::open(sandbox.mnt().join("9")).unwrap();
    let output = sandbox.run(&["rekey-data", "mnt", "9", "absent"]);
    assert_eq!(output.status.code(), Some(1), "refused files are told");
    drop(open);
    sandbox.umount();
    let before = stored();
    with_pin(&sandbox, &["rekey-data", "vault", "/"]);
    assert_ne!(stored(), before);
    assert_reads(&sandbox, &PIN);
    with_pin(&sandbox, &["check", "vault"]);
}

#[test]
fn a_key_that_another_volume_of_this_host_needs_is_not_destroyed() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["init", "vault"]);
    sandbox.ok(&["init", "never-mounted"]);
    let said = fails(&sandbox, 7, &["rotate", "--destroy-old", "vault"]);
    assert!(said.contains("--even-if-shared"), "{said}");
    assert_eq!(info(&sandbox)["version"], 1, "nothing was done");
    sandbox.ok(&["ls", "never-mounted"]);
    // Moved to a key of its own, it needs the old one no more.
    sandbox.ok(&["key", "create", "alias/own"]);
    sandbox.ok(&["rekey", "--to", "alias/own", "never-mounted"]);
    let rotation = json(&sandbox.ok(&["rotate", "--destroy-old", "--json", "vault"]));
    assert_eq!(rotation["destroyed"], serde_json::json!([1]));
    sandbox.ok(&["ls", "never-mounted"]);
    sandbox.ok(&["ls", "vault"]);
}
