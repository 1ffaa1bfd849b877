//! Files encrypted anew (`rekey-data`), cut after every change: the name leads to the old file or to the new one, whole,
//! with its attributes; the next run takes what was left away.

use crate::format::names::TMP_PREFIX;
use crate::store::Kind as StoreKind;
use crate::volume::dir;

use super::Setup;
use super::oracle::Kind;
use super::scripts::{PAGE, SAMPLES, at, create, fsync, rename, run, settled, write};
use super::session::{Outcome, Session};
use super::step::{Path, Step, node};

use Step::*;

impl Session {
    /// Whether `rekey-data` makes another object of it: it has a byte, and no other name.
    pub(super) fn is_rekeyed(&self, path: &Path) -> bool {
        let tree = self.oracle.tree();
        let ino = tree.find(path).expect("a file");
        !self.oracle.plain(ino).is_empty() && tree.links(path) == 1
    }

    /// An error also for a file that is refused without a reason known here.
    pub(super) fn rekey_data(&self, path: &Path) -> Result<(), String> {
        let done = self.volume.rekey_data(&[path.join(&b'/')], &mut |_| {});
        let done = done.map_err(|error| error.to_string())?;
        let refused = u64::from(self.oracle.tree().links(path) > 1);
        if done.refused == refused {
            Ok(())
        } else {
            Err(format!("{done:?}"))
        }
    }

    /// What `rekey-data` promises when it ended well: the old file comes back by no cut.
    pub(super) fn rekeyed(&mut self, path: &Path, fresh: u64) -> Outcome<()> {
        let made = node(&self.volume, path).map_err(|error| self.what(error))?;
        self.oracle.made(fresh, made.id());
        let (_, above) = path.split_last().expect("a name");
        let above = self.oracle.tree().find(above).expect("a directory");
        self.oracle.names_synced(above, &self.oracle.mark());
        Ok(())
    }

    /// Another run over all files ends, and nothing is left of one that was cut off.
    pub(super) fn rekey_each_file(&mut self) -> Outcome<()> {
        let files = self.oracle.tree().paths(&|kind| *kind == Kind::File);
        for path in files {
            self.step(&RekeyData(path.clone()))?;
            let (_, above) = path.split_last().expect("a name");
            let hidden = self.hidden_files(above);
            let hidden = hidden.map_err(|error| self.what(error))?;
            if hidden > 0 {
                return Err(self.what(format!("{hidden} files stay hidden")));
            }
        }
        Ok(())
    }

    fn hidden_files(&self, path: &[Vec<u8>]) -> crate::volume::error::Result<usize> {
        let directory = dir::open(&self.volume, &node(&self.volume, path)?)?;
        let mut hidden = 0;
        let mut from = 0;
        loop {
            let entries = directory.entries(from)?;
            let Some(last) = entries.last() else {
                return Ok(hidden);
            };
            from = last.next;
            for entry in entries.iter().filter(|e| e.name.starts_with(TMP_PREFIX)) {
                hidden += usize::from(directory.stat_at(&entry.name)?.kind == StoreKind::File);
            }
        }
    }
}

fn anew(path: &str) -> Step {
    RekeyData(at(path))
}

pub(super) fn files_anew() -> Vec<(&'static str, Vec<Step>, Vec<Step>)> {
    let attributes = |path: &str| {
        vec![
            SetXattr(at(path), b"user.a".to_vec(), vec![1; 50]),
            SetMode(at(path), 0o640),
        ]
    };
    vec![
        (
            "a settled file anew",
            [
                settled("f", 3 * PAGE + 5),
                attributes("f"),
                vec![fsync("f")],
            ]
            .concat(),
            vec![
                anew("f"),
                write("f", 100, PAGE),
                anew("f"),
                anew("f"),
                Settle,
                Remount,
                anew("f"),
            ],
        ),
        (
            "files anew that were never durable",
            vec![],
            [
                vec![create("f"), write("f", 0, 2 * PAGE + 1)],
                attributes("f"),
                vec![
                    anew("f"),
                    write("f", PAGE, 10),
                    Resize(at("f"), 40 * PAGE as u64),
                    anew("f"),
                    create("g"),
                    anew("g"),
                    rename("f", "g"),
                    anew("g"),
                ],
            ]
            .concat(),
        ),
        (
            "files anew under long names, with holes",
            [
                vec![
                    MakeDir(at("d")),
                    create("d/a*"),
                    write("d/a*", 40 * PAGE, 100),
                    Zero(at("d/a*"), PAGE as u64, 2 * PAGE as u64),
                    FsyncDir(at("")),
                ],
                attributes("d/a*"),
            ]
            .concat(),
            vec![
                anew("d/a*"),
                rename("d/a*", "b*"),
                rename("d", "e"),
                anew("b*"),
                rename("b*", "e/f"),
                anew("e/f"),
                Unlink(at("e/f")),
                Settle,
            ],
        ),
        (
            "files anew, links and rotations",
            [settled("f", 3000), vec![Link(at("f"), at("g"))]].concat(),
            vec![
                anew("f"),
                Unlink(at("g")),
                anew("f"),
                Rotate,
                anew("f"),
                Link(at("f"), at("g")),
                Settle,
                Rotate,
            ],
        ),
    ]
}

#[test]
fn files_anew_in_gcm_siv() {
    run(Setup::GCM, SAMPLES, files_anew());
    run(Setup::FILE_SYNCS, SAMPLES, files_anew());
}

#[test]
fn files_anew_in_xts() {
    run(Setup::XTS, SAMPLES, files_anew());
}
