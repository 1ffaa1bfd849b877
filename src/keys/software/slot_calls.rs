//! Unlock slots of an open keystore: list, add, remove, change the secret of one.

use super::bytes::Bytes;
use super::file::{Argon2Cost, Slot, SlotId, SlotKind};
use super::seal::{RootKey, SlotKey};
use super::{Keystore, KeystoreError, Unlock, now};
use crate::crypto::{Secret, random_bytes};

/// A slot to be made.
#[derive(Debug)]
pub struct NewSlot {
    /// A name for people; at most 250 bytes, no control characters.
    pub label: String,
    /// What will open it.
    pub secret: Unlock,
    /// What Argon2id shall cost, for a passphrase.
    pub cost: Argon2Cost,
}

/// A slot as `slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its id.
    pub id: SlotId,
    /// Its name for people.
    pub label: String,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made or last changed, seconds since 1970.
    pub created: u64,
    /// Whether this slot opened the keystore.
    pub opened: bool,
}

impl Keystore {
    /// The slots.
    pub fn slots(&self) -> Vec<SlotInfo> {
        let state = self.look();
        let info = |slot: &Slot| SlotInfo {
            id: slot.id,
            label: slot.label.clone(),
            kind: slot.kind.clone(),
            created: slot.created,
            opened: slot.id == state.slot,
        };
        state.body.slots.iter().map(info).collect()
    }

    /// Adds a slot; the root key stays.
    ///
    /// # Errors
    /// `Full`, `InvalidSecret`, and those of reading and writing the file.
    pub fn add_slot(&self, new: &NewSlot) -> Result<SlotId, KeystoreError> {
        self.change(|body, state| {
            let (slot, _) = make_slot(new, &state.root, &state.authenticator()?)?;
            let id = slot.id;
            body.slots.push(slot);
            body.check()
                .map_err(|_| KeystoreError::Full("it has 32 slots, or 8 passphrases"))?;
            Ok(id)
        })
    }

    /// Removes a slot and makes a new root key, so that the slot's secret and old copies of the file open nothing later.
    ///
    /// # Errors
    /// `NoSuchSlot`; `LastSlot` for the last that is not a recovery key.
    pub fn remove_slot(&self, id: SlotId) -> Result<(), KeystoreError> {
        self.change_with_new_root(|body, _| {
            let count = body.slots.len();
            body.slots.retain(|slot| slot.id != id);
            if body.slots.len() == count {
                return Err(KeystoreError::NoSuchSlot(id.to_string()));
            }
            if daily_slots(&body.slots) == 0 {
                return Err(KeystoreError::LastSlot(id.to_string()));
            }
            Ok(())
        })
    }

    /// Gives a slot another secret (a changed passphrase) and makes a new root key; the slot keeps its id.
    ///
    /// # Errors
    /// `NoSuchSlot`; `LastSlot` where a recovery key would take the place of the last slot of another kind.
    pub fn change_slot(&self, id: SlotId, new: &NewSlot) -> Result<(), KeystoreError> {
        self.change_with_new_root(|body, state| {
            let place = body.slots.iter_mut().find(|slot| slot.id == id);
            let place = place.ok_or_else(|| KeystoreError::NoSuchSlot(id.to_string()))?;
            let (slot, slot_key) =
                make_slot_with_id(id, new, &state.root, &state.authenticator()?)?;
            *place = slot;
            if daily_slots(&body.slots) == 0 {
                return Err(KeystoreError::LastSlot(id.to_string()));
            }
            if state.slot == id {
                state.slot_key = slot_key.into();
            }
            Ok(())
        })
    }
}

/// How many slots are not recovery keys.
pub(super) fn daily_slots(slots: &[Slot]) -> usize {
    slots
        .iter()
        .filter(|slot| !matches!(slot.kind, SlotKind::RecoveryKey))
        .count()
}

pub(super) fn make_slot(
    new: &NewSlot,
    root: &RootKey,
    authenticator: &Secret<32>,
) -> Result<(Slot, SlotKey), KeystoreError> {
    let mut id = [0; 8];
    random_bytes(&mut id);
    make_slot_with_id(SlotId(id), new, root, authenticator)
}

fn make_slot_with_id(
    id: SlotId,
    new: &NewSlot,
    root: &RootKey,
    authenticator: &Secret<32>,
) -> Result<(Slot, SlotKey), KeystoreError> {
    let kind = match &new.secret {
        Unlock::Passphrase(passphrase) if passphrase.is_empty() => {
            return Err(KeystoreError::InvalidSecret(
                "the passphrase is empty".into(),
            ));
        }
        Unlock::Passphrase(_) => SlotKind::Passphrase(new.cost),
        Unlock::KeyFile(_) => SlotKind::KeyFile,
        Unlock::RecoveryKey(_) => SlotKind::RecoveryKey,
    };
    if let SlotKind::Passphrase(cost) = &kind {
        cost.check().map_err(KeystoreError::InvalidSecret)?;
    }
    let slot_key = SlotKey::new(authenticator);
    let mut salt = [0; 16];
    random_bytes(&mut salt);
    let mut slot = Slot {
        id,
        label: new.label.clone(),
        created: now(),
        kind,
        salt: Bytes(salt),
        public: Bytes(slot_key.public()),
        slot_key: Bytes([0; _]),
        root_key: Bytes([0; _]),
    };
    slot.slot_key = slot_key.seal(&slot, &new.secret)?;
    let degenerate = || KeystoreError::InvalidSecret("the slot's key pair is degenerate".into());
    slot.root_key = root.seal_to(&slot, authenticator).ok_or_else(degenerate)?;
    Ok((slot, slot_key))
}
