//! Opens a volume as the command line says.

use std::path::Path;
use std::sync::Arc;

use super::args::{Global, Trust};
use super::providers::{self, Known, OpenTokens, Opened};
use super::{mounts, places};
use crate::store::{Host, RealStore, Store};
use crate::volume::{self, InPlace, OpenOptions, Volume};

/// An open volume, and the tokens that are open with it.
pub(super) struct Open {
    pub(super) volume: Arc<Volume>,
    pub(super) tokens: Arc<OpenTokens>,
}

/// Gathers what opens a volume's keys, and opens it.
pub(super) fn open(
    global: &Global,
    vault: &Path,
    trust: &Trust,
    read_only: bool,
) -> anyhow::Result<Open> {
    let known = Known::of(vault)?;
    let secrets = providers::gather(global, &known, trust)?;
    let opened = providers::open(global, &known, &secrets, trust)?;
    with(vault, opened, trust, read_only, InPlace::Auto)
}

/// Opens a volume with its providers; its pin lies in this host's state directory.
pub(super) fn with(
    vault: &Path,
    opened: Opened,
    trust: &Trust,
    read_only: bool,
    in_place: InPlace,
) -> anyhow::Result<Open> {
    let store = mounts::store(vault)?;
    let state = RealStore::open(&places::state_dir()?)?;
    let options = OpenOptions {
        read_only,
        in_place,
        host: Host::here()?,
        state: Some(state.root()),
        expect: trust.expect_volume.clone(),
        take_over: trust.take_over,
        modules: opened.modules,
        on_key_loss: volume::KeyLoss::Keep,
        key_check: volume::CHECK_EVERY,
    };
    let volume = volume::open(store, opened.providers, &options)?;
    let unlocked = crate::crypto::lock_failures();
    if unlocked > 0 {
        tracing::warn!(
            "{unlocked} pages of key material are not locked in memory: raise the limit (ulimit -l)"
        );
    }
    Ok(Open {
        volume,
        tokens: opened.tokens,
    })
}
