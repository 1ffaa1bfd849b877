//! What a non-empty file of either suite can do. `FileState` (the shell) owns the change between empty and not empty and
//! hands every other call to one of these.
//!
//! Lock order inside a body: `writer` (one at a time; held during a sync of the file that a caller is promised, so no
//! block is written while such a sync runs) < `io` (shared by readers and ordinary writes, alone for in-place data and
//! for cutting) < table and header locks (memory only, never over a sync).

use crate::format::ids::DirId;
use crate::volume::error::Result;

/// A name as the store has it: what name tags bind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory that holds the entry.
    pub dir: DirId,
    /// The stored name of the entry.
    pub stored: Vec<u8>,
}

/// A count of changes: equal marks before and after a sync mean that the sync covered everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u64);

/// What settling knows of a file's names, as of before its first sync.
#[derive(Debug, Clone)]
pub struct Names {
    /// Number of links in the store.
    pub links: u64,
    /// The place by which it is known now.
    pub here: Place,
    /// Places that it lost, their directory change durable.
    pub gone: Vec<Place>,
}

/// A non-empty file. Offsets and lengths are plaintext bytes.
pub(crate) trait Body: Send + Sync {
    /// Plaintext size, above 0.
    fn size(&self) -> u64;
    /// Reads at `offset`; short only at the end of the file. Damage is an error, never other bytes (GCM-SIV).
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize>;
    /// Writes all of `data`; the file grows where needed, a gap reads as zeros.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;
    /// Changes the size, both ways; never to 0.
    fn set_size(&self, size: u64) -> Result<()>;
    /// Makes a range inside the size read as zeros; `punch`: also gives its space back to the store.
    fn zero(&self, offset: u64, len: u64, punch: bool) -> Result<()>;
    /// Reserves space in the store for a range (the size does not change; the range may lie past it).
    fn reserve(&self, offset: u64, len: u64) -> Result<()>;
    /// Start of the next data at or after `offset`; `None` if only holes follow.
    fn next_data(&self, offset: u64) -> Result<Option<u64>>;
    /// Start of the next hole at or after `offset`; the size if none comes before.
    fn next_hole(&self, offset: u64) -> Result<u64>;
    /// Makes everything written so far durable (FORMAT.md section 4, *Durable*); `metadata`: owner, mode and times too.
    fn sync(&self, metadata: bool) -> Result<()>;

    /// Whether the file may be reached under this name (a tag, unbound, or tolerated in doubt); Damaged if not.
    fn check_name(&self, place: &Place) -> Result<()>;
    /// Before `new` appears in a directory: `via` is the name by which the file was reached, `links` its st_nlink now,
    /// `link`: the old name stays. Syncs where FORMAT.md section 5 asks for it.
    fn add_name(&self, via: &Place, new: &Place, links: u64, link: bool) -> Result<()>;

    /// Whether nothing waits for a sync.
    fn is_durable(&self) -> bool;
    /// Whether settling has nothing to do.
    fn is_settled(&self) -> bool;
    /// The count of changes now.
    fn mark(&self) -> Mark;
    /// After a sync that began after `mark` was taken and ended well: everything is durable if `mark` still holds.
    fn synced(&self, mark: Mark) -> bool;
    /// Settling, step 2: zeroes superseded record halves and writes the settled state. False: changed meanwhile, try in a
    /// later pass.
    fn settle_halves(&self, mark: Mark, names: &Names) -> Result<Option<Mark>>;
    /// Settling, step 4, after another sync: zeroes the older state half.
    fn settle_state(&self, mark: Mark) -> Result<Option<Mark>>;

    /// Whether anything of an unclean end, or of work cut off, waits to be mended or settled.
    fn needs_mending(&self) -> bool;
    /// Mends all of it that the store may show without having it, and makes that durable; settling does the rest.
    fn mend_all(&self) -> Result<()>;

    /// Runs `change` with the header lock held, for re-wrap (the key areas of page 0 are the shell's).
    fn with_header(&self, change: &mut dyn FnMut() -> Result<()>) -> Result<()>;
}
