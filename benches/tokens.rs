//! How fast each home of a master key is: wraps and unwraps a second, and 10,000 small files created and read cold, in both
//! envelopes. Prints two tables; `docs/TOKENS.md` has them. Needs what the tests need (`tests/all`).
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that fails has no result

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::crypto::Secret;
use strongroom::format::ids::{FileId, KeyVersion, VolumeId};
use strongroom::format::wrap::{self, CONTEXT_LEN, Purpose};
use strongroom::keys::pkcs11::{KeyUri, Module, Token, TokenKey};
use strongroom::keys::{KeyProvider, SecretBytes, Wrapped};
use support::Sandbox;
use support::tokens::{Access, KINDS, Kind, TestToken};

const ACCESS: &str = "STRONGROOM_BENCH_TOKEN";
const FILES: usize = 10_000;
const SIZE: usize = 1_000;
const TIME: Duration = Duration::from_secs(2);

fn main() {
    if let Some(access) = std::env::var_os(ACCESS) {
        return calls(&serde_json::from_str(access.to_str().unwrap()).unwrap());
    }
    println!("| token | wraps/s | unwraps/s | unwraps/s in batches of 256 |\n|---|---|---|---|");
    for kind in KINDS {
        let token = TestToken::start(kind);
        let access: &Access = &token;
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.env(ACCESS, serde_json::to_string(access).unwrap());
        assert!(token.configure(&mut child).status().unwrap().success());
    }
    println!(
        "\n| key in | envelope | files created/s | files read cold/s, 1 program | 8 programs |\n|---|---|---|---|---|"
    );
    files(None, "direct");
    files(None, "volume");
    for kind in KINDS {
        let token = TestToken::start(kind);
        if !matches!(kind, Kind::Tpm | Kind::OpenCryptoki) {
            files(Some(&token), "direct");
        }
        files(Some(&token), "volume");
    }
}

fn context(n: u64) -> [u8; CONTEXT_LEN] {
    let mut file = FileId([0; 16]);
    file.0[..8].copy_from_slice(&n.to_le_bytes());
    wrap::context(Purpose::DataKey, &VolumeId([1; 16]), Some(&file), 0)
}

/// Calls a second for as long as measured; each call is told its number.
fn rate(calls_at_a_time: u64, mut call: impl FnMut(u64)) -> u64 {
    call(0);
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < TIME {
        call(done);
        done += 1;
    }
    (calls_at_a_time as f64 * done as f64 / begun.elapsed().as_secs_f64()) as u64
}

fn calls(access: &Access) {
    let module = Module {
        path: access.module.clone(),
        init: access.init.clone(),
    };
    let wanted: KeyUri = access.uri("bench").parse().unwrap();
    let pin = SecretBytes::take(&mut access.pin.clone().into_bytes());
    let token: Arc<Token> = Token::open(&module, &wanted, pin).unwrap();
    let (key, _) = TokenKey::make_or_take(&token, "bench", None).unwrap();
    let (id, version) = (key.key(), KeyVersion(1));
    let wraps = rate(1, |n| {
        drop(key.generate(&id, version, &context(n)).unwrap())
    });
    let wrapped: Vec<(_, Wrapped)> = (0..256)
        .map(|n| {
            (
                context(n),
                key.wrap(&id, version, &context(n), &Secret::random())
                    .unwrap(),
            )
        })
        .collect();
    let unwraps = rate(1, |n| {
        let (context, wrapped) = &wrapped[n as usize % 256];
        drop(key.unwrap(&id, context, wrapped).unwrap());
    });
    let items: Vec<_> = wrapped
        .iter()
        .map(|(context, wrapped)| (&context[..], wrapped))
        .collect();
    let batches = rate(256, |_| {
        assert!(key.unwrap_batch(&id, &items).iter().all(Result::is_ok));
    });
    println!(
        "| {:?}, {:?} | {wraps} | {unwraps} | {batches} |",
        access.kind,
        key.algorithm()
    );
}

fn files(token: Option<&TestToken>, envelope: &str) {
    let mut sandbox = Sandbox::new();
    let mut pin = Vec::new();
    let mut init = vec![
        "init".to_owned(),
        "--envelope".to_owned(),
        envelope.to_owned(),
    ];
    if let Some(token) = token {
        sandbox.with_token(token);
        pin = vec![
            "--pin-file".to_owned(),
            token.pin_file().display().to_string(),
        ];
        init.extend([
            "--key-uri".to_owned(),
            token.uri(&format!("files-{envelope}")),
        ]);
    }
    let run = |args: &[String]| {
        let args: Vec<_> = pin.iter().chain(args).map(String::as_str).collect();
        sandbox.ok(&args)
    };
    init.push("vault".to_owned());
    run(&init);
    let mount = || run(&["mount".to_owned(), "vault".to_owned(), "mnt".to_owned()]);
    let path = |n: usize| sandbox.mnt().join(format!("d{:03}/f{n}", n % 100));
    mount();
    for n in 0..100 {
        std::fs::create_dir(path(n).parent().unwrap()).unwrap();
    }
    let begun = Instant::now();
    for n in 0..FILES {
        std::fs::write(path(n), [n as u8; SIZE]).unwrap();
    }
    let created = FILES as f64 / begun.elapsed().as_secs_f64();
    sandbox.umount();
    let read_cold = |programs: usize| {
        mount();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for program in 0..programs {
                scope.spawn(move || {
                    for n in (program..FILES).step_by(programs) {
                        assert!(std::fs::read(path(n)).unwrap() == [n as u8; SIZE]);
                    }
                });
            }
        });
        let rate = FILES as f64 / begun.elapsed().as_secs_f64();
        sandbox.umount();
        rate
    };
    let (one, eight) = (read_cold(1), read_cold(8));
    let home = token.map_or_else(
        || "keystore".to_owned(),
        |token| format!("{:?}", token.kind),
    );
    println!("| {home} | {envelope} | {created:.0} | {one:.0} | {eight:.0} |");
}
