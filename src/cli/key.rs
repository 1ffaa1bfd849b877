//! `strongroom key ..`: master keys in the keystore, and what a token says of one.

use serde_json::{Value, json};

use super::args::{Global, KeyCommand};
use super::exit::{Code, failure};
use super::{target, text, unlock};
use crate::keys::pkcs11::{KeyUri, TokenKey};
use crate::keys::software::KeyInfo;
use crate::keys::{KeyProvider, KeyState};

pub(super) fn run(global: &Global, command: &KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Describe { key, output } if target::is_token(key, None) => {
            return describe_in_token(&target::find(global, key)?, output.json);
        }
        KeyCommand::Create { alias: key, .. }
        | KeyCommand::Enable { key }
        | KeyCommand::Disable { key }
            if target::is_token(key, None) =>
        {
            return Err(failure(
                Code::Usage,
                "a key in a token is made by \"strongroom init --key-uri\" or \"strongroom rekey --to\", and enabled or \
                 disabled with the token's own tools",
            ));
        }
        _ => {}
    }
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

fn describe_in_token(key: &TokenKey, json: bool) -> anyhow::Result<()> {
    let about = key.describe(&key.key())?;
    let home = key.home();
    let state = match about.state {
        KeyState::Enabled => "Enabled",
        KeyState::Disabled => "Disabled",
    };
    let versions: Vec<_> = about.versions.iter().map(|version| version.0).collect();
    if json {
        let versions: Vec<_> = versions
            .iter()
            .map(|version| json!({ "version": version }))
            .collect();
        let value = json!({
            "key": about.key.to_string(),
            "token": home.token,
            "object": home.object,
            "algorithm": about.algorithm,
            "state": state,
            "current_version": about.current.0,
            "versions": versions,
        });
        println!("{value}");
        return Ok(());
    }
    println!("key       {}", about.key);
    println!("kept in   {}", KeyUri::from(&home));
    println!("state     {state}");
    println!("wraps     with {}", text::algorithm(about.algorithm));
    println!("versions  {versions:?} (current {})", about.current);
    Ok(())
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
