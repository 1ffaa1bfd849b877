//! POSIX, as others test it (`pjdfstest`, `fsx`) and as many processes at once meet it: what a mount of each suite does is
//! compared with a plain directory of ext4.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

#[path = "posix/exerciser.rs"]
mod exerciser;
#[path = "posix/pjdfstest.rs"]
mod pjdfstest;
#[path = "posix/processes.rs"]
mod processes;
