//! Copies of ciphertext that goes where a block stands, on a store that is full and does not write pages whole (FORMAT.md
//! section 4, rule 10): the file `strongroom.redo`, and what this mount knows to be in it. Knows no keys: whose a copy is, is
//! proved by who opens it.
//!
//! Invariant: a copy that a block may still need is neither dropped nor written over: one that this mount made not before a
//! sync of its file went well, one that it found not before all of its file was mended.
//!
//! Lock order: a `GcmBody`'s `writer` < `turn` < `kept`.

use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::broken::{Rule, broken};
use crate::crypto::random_bytes;
use crate::format::ids::FileId;
use crate::format::layout::PAGE;
use crate::format::names::REDO;
use crate::format::redo::{ENTRIES, ENTRY_LEN, Entry, LEN, copy_offset, entry_offset};
use crate::store::{Access, Dir, File, Kind};
use crate::volume::replace::replace;
use crate::volume::sync::locked;

/// A block's ciphertext.
pub(crate) type Sealed = [u8; PAGE as usize];

/// The stamp of the copies that this mount found.
pub(crate) const FOUND: RangeInclusive<u64> = 0..=0;

/// How the file is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// The mount is a writer's.
    pub(crate) writes: bool,
    /// It may need copies: the file is made if it is not there.
    pub(crate) makes: bool,
    /// Epochs ended uncleanly: what is in the file may be needed.
    pub(crate) in_doubt: bool,
}

/// The copies, and who waits to make some.
#[derive(Default)]
pub(crate) struct Redo {
    /// `None`: no copies are made.
    file: Option<Arc<dyn File>>,
    turn: Mutex<()>,
    kept: Mutex<Vec<Option<Kept>>>,
    /// How many there are.
    count: AtomicUsize,
    stamp: AtomicU64,
}

struct Kept {
    of: Entry,
    sealed: Box<Sealed>,
    /// When it was made: 0 for one that was found.
    stamp: u64,
}

/// The right to make copies, and to write over blocks with them.
pub(crate) struct RedoTurn<'a>(&'a Redo, #[allow(dead_code)] MutexGuard<'a, ()>);

impl Redo {
    /// Without it a volume is as sound; only overwrites on a full store may be refused. So nothing that is wrong with the file
    /// is an error.
    pub(crate) fn open(root: &Arc<dyn Dir>, how: Use) -> Self {
        match Self::find(root, how) {
            Ok(Some(redo)) => redo,
            Ok(None) if how.makes => Self::make(root, how).unwrap_or_else(|error| {
                tracing::warn!("overwrites may be refused once the store is full: {error}");
                Self::default()
            }),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!("strongroom.redo is not used: {error}");
                Self::default()
            }
        }
    }

    /// `None`: there is no such file, or one that no mount made, or that holds no room.
    fn find(root: &Arc<dyn Dir>, how: Use) -> io::Result<Option<Self>> {
        match root.stat_at(REDO) {
            Ok(stat) if stat.kind == Kind::File => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(None),
        }
        let access = match how.writes {
            true => Access::ReadWrite,
            false => Access::Read,
        };
        let file = root.open(REDO, access)?;
        let stat = file.stat()?;
        if stat.nlink != 1 || stat.size != LEN {
            return Ok(None);
        }
        let kept = match how.in_doubt {
            true => found(&*file)?,
            false => none(),
        };
        let count = kept.iter().flatten().count();
        // Whoever copied the volume may have left pages out.
        if how.makes && count == 0 && stat.blocks * 512 < LEN - PAGE {
            return Ok(None);
        }
        Ok(Some(Self {
            file: Some(file).filter(|_| how.writes),
            kept: Mutex::new(kept),
            count: AtomicUsize::new(count),
            ..Self::default()
        }))
    }

    fn make(root: &Arc<dyn Dir>, how: Use) -> io::Result<Self> {
        let mut bytes = vec![0; LEN as usize];
        // No store may find that they need less room than what comes in their place.
        random_bytes(bytes.get_mut(PAGE as usize..).unwrap_or_default());
        replace(root, REDO, &bytes)?;
        Ok(Self::find(root, how)?.unwrap_or_default())
    }

    /// Waits for the right to make copies; `None` where none can be.
    pub(crate) fn turn(&self) -> Option<RedoTurn<'_>> {
        self.file.as_ref()?;
        Some(RedoTurn(self, locked(&self.turn)))
    }

    /// The stamp of the next copies.
    pub(crate) fn next_stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Copies of a block's ciphertext. Any may be of an older version, or rubbish.
    pub(crate) fn copies(&self, of: Entry) -> Vec<Sealed> {
        if self.count.load(Ordering::Acquire) == 0 || broken(Rule::RedoIgnored) {
            return Vec::new();
        }
        let kept = locked(&self.kept);
        let same = kept.iter().flatten().filter(|kept| kept.of == of);
        same.map(|kept| *kept.sealed).collect()
    }

    /// The file is durable without its copies of these stamps.
    pub(crate) fn let_go(&self, file: &FileId, stamps: RangeInclusive<u64>) {
        self.drop_those(|kept| kept.of.file == *file && stamps.contains(&kept.stamp));
    }

    /// No file needs any copy: nothing is in doubt.
    pub(crate) fn let_all_go(&self) {
        self.drop_those(|_| true);
    }

    fn drop_those(&self, goes: impl Fn(&Kept) -> bool) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        // Held over the writes, so that none of them comes after the next use of its entry.
        let mut kept = locked(&self.kept);
        for (number, place) in kept.iter_mut().enumerate() {
            if place.take_if(|kept| goes(kept)).is_none() {
                continue;
            }
            let zeroed = self.file.as_ref().map_or(Ok(()), |file| {
                file.write_at(&[0; ENTRY_LEN], entry_offset(number))
            });
            if let Err(error) = zeroed {
                tracing::debug!("an entry of strongroom.redo stays: {error}"); // it is in nobody's way before a crash
            }
        }
        self.count
            .store(kept.iter().flatten().count(), Ordering::Release);
    }
}

impl RedoTurn<'_> {
    /// How many copies can be made now.
    pub(crate) fn room(&self) -> usize {
        free(&locked(&self.0.kept)).count()
    }

    /// Makes copies of what these blocks are about to get, at most as many as there is room for, durable when this returns.
    pub(crate) fn keep(&self, copies: &[(Entry, &Sealed)], stamp: u64) -> io::Result<()> {
        let Some(file) = &self.0.file else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let free: Vec<usize> = free(&locked(&self.0.kept)).take(copies.len()).collect();
        if free.len() < copies.len() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        for (number, (_, sealed)) in free.iter().zip(copies) {
            file.write_at(*sealed, copy_offset(*number))?;
        }
        for (number, (of, _)) in free.iter().zip(copies) {
            file.write_at(&of.encode(), entry_offset(*number))?;
        }
        if !broken(Rule::RedoUnsynced) {
            file.sync_data()?;
        }
        let mut kept = locked(&self.0.kept);
        for (number, (of, sealed)) in free.iter().zip(copies) {
            if let Some(place) = kept.get_mut(*number) {
                *place = Some(Kept {
                    of: *of,
                    sealed: Box::new(**sealed),
                    stamp,
                });
            }
        }
        self.0
            .count
            .store(kept.iter().flatten().count(), Ordering::Release);
        Ok(())
    }
}

fn none() -> Vec<Option<Kept>> {
    (0..ENTRIES).map(|_| None).collect()
}

/// Entries that nothing needs.
fn free(kept: &[Option<Kept>]) -> impl Iterator<Item = usize> {
    let is_free = |kept: &Option<Kept>| match kept {
        None => true,
        Some(kept) => kept.stamp == 0 && broken(Rule::RedoForgotten),
    };
    let numbered = kept.iter().enumerate();
    numbered.filter_map(move |(number, kept)| is_free(kept).then_some(number))
}

/// What a mount before may have left for a block.
fn found(file: &dyn File) -> io::Result<Vec<Option<Kept>>> {
    let mut entries = [0; PAGE as usize];
    file.read_at(&mut entries, 0)?;
    let mut kept = none();
    let (entries, _) = entries.as_chunks::<ENTRY_LEN>();
    for (number, (place, bytes)) in kept.iter_mut().zip(entries).enumerate() {
        if let Ok(Some(of)) = Entry::parse(bytes) {
            let mut sealed = Box::new([0; PAGE as usize]);
            file.read_at(&mut *sealed, copy_offset(number))?;
            let stamp = 0;
            *place = Some(Kept { of, sealed, stamp });
        }
    }
    Ok(kept)
}
