//! `repair`: what a check found is brought back where the format allows it; what cannot be is moved into `lost+found`, with
//! what can be read of it, and nothing is deleted. Then all that unclean ends left is settled, and last the list of them is
//! emptied. Needs the volume alone, open for writing.
//!
//! Invariant: at any instant the volume holds what it held, in its place or in `lost+found`; a repair that was killed can be
//! run again.

mod dirs;
mod keep;
mod objects;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use restore::restore;

use crate::format::ids::DirId;
use crate::format::names::root_dir_id;
use crate::store::Dir;
use crate::volume::Volume;
use crate::volume::check::{CheckOptions, CheckProgress, Finding, Locus, Part, Report, Severity};
use crate::volume::dir_id;
use crate::volume::error::Result;
use crate::volume::file::repair::Mended;

/// Rounds of checking and mending: what hid behind a lost directory id is seen in the next.
const ROUNDS: usize = 6;

/// Something that was done, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Action {
    /// Path inside the volume of what it was done to.
    pub path: String,
    /// What was done, or why it could not be.
    pub what: String,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Repair {
    /// The check before.
    pub found: Report,
    /// What was done.
    pub done: Vec<Action>,
    /// What could not be done.
    pub failed: Vec<Action>,
    /// Files that an unclean end had left in doubt, or unsettled, and that are settled now.
    pub settled: u64,
    /// The check after: what is left.
    pub after: Report,
}

impl Repair {
    /// Whether nothing is damaged any more.
    pub fn is_sound(&self) -> bool {
        self.after.is_sound() && self.failed.is_empty()
    }
}

/// What was found of each object, by the stored names of its directory and its own.
type Objects<'r> = BTreeMap<(&'r [Vec<u8>], &'r [u8]), Vec<&'r Finding>>;

/// A repair under way.
pub(super) struct Running<'a> {
    pub(super) volume: &'a Volume,
    done: Vec<Action>,
    failed: Vec<Action>,
}

impl Volume {
    /// Repairs what can be repaired; nothing else uses the volume meanwhile. What fails for one object does not end it.
    pub fn repair(&self, progress: &mut dyn FnMut(CheckProgress)) -> Result<Repair> {
        self.require_writable()?;
        let options = CheckOptions::default();
        let found = self.check(&options, progress)?;
        let mut running = Running {
            volume: self,
            done: Vec::new(),
            failed: Vec::new(),
        };
        let mut report = found.clone();
        for _ in 0..ROUNDS {
            let before = running.done.len();
            running.failed.clear();
            running.round(&report);
            if running.done.len() == before {
                break;
            }
            report = self.check(&options, progress)?;
        }
        let settled = running.settle();
        running.finish_rotation();
        let mut after = self.check(&options, progress)?;
        if self.env.is_all_settled() {
            after.in_doubt = 0; // from the clean end on, which empties the list
        }
        Ok(Repair {
            found,
            done: running.done,
            failed: running.failed,
            settled,
            after,
        })
    }
}

impl<'a> Running<'a> {
    pub(super) fn did(&mut self, path: &str, what: impl Into<String>) {
        self.done.push(Action {
            path: path.to_owned(),
            what: what.into(),
        });
    }

    pub(super) fn could_not(&mut self, path: &str, what: impl Into<String>) {
        self.failed.push(Action {
            path: path.to_owned(),
            what: what.into(),
        });
    }

    /// One pass over what a check found, object by object.
    fn round(&mut self, report: &Report) {
        let mut objects: Objects<'_> = BTreeMap::new();
        for finding in &report.findings {
            let at = (finding.at.dir.as_slice(), finding.at.entry.as_slice());
            objects.entry(at).or_default().push(finding);
        }
        let lost: Vec<Vec<Vec<u8>>> = self.dirs_without_names(&objects);
        let mut found = Vec::new();
        for dir in lost {
            match self.find_id(&dir) {
                Ok(true) => found.push(dir),
                Ok(false) => {} // its files are saved one by one
                Err(error) => self.could_not(&shown(&dir), error.to_string()),
            }
        }
        for ((dir, entry), findings) in objects {
            if found.iter().any(|found| dir.starts_with(found)) {
                continue; // seen with its names in the next round
            }
            let Some(path) = findings.first().map(|finding| finding.path.clone()) else {
                continue;
            };
            let at = Locus {
                dir: dir.to_vec(),
                entry: entry.to_vec(),
            };
            if let Err(error) = self.object(&path, &at, &findings) {
                self.could_not(&path, error.to_string());
            }
        }
    }

    /// Opens and identifies a directory by its stored names.
    pub(super) fn dir_at(&self, stored: &[Vec<u8>]) -> Result<(Arc<dyn Dir>, DirId)> {
        let env = &self.volume.env;
        let mut dir = Arc::clone(&env.root);
        let mut id = root_dir_id(&env.keys()?.dir, &env.volume);
        for name in stored {
            let child = dir.open_dir(name)?;
            id = dir_id::identify(env, &id, name, &child)?.0;
            dir = child;
        }
        Ok((dir, id))
    }

    /// Settles everything that unclean ends left; if all of it could be, a clean end empties the list of them.
    fn settle(&mut self) -> u64 {
        let volume = self.volume;
        let mut settled = 0;
        let mut whole = true;
        let mut told: Vec<Action> = Vec::new();
        let walked = volume.each_file(&mut |batch| {
            for file in batch {
                match file.mend_all() {
                    Ok(Mended::Nothing) => {}
                    Ok(Mended::Settling) => settled += 1,
                    Ok(Mended::Aside(name)) => told.push(Action {
                        path: name.escape_ascii().to_string(),
                        what: "remains of a header that never arrived are kept there; the file is empty".to_owned(),
                    }),
                    // It may be sound under a key that is not at hand now: it must not lose its older halves.
                    Err(_) => whole = false,
                }
            }
            volume.settler.settle_all()
        });
        self.done.append(&mut told);
        whole &= matches!(walked, Ok(0)); // what is in a damaged directory was not settled
        if let Err(error) = walked.and_then(|_| volume.settler.sync_store()) {
            self.could_not(
                "/",
                format!("what unclean ends left is not all settled: {error}"),
            );
            whole = false;
        }
        if whole && volume.env.may_end_clean() {
            volume.env.mark_all_settled();
            volume.env.redo.let_all_go();
            if volume.env.epochs.any_listed() {
                self.did(
                    "/",
                    "every file in doubt is settled; the list of unclean ends is emptied",
                );
            }
        }
        settled
    }

    /// Takes up a rotation, or a move to another key, that was not finished.
    fn finish_rotation(&mut self) {
        if !self.volume.env.ring.chain().is_unfinished() {
            return;
        }
        match self.volume.rotate(&mut |_| {}) {
            Ok(rotation) if rotation.remaining == 0 && rotation.damaged == 0 => {
                let what = format!(
                    "the unfinished rotation was finished: {} headers re-wrapped",
                    rotation.rewrapped
                );
                self.did("/", what);
            }
            Ok(rotation) => self.could_not(
                "/",
                format!(
                    "the rotation is not finished: {} headers on older versions, {} that cannot be read",
                    rotation.remaining, rotation.damaged
                ),
            ),
            Err(error) => self.could_not("/", format!("the rotation is not finished: {error}")),
        }
    }
}

/// Whether any of these findings is damage of this part.
pub(super) fn has(findings: &[&Finding], part: Part) -> bool {
    findings
        .iter()
        .any(|finding| finding.part == part && finding.severity == Severity::Damaged)
}

/// A directory whose name is not known, for a report.
fn shown(stored: &[Vec<u8>]) -> String {
    let names = stored
        .iter()
        .map(|name| format!("/<{}>", name.escape_ascii()));
    names.collect()
}
