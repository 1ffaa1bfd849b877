//! Repair of directories: lost ids found again where they follow from what is left, directories that stand where they do not
//! belong moved into `lost+found`.
//!
//! An id is believed only if names in the directory decipher under it.

use std::sync::Arc;

use crate::format::dir_file::{DirFile, place_tag};
use crate::format::ids::DirId;
use crate::format::names::{
    DIR_FILE, EntryClass, child_dir_id, classify, gone_marker, random_lost, seal_name,
};
use crate::store::{Dir, Kind, RenameMode};
use crate::volume::check::{Finding, Locus, Part};
use crate::volume::dir_id::{random_id, write_dir_file};
use crate::volume::error::{Error, Result};
use crate::volume::repair::keep::LostAndFound;
use crate::volume::repair::{Objects, Running, has};
use crate::volume::replace::read_small;
use crate::volume::spot::Spot;
use crate::volume::{dir_id, names};

/// More than any `strongroom.dir`.
const DIR_FILE_MAX: usize = 256;
/// Entries that are tried under an id before it is refused.
const TRIED: usize = 64;

impl Running<'_> {
    /// Directories none of whose names deciphers, by the findings about their entries.
    pub(super) fn dirs_without_names(&self, objects: &Objects<'_>) -> Vec<Vec<Vec<u8>>> {
        let mut dirs: Vec<&[Vec<u8>]> = objects
            .iter()
            .filter(|((dir, _), findings)| !dir.is_empty() && has(findings, Part::Name))
            .map(|((dir, _), _)| *dir)
            .collect();
        dirs.dedup();
        dirs.into_iter()
            .filter(|dir| {
                self.dir_at(dir)
                    .and_then(|(dir, id)| self.deciphers(&dir, &id))
                    .is_ok_and(|deciphers| deciphers == Some(false))
            })
            .map(<[_]>::to_vec)
            .collect()
    }

    /// Whether names of a directory decipher under this id; `None` where it has none.
    fn deciphers(&self, dir: &Arc<dyn Dir>, id: &DirId) -> Result<Option<bool>> {
        let mut tried = 0;
        let mut from = 0;
        while tried < TRIED {
            let batch = dir.entries(from)?;
            let Some(last) = batch.last() else { break };
            from = last.next;
            for entry in batch {
                if !matches!(classify(&entry.name), EntryClass::Name | EntryClass::Long) {
                    continue;
                }
                tried += 1;
                if names::open(&self.volume.env, dir, id, &entry.name).is_ok() {
                    return Ok(Some(true));
                }
            }
        }
        Ok((tried > 0).then_some(false))
    }

    /// Looks for the id of a directory whose `strongroom.dir` is lost or is another's, and writes it again; whether it was found.
    pub(super) fn find_id(&mut self, stored: &[Vec<u8>]) -> Result<bool> {
        let Some((entry, above)) = stored.split_last() else {
            return Ok(false);
        };
        let (parent, parent_id) = self.dir_at(above)?;
        let child = parent.open_dir(entry)?;
        let name = names::open(&self.volume.env, &parent, &parent_id, entry);
        let name = name.ok().flatten();
        let derived = child_dir_id(&self.volume.env.keys()?.dir, &parent_id, entry);
        let id = match self.deciphers(&child, &derived)? {
            Some(true) => Some(derived),
            _ => self.id_from_markers(&child, name.as_deref())?,
        };
        let Some(id) = id else {
            return Ok(false);
        };
        keep_dir_file(&child)?;
        self.write_id(&child, id, &parent_id, entry)?;
        let shown = name.map_or_else(
            || entry.escape_ascii().to_string(),
            |name| String::from_utf8_lossy(&name).into_owned(),
        );
        self.did(&shown, "the lost id of this directory was found again: its names decipher under one that it derived where it stood");
        Ok(true)
    }

    /// Findings about a directory itself.
    pub(super) fn directory(
        &mut self,
        path: &str,
        at: &Locus,
        findings: &[&Finding],
    ) -> Result<()> {
        let (parent, parent_id) = self.dir_at(&at.dir)?;
        let child = parent.open_dir(&at.entry)?;
        if has(findings, Part::Directory) {
            return self.identify_again(path, &parent, &parent_id, &at.entry, &child);
        }
        if has(findings, Part::Name) {
            let id = dir_id::identify(&self.volume.env, &parent_id, &at.entry, &child)?.0;
            if self.deciphers(&child, &id)? == Some(false) {
                return Ok(()); // neither its name nor those in it: its files are saved one by one
            }
            self.move_dir(path, &parent, &at.entry, &child, id, "name lost")?;
        }
        Ok(())
    }

    /// A `strongroom.dir` that does not parse or does not fit where it stands.
    fn identify_again(
        &mut self,
        path: &str,
        parent: &Arc<dyn Dir>,
        parent_id: &DirId,
        entry: &[u8],
        child: &Arc<dyn Dir>,
    ) -> Result<()> {
        let env = Arc::clone(&self.volume.env);
        let bytes = read_small(child, DIR_FILE, DIR_FILE_MAX).unwrap_or_default();
        if let Some(file) = bytes.and_then(|bytes| DirFile::parse(&bytes).ok())
            && self.deciphers(child, &file.id)? == Some(true)
        {
            return self.move_dir(path, parent, entry, child, file.id, "stood elsewhere");
        }
        let name = names::open(&env, parent, parent_id, entry).ok().flatten();
        let derived = child_dir_id(&env.keys()?.dir, parent_id, entry);
        let id = match self.deciphers(child, &derived)? {
            None => Some(random_id()),
            Some(true) => Some(derived),
            Some(false) => self.id_from_markers(child, name.as_deref())?,
        };
        keep_dir_file(child)?;
        match id {
            Some(id) => {
                self.write_id(child, id, parent_id, entry)?;
                self.did(path, "the id of this directory was found again; its damaged strongroom.dir is kept in it");
            }
            None => self.did(
                path,
                "its damaged strongroom.dir is kept in it under another name; its id is lost",
            ),
        }
        Ok(())
    }

    fn write_id(
        &self,
        child: &Arc<dyn Dir>,
        id: DirId,
        parent: &DirId,
        entry: &[u8],
    ) -> Result<()> {
        let tag = place_tag(&self.volume.env.keys()?.dir, &id, parent, entry);
        Ok(write_dir_file(child, id, vec![tag])?)
    }

    /// The id that a directory of this name derived where it first stood, if it left a marker there; names in it decipher
    /// under it.
    fn id_from_markers(&self, child: &Arc<dyn Dir>, name: Option<&[u8]>) -> Result<Option<DirId>> {
        let Some(name) = name else { return Ok(None) };
        let env = &self.volume.env;
        let keys = env.keys()?;
        let mut left = vec![Vec::new()];
        while let Some(place) = left.pop() {
            let Ok((dir, id)) = self.dir_at(&place) else {
                continue;
            };
            let sealed = seal_name(&keys.name, &id, name).entry;
            if dir.stat_at(&gone_marker(&sealed)).is_ok() {
                let found = child_dir_id(&keys.dir, &id, &sealed);
                if self.deciphers(child, &found)? == Some(true) {
                    return Ok(Some(found));
                }
            }
            let mut from = 0;
            loop {
                let batch = dir.entries(from)?;
                let Some(last) = batch.last() else { break };
                from = last.next;
                for entry in batch {
                    let ours =
                        !matches!(classify(&entry.name), EntryClass::Name | EntryClass::Long);
                    let kind = match entry.kind {
                        Some(kind) => kind,
                        None => dir.stat_at(&entry.name)?.kind,
                    };
                    if !ours && kind == Kind::Dir {
                        let mut below = place.clone();
                        below.push(entry.name);
                        left.push(below);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Moves a directory whose id is known into `lost+found`, where it gets a name.
    fn move_dir(
        &mut self,
        path: &str,
        parent: &Arc<dyn Dir>,
        entry: &[u8],
        child: &Arc<dyn Dir>,
        id: DirId,
        what: &str,
    ) -> Result<()> {
        let volume = self.volume;
        let keep = LostAndFound::open(volume)?;
        let base = path.rsplit('/').next().unwrap_or_default();
        for count in 1..1000 {
            let name = super::keep::name_of(base, what, count);
            let spot = Spot::new(volume, &keep.node, name.as_bytes())?;
            if spot.stat()?.is_some() {
                continue;
            }
            spot.prepare()?;
            let tag = place_tag(&volume.env.keys()?.dir, &id, &spot.id, spot.entry());
            write_dir_file(child, id, vec![tag])?;
            parent.rename(entry, &*spot.dir, spot.entry(), RenameMode::NoReplace)?;
            spot.dir.sync()?;
            parent.sync()?;
            if classify(entry) == EntryClass::Long
                && parent
                    .stat_at(&crate::format::names::side_file(entry))
                    .is_ok()
            {
                keep.hide(parent, &crate::format::names::side_file(entry))?;
            }
            self.did(path, format!("moved to /lost+found/{name}"));
            return Ok(());
        }
        Err(Error::errno(libc::EEXIST))
    }
}

/// Puts a `strongroom.dir` that does not hold aside, where there is one.
fn keep_dir_file(child: &Arc<dyn Dir>) -> Result<()> {
    match child.rename(DIR_FILE, &**child, &random_lost(), RenameMode::Replace) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        renamed => Ok(renamed.and_then(|()| child.sync())?),
    }
}
