#!/usr/bin/env bash
# Builds kryoptic, a PKCS#11 token in Rust that Debian does not package, once, and prints the path of its module.
# Needs: cargo, clang, libclang-dev, libssl-dev, pkg-config. The module is kept in ${XDG_CACHE_HOME:-~/.cache}/strongroom-tests.
set -euo pipefail

version=1.5.4
cache="${XDG_CACHE_HOME:-$HOME/.cache}/strongroom-tests/kryoptic-$version"
module="$cache/libkryoptic_pkcs11.so"
[ -f "$module" ] && { echo "$module"; exit 0; }

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two test binaries may ask at once
[ -f "$module" ] && { echo "$module"; exit 0; }

work="$(mktemp -d "$cache/build-XXXXXX")"
trap 'rm -rf "$work"' EXIT
# `cargo install` refuses a crate without a binary, so cargo vendors it as the only dependency of an empty package.
mkdir -p "$work/fetch/src"
: >"$work/fetch/src/lib.rs"
cat >"$work/fetch/Cargo.toml" <<TOML
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
kryoptic = { version = "=$version", default-features = false }
[workspace]
TOML
(cd "$work/fetch" && cargo vendor --quiet --versioned-dirs vendor >/dev/null)
cp -r "$work/fetch/vendor/kryoptic-$version" "$work/kryoptic"
cd "$work/kryoptic"
printf '\n[workspace]\n' >>Cargo.toml
env -u RUSTFLAGS CARGO_TARGET_DIR="$work/target" cargo build --quiet --release --locked \
  --no-default-features --features minimal,hash_all,kdf_all,kryoptic-lib/dynamic >&2
mv "$work/target/release/libkryoptic_pkcs11.so" "$module"
echo "$module"
