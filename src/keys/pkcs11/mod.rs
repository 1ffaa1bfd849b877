//! Master keys in PKCS#11 tokens.

mod module;
mod uri;

pub use module::Module;
pub use uri::{KeyClass, KeyUri, Mechanism, UriError};
