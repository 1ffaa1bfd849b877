//! Strongroom: an encrypted filesystem over any directory. Each file has a data key of its own, wrapped by a master
//! key that a provider keeps; rotating the master key re-wraps headers and never touches data.
//!
//! Layers, each a folder; the arrow only points down (`tests/layers.rs` holds it):
//! `cli → fuse → volume → {keys → format → crypto, store}`.

mod broken;
pub mod cli;
pub mod crypto;
pub mod format;
pub mod fuse;
pub mod keys;
#[cfg(test)]
mod repeated;
pub mod store;
pub mod volume;
