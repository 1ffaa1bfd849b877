//! `strongroom.mount`: the running epoch, whether it ended, and which epochs ended uncleanly.

use serde::{Deserialize, Serialize};

use super::error::{FormatError, Result};
use super::json::{self, Unverified};
use crate::crypto::Secret;

const WHAT: &str = "strongroom.mount";
const LABEL: &[u8] = b"mount";

/// The content of `strongroom.mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountFile {
    /// The epoch of the running, or of the last, writable mount; `init` writes 0.
    pub epoch: u64,
    /// Whether that mount ended as it should.
    pub clean: bool,
    /// The host's boot id at its start; empty from `init`.
    pub boot_id: String,
    /// When it began, in seconds since 1970.
    pub start: u64,
    /// Epochs that ended uncleanly and were not repaired since: ascending, all below `epoch`.
    pub listed: Vec<u64>,
}

impl MountFile {
    /// The file's bytes. Too long: some 50,000 unclean ends without a repair.
    pub fn encode(&self, mac_key: &Secret<32>) -> Result<Vec<u8>> {
        json::encode(self, mac_key, LABEL, WHAT)
    }

    /// Parses bytes that were written with this volume's key.
    pub fn parse(bytes: &[u8], mac_key: &Secret<32>) -> Result<Self> {
        let file = Unverified::<Self>::parse(bytes, WHAT)?.verify(mac_key, LABEL, WHAT)?;
        let ascending = file.listed.is_sorted_by(|a, b| a < b);
        let past = file.listed.last().is_none_or(|last| *last < file.epoch);
        (ascending && past)
            .then_some(file)
            .ok_or(FormatError::Range("the list of unclean epochs"))
    }
}
