//! The walk over a volume: directories, the entries in them and their names. Each directory is opened from the top by the
//! stored names on the way, so no descriptor is held for one that waits.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::format::ids::DirId;
use crate::format::names::{
    DIR_FILE, EntryClass, LOCK, LOST_PREFIX, MOUNT, REDO, RESERVE, SIDE_SUFFIX, TMP_PREFIX, VOLUME,
    VOLUME_OLD, classify, is_gone_marker, root_dir_id,
};
use crate::format::volume_file::VolumeFile;
use crate::format::volume_keys::VolumeKeys;
use crate::store::{Dir, Entry, Kind};
use crate::volume::Volume;
use crate::volume::check::finding::{CheckProgress, Finding, Locus, Note, Part, Report, Severity};
use crate::volume::check::object::{self, InWork};
use crate::volume::check::queue::Queue;
use crate::volume::check::{CheckOptions, add};
use crate::volume::dir_id;
use crate::volume::env::Env;
use crate::volume::error::Result;
use crate::volume::master::VOLUME_FILE_LIMIT;
use crate::volume::names;
use crate::volume::replace::read_small;
use crate::volume::sync::locked;

/// What mkfs leaves at the top of some file systems.
const MKFS_LOST_AND_FOUND: &[u8] = b"lost+found";
/// Files that one worker takes at a time.
const FILES: usize = 32;

/// A directory on the walk.
pub(super) struct Place {
    /// Names from the top, for people; without a slash at its end.
    pub(super) shown: String,
    /// Stored names from the top.
    pub(super) stored: Vec<Vec<u8>>,
    /// `None` where it is not known: names in it cannot be deciphered.
    pub(super) id: Option<DirId>,
}

/// An entry of a directory that is a user's.
pub(super) struct Item {
    pub(super) stored: Vec<u8>,
    /// As shown.
    pub(super) shown: String,
    /// What is wrong with its name; if anything, no name tag can fit.
    pub(super) notes: Vec<Note>,
}

pub(super) enum Task {
    /// A directory from a position of its listing on.
    List(Arc<Place>, u64),
    /// Objects of a directory that are no directories.
    Objects(Arc<Place>, Vec<Item>),
    /// Blocks of a file from this one on.
    Blocks(Arc<InWork>, u64),
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) headers: AtomicU64,
    pub(super) older_versions: AtomicU64,
    pub(super) in_doubt: AtomicU64,
    pub(super) newest_epoch: AtomicU64,
    pub(super) blocks: AtomicU64,
    pub(super) holes: AtomicU64,
    pub(super) bytes_stored: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) left: AtomicU64,
}

pub(super) struct Walk<'a> {
    pub(super) volume: &'a Volume,
    pub(super) keys: Arc<VolumeKeys>,
    pub(super) options: CheckOptions,
    pub(super) queue: Queue<Task>,
    pub(super) counters: Counters,
    found: Mutex<Found>,
    /// Files with several names that were looked at, by inode number.
    linked: Mutex<HashSet<u64>>,
}

#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    not_listed: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(volume: &'a Volume, options: CheckOptions) -> Result<Self> {
        Ok(Self {
            volume,
            keys: volume.env.keys()?,
            options,
            queue: Queue::new(),
            counters: Counters::default(),
            found: Mutex::default(),
            linked: Mutex::default(),
        })
    }

    pub(super) fn env(&self) -> &'a Arc<Env> {
        &self.volume.env
    }

    /// The first task: the top directory.
    pub(super) fn begin(&self) {
        let env = self.env();
        let top = Place {
            shown: String::new(),
            stored: Vec::new(),
            id: Some(root_dir_id(&self.keys.dir, &env.volume)),
        };
        add(&self.counters.directories, 1);
        self.own_files();
        self.queue.put([Task::List(Arc::new(top), 0)]);
    }

    /// Does tasks until nothing is left.
    pub(super) fn work(&self) {
        self.queue.work(|task| match task {
            Task::List(place, from) => self.list(&place, from),
            Task::Objects(place, items) => object::look(self, &place, &items),
            Task::Blocks(file, from) => object::look_at_blocks(self, &file, from),
        });
    }

    pub(super) fn progress(&self) -> CheckProgress {
        let counters = &self.counters;
        let objects = [&counters.files, &counters.directories, &counters.others];
        CheckProgress {
            objects: objects
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum(),
            bytes: counters.bytes_read.load(Ordering::Relaxed),
            damaged: counters.damaged.load(Ordering::Relaxed),
        }
    }

    pub(super) fn into_report(self) -> Report {
        let found = self.found.into_inner().unwrap_or_default();
        let mut findings = found.findings;
        findings.sort_by(|a, b| (&a.path, a.part, &a.what).cmp(&(&b.path, b.part, &b.what)));
        let counters = self.counters;
        Report {
            files: counters.files.into_inner(),
            directories: counters.directories.into_inner(),
            others: counters.others.into_inner(),
            headers: counters.headers.into_inner(),
            older_versions: counters.older_versions.into_inner(),
            in_doubt: counters.in_doubt.into_inner(),
            newest_epoch: counters.newest_epoch.into_inner(),
            blocks: counters.blocks.into_inner(),
            holes: counters.holes.into_inner(),
            bytes_stored: counters.bytes_stored.into_inner(),
            bytes_read: counters.bytes_read.into_inner(),
            damaged: counters.damaged.into_inner(),
            left: counters.left.into_inner(),
            findings,
            not_listed: found.not_listed,
            ..Report::default()
        }
    }

    /// Takes in what was found of one object.
    pub(super) fn found(&self, place: &Place, shown: &str, stored: &[u8], notes: Vec<Note>) {
        let Some(worst) = notes.iter().map(|note| note.severity).max() else {
            return;
        };
        match worst {
            Severity::Damaged => add(&self.counters.damaged, 1),
            Severity::Left => add(&self.counters.left, 1),
        }
        self.note(place, shown, stored, notes);
    }

    /// As `found`, of an object that was counted already.
    pub(super) fn note(&self, place: &Place, shown: &str, stored: &[u8], notes: Vec<Note>) {
        let mut found = locked(&self.found);
        for note in notes {
            if found.findings.len() >= Report::LISTED {
                found.not_listed += 1;
                continue;
            }
            found.findings.push(Finding {
                path: path_of(place, shown),
                part: note.part,
                severity: note.severity,
                what: note.what,
                at: Locus {
                    dir: place.stored.clone(),
                    entry: stored.to_vec(),
                },
            });
        }
    }

    /// Whether this is the first name under which a file with several is seen.
    pub(super) fn first_name(&self, ino: u64) -> bool {
        locked(&self.linked).insert(ino)
    }

    /// Opens a directory by the stored names on its way.
    pub(super) fn open(&self, place: &Place) -> std::io::Result<Arc<dyn Dir>> {
        let mut dir = Arc::clone(&self.env().root);
        for name in &place.stored {
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    /// The older generation of the volume file; the newer one opened this volume.
    fn own_files(&self) {
        let env = self.env();
        let verified = match read_small(&env.root, VOLUME_OLD, VOLUME_FILE_LIMIT) {
            Ok(None) => return,
            Ok(Some(bytes)) => VolumeFile::parse_unverified(&bytes)
                .and_then(|file| file.verify(&self.keys.mac))
                .map(|_| ())
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = verified {
            let note = Note::left(
                Part::VolumeFile,
                format!(
                    "the older generation, which only repair would use, does not hold: {error}"
                ),
            );
            let top = Place {
                shown: String::new(),
                stored: Vec::new(),
                id: None,
            };
            self.found(&top, "<strongroom.volume.old>", VOLUME_OLD, vec![note]);
        }
    }

    /// One batch of a directory's listing; what is left of it is a task again.
    fn list(&self, place: &Arc<Place>, from: u64) {
        let listed = self
            .open(place)
            .and_then(|dir| Ok((dir.entries(from)?, dir)));
        let (batch, dir) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                let note = Note::damaged(Part::Store, format!("cannot be listed: {error}"));
                return self.found(place, "", b"", vec![note]);
            }
        };
        let Some(next) = batch.last().map(|entry| entry.next) else {
            return;
        };
        self.queue.put([Task::List(Arc::clone(place), next)]);
        let mut items = Vec::new();
        for entry in batch {
            if place.stored.is_empty() && entry.name == MKFS_LOST_AND_FOUND {
                continue;
            }
            match classify(&entry.name) {
                EntryClass::Internal => self.ours(place, &entry),
                EntryClass::SideFile => self.side_file(place, &dir, &entry.name),
                EntryClass::Name | EntryClass::Long => {
                    items.extend(self.entry(place, &dir, entry));
                }
            }
        }
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let some = items.by_ref().take(FILES).collect();
            self.queue.put([Task::Objects(Arc::clone(place), some)]);
        }
    }

    /// A user's entry: its name, and, for a directory, its id. Anything else is handed back.
    fn entry(&self, place: &Arc<Place>, dir: &Arc<dyn Dir>, entry: Entry) -> Option<Item> {
        let opened = match &place.id {
            Some(id) => names::open(self.env(), dir, id, &entry.name),
            None => Ok(None),
        };
        let (shown, notes) = match opened {
            Ok(Some(name)) => (shown(&name), Vec::new()),
            Ok(None) => (undeciphered(&entry.name), Vec::new()),
            Err(error) => {
                let note = Note::of_error(Part::Name, &error);
                (undeciphered(&entry.name), vec![note])
            }
        };
        let kind = match entry
            .kind
            .map_or_else(|| dir.stat_at(&entry.name).map(|stat| stat.kind), Ok)
        {
            Ok(kind) => kind,
            Err(error) => {
                let note = Note::damaged(Part::Store, format!("cannot be looked at: {error}"));
                self.found(place, &shown, &entry.name, vec![note]);
                return None;
            }
        };
        if kind == Kind::Dir {
            self.child(place, dir, &entry.name, &shown, notes);
            return None;
        }
        Some(Item {
            stored: entry.name,
            shown,
            notes,
        })
    }

    /// A directory in a directory: identified, its xattrs looked at, and put among what is left.
    fn child(
        &self,
        place: &Place,
        dir: &Arc<dyn Dir>,
        stored: &[u8],
        shown: &str,
        mut notes: Vec<Note>,
    ) {
        add(&self.counters.directories, 1);
        let opened = match dir.open_dir(stored) {
            Ok(opened) => opened,
            Err(error) => {
                notes.push(Note::damaged(
                    Part::Store,
                    format!("cannot be opened: {error}"),
                ));
                return self.found(place, shown, stored, notes);
            }
        };
        notes.extend(object::xattrs(self, opened.as_ref()));
        match (opened.stat(), self.env().root.stat()) {
            (Ok(stat), Ok(top)) if stat.dev != top.dev => {
                notes.push(Note::damaged(Part::Store, "it lies on another file system"));
                return self.found(place, shown, stored, notes);
            }
            _ => {}
        }
        let id = match &place.id {
            None => None,
            Some(parent) => match dir_id::identify(self.env(), parent, stored, &opened) {
                Ok((id, _)) => Some(id),
                Err(error) => {
                    let what = format!("its strongroom.dir does not hold where it stands: {error}");
                    notes.push(Note::damaged(Part::Directory, what));
                    None
                }
            },
        };
        self.found(place, shown, stored, notes);
        let mut names = place.stored.clone();
        names.push(stored.to_vec());
        let child = Place {
            shown: path_of(place, shown),
            stored: names,
            id,
        };
        self.queue.put([Task::List(Arc::new(child), 0)]);
    }

    /// A file of ours: in its place, left behind, or where it does not belong.
    fn ours(&self, place: &Place, entry: &Entry) {
        let name = &entry.name;
        let top = [VOLUME, VOLUME_OLD, MOUNT, LOCK, RESERVE, REDO].contains(&name.as_slice());
        let left = if top && place.stored.is_empty() || is_gone_marker(name) {
            return;
        } else if name == DIR_FILE && !place.stored.is_empty() {
            return; // read with the directory
        } else if name.starts_with(TMP_PREFIX) {
            "what was being made or removed when something cut it off"
        } else if name.starts_with(LOST_PREFIX) {
            "remains that were kept: of a header that never arrived, or of a file that was repaired"
        } else {
            "a name of ours where nothing of ours belongs; it is not used"
        };
        let shown = format!("<{}>", name.escape_ascii());
        self.found(place, &shown, name, vec![Note::left(Part::Hidden, left)]);
    }

    fn side_file(&self, place: &Place, dir: &Arc<dyn Dir>, name: &[u8]) {
        let entry = name.strip_suffix(SIDE_SUFFIX).unwrap_or_default();
        if dir.stat_at(entry).is_ok() {
            return; // read with its entry
        }
        let shown = format!("<{}>", name.escape_ascii());
        let note = Note::left(
            Part::Hidden,
            "the side file of a long name that is not there",
        );
        self.found(place, &shown, name, vec![note]);
    }

    /// As name tags bind it.
    pub(super) fn bound_place(
        place: &Place,
        stored: &[u8],
    ) -> Option<crate::volume::file::body::Place> {
        place.id.map(|dir| crate::volume::file::body::Place {
            dir,
            stored: stored.to_vec(),
        })
    }
}

fn path_of(place: &Place, shown: &str) -> String {
    match (place.shown.is_empty(), shown.is_empty()) {
        (true, true) => "/".to_owned(),
        (false, true) => place.shown.clone(),
        (_, false) => format!("{}/{shown}", place.shown),
    }
}

/// A name as people read it: control characters escaped, what is no UTF-8 replaced.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .chars()
        .flat_map(|char| {
            let escaped: Vec<char> = if char.is_control() {
                char.escape_default().collect()
            } else {
                vec![char]
            };
            escaped
        })
        .collect()
}

fn undeciphered(stored: &[u8]) -> String {
    format!("<{}>", stored.escape_ascii())
}
