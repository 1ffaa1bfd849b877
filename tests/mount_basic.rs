//! What programs expect of a local filesystem, through a real mount, in both suites.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

#[path = "mount/attributes.rs"]
mod attributes;
#[path = "mount/contents.rs"]
mod contents;
#[path = "mount/control.rs"]
mod control;
#[path = "mount/daemon.rs"]
mod daemon;
#[path = "mount/idle.rs"]
mod idle;
#[path = "mount/locks.rs"]
mod locks;
#[path = "mount/mapped.rs"]
mod mapped;
#[path = "mount/names.rs"]
mod names;
#[path = "mount/privileges.rs"]
mod privileges;
#[path = "mount/ranges.rs"]
mod ranges;

use std::path::Path;

use support::random::pattern;
use support::{SUITES, Sandbox};

/// Runs a test in a fresh mount of each suite.
fn in_both(test: impl Fn(&Sandbox, &Path)) {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        test(&sandbox, &sandbox.mnt());
    }
}

/// The errno that a call failed with.
fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    let error = result.expect_err("a refusal");
    error.raw_os_error().expect("an errno")
}
