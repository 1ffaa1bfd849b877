//! `strongroom keystore ..`: what unlocks the keystore.

use serde_json::json;

use super::args::{Global, KeystoreCommand, NewSlotArgs};
use super::unlock::{self, NewKeystore, UNUSED_COST};
use super::{places, secrets, text};
use crate::crypto::Secret;
use crate::keys::software::{NewSlot, SlotInfo, SlotKind, recovery_text};
use crate::keys::source::Source;
use crate::keys::{Keystore, Unlock};

pub(super) fn run(global: &Global, command: &KeystoreCommand) -> anyhow::Result<()> {
    match command {
        KeystoreCommand::Init {
            passphrase,
            no_recovery_key,
            cost,
        } => {
            let new = NewKeystore {
                ask_passphrase: *passphrase,
                no_recovery_key: *no_recovery_key,
                cost: Some(cost),
            };
            unlock::make(global, &places::keystore(global)?, &new)?;
        }
        KeystoreCommand::Slots { output } => show_slots(&unlock::open(global)?, output.json),
        KeystoreCommand::AddSlot(new) => {
            let keystore = unlock::open(global)?;
            let (slot, recovery) = new_slot(new)?;
            let id = keystore.add_slot(&slot)?;
            println!("Added slot {id}.");
            show(recovery);
        }
        KeystoreCommand::RemoveSlot { slot } => {
            unlock::open(global)?.remove_slot(slot.parse()?)?;
            println!("Removed slot {slot}; the keystore has a new root key.");
        }
        KeystoreCommand::ChangeSlot { slot, new } => {
            let keystore = unlock::open(global)?;
            let (made, recovery) = new_slot(new)?;
            keystore.change_slot(slot.parse()?, &made)?;
            println!("Changed slot {slot}; the keystore has a new root key.");
            show(recovery);
        }
    }
    Ok(())
}

type RecoveryText = zeroize::Zeroizing<String>;

fn show(recovery: Option<RecoveryText>) {
    if let Some(text) = recovery {
        unlock::show_recovery_key(&text);
    }
}

fn new_slot(new: &NewSlotArgs) -> anyhow::Result<(NewSlot, Option<RecoveryText>)> {
    let kind = &new.kind;
    let mut recovery = None;
    let secret = if let Some(path) = &kind.new_passphrase_file {
        Unlock::Passphrase(Source::File(path.clone()).read()?)
    } else if let Some(path) = &kind.new_key_file {
        Unlock::KeyFile(secrets::read_or_make_key_file(path.clone())?)
    } else if kind.new_recovery_key {
        let key = Secret::random();
        recovery = Some(recovery_text(&key));
        Unlock::RecoveryKey(key)
    } else {
        Unlock::Passphrase(secrets::ask_new()?)
    };
    let cost = match &secret {
        Unlock::Passphrase(_) => unlock::argon2_cost(Some(&new.cost))?,
        _ => UNUSED_COST,
    };
    let label = if new.label.is_empty() {
        secret.kind()
    } else {
        &new.label
    }
    .to_owned();
    Ok((
        NewSlot {
            label,
            secret,
            cost,
        },
        recovery,
    ))
}

fn show_slots(keystore: &Keystore, json: bool) {
    let slots = keystore.slots();
    if json {
        let list: Vec<_> = slots.iter().map(slot_json).collect();
        println!("{}", json!({ "slots": list }));
        return;
    }
    let mut rows = vec![["SLOT", "OPENED BY", "MADE", "LABEL"].map(str::to_owned)];
    rows.extend(slots.iter().map(|slot| {
        let by = match &slot.kind {
            SlotKind::Passphrase(cost) => {
                format!(
                    "passphrase (Argon2id, {} MiB, {} passes)",
                    cost.memory_kib / 1024,
                    cost.passes
                )
            }
            other => other.name().to_owned(),
        };
        let label = if slot.opened {
            format!("{} (used now)", slot.label)
        } else {
            slot.label.clone()
        };
        [slot.id.to_string(), by, text::date(slot.created), label]
    }));
    print!("{}", text::table(&rows));
}

fn slot_json(slot: &SlotInfo) -> serde_json::Value {
    let mut value = json!({
        "slot": slot.id.to_string(),
        "kind": slot.kind.name(),
        "label": slot.label,
        "created": slot.created,
        "used_now": slot.opened,
    });
    if let (SlotKind::Passphrase(cost), Some(fields)) = (&slot.kind, value.as_object_mut()) {
        let argon2id =
            json!({ "memory_kib": cost.memory_kib, "passes": cost.passes, "lanes": cost.lanes });
        fields.insert("argon2id".to_owned(), argon2id);
    }
    value
}
