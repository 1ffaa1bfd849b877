//! The providers at hand when a volume is opened: one for each master key that its headers may name.

use std::sync::Arc;

use super::{KeyError, KeyProvider};
use crate::format::ids::KeyId;

/// Providers, in the order in which they are asked.
#[derive(Clone, Default)]
pub struct Providers(Vec<Arc<dyn KeyProvider>>);

impl Providers {
    /// One provider more.
    pub fn add(&mut self, provider: Arc<dyn KeyProvider>) {
        self.0.push(provider);
    }

    /// The provider of this kind that has the key.
    ///
    /// # Errors
    /// NotFound where none has it; of several that refuse, the first that says something else than that.
    pub fn having(&self, kind: &str, key: &KeyId) -> Result<Arc<dyn KeyProvider>, KeyError> {
        let mut refused = None;
        for provider in self.0.iter().filter(|provider| provider.kind() == kind) {
            match provider.describe(key) {
                Ok(_) => return Ok(Arc::clone(provider)),
                Err(KeyError::NotFound(_)) => {}
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| KeyError::NotFound(key.to_string())))
    }

    /// Whether any is of this kind.
    pub fn have_kind(&self, kind: &str) -> bool {
        self.0.iter().any(|provider| provider.kind() == kind)
    }
}

impl From<Arc<dyn KeyProvider>> for Providers {
    fn from(provider: Arc<dyn KeyProvider>) -> Self {
        Self(vec![provider])
    }
}
