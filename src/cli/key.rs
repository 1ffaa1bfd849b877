//! `strongroom key ..`: master keys in the keystore.

use serde_json::{Value, json};

use super::args::{Global, KeyCommand};
use super::{text, unlock};
use crate::keys::KeyState;
use crate::keys::software::KeyInfo;

pub(super) fn run(global: &Global, command: &KeyCommand) -> anyhow::Result<()> {
    let keystore = unlock::open(global)?;
    match command {
        KeyCommand::Create { alias, output } => {
            let key = keystore.create_key(Some(alias))?;
            if output.json {
                println!("{}", key_json(&keystore.key(&key)?));
            } else {
                println!("Made key {key} ({alias}). Back up the keystore file.");
            }
        }
        KeyCommand::List { output } if output.json => {
            let keys: Vec<_> = keystore.list().iter().map(key_json).collect();
            println!("{}", json!({ "keys": keys }));
        }
        KeyCommand::List { .. } => {
            let mut rows = vec![["KEY", "STATE", "VERSIONS", "MADE", "ALIASES"].map(str::to_owned)];
            rows.extend(keystore.list().iter().map(row));
            print!("{}", text::table(&rows));
        }
        KeyCommand::Describe { key, output } => {
            let info = keystore.key(&keystore.resolve(key)?)?;
            if output.json {
                println!("{}", key_json(&info));
            } else {
                describe(&info);
            }
        }
        KeyCommand::Enable { key } => {
            keystore.set_key_state(&keystore.resolve(key)?, KeyState::Enabled)?;
            println!("Enabled {key}.");
        }
        KeyCommand::Disable { key } => {
            keystore.set_key_state(&keystore.resolve(key)?, KeyState::Disabled)?;
            println!(
                "Disabled {key}: volumes under it cannot be mounted until it is enabled; mounted ones go on."
            );
        }
    }
    Ok(())
}

fn row(info: &KeyInfo) -> [String; 5] {
    let current = info.versions.last().map_or(0, |version| version.version.0);
    let versions = format!("{} (current {current})", info.versions.len());
    [
        info.key.to_string(),
        state(info).to_owned(),
        versions,
        text::date(info.created),
        info.aliases.join(" "),
    ]
}

fn describe(info: &KeyInfo) {
    println!("key      {}", info.key);
    println!("aliases  {}", info.aliases.join(" "));
    println!("state    {}", state(info));
    println!("made     {}", text::date(info.created));
    for version in &info.versions {
        println!(
            "version  {} made {}",
            version.version,
            text::date(version.created)
        );
    }
}

fn state(info: &KeyInfo) -> &'static str {
    match info.state {
        KeyState::Enabled => "Enabled",
        KeyState::Disabled => "Disabled",
    }
}

fn key_json(info: &KeyInfo) -> Value {
    let versions: Vec<_> = info
        .versions
        .iter()
        .map(|known| json!({ "version": known.version.0, "created": known.created }))
        .collect();
    json!({
        "key": info.key.to_string(),
        "aliases": info.aliases,
        "state": state(info),
        "created": info.created,
        "current_version": info.versions.last().map(|known| known.version.0),
        "versions": versions,
    })
}
