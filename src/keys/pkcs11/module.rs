//! Which library serves a token. It comes from the command line or from this host's pins, never from a volume: loading a
//! library is running its code.

use std::path::PathBuf;

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
