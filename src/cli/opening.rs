//! Opens a volume as the command line says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::args::{Global, Trust};
use super::exit::{Code, failure};
use super::providers::{self, Known, OpenTokens, Opened};
use super::{mounts, places};
use crate::fuse::supervise::{Before, Supervised};
use crate::fuse::{Coming, MountOptions};
use crate::keys::Providers;
use crate::store::{Host, RealStore, Store};
use crate::volume::{self, CHECK_EVERY, InPlace, KeyLoss, OpenOptions, Volume};

/// An open volume, and the tokens that are open with it.
pub(super) struct Open {
    pub(super) volume: Arc<Volume>,
    pub(super) tokens: Arc<OpenTokens>,
}

/// What an open volume is for.
pub(super) struct How {
    read_only: bool,
    in_place: InPlace,
    on_key_loss: KeyLoss,
    key_check: Duration,
}

impl How {
    /// For one command, which asks the key's home itself.
    pub(super) fn once(read_only: bool) -> Self {
        Self {
            read_only,
            in_place: InPlace::Auto,
            on_key_loss: KeyLoss::Keep,
            key_check: CHECK_EVERY,
        }
    }

    /// For a mount.
    pub(super) fn mounted(options: &MountOptions) -> Self {
        Self {
            read_only: options.read_only,
            in_place: options.in_place,
            on_key_loss: options.on_key_loss,
            key_check: options.key_check,
        }
    }
}

/// How `check` opens a volume: for reading, its pin in this host's state directory.
pub(super) fn options(opened: &Opened, trust: &Trust) -> anyhow::Result<OpenOptions> {
    let how = How::once(true);
    Ok(OpenOptions {
        read_only: how.read_only,
        in_place: how.in_place,
        host: Host::here()?,
        state: Some(RealStore::open(&places::state_dir()?)?.root()),
        expect: trust.expect_volume.clone(),
        take_over: trust.take_over,
        modules: opened.modules.clone(),
        on_key_loss: how.on_key_loss,
        key_check: how.key_check,
    })
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
    with(vault, opened, trust, &How::once(read_only))
}

/// Opens a volume with its providers; its pin lies in this host's state directory.
pub(super) fn with(vault: &Path, opened: Opened, trust: &Trust, how: &How) -> anyhow::Result<Open> {
    from(vault, opened, trust, how, |store, providers, options| {
        Ok(volume::open(store, providers, options)?)
    })
}

/// As `with`, for a volume whose mount comes from another process.
pub(super) fn after(
    vault: &Path,
    opened: Opened,
    trust: &Trust,
    how: &How,
    coming: &mut Coming,
) -> anyhow::Result<Open> {
    from(vault, opened, trust, how, |store, providers, options| {
        let before = coming.predecessor(&store)?;
        Ok(volume::open_after(store, providers, options, before)?)
    })
}

/// As `with`, in the worker of a supervisor. A store that is written must report what it could not write.
pub(super) fn supervised(
    vault: &Path,
    opened: Opened,
    trust: &Trust,
    how: &How,
    supervised: &Supervised,
) -> anyhow::Result<Open> {
    from(vault, opened, trust, how, |store, providers, options| {
        if !how.read_only && !store.traits().syncfs_reports {
            return Err(failure(
                Code::Usage,
                "-o supervise needs a backing file system that reports failed writes of all its files at once (ext4, XFS, \
                 btrfs)",
            ));
        }
        Ok(match supervised.before(&store)? {
            Before::Nothing => volume::open(store, providers, options)?,
            Before::Dead(lock) => volume::open_again(store, providers, options, lock)?,
            Before::Rested(before) => volume::open_after(store, providers, options, before)?,
        })
    })
}

fn from(
    vault: &Path,
    opened: Opened,
    trust: &Trust,
    how: &How,
    open: impl FnOnce(Arc<dyn Store>, Providers, &OpenOptions) -> anyhow::Result<Arc<Volume>>,
) -> anyhow::Result<Open> {
    let store = mounts::store(vault)?;
    let state = RealStore::open(&places::state_dir()?)?;
    let options = OpenOptions {
        read_only: how.read_only,
        in_place: how.in_place,
        on_key_loss: how.on_key_loss,
        key_check: how.key_check,
        host: Host::here()?,
        state: Some(state.root()),
        expect: trust.expect_volume.clone(),
        take_over: trust.take_over,
        modules: opened.modules,
    };
    let volume = open(store, opened.providers, &options)?;
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
