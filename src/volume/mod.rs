//! The encrypted store over a backing directory, without FUSE. May call keys, format, crypto and store.

pub mod error;

pub use error::{Error, Result};
