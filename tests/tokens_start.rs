//! The real tokens that other tests use: each comes up, is usable in process, and leaves nothing behind.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::path::Path;

use support::tokens::{Access, KINDS, Kind, TestToken, on_token};

fn log_in(access: &Access) {
    let module = access.loaded();
    let session = access.session(&module);
    assert_eq!(access.objects(&session), []);
}

/// Processes whose command line names this directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}

#[test]
fn soft_hsm_comes_up() {
    on_token(Kind::SoftHsm, "soft_hsm_comes_up", log_in);
}

#[test]
fn kryoptic_comes_up() {
    on_token(Kind::Kryoptic, "kryoptic_comes_up", log_in);
}

#[test]
fn nss_comes_up() {
    on_token(Kind::Nss, "nss_comes_up", log_in);
}

#[test]
fn a_tpm_comes_up() {
    on_token(Kind::Tpm, "a_tpm_comes_up", log_in);
}

#[test]
fn opencryptoki_comes_up() {
    on_token(Kind::OpenCryptoki, "opencryptoki_comes_up", log_in);
}

#[test]
fn a_failed_test_leaves_no_process_and_no_file() {
    for kind in KINDS {
        let mut dir = None;
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let token = TestToken::start(kind);
            dir = Some(token.dir.clone());
            if kind == Kind::Tpm {
                assert_eq!(processes_of(&token.dir).len(), 3);
            }
            std::panic::resume_unwind(Box::new("as a failing test does"));
        }));
        assert!(failed.is_err());
        let dir = dir.expect("it came up");
        assert!(!dir.exists(), "{kind:?}");
        assert!(processes_of(&dir).is_empty(), "{kind:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/var/lib/opencryptoki"));
}
