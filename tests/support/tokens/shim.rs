//! SoftHSM behind a module that misbehaves as it is told (`tests/tokens/shim.c`).

use std::path::PathBuf;
use std::process::Command;

use super::super::tool;
use super::{Access, TestToken};

/// Tells the module how to misbehave, and reads what it counted.
pub struct Shim {
    control: PathBuf,
    log: PathBuf,
}

impl TestToken {
    /// SoftHSM behind the shim.
    pub fn behind_shim() -> Self {
        let mut token = Self::soft_hsm();
        let shim = token.dir.join("shim.so");
        let mut compile = Command::new("gcc");
        compile
            .args([
                "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
            ])
            .arg(&shim);
        compile.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokens/shim.c"));
        tool(&mut compile, "gcc libc6-dev");
        for (name, value) in [
            ("SHIM_MODULE", token.module.clone()),
            ("SHIM_CONTROL", token.dir.join("shim.control")),
            ("SHIM_LOG", token.dir.join("shim.log")),
        ] {
            token.access.env.push((name.to_owned(), value.into()));
        }
        token.access.module = shim;
        token
    }
}

impl Access {
    /// The shim of a token that was started behind one.
    pub fn shim(&self) -> Shim {
        Shim {
            control: self.dir.join("shim.control"),
            log: self.dir.join("shim.log"),
        }
    }
}

impl Shim {
    /// From now on (the words stand in shim.c); "" for a module that behaves.
    pub fn say(&self, line: &str) {
        // In one step: a reader sees the old line or the new one.
        let next = self.control.with_extension("next");
        std::fs::write(&next, line).expect("the shim's control file");
        std::fs::rename(&next, &self.control).expect("the shim's control file");
    }

    /// The counted calls of this name: what each returned.
    pub fn calls(&self, name: &str) -> Vec<u64> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(|code| u64::from_str_radix(code, 16).expect("a return value"))
            .collect()
    }
}
