//! Master keys in PKCS#11 tokens: URIs that name them, libraries, sessions, key objects, and wraps made with them. A master
//! key never leaves its token, and a data key is never an object on it.
//!
//! From below: `raw` calls a library, `library` initialises and recovers it, `pool` bounds what waits for it, `token` finds
//! and logs in, `object` names keys, `mint` makes them, `bytes` and `wraps` are how
//! keys are wrapped, `key` is the provider, `make` chooses key and mechanism.

mod bytes;
mod fault;
mod key;
mod library;
mod make;
mod mint;
mod module;
mod object;
mod pool;
mod raw;
mod token;
mod uri;
mod wraps;

pub use key::TokenKey;
pub use module::Module;
pub use token::Token;
pub use uri::{KeyClass, KeyUri, Mechanism, UriError};
