//! Names for the calls of a store, so that tests can count them or make one fail. Knows no store.

use std::collections::BTreeMap;

/// One kind of call on a store, whether it was made on a file, a directory or an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each is the trait method of that name
pub enum Call {
    Stat,
    Read,
    Write,
    SetLen,
    Allocate,
    /// `will_need`.
    WillNeed,
    /// `write_back`.
    WriteBack,
    NextData,
    NextHole,
    /// `take_contents`.
    TakeContents,
    Lock,
    Open,
    OpenDir,
    Create,
    MakeDir,
    MakeNode,
    MakeSymlink,
    ReadLink,
    Link,
    Rename,
    Remove,
    RemoveDir,
    Entries,
    SetMode,
    SetOwner,
    SetTimes,
    ReadXattr,
    SetXattr,
    RemoveXattr,
    /// `sync_data` and `sync_all` of a file.
    SyncFile,
    /// `sync` of a directory.
    SyncDir,
    /// `sync` of the whole store.
    SyncStore,
    Usage,
}

impl Call {
    /// Whether it only makes durable what is there.
    pub fn is_sync(self) -> bool {
        matches!(self, Self::SyncFile | Self::SyncDir | Self::SyncStore)
    }

    /// Whether it changes what the store holds.
    pub fn is_write(self) -> bool {
        use Call::*;
        matches!(
            self,
            Write
                | SetLen
                | Allocate
                | TakeContents
                | Create
                | MakeDir
                | MakeNode
                | MakeSymlink
                | Link
                | Rename
                | Remove
                | RemoveDir
                | SetMode
                | SetOwner
                | SetTimes
                | SetXattr
                | RemoveXattr
        )
    }
}

/// How many calls of each kind were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Call, u64>);

impl Counts {
    /// Calls of one kind.
    pub fn of(&self, call: Call) -> u64 {
        self.0.get(&call).copied().unwrap_or(0)
    }

    /// Calls of all kinds.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What was counted after `earlier`, which is an older copy of these counts.
    pub fn since(&self, earlier: &Self) -> Self {
        let grown = self
            .0
            .iter()
            .map(|(&call, &n)| (call, n - earlier.of(call)));
        Self(grown.filter(|&(_, n)| n > 0).collect())
    }

    pub(super) fn add(&mut self, call: Call) {
        *self.0.entry(call).or_default() += 1;
    }

    pub(super) fn only(&self, wanted: impl Fn(Call) -> bool) -> Self {
        Self(
            self.0
                .iter()
                .filter(|&(&call, _)| wanted(call))
                .map(|(&call, &n)| (call, n))
                .collect(),
        )
    }
}
