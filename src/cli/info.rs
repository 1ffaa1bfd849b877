//! `strongroom info`: what a volume shows without its key.

use std::path::Path;

use serde_json::{Value, json};

use super::mounts::{self, Found};
use super::providers::{self, Known};
use super::text;
use crate::format::suite::{Envelope, Suite};
use crate::format::volume_file::KeyEntry;
use crate::keys::pkcs11::KeyUri;
use crate::volume::{self, Info};

pub(super) fn info(path: &Path, json: bool) -> anyhow::Result<()> {
    let found = mounts::find(path)?;
    let info = volume::info(&mounts::store(&found.vault)?)?;
    let remembered = volume::pinned_modules(&providers::state()?, &info.volume);
    let known = Known {
        info,
        remembered: remembered.unwrap_or_default(),
    };
    if json {
        println!("{}", as_json(&known, &found));
    } else {
        show(&known, &found);
    }
    Ok(())
}

fn cipher(info: &Info) -> &'static str {
    match info.suite {
        Suite::Gcm => "aes-256-gcm-siv",
        Suite::Xts => "aes-256-xts",
    }
}

fn as_json(known: &Known, found: &Found) -> Value {
    let info = &known.info;
    let mounted = found.mounted.as_ref().map(|mounted| {
        json!({ "mountpoint": mounted.mountpoint.to_string_lossy(), "read_only": mounted.read_only })
    });
    let holder = info
        .holder
        .as_ref()
        .map(|host| json!({ "host": host.name, "pid": host.pid, "since": host.since }));
    let versions: Vec<_> = info.versions.iter().map(|version| version.0).collect();
    let keys: Vec<_> = info
        .keys
        .iter()
        .map(|entry| key_json(known, entry))
        .collect();
    let current = info.keys.iter().find(|entry| entry.current);
    let home = current.and_then(|entry| entry.home.as_ref());
    json!({
        "volume": info.volume.to_string(),
        "directory": found.vault.to_string_lossy(),
        "cipher": cipher(info),
        "provider": info.provider,
        "key": info.key.to_string(),
        "version": info.master_version.0,
        "versions": versions,
        "envelope": text::envelope(info.envelope),
        "algorithm": current.and_then(|entry| info.algorithm(entry)),
        "token": home.map(|home| &home.token),
        "object": home.map(|home| &home.object),
        "keys": keys,
        "unfinished": info.is_unfinished(),
        "mounted": mounted,
        "holder": holder,
    })
}

fn key_json(known: &Known, entry: &KeyEntry) -> Value {
    let versions: Vec<_> = entry.versions.iter().map(|version| version.0).collect();
    let home = entry.home.as_ref();
    let module = known.remembered.get(&entry.key);
    json!({
        "provider": entry.provider,
        "key": entry.key.to_string(),
        "token": home.map(|home| &home.token),
        "object": home.map(|home| &home.object),
        "module": module.map(|module| module.path.to_string_lossy()),
        "envelope": text::envelope(entry.envelope),
        "algorithm": known.info.algorithm(entry),
        "versions": versions,
        "current": entry.current,
    })
}

fn show(known: &Known, found: &Found) {
    let info = &known.info;
    println!("volume     {}", info.volume);
    println!("directory  {}", found.vault.display());
    println!("cipher     {}", cipher(info));
    println!("key        {}, version {}", info.key, info.master_version);
    let (current, others): (Vec<_>, Vec<_>) = info.keys.iter().partition(|entry| entry.current);
    for entry in current {
        println!("kept in    {}", kept_in(known, entry));
        println!("envelope   {}", wraps(info, entry));
    }
    if !others.is_empty() {
        for entry in &others {
            println!(
                "moving     from key {} in {}",
                entry.key,
                kept_in(known, entry)
            );
        }
        println!("           run \"strongroom rotate\" to finish the move");
    } else if info.versions.len() > 1 {
        let versions: Vec<_> = info.versions.iter().map(|version| version.0).collect();
        println!(
            "rotating   headers may name versions {versions:?}: run \"strongroom rotate\" to finish"
        );
    }
    match (&found.mounted, &info.holder) {
        (Some(mounted), _) if mounted.read_only => {
            println!("mounted    {} (read-only)", mounted.mountpoint.display());
        }
        (Some(mounted), _) => println!("mounted    {}", mounted.mountpoint.display()),
        (None, Some(host)) => println!("in use     by process {} on {}", host.pid, host.name),
        (None, None) => println!("mounted    no"),
    }
}

fn kept_in(known: &Known, entry: &KeyEntry) -> String {
    let Some(home) = &entry.home else {
        return match entry.provider.as_str() {
            providers::KEYSTORE => "the keystore".to_owned(),
            other => other.escape_debug().to_string(),
        };
    };
    let uri = KeyUri::from(home);
    match known.remembered.get(&entry.key) {
        Some(module) => format!("{uri} (library {})", module.path.display()),
        None => format!("{uri} (no library known on this host: give --module)"),
    }
}

fn wraps(info: &Info, entry: &KeyEntry) -> String {
    let how = info.algorithm(entry).map_or("unknown", text::algorithm);
    match entry.envelope {
        Envelope::Direct => format!("direct: the key wraps each file's key, with {how}"),
        Envelope::Volume => format!("volume: the key wraps a volume key, with {how}"),
    }
}
