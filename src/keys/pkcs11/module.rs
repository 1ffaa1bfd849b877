//! Which library serves a token. It comes from the command line or from this host's pins, never from a volume: loading a
//! library is running its code.

use std::path::PathBuf;

use super::uri::UriError;

/// A PKCS#11 library and what it is told when it is initialised.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// The library; an absolute path.
    pub path: PathBuf,
    /// What NSS wants through `pReserved` of `C_Initialize`; other libraries take none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
}

impl Module {
    /// Refuses what would load another library when the command runs in another directory, or what a zero byte would cut
    /// short.
    ///
    /// # Errors
    /// `Relative`, `Nul`.
    pub fn new(path: PathBuf, init: Option<String>) -> Result<Self, UriError> {
        if !path.is_absolute() {
            return Err(UriError::Relative(path));
        }
        let has_nul = |bytes: &[u8]| bytes.contains(&0);
        if has_nul(path.as_os_str().as_encoded_bytes())
            || init.as_deref().is_some_and(|init| has_nul(init.as_bytes()))
        {
            return Err(UriError::Nul);
        }
        Ok(Self { path, init })
    }
}
