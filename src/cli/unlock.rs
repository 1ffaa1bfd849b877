//! Opens the keystore that the command line means, or makes it.

use std::path::Path;

use super::args::{Cost, Global};
use super::exit::{Code, failure};
use super::{places, secrets};
use crate::crypto::Secret;
use crate::keys::software::{Argon2Cost, NewSlot, Place, calibrate, recovery_text};
use crate::keys::{Keystore, KeystoreError, Unlock};

/// Opens the keystore.
pub(super) fn open(global: &Global) -> anyhow::Result<Keystore> {
    let secrets = secrets::gather(global)?;
    Ok(Keystore::open(
        &Place::at(&places::keystore(global)?)?,
        &secrets,
    )?)
}

/// Opens the keystore, or makes it with a key file beside it (a passphrase, where one is named) and a recovery key.
pub(super) fn open_or_make(global: &Global) -> anyhow::Result<Keystore> {
    let path = places::keystore(global)?;
    if path.symlink_metadata().is_ok() {
        return open(global);
    }
    make(global, &path, &NewKeystore::default())
}

/// What a new keystore shall have.
#[derive(Default)]
pub(super) struct NewKeystore<'a> {
    /// Ask for a passphrase where none is named.
    pub(super) ask_passphrase: bool,
    pub(super) no_recovery_key: bool,
    pub(super) cost: Option<&'a Cost>,
}

/// Makes a keystore and says what opens it. The recovery key is printed after the file is durable.
pub(super) fn make(
    global: &Global,
    path: &Path,
    new: &NewKeystore<'_>,
) -> anyhow::Result<Keystore> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        places::make_private(parent)?;
    }
    let place = Place::at(path)?;
    if path.symlink_metadata().is_ok() {
        return Err(KeystoreError::Exists(path.display().to_string()).into());
    }
    let mut slots = Vec::new();
    let passphrase = match secrets::passphrase_for_new(global)? {
        None if new.ask_passphrase => Some(secrets::ask_new()?),
        named => named,
    };
    let key_file = global
        .key_file
        .clone()
        .or_else(|| places::variable("STRONGROOM_KEY_FILE"));
    let key_file = key_file.or_else(|| passphrase.is_none().then(|| places::key_file_beside(path)));
    if let Some(passphrase) = passphrase {
        slots.push(slot(
            "passphrase",
            Unlock::Passphrase(passphrase),
            argon2_cost(new.cost)?,
        ));
    }
    if let Some(key_file) = &key_file {
        let key = secrets::read_or_make_key_file(key_file.clone())?;
        slots.push(slot("key file", Unlock::KeyFile(key), UNUSED_COST));
    }
    let recovery = (!new.no_recovery_key).then(Secret::<32>::random);
    let shown = recovery.as_ref().map(recovery_text);
    slots.extend(recovery.map(|key| slot("recovery key", Unlock::RecoveryKey(key), UNUSED_COST)));
    let keystore = Keystore::create(&place, slots)?;
    println!("Made the keystore {}.", path.display());
    if let Some(key_file) = &key_file {
        println!(
            "Its key file is {}: whoever has both opens your volumes.",
            key_file.display()
        );
    }
    if let Some(shown) = shown {
        show_recovery_key(&shown);
    }
    Ok(keystore)
}

/// Prints a recovery key, once.
pub(super) fn show_recovery_key(text: &str) {
    println!("Recovery key, shown only now; write it down and keep it elsewhere:\n\n    {text}\n");
}

/// For slots without a passphrase.
pub(super) const UNUSED_COST: Argon2Cost = Argon2Cost {
    memory_kib: 8,
    passes: 1,
    lanes: 1,
};

/// What Argon2id shall cost: as told, else as measured.
pub(super) fn argon2_cost(cost: Option<&Cost>) -> anyhow::Result<Argon2Cost> {
    match cost.map(|cost| (cost.argon2_memory, cost.argon2_passes)) {
        Some((Some(mib), Some(passes))) => {
            let memory_kib = mib.checked_mul(1024).filter(|kib| *kib > 0);
            let memory_kib = memory_kib
                .ok_or_else(|| failure(Code::Usage, "--argon2-memory is 1 to 4096 MiB"))?;
            Ok(Argon2Cost {
                memory_kib,
                passes,
                lanes: 1,
            })
        }
        _ => Ok(calibrate()?),
    }
}

fn slot(label: &str, secret: Unlock, cost: Argon2Cost) -> NewSlot {
    NewSlot {
        label: label.to_owned(),
        secret,
        cost,
    }
}
