//! `strongroom info`: what a volume shows without its key.

use std::path::Path;

use serde_json::json;

use super::mounts;
use crate::format::suite::Suite;
use crate::volume;

pub(super) fn info(path: &Path, json: bool) -> anyhow::Result<()> {
    let found = mounts::find(path)?;
    let info = volume::info(&mounts::store(&found.vault)?)?;
    let versions: Vec<_> = info.versions.iter().map(|version| version.0).collect();
    let cipher = match info.suite {
        Suite::Gcm => "aes-256-gcm-siv",
        Suite::Xts => "aes-256-xts",
    };
    if json {
        let mounted = found.mounted.as_ref().map(|mounted| {
            json!({ "mountpoint": mounted.mountpoint.to_string_lossy(), "read_only": mounted.read_only })
        });
        let holder = info
            .holder
            .as_ref()
            .map(|host| json!({ "host": host.name, "pid": host.pid, "since": host.since }));
        let value = json!({
            "volume": info.volume.to_string(),
            "directory": found.vault.to_string_lossy(),
            "cipher": cipher,
            "provider": info.provider,
            "key": info.key.to_string(),
            "version": info.current.0,
            "versions": versions,
            "mounted": mounted,
            "holder": holder,
        });
        println!("{value}");
        return Ok(());
    }
    println!("volume     {}", info.volume);
    println!("directory  {}", found.vault.display());
    println!("cipher     {cipher}");
    println!(
        "key        {} ({}), version {}",
        info.key, info.provider, info.current
    );
    if versions.len() > 1 {
        println!(
            "rotating   headers may name versions {versions:?}: run \"strongroom rotate\" to finish"
        );
    }
    match (&found.mounted, &info.holder) {
        (Some(mounted), _) if mounted.read_only => {
            println!("mounted    {} (read-only)", mounted.mountpoint.display())
        }
        (Some(mounted), _) => println!("mounted    {}", mounted.mountpoint.display()),
        (None, Some(host)) => println!("in use     by process {} on {}", host.pid, host.name),
        (None, None) => println!("mounted    no"),
    }
    Ok(())
}
