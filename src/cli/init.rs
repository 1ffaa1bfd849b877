//! `strongroom init`: a volume in an empty directory.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::args::{Cipher, Global, InitArgs, NewVolume, Trust};
use super::exit::at;
use super::opening::How;
use super::providers::Opened;
use super::secrets::Secrets;
use super::{opening, target};
use crate::format::suite::Suite;
use crate::store::{Host, RealStore, Store};
use crate::volume::{CreateOptions, Target, create, suitable};

pub(super) fn init(global: &Global, args: &InitArgs) -> anyhow::Result<()> {
    make(global, &args.new, &args.directory)?;
    println!(
        "Mount it with: strongroom mount {} MNT",
        args.directory.display()
    );
    Ok(())
}

/// Makes a volume in a directory, and what is missing: the directory, the keystore, the key in a token. Returns what opened
/// the key, so that nobody is asked twice.
pub(super) fn make(global: &Global, new: &NewVolume, directory: &Path) -> anyhow::Result<Secrets> {
    must_be_free(directory)?;
    let (target, secrets) =
        target::open_or_make(global, &new.key, new.key_uri.as_deref(), &new.using)?;
    let store = directory_for(directory)?;
    let options = CreateOptions {
        suite: match new.cipher {
            Cipher::GcmSiv => Suite::Gcm,
            Cipher::Xts => Suite::Xts,
        },
        bind_names: !new.no_bind_names,
        sparse: !new.no_sparse,
        envelope: target.envelope,
    };
    let (provider, key) = (&*target.provider, target.key);
    let volume = create(&store, provider, &key, &options, &Host::here()?)?;
    println!("Made volume {volume} in {}.", directory.display());
    if let Some(home) = provider.describe(&key)?.home {
        println!(
            "Its master key is {:?} in the token {:?}, and cannot be read out of it: back the token up as its maker says, for \
             without it nobody can read the volume.",
            home.object, home.token
        );
    }
    remember(directory, target)?;
    Ok(secrets)
}

/// Refuses a directory in which no volume can be made, before a key is made for it.
pub(super) fn must_be_free(directory: &Path) -> anyhow::Result<()> {
    match directory.symlink_metadata() {
        Ok(_) => Ok(suitable(&store(directory)?)?),
        Err(_) => Ok(()),
    }
}

/// Opens the directory of a new volume, and makes it if it is missing.
pub(super) fn directory_for(directory: &Path) -> anyhow::Result<Arc<dyn Store>> {
    if directory.symlink_metadata().is_err() {
        DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .map_err(at(directory))?;
    }
    store(directory)
}

/// Opens a new volume once, so that this host remembers it: the library of its token, and that the key has one volume more
/// (`rotate --destroy-old` of another asks that). What was made is then known to open, too.
pub(super) fn remember(directory: &Path, target: Target) -> anyhow::Result<()> {
    let needs_library = target.module.is_some();
    let opened = Opened {
        providers: target.provider.into(),
        modules: target
            .module
            .into_iter()
            .map(|module| (target.key, module))
            .collect(),
        tokens: Arc::default(),
    };
    let open = opening::with(directory, opened, &Trust::default(), &How::once(true));
    match open {
        Ok(open) => Ok(open.volume.close()?),
        Err(error) if needs_library => Err(error),
        Err(error) => {
            tracing::warn!("this host does not remember the new volume: {error}");
            Ok(())
        }
    }
}

fn store(directory: &Path) -> anyhow::Result<Arc<dyn Store>> {
    Ok(Arc::new(RealStore::open(directory).map_err(at(directory))?))
}
