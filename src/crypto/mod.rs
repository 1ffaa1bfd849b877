//! Ciphers, derivation and secret memory. Knows nothing of offsets, files or formats: callers hand in slices and labels.
//!
//! Invariant: key material and expanded keys live in [`Locked`] memory and are wiped when dropped; what the stack held of them
//! while they were made or used is wiped too (`tests/hygiene.rs`). `unsafe` is in `locked` and `wide/mod.rs` alone.

mod derive;
mod gcm_siv;
mod locked;
mod nonces;
mod secret;
mod siv;
mod stack;
#[cfg(test)]
mod vectors;
#[cfg(target_arch = "x86_64")]
mod wide;
mod xts;

pub use derive::{LABEL_PREFIX, hkdf, mac16, mac32, verify16, verify32};
pub use gcm_siv::{GcmSiv, Message};
pub use locked::{Locked, lock_failures};
pub use nonces::fresh_nonce;
pub use secret::{Secret, random_bytes};
pub use siv::Siv;
pub use xts::{EqualHalves, Xts};

/// The text, its additional data or its tag is not what was sealed under this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not authentic")]
pub struct NotAuthentic;
