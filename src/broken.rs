//! Rules of FORMAT.md that tests break on purpose, to show that power cuts find out. In any other build none is broken,
//! and the question costs nothing.

/// One rule, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Two halves: a record is written over the durable half.
    HalfInPlace,
    /// 2: the slot of a durable version is taken again.
    SlotReused,
    /// 3: no sync between records and data of a write in place.
    InPlaceUnsynced,
    /// 4: what was written while a sync ran beside counts as covered.
    BesideAll,
    /// 3: written in place again before the next sync.
    InPlaceTwice,
    /// 3: a block in a slot that the file is about to lose is written there again.
    LostSlotKept,
    /// 6: what a shorter file lacks is given up before its size is durable.
    ShrinkUnsynced,
    /// 6: the file is cut before blocks that moved down are durable.
    MoveUnsynced,
    /// 6: blocks in slots past the end stay there.
    NotMoved,
    /// 6: records past the end stay.
    RecordsKept,
    /// 7: the other half does not count in doubt.
    NoOlderHalf,
    /// 7: blocks between two sizes are not taken for zeros.
    NoZeros,
    /// 8: a file in doubt is not mended.
    NotMended,
    /// 8: what may stand in the cache alone is not written again.
    CacheTrusted,
    /// Durable: after a failed sync nothing is written again.
    NotRewritten,
    /// 9, step 1: no sync before older halves go.
    SettleUnsynced,
    /// 9, step 3: no sync before the older state goes.
    StateUnsynced,
    /// Unclean ends: no sync of the store before the clean mark.
    CleanUnsynced,
    /// Unclean ends: a mount ends clean though a sync failed.
    CleanUnearned,
    /// 9: what was written while a pass synced counts as covered.
    MarkIgnored,
    /// Unclean ends: a mount does not write its epoch first.
    EpochNotWritten,
    /// Re-wrap: the old key area goes before the new one is durable.
    RewrapUnsynced,
    /// 6: the volume file is not durable before a header names the new version.
    VolumeFileUnsynced,
    /// 5: a small file gets its name before its content is durable.
    ReplaceUnsynced,
    /// 5: the tag of a name is not durable before the name.
    TagUnsynced,
    /// 5: the side file of a long name is not durable before the entry.
    SideFileUnsynced,
    /// 5: a directory is renamed without its directory file.
    NoDirFile,
    /// 5: the directory file is not durable before the rename.
    DirFileUnsynced,
    /// 5: no marker is left where a directory was.
    NoMarker,
    /// 5: a directory that replaces a marked name gets the derived id.
    MarkerIgnored,
    /// 5: a directory that is removed loses its files before it is durably hidden.
    PurgeUnsynced,
    /// 5: tags of names that went are dropped before the directory change is durable.
    NamesUnsynced,
    /// A file encrypted anew takes its name before it is durable.
    AnewUnsynced,
    /// The name of a file encrypted anew is not durable at the end.
    AnewNameUnsynced,
    /// A copy becomes a volume before what was copied is durable.
    CopyUnsynced,
    /// A copy becomes a volume before it has a mount file.
    CopyEarly,
    /// A copy that shares ciphertext forgets a sync that failed before its last one.
    ShareForgotten,
    /// 10: a block is written over before its copy is durable.
    RedoUnsynced,
    /// 10: a copy is dropped before its block is durable.
    RedoEarly,
    /// 10: a block that does not open is not looked for among the copies.
    RedoIgnored,
    /// 10: copies that a mount found are written over.
    RedoForgotten,
    /// 10: copies that a mount found are dropped with its own.
    RedoDropped,
    /// An fsync that does nothing.
    FsyncIgnored,
    /// The keystore gets its name before its content is durable.
    KeystoreUnsynced,
    /// The keystore's directory is not synced.
    KeystoreNameUnsynced,
}

/// Whether this rule is broken, by the test that runs in this thread.
#[cfg(not(test))]
pub(crate) const fn broken(_: Rule) -> bool {
    false
}

#[cfg(test)]
pub(crate) use for_tests::{breaking, broken};

#[cfg(test)]
mod for_tests {
    use std::cell::Cell;

    use super::Rule;

    thread_local!(static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) });

    pub(crate) fn broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }

    /// Runs `work` with a rule broken, in this thread.
    pub(crate) fn breaking<T>(rule: Rule, work: impl FnOnce() -> T) -> T {
        struct Whole;
        impl Drop for Whole {
            fn drop(&mut self) {
                BROKEN.set(None);
            }
        }
        let _whole = Whole;
        BROKEN.set(Some(rule));
        work()
    }
}
