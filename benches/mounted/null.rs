//! The null mount: libfuse's own `passthrough_hp`, which encrypts nothing, so that its figures are what FUSE costs. Built from
//! the source package of Debian (GPL-2; its text is downloaded, checked against Debian's signatures by apt, and not part of
//! this repository).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Result, finish, run};

/// Debian 12's.
pub const VERSION: &str = "3.14.0";
const NEEDS: &str =
    "apt-get install libfuse3-dev g++ pkg-config, and a network for Debian's fuse3 source";

/// What turns the writeback cache on in it: its only line of that kind. Without it the same program writes through.
const WRITEBACK: &str = "conn->want |= FUSE_CAP_WRITEBACK_CACHE;";

/// The program, built once; in its default mode (writeback cache), or writing through.
pub fn program(writeback: bool) -> Result<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuse-{VERSION}"));
    let mode = if writeback { "writeback" } else { "through" };
    let program = place.join(format!("passthrough_hp-{mode}"));
    if program.exists() {
        return Ok(program);
    }
    build(&place, &program, writeback).map_err(|error| format!("{NEEDS} ({error})"))?;
    Ok(program)
}

fn build(place: &Path, program: &Path, writeback: bool) -> Result<()> {
    std::fs::create_dir_all(place).map_err(|error| error.to_string())?;
    let source = source(place)?;
    let text = std::fs::read_to_string(source.join("passthrough_hp.cc"))
        .map_err(|error| error.to_string())?;
    if text.matches(WRITEBACK).count() != 1 {
        return Err("passthrough_hp.cc is not the one that is known".to_owned());
    }
    let text = if writeback {
        text
    } else {
        text.replace(WRITEBACK, ";")
    };
    let changed = source.join("null.cc");
    std::fs::write(&changed, text).map_err(|error| error.to_string())?;
    let flags = run(Command::new("pkg-config").args(["fuse3", "--cflags", "--libs"]))?;
    let made = program.with_extension("new");
    run(Command::new("g++")
        .args(["-O2", "-std=c++17", "-DHAVE_UTIMENSAT", "-DHAVE_SETXATTR"])
        .args(["-DHAVE_POSIX_FALLOCATE", "-o"])
        .arg(&made)
        .arg(&changed)
        .args(flags.split_whitespace())
        .arg("-lpthread"))?;
    std::fs::rename(made, program).map_err(|error| error.to_string())
}

/// Downloads the source package with apt, without touching the host's own lists.
fn source(place: &Path) -> Result<PathBuf> {
    let examples = place.join(format!("fuse-{VERSION}/example"));
    if examples.join("passthrough_hp.cc").exists() {
        return Ok(examples);
    }
    std::fs::create_dir_all(place.join("lists/partial")).map_err(|error| error.to_string())?;
    let list = "deb-src http://deb.debian.org/debian bookworm main\n";
    std::fs::write(place.join("sources.list"), list).map_err(|error| error.to_string())?;
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        for (option, at) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache::srcpkgcache", "sources.bin"),
            ("Dir::Cache::pkgcache", "packages.bin"),
        ] {
            apt.arg("-o")
                .arg(format!("{option}={}", place.join(at).display()));
        }
        apt.args(["-o", "APT::Sandbox::User=root"])
            .args(args)
            .current_dir(place);
        run(&mut apt)
    };
    apt(&["update"])?;
    apt(&["source", "--download-only", "fuse3"])?;
    let archive = format!("fuse3_{VERSION}.orig.tar.xz");
    finish(Command::new("tar").current_dir(place).args([
        "-xf",
        &archive,
        &format!("fuse-{VERSION}/example"),
    ]))?;
    Ok(examples)
}
