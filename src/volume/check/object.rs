//! Objects that are no directories: files with header, records and blocks; symlinks; extended attributes of anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::texts::{XATTR_PREFIX, open_symlink, open_xattr_name, open_xattr_value};
use crate::store::{Access, Dir, Kind, Stat, Xattrs};
use crate::volume::check::add;
use crate::volume::check::finding::{Note, Part, Severity};
use crate::volume::check::walk::{Item, Place, Task, Walk};
use crate::volume::file::examine::{Holds, examine};

/// Blocks that one task looks at, 64 MiB: whole groups, but for the first, which is half as large.
const STRETCH: u64 = 32 + 255 * 64;

/// A file whose blocks are being looked at, by one worker after the other or by several.
pub(super) struct InWork {
    place: Arc<Place>,
    item: Item,
    holds: Holds,
    /// It was counted as damaged.
    counted: AtomicBool,
}

/// Looks at some objects of one directory.
pub(super) fn look(walk: &Walk, place: &Arc<Place>, items: &[Item]) {
    let dir = match walk.open(place) {
        Ok(dir) => dir,
        Err(error) => {
            let note = Note::damaged(Part::Store, format!("cannot be opened: {error}"));
            return walk.found(place, "", b"", vec![note]);
        }
    };
    for item in items {
        let stat = match dir.stat_at(&item.stored) {
            Ok(stat) => stat,
            Err(error) => {
                let note = Note::damaged(Part::Store, format!("cannot be looked at: {error}"));
                walk.found(place, &item.shown, &item.stored, vec![note]);
                continue;
            }
        };
        match stat.kind {
            Kind::File => file(walk, place, &dir, item, &stat),
            Kind::Symlink => symlink(walk, place, &dir, item),
            _ => {
                add(&walk.counters.others, 1);
                walk.found(place, &item.shown, &item.stored, item.notes.clone());
            }
        }
    }
}

fn symlink(walk: &Walk, place: &Place, dir: &Arc<dyn Dir>, item: &Item) {
    add(&walk.counters.others, 1);
    let note = match dir.read_link(&item.stored) {
        Ok(sealed) => open_symlink(&walk.keys.symlink, &sealed)
            .err()
            .map(|error| Note::damaged(Part::Symlink, error.to_string())),
        Err(error) => Some(Note::damaged(
            Part::Store,
            format!("cannot be read: {error}"),
        )),
    };
    let notes = item.notes.iter().cloned().chain(note).collect();
    walk.found(place, &item.shown, &item.stored, notes);
}

fn file(walk: &Walk, place: &Arc<Place>, dir: &Arc<dyn Dir>, item: &Item, stat: &Stat) {
    let counters = &walk.counters;
    let first = stat.nlink < 2 || walk.first_name(stat.ino);
    if first {
        add(&counters.files, 1);
        add(&counters.bytes_stored, stat.size.min(stat.blocks * 512));
    }
    let backing = match dir.open(&item.stored, Access::Read) {
        Ok(backing) => backing,
        Err(error) => {
            let note = Note::damaged(Part::Store, format!("cannot be opened: {error}"));
            return walk.found(place, &item.shown, &item.stored, vec![note]);
        }
    };
    let mut notes = item.notes.clone();
    if first {
        notes.extend(xattrs(walk, backing.as_ref()));
    }
    let bound = if item.notes.is_empty() {
        Walk::bound_place(place, &item.stored)
    } else {
        None
    };
    let seen = examine(walk.env(), backing, stat.size, bound.as_ref());
    if !first {
        // Its contents were looked at under another name; whether it may have this one was not.
        notes.extend(
            seen.notes
                .into_iter()
                .filter(|note| note.part == Part::NameTag),
        );
        return walk.found(place, &item.shown, &item.stored, notes);
    }
    add(
        &counters.bytes_read,
        if stat.size > 0 {
            crate::format::layout::PAGE
        } else {
            0
        },
    );
    add(&counters.headers, u64::from(seen.has_header));
    add(&counters.older_versions, u64::from(!seen.is_current));
    add(&counters.in_doubt, u64::from(seen.in_doubt));
    counters
        .newest_epoch
        .fetch_max(seen.epoch, Ordering::Relaxed);
    notes.extend(seen.notes);
    let damaged = notes.iter().any(|note| note.severity == Severity::Damaged);
    walk.found(place, &item.shown, &item.stored, notes);
    let file = InWork {
        place: Arc::clone(place),
        item: Item {
            stored: item.stored.clone(),
            shown: item.shown.clone(),
            notes: Vec::new(),
        },
        holds: seen.holds,
        counted: AtomicBool::new(damaged),
    };
    look_at_blocks(walk, &Arc::new(file), 0);
}

/// Looks at a stretch of blocks; what follows it is left to whoever has time.
pub(super) fn look_at_blocks(walk: &Walk, file: &Arc<InWork>, from: u64) {
    let end = from.saturating_add(STRETCH);
    if end < file.holds.blocks() {
        walk.queue.put([Task::Blocks(Arc::clone(file), end)]);
    }
    if from >= file.holds.blocks() {
        return;
    }
    let tally = file.holds.inspect(from..end, !walk.options.metadata_only);
    let counters = &walk.counters;
    add(&counters.blocks, tally.blocks);
    add(&counters.holes, tally.holes);
    add(&counters.bytes_read, tally.bytes_read);
    let mut notes = tally.notes;
    for (run, what) in tally.bad {
        let blocks = if run.end - run.start == 1 {
            format!("block {}", run.start)
        } else {
            format!("blocks {} to {}", run.start, run.end - 1)
        };
        let part = if what.contains("record") {
            Part::Record
        } else {
            Part::Block
        };
        notes.push(Note::damaged(part, format!("{blocks}: {what}")));
    }
    let damaged = notes.iter().any(|note| note.severity == Severity::Damaged);
    let (place, item) = (&file.place, &file.item);
    if damaged && !file.counted.swap(true, Ordering::Relaxed) {
        walk.found(place, &item.shown, &item.stored, notes);
    } else {
        walk.note(place, &item.shown, &item.stored, notes);
    }
}

/// The extended attributes of an object that is open.
pub(super) fn xattrs<X: Xattrs + ?Sized>(walk: &Walk, object: &X) -> Vec<Note> {
    let keys = &walk.keys;
    let names = match object.xattr_names() {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Vec::new(),
        Err(error) => return vec![Note::damaged(Part::Store, format!("its xattrs: {error}"))],
    };
    let ours = names.iter().filter(|name| name.starts_with(XATTR_PREFIX));
    ours.filter_map(|stored| {
        let name = match open_xattr_name(&keys.xattr_name, stored) {
            Ok(name) => name,
            Err(error) => {
                let what = format!("{}: {error}", stored.escape_ascii());
                return Some(Note::damaged(Part::Xattr, what));
            }
        };
        let opened = match object.xattr(stored) {
            Ok(sealed) => open_xattr_value(&keys.xattr_value, stored, &sealed)
                .err()
                .map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        opened.map(|error| Note::damaged(Part::Xattr, format!("{}: {error}", name.escape_ascii())))
    })
    .collect()
}
