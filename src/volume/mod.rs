//! The encrypted store over a backing directory, without FUSE. May call keys, format, crypto and store.

mod create;
pub(crate) mod env;
pub mod error;
pub(crate) mod file;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod keyring;
pub(crate) mod lock;
pub(crate) mod master;
mod pin;
pub(crate) mod replace;
pub(crate) mod settle;

pub use create::{CreateOptions, create};
pub use error::{Error, Result};
