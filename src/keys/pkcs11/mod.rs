//! Master keys in PKCS#11 tokens.

mod module;

pub use module::Module;
