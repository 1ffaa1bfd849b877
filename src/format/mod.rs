//! The bytes on disk: pure functions over slices. Knows no file descriptor. The byte map stands in `docs/FORMAT.md`.
//!
//! Every parser takes bytes from an enemy: it returns an error, never panics, never loops, and allocates no more than it
//! was given. May call `crypto`, nothing else of this crate.

mod bytes;
pub mod dir_file;
pub mod error;
pub mod header;
#[cfg(test)]
mod hostile;
pub mod ids;
mod json;
pub mod layout;
pub mod mount_file;
pub mod names;
#[cfg(test)]
mod pinned;
pub mod record;
pub mod redo;
pub mod state;
pub mod suite;
pub mod texts;
pub mod volume_file;
pub mod volume_keys;
pub mod wrap;

pub use error::FormatError;
