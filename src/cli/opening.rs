//! Opens a volume as the command line says.

use std::path::Path;
use std::sync::Arc;

use super::args::Trust;
use super::{mounts, places};
use crate::keys::{KeyProvider, Keystore};
use crate::store::{Host, RealStore, Store};
use crate::volume::{self, InPlace, OpenOptions, Volume};

/// Opens a volume; its pin lies in this host's state directory.
pub(super) fn open(
    vault: &Path,
    keystore: Keystore,
    trust: &Trust,
    read_only: bool,
    in_place: InPlace,
) -> anyhow::Result<Arc<Volume>> {
    let store = mounts::store(vault)?;
    let state = RealStore::open(&places::state_dir()?)?;
    let provider: Arc<dyn KeyProvider> = Arc::new(keystore);
    let options = OpenOptions {
        read_only,
        in_place,
        host: Host::here()?,
        state: Some(state.root()),
        expect: trust.expect_volume.clone(),
        take_over: trust.take_over,
        modules: Default::default(),
    };
    let volume = volume::open(store, provider.into(), &options)?;
    let unlocked = crate::crypto::lock_failures();
    if unlocked > 0 {
        tracing::warn!(
            "{unlocked} pages of key material are not locked in memory: raise the limit (ulimit -l)"
        );
    }
    Ok(volume)
}
