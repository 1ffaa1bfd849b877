//! What a server is about to do, kept where its successor finds it: one file each, by the request's number.
//!
//! Invariant: an intent is there before its change is made and until after its answer was sent. The kernel holds the
//! directory for the whole request, so what the successor finds changed was changed by this request.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Set by the kernel in the number of a request that it sends again.
pub const AGAIN: u64 = 1 << 63;

/// A change of names: what stood there before, by inode number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// A name that was free.
    Create(String),
    /// A name and what it named.
    Unlink(String, u64),
    /// What the first name named goes to the second.
    Rename(String, String, u64),
}

impl Intent {
    fn line(&self) -> String {
        match self {
            Self::Create(name) => format!("create {name}"),
            Self::Unlink(name, ino) => format!("unlink {name} {ino}"),
            Self::Rename(from, to, ino) => format!("rename {from} {to} {ino}"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split(' ').collect();
        match fields[..] {
            ["create", name] => Some(Self::Create(name.into())),
            ["unlink", name, ino] => Some(Self::Unlink(name.into(), ino.parse().ok()?)),
            ["rename", from, to, ino] => {
                Some(Self::Rename(from.into(), to.into(), ino.parse().ok()?))
            }
            _ => None, // cut off: its change was not begun
        }
    }

    fn was_done(&self, dir: &Path) -> bool {
        let ino = |name: &str| {
            fs::symlink_metadata(dir.join(name))
                .ok()
                .map(|meta| meta.ino())
        };
        match self {
            Self::Create(name) => ino(name).is_some(),
            Self::Unlink(name, before) => ino(name) != Some(*before),
            Self::Rename(from, to, before) => {
                ino(from) != Some(*before) && ino(to) == Some(*before)
            }
        }
    }
}

/// The intents of this server, and what became of its predecessor's.
pub struct Intents {
    place: PathBuf,
    on: bool,
    done: HashMap<u64, bool>,
}

impl Intents {
    /// Decides the predecessor's before anything is served: later, others' changes could not be told from its own.
    pub fn decided(place: PathBuf, dir: &Path, on: bool) -> Self {
        fs::create_dir_all(&place).unwrap();
        let mut done = HashMap::new();
        for entry in fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            let unique = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            if let Some(intent) = Intent::parse(&fs::read_to_string(&path).unwrap()) {
                done.insert(unique, intent.was_done(dir));
            }
        }
        Self { place, on, done }
    }

    /// Whether this request is sent again and had been done.
    pub fn was_done(&self, unique: u64) -> bool {
        unique & AGAIN != 0 && self.done.get(&(unique & !AGAIN)) == Some(&true)
    }

    /// To be called before the change.
    pub fn note(&self, unique: u64, intent: &Intent) {
        if self.on {
            fs::write(self.at(unique), intent.line()).unwrap();
        }
    }

    /// To be called after the answer.
    pub fn drop(&self, unique: u64) {
        if self.on {
            let _ = fs::remove_file(self.at(unique));
        }
    }

    fn at(&self, unique: u64) -> PathBuf {
        self.place.join((unique & !AGAIN).to_string())
    }
}
