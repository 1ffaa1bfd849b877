//! `strongroom up`: from nothing to a mounted volume.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;

use super::args::{Global, MountArgs, Trust, UpArgs};
use super::exit::{Code, at, failure};
use super::providers::{self, Known};
use super::secrets::Secrets;
use super::{daemon, init, mounts, places, target};
use crate::volume;

pub(super) fn up(global: &Global, args: &UpArgs) -> anyhow::Result<Code> {
    let made = if is_volume(args)? {
        None
    } else {
        Some(make(global, args)?)
    };
    if args.mountpoint.symlink_metadata().is_err() {
        DirBuilder::new()
            .mode(0o700)
            .create(&args.mountpoint)
            .map_err(at(&args.mountpoint))?;
    }
    let vault = mounts::resolve(&args.vault)?;
    let found = mounts::find(&args.mountpoint)?;
    match found
        .mounted
        .filter(|mounted| mounted.mountpoint == found.vault || mounted.vault == vault)
    {
        Some(mounted) if mounted.vault == vault => {}
        Some(mounted) => {
            let other = mounted.vault.display();
            return Err(failure(
                Code::Mount,
                format!(
                    "{} shows another volume, {other}",
                    args.mountpoint.display()
                ),
            ));
        }
        None => {
            let known = Known::of(&vault)?;
            let secrets = match made {
                Some(secrets) if !secrets.are_none() => secrets,
                _ => providers::gather(global, &known, &Trust::default())?,
            };
            daemon::start(global, &mount_args(args), secrets)?;
        }
    }
    let (vault, mountpoint) = (args.vault.display(), args.mountpoint.display());
    println!("Work in {mountpoint}: what you write there lies encrypted in {vault}.");
    println!(
        "When done: strongroom umount {mountpoint} (and strongroom up {vault} {mountpoint} to come back)."
    );
    let known = Known::of(&args.vault)?;
    match known.in_play().held.as_slice() {
        [] => println!(
            "Back up {vault} and {}: without the keystore nobody can read the volume.",
            places::keystore(global)?.display()
        ),
        tokens => println!(
            "Back up {vault} and the token {}: without its key nobody can read the volume.",
            tokens.join(" and ")
        ),
    }
    Ok(Code::Ok)
}

fn make(global: &Global, args: &UpArgs) -> anyhow::Result<Secrets> {
    let new = &args.new;
    let in_keystore = !target::is_token(&new.key, new.key_uri.as_deref());
    let is_missing = in_keystore && places::keystore(global)?.symlink_metadata().is_err();
    if is_missing && global.passphrase_fd.is_some() {
        return Err(failure(
            Code::Usage,
            "there is no keystore yet, and a descriptor can be read only once: run \"strongroom keystore init\" first",
        ));
    }
    init::make(global, new, &args.vault)
}

fn is_volume(args: &UpArgs) -> anyhow::Result<bool> {
    if args.vault.symlink_metadata().is_err() {
        return Ok(false);
    }
    match volume::info(&mounts::store(&args.vault)?) {
        Ok(_) => Ok(true),
        Err(volume::Error::NotAVolume(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn mount_args(args: &UpArgs) -> MountArgs {
    MountArgs {
        foreground: false,
        read_only: false,
        allow_other: false,
        options: Vec::new(),
        trust: Trust::default(),
        ready_fd: None,
        worker_fd: None,
        succeed: false,
        directory: args.vault.clone(),
        mountpoint: args.mountpoint.clone(),
    }
}
