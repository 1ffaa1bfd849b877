//! `strongroom init`: a volume in an empty directory.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::args::{Cipher, Global, InitArgs, NewVolume};
use super::exit::at;
use super::unlock;
use crate::format::suite::Suite;
use crate::keys::Keystore;
use crate::store::{Host, RealStore, Store};
use crate::volume::{CreateOptions, create};

pub(super) fn init(global: &Global, args: &InitArgs) -> anyhow::Result<()> {
    let keystore = unlock::open_or_make(global)?;
    make_volume(&keystore, &args.new, &args.directory)?;
    println!(
        "Mount it with: strongroom mount {} MNT",
        args.directory.display()
    );
    Ok(())
}

/// Makes a volume in a directory, and the directory if it is missing.
pub(super) fn make_volume(
    keystore: &Keystore,
    new: &NewVolume,
    directory: &Path,
) -> anyhow::Result<()> {
    let key = keystore.resolve(&new.key)?;
    if directory.symlink_metadata().is_err() {
        DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .map_err(at(directory))?;
    }
    let store: Arc<dyn Store> = Arc::new(RealStore::open(directory).map_err(at(directory))?);
    let options = CreateOptions {
        suite: match new.cipher {
            Cipher::GcmSiv => Suite::Gcm,
            Cipher::Xts => Suite::Xts,
        },
        bind_names: !new.no_bind_names,
        sparse: !new.no_sparse,
        envelope: None,
    };
    let volume = create(&store, keystore, &key, &options, &Host::here()?)?;
    println!("Made volume {volume} in {}.", directory.display());
    Ok(())
}
