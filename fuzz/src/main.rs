//! Fuzz targets for everything that parses bytes from a disk. One program for all; `STRONGROOM_FUZZ` names the target.
//! `tests/fuzz` builds and runs it.
//!
//! What each holds: no input panics or hangs; what a parser takes is what the writer of the same values writes (where bytes
//! carry a MAC, the input is signed first, so that the parser behind it is reached); no changed file gives other bytes than
//! were written to it.
#![no_main]

mod parsers;
mod volume;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

/// Every target by its name, which is also its corpus directory.
const TARGETS: &[(&str, Target)] = &[
    ("header", parsers::header),
    ("key-area", parsers::key_area),
    ("records", parsers::records),
    ("states", parsers::states),
    ("names", parsers::names),
    ("dir-file", parsers::dir_file),
    ("redo", volume::redo),
    ("mount-file", parsers::mount_file),
    ("xattrs", parsers::xattrs),
    ("symlink", parsers::symlink),
    ("volume-file", parsers::volume_file),
    ("keystore", parsers::keystore),
    ("file-gcm", volume::gcm),
    ("file-xts", volume::xts),
    ("tree", volume::tree),
];

fuzz_target!(|data: &[u8]| {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    let target = CHOSEN.get_or_init(|| {
        let name = std::env::var("STRONGROOM_FUZZ").expect("STRONGROOM_FUZZ names a target");
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no target {name}")).1
    });
    target(data);
});
