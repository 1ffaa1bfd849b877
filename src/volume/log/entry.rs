//! The entries of a log: JSON behind a length and a checksum. An entry that was cut off ends the log.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::Stat;
use crate::volume::carry::{CarriedFile, CarriedNode};
use crate::volume::error::{Error, Result};

/// Which of the processes that had the mount one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u32);

impl Generation {
    /// A number for something of this process, other than those of all before.
    pub(super) fn key(self, number: u64) -> u64 {
        u64::from(self.0) << 40 | number
    }
}

/// A handle of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its number.
    pub number: u64,
    /// The node that it was opened on.
    pub node: u64,
    /// The number of the file's state.
    pub file: u64,
    /// Whether it reads.
    pub read: bool,
    /// Whether it writes.
    pub write: bool,
}

/// A name that goes: where it stands, of which node, and the object as it was just before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub(crate) dir: u64,
    pub(crate) stored: String,
    pub(crate) node: u64,
    pub(crate) stat: Stat,
}

/// A rename.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) from: (u64, String),
    pub(crate) to: (u64, String),
    pub(crate) exchange: bool,
    pub(crate) node: u64,
    pub(crate) stat: Stat,
    /// What stands at the new place.
    pub(crate) target: Option<(u64, Stat)>,
}

/// A change that is about to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Intent {
    /// An entry is made where there is none.
    Make { dir: u64, stored: String },
    /// One goes.
    Remove(Gone),
    /// One goes to another place.
    Move(Box<Moved>),
    /// An attribute is set or removed on a condition, which holds.
    Attribute,
}

/// What was answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(Value),
    Refused(i32),
}

impl Answer {
    pub(super) fn of<T: Serialize>(done: &Result<T>) -> Self {
        match done {
            Ok(done) => serde_json::to_value(done).map_or(Self::Refused(libc::EIO), Self::Done),
            Err(error) => Self::Refused(error.code()),
        }
    }

    pub(super) fn give<T: DeserializeOwned>(&self) -> Result<T> {
        match self {
            Self::Done(value) => serde_json::from_value(value.clone()).map_err(unreadable),
            Self::Refused(code) => Err(Error::errno(*code)),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeEntry {
    #[serde(rename = "n")]
    pub(super) node: CarriedNode,
    #[serde(rename = "l")]
    pub(super) lookups: u32,
}

/// An open file; `key`: under which number its descriptor is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) file: u64,
    pub(super) key: u64,
    pub(super) carried: CarriedFile,
}

/// One entry, in the order in which it is read: what is gone, then what there is.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// The first one has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<Value>,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) generation: Generation,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gone: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<NodeEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<FileEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) opened: Vec<Opened>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_handle: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) closed: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) begun: Vec<(u64, Intent)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) done: Vec<(u64, Answer)>,
}

fn is_default(generation: &Generation) -> bool {
    *generation == Generation::default()
}

impl Entry {
    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_empty()
            && self.nodes.is_empty()
            && self.files.is_empty()
            && self.opened.is_empty()
            && self.closed.is_empty()
            && self.begun.is_empty()
            && self.done.is_empty()
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 8];
        serde_json::to_writer(&mut bytes, self).map_err(unreadable)?;
        let text = bytes.get(8..).unwrap_or_default();
        let length = u32::try_from(text.len()).map_err(|_| Error::errno(libc::EFBIG))?;
        let sum = crc32c::crc32c(text);
        let head = [length.to_le_bytes(), sum.to_le_bytes()].concat();
        bytes.splice(..8, head);
        Ok(bytes)
    }

    /// The next one of a log, and what comes after it; `None` at its end, or where it was cut off.
    pub(super) fn next(bytes: &[u8]) -> Result<Option<(Self, &[u8])>> {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let Some((sum, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let Some((text, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return Ok(None);
        };
        if text.is_empty() || crc32c::crc32c(text) != u32::from_le_bytes(*sum) {
            return Ok(None);
        }
        let entry = serde_json::from_slice(text).map_err(unreadable)?;
        Ok(Some((entry, rest)))
    }
}

pub(super) fn unreadable(error: serde_json::Error) -> Error {
    Error::Damaged(format!("the log of the mount: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_was_cut_off_ends_the_log() {
        let entry = |number| Entry {
            closed: vec![number],
            ..Entry::default()
        };
        let first = entry(1).bytes().unwrap();
        let both = [first.clone(), entry(2).bytes().unwrap()].concat();
        for cut in 0..both.len() {
            let mut rest = &both[..cut];
            let mut read = Vec::new();
            while let Some((entry, after)) = Entry::next(rest).unwrap() {
                read.extend(entry.closed);
                rest = after;
            }
            let wanted: &[u64] = if cut < first.len() { &[] } else { &[1] };
            assert_eq!(read, wanted, "cut at {cut}");
        }
        let mut torn = both.clone();
        torn[first.len() + 10] ^= 1;
        let (_, rest) = Entry::next(&torn).unwrap().unwrap();
        assert!(Entry::next(rest).unwrap().is_none());
    }
}
