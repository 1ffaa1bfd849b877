//! Holds the layering: no source file of a layer names what that layer must not know. It reads the sources as tokens
//! (comments and strings gone, `use` trees spread out, `self` and `super` resolved, `#[cfg(test)]` items left out), so
//! neither a group, nor a relative path, nor a renamed root hides a crossing.

// A test that panics on a source it cannot read is a test that fails, as it should.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "layers/paths.rs"]
mod paths;

use paths::Source;

/// What each layer must not name. A rule covers everything below the path it gives.
const LAYERS: [(&str, &[&str]); 7] = [
    (
        "crypto",
        &[
            "crate::format",
            "crate::keys",
            "crate::store",
            "crate::volume",
            "crate::fuse",
            "crate::cli",
            "std::fs",
            "std::io",
        ],
    ),
    (
        "format",
        &[
            "crate::keys",
            "crate::store",
            "crate::volume",
            "crate::fuse",
            "crate::cli",
            "std::fs",
            "std::io",
            "rustix",
            "libc",
        ],
    ),
    ("keys", &["crate::volume", "crate::fuse", "crate::cli"]),
    (
        "store",
        &[
            "crate::crypto",
            "crate::format",
            "crate::keys",
            "crate::volume",
            "crate::fuse",
            "crate::cli",
        ],
    ),
    (
        "volume",
        &["crate::fuse", "crate::cli", "std::fs", "std::path"],
    ),
    (
        "fuse",
        &[
            "crate::crypto",
            "crate::keys",
            "crate::cli",
            "std::fs",
            "aes",
            "aes_gcm_siv",
            "aes_siv",
            "argon2",
            "hkdf",
            "hmac",
            "sha2",
        ],
    ),
    ("cli", &[]),
];

/// Crates that one layer keeps to itself.
const OWNED_CRATES: [(&str, &str); 5] = [
    ("fuser", "fuse"),
    ("clap", "cli"),
    ("anyhow", "cli"),
    ("indicatif", "cli"),
    ("rpassword", "cli"),
];

fn rules_of(layer: &str) -> Vec<&'static str> {
    let (_, own) = LAYERS
        .iter()
        .find(|(name, _)| *name == layer)
        .expect("a layer of the table");
    let others = OWNED_CRATES
        .iter()
        .filter(|(_, owner)| *owner != layer)
        .map(|(name, _)| *name);
    own.iter().copied().chain(others).collect()
}

/// Every crossing in one source file, as `file:line: names path`.
fn crossings(source: &Source, rules: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for named in source.named_paths() {
        let covered =
            |rule: &&&str| named.path == **rule || named.path.starts_with(&format!("{rule}::"));
        let cause = rules
            .iter()
            .find(covered)
            .map(|rule| format!("names {} ({rule} is not for it)", named.path));
        if let Some(cause) = cause.or(named.hidden.map(|how| format!("{how} {}", named.path))) {
            found.push(format!("{}:{}: {cause}", source.file, named.line));
        }
    }
    found
}

#[test]
fn no_layer_names_what_it_must_not_know() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = Source::all_below(&src);
    let mut found = Vec::new();
    for (layer, _) in LAYERS {
        let own: Vec<_> = sources
            .iter()
            .filter(|source| source.layer() == Some(layer))
            .collect();
        assert!(!own.is_empty(), "no sources found for the layer {layer}");
        found.extend(
            own.iter()
                .flat_map(|source| crossings(source, &rules_of(layer))),
        );
    }
    assert!(found.is_empty(), "layers crossed:\n{}", found.join("\n"));
}

#[test]
fn every_source_belongs_to_a_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = fs::read_dir(src)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let known = LAYERS.iter().map(|(name, _)| (*name).to_owned()).chain([
        "lib.rs".into(),
        "main.rs".into(),
        "broken.rs".into(),
        "repeated.rs".into(),
    ]); // switches of test builds
    assert_eq!(
        entries.collect::<BTreeSet<_>>(),
        known.collect::<BTreeSet<_>>()
    );
}

fn planted(file: &str, text: &str) -> Vec<String> {
    let source = Source::new(file, text);
    let layer = source.layer().unwrap().to_owned();
    crossings(&source, &rules_of(&layer))
}

#[test]
fn catches_a_planted_crossing() {
    for (file, text) in [
        ("crypto/mod.rs", "use std::fs;"),
        ("crypto/xts.rs", "fn f() { let _ = std::io::stdin(); }"),
        ("crypto/xts.rs", "use ::std::{fmt, io::{self, Read}};"),
        (
            "crypto/xts.rs",
            "use crate::{crypto::Secret, format::{ids::FileId}};",
        ),
        (
            "crypto/deep/file.rs",
            "use super::super::super::store::Kind;",
        ),
        (
            "crypto/xts.rs",
            "mod inner { use super::super::super::store; }",
        ),
        (
            "crypto/xts.rs",
            "fn f(a: &'static str) -> char { 'x' } use crate::volume as v;",
        ),
        ("format/mod.rs", "pub(crate) fn f() -> i32 { libc::EINVAL }"),
        ("format/mod.rs", "use strongroom::keys::KeyProvider;"),
        ("volume/mod.rs", "struct S { at: std::path::PathBuf }"),
        ("volume/mod.rs", "impl<T: crate::cli::Run> S<T> {}"),
        ("volume/mod.rs", "#[derive(clap::Parser)] struct Args;"),
        (
            "store/real/dir.rs",
            "use crate::{\n  store::name,\n  volume::Error,\n};",
        ),
        ("fuse/mod.rs", "use crate::keys::KeyProvider; // not for it"),
        ("fuse/mod.rs", "type H = hmac::Hmac<sha2::Sha256>;"),
        ("keys/mod.rs", "anyhow::bail!(\"no\")"),
        ("cli/mod.rs", "use fuser;"),
        (
            "store/mod.rs",
            "macro_rules! m { () => { $crate::volume::f() } }",
        ),
        (
            "store/mod.rs",
            "#[cfg(not(test))] use crate::volume::Volume;",
        ),
        (
            "store/mod.rs",
            "#[cfg(test)] mod tests { } use crate::volume::Volume;",
        ),
        (
            "store/mod.rs",
            "#[cfg(test)] fn f() -> [u8; 2] { [1; 2] } fn g() { crate::volume::f() }",
        ),
        (
            "store/mod.rs",
            "const QUOTE: char = '\"'; use crate::volume::Volume; const END: char = '\"';",
        ),
        (
            "store/mod.rs",
            "const RAW: &str = r#\"\"\"#; use crate::volume::Volume; const R: &str = r#\"\"\"#;",
        ),
        ("store/mod.rs", "/* /* nested */ */ use r#crate::volume;"),
    ] {
        assert!(!planted(file, text).is_empty(), "missed in {file}: {text}");
    }
}

#[test]
fn catches_what_would_hide_a_crossing() {
    for text in [
        "use std as s;",
        "use crate as root;",
        "use crate::*;",
        "use super::*;",
        "use std::*;",
        "use {std as s};",
        "extern crate std as s;",
        "#[path = \"../volume/mod.rs\"] mod v;",
        "include!(\"../volume/mod.rs\");",
    ] {
        assert!(!planted("crypto/mod.rs", text).is_empty(), "missed: {text}");
    }
    assert!(
        planted("crypto/xts.rs", "use super::*;").is_empty(),
        "a layer may name all of itself"
    );
}

#[test]
fn lets_pass_what_a_layer_may_name() {
    for (file, text) in [
        (
            "crypto/mod.rs",
            "//! never std::fs\n/* use crate::store; */ /// crate::volume\nfn f() {}",
        ),
        (
            "crypto/mod.rs",
            "const HELP: &str = \"use std::fs; \\\" crate::volume\"; const B: &[u8] = br#\"std::io::\"#;",
        ),
        (
            "crypto/mod.rs",
            "#[cfg(test)] mod tests { use std::fs; use crate::store::MemoryStore; }",
        ),
        (
            "crypto/mod.rs",
            "#[cfg(all(test, unix))] use std::{fs, io};",
        ),
        (
            "crypto/mod.rs",
            "#[test] fn t() { std::fs::read(\"x\").unwrap(); }",
        ),
        (
            "crypto/mod.rs",
            "fn f(io: u8, store: u8) -> u8 { let fs = io; fs + store }",
        ),
        (
            "crypto/mod.rs",
            "use super::crypto::Secret; use std::fmt; mod store_like { use super::Secret; }",
        ),
        (
            "store/mod.rs",
            "use std::{fs, io, path::Path}; use self::real::RealStore;",
        ),
        ("volume/mod.rs", "use crate::{crypto, format, keys, store};"),
        (
            "fuse/mod.rs",
            "use fuser::Filesystem; use crate::volume::Volume;",
        ),
        (
            "cli/mod.rs",
            "use clap::Parser; use anyhow::{Context, Result}; use crate::{fuse, volume};",
        ),
    ] {
        assert_eq!(
            planted(file, text),
            Vec::<String>::new(),
            "in {file}: {text}"
        );
    }
}

#[test]
fn leaves_out_files_that_are_declared_for_tests() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("store/suite")).unwrap();
    fs::write(
        folder.path().join("store/mod.rs"),
        "#[cfg(test)] mod suite; mod real;",
    )
    .unwrap();
    fs::write(
        folder.path().join("store/suite/mod.rs"),
        "mod files; use crate::volume;",
    )
    .unwrap();
    fs::write(
        folder.path().join("store/suite/files.rs"),
        "use crate::volume;",
    )
    .unwrap();
    fs::write(folder.path().join("store/real.rs"), "use crate::volume;").unwrap();
    let sources = Source::all_below(folder.path());
    let found: Vec<_> = sources
        .iter()
        .flat_map(|source| crossings(source, &rules_of("store")))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("store/real.rs:1:"), "{found:?}");
}
