//! File contents: the shell that every open file has (`shell`), what of its header both suites share (`header`,
//! `rewrap`), and the two suites' bodies (`xts`, `gcm`) behind one trait (`body`). May call keys, format, crypto, store.

mod backing;
pub(crate) mod body;
mod carry;
pub(crate) mod examine;
mod fetch;
pub(crate) mod gcm;
pub(crate) mod header;
mod making;
mod names;
mod owed;
mod permits;
mod remains;
pub(crate) mod repair;
mod rewrap;
mod settling;
mod share;
mod shell;
#[cfg(test)]
mod tests;
mod xts;

pub(crate) use backing::{Backing, quietly};
pub(in crate::volume) use settling::{Settling, Step};
pub(crate) use shell::FileState;
