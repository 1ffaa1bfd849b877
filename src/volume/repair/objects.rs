//! Repair of what is no directory, and of attributes of anything.

use std::fmt::Write;
use std::sync::Arc;

use crate::format::layout;
use crate::format::texts::{XATTR_PREFIX, open_xattr_name, open_xattr_value};
use crate::store::{Access, Dir, Kind, Stat, Xattrs};
use crate::volume::check::{Finding, Locus, Part, Severity};
use crate::volume::error::Result;
use crate::volume::file::examine::{Holds, Tally, examine};
use crate::volume::file::repair::{drop_other_halves, set_length};
use crate::volume::repair::keep::{Attribute, LostAndFound};
use crate::volume::repair::{Running, has};
use crate::volume::xattr::is_kept;

/// An object, and what was found of it.
struct Damaged<'a> {
    path: &'a str,
    at: &'a Locus,
    findings: &'a [&'a Finding],
    dir: &'a Arc<dyn Dir>,
    stat: &'a Stat,
}

impl Running<'_> {
    /// Does what can be done about the findings of one object.
    pub(super) fn object(&mut self, path: &str, at: &Locus, findings: &[&Finding]) -> Result<()> {
        let left = |part: Part| {
            let mut all = findings.iter();
            all.any(|finding| finding.part == part && finding.severity == Severity::Left)
        };
        if findings
            .iter()
            .all(|finding| finding.severity == Severity::Left)
            && !left(Part::KeyArea)
        {
            return Ok(()); // settling does what is to be done
        }
        if has(findings, Part::Key) || has(findings, Part::Store) {
            self.could_not(
                path,
                "it stays as it is: what cannot be asked or read now may be sound",
            );
            return Ok(());
        }
        if at.entry.is_empty() {
            return Ok(());
        }
        let Ok(dir) = self.raw_dir(&at.dir) else {
            return Ok(()); // moved by what was done before
        };
        let Ok(stat) = dir.stat_at(&at.entry) else {
            return Ok(());
        };
        if has(findings, Part::Xattr) {
            self.xattrs(path, &dir, &at.entry, &stat)?;
        }
        match stat.kind {
            Kind::Dir => self.directory(path, at, findings),
            Kind::File => self.file(&Damaged {
                path,
                at,
                findings,
                dir: &dir,
                stat: &stat,
            }),
            _ if has(findings, Part::Symlink) || has(findings, Part::Name) => {
                self.hide(path, &dir, &at.entry, findings)
            }
            _ => Ok(()),
        }
    }

    /// The directory with these stored names, whatever its id.
    pub(super) fn raw_dir(&self, stored: &[Vec<u8>]) -> Result<Arc<dyn Dir>> {
        let mut dir = Arc::clone(&self.volume.env.root);
        for name in stored {
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    fn file(&mut self, damaged: &Damaged<'_>) -> Result<()> {
        let &Damaged {
            path,
            at,
            findings,
            dir,
            stat,
        } = damaged;
        let lost = [
            Part::Header,
            Part::Record,
            Part::Block,
            Part::Name,
            Part::NameTag,
        ];
        let in_place = [Part::KeyArea, Part::State, Part::Length];
        let env = &self.volume.env;
        if lost.into_iter().any(|part| has(findings, part)) {
            return self.salvage(damaged);
        }
        if !findings
            .iter()
            .any(|finding| in_place.contains(&finding.part))
        {
            return Ok(());
        }
        if has(findings, Part::Length) {
            let backing = dir.open(&at.entry, Access::ReadWrite)?;
            let seen = examine(env, Arc::clone(&backing), stat.size, None);
            if !matches!(seen.holds, Holds::Gcm(_)) {
                return self.salvage(damaged);
            }
            let kept = set_length(env, backing.as_ref(), dir.as_ref())?;
            let what = match kept {
                Some(name) => format!(
                    "its length is that of its size again; what stood past its end is kept beside it as {}",
                    name.escape_ascii()
                ),
                None => "its length is that of its size again".to_owned(),
            };
            self.did(path, what);
        }
        if findings
            .iter()
            .any(|finding| matches!(finding.part, Part::KeyArea | Part::State))
        {
            let backing = dir.open(&at.entry, Access::ReadWrite)?;
            drop_other_halves(env, backing.as_ref())?;
            self.did(
                path,
                "the half of its header that does not hold, or no longer counts, was cleared",
            );
        }
        Ok(())
    }

    /// Moves a file that cannot stay as it is: its sound blocks to a new file, itself to a hidden name.
    fn salvage(&mut self, damaged: &Damaged<'_>) -> Result<()> {
        let &Damaged {
            path,
            at,
            findings,
            dir,
            stat,
        } = damaged;
        let volume = self.volume;
        let backing = dir.open(&at.entry, Access::Read)?;
        let seen = examine(&volume.env, backing, stat.size, None);
        let tally = seen.holds.inspect(0..u64::MAX, true);
        let (base, what) = (base_of(path), what_happened(findings, &seen.holds, &tally));
        let keep = LostAndFound::open(volume)?;
        let (attributes, mut left) = self.attributes_of(dir, &at.entry)?;
        let mut text = report_text(path, findings);
        let copy = match seen.holds.body() {
            Some(body) => {
                let (name, refused) =
                    keep.copy(&base, &what, body, &tally.bad, stat, &attributes)?;
                left.extend(refused);
                let _ = writeln!(
                    text,
                    "\nWhat could be read of it is in \"{name}\", at its offsets."
                );
                Some(name)
            }
            None => {
                text.push_str("\nNothing of its contents could be read.\n");
                for Attribute { name, value } in &attributes {
                    let (name, value) = (name.escape_ascii(), value.escape_ascii());
                    let _ = writeln!(text, "It has the attribute {name}: \"{value}\".");
                }
                None
            }
        };
        for line in left {
            let _ = writeln!(text, "Only the damaged file has the attribute {line}.");
        }
        for (run, why) in &tally.bad {
            let _ = writeln!(
                text,
                "Bytes {} to {} are a hole there: {why}.",
                run.start * layout::PAGE,
                run.end * layout::PAGE - 1
            );
        }
        self.set_aside(path, dir, at, &keep, (&base, &what, text), copy)
    }

    /// The attributes of a damaged file that can be read, and a line for each that cannot.
    fn attributes_of(
        &self,
        dir: &Arc<dyn Dir>,
        entry: &[u8],
    ) -> Result<(Vec<Attribute>, Vec<String>)> {
        let keys = self.volume.env.keys()?;
        let object = dir.xattrs_at(entry)?;
        let (mut sound, mut left) = (Vec::new(), Vec::new());
        let names = match object.xattr_names() {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
            names => names?,
        };
        for stored in names.into_iter().filter(|name| is_kept(name)) {
            let read = || {
                let value = object.xattr(&stored)?;
                if !stored.starts_with(XATTR_PREFIX) {
                    return Ok((stored.clone(), value));
                }
                let name = open_xattr_name(&keys.xattr_name, &stored)?;
                let value = open_xattr_value(&keys.xattr_value, &stored, &value)?;
                Result::Ok((name, value))
            };
            match read() {
                Ok((name, value)) => sound.push(Attribute { name, value }),
                Err(error) => left.push(format!("{}: {error}", stored.escape_ascii())),
            }
        }
        Ok((sound, left))
    }

    /// Moves an entry whose content is lost to a hidden name, with a report.
    fn hide(
        &mut self,
        path: &str,
        dir: &Arc<dyn Dir>,
        entry: &[u8],
        findings: &[&Finding],
    ) -> Result<()> {
        let keep = LostAndFound::open(self.volume)?;
        let at = Locus {
            dir: Vec::new(),
            entry: entry.to_vec(),
        };
        let what = if has(findings, Part::Symlink) {
            "target lost"
        } else {
            "name lost"
        };
        let text = report_text(path, findings);
        self.set_aside(path, dir, &at, &keep, (&base_of(path), what, text), None)
    }

    fn set_aside(
        &mut self,
        path: &str,
        dir: &Arc<dyn Dir>,
        at: &Locus,
        keep: &LostAndFound,
        (base, what, mut text): (&str, &str, String),
        copy: Option<String>,
    ) -> Result<()> {
        text.push_str("\nThe damaged ciphertext is kept beside this report in the backing directory; the end of this text names it.\n");
        let report = keep.report(base, what, &text)?;
        let hidden = keep.hide(dir, &at.entry)?;
        let mut line = String::new();
        let _ = writeln!(line, "Kept as: {}", hidden.escape_ascii());
        keep.append(&report, &line)?;
        let side = crate::format::names::side_file(&at.entry);
        if dir.stat_at(&side).is_ok() && dir.stat_at(&at.entry).is_err() {
            keep.hide(dir, &side)?;
        }
        self.did(
            path,
            match copy {
                Some(name) => format!("moved to /lost+found/{name}, with a report beside it"),
                None => format!("moved out of the way; see /lost+found/{report}"),
            },
        );
        Ok(())
    }

    /// Attributes that cannot be deciphered: written to a report, then removed.
    fn xattrs(&mut self, path: &str, dir: &Arc<dyn Dir>, entry: &[u8], stat: &Stat) -> Result<()> {
        let keys = self.volume.env.keys()?;
        let object: Box<dyn Xattrs> = dir.xattrs_at(entry)?;
        let mut text = format!(
            "Attributes of {path} that could not be deciphered, name and value as stored (in hex):\n"
        );
        let mut lost = Vec::new();
        for name in object
            .xattr_names()?
            .into_iter()
            .filter(|name| name.starts_with(XATTR_PREFIX))
        {
            let value = object.xattr(&name)?;
            let sound = open_xattr_name(&keys.xattr_name, &name).is_ok()
                && open_xattr_value(&keys.xattr_value, &name, &value).is_ok();
            if !sound {
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = writeln!(text, "{} {hex}", name.escape_ascii());
                lost.push(name);
            }
        }
        let keep = LostAndFound::open(self.volume)?;
        let report = keep.report(&base_of(path), "attributes lost", &text)?;
        for name in &lost {
            object.remove_xattr(name)?;
        }
        if stat.kind == Kind::File {
            dir.open(entry, Access::Read)?.sync_all()?;
        }
        self.did(
            path,
            format!(
                "{} attributes were moved to /lost+found/{report}",
                lost.len()
            ),
        );
        Ok(())
    }
}

/// What a file's new name says.
fn what_happened(findings: &[&Finding], holds: &Holds, tally: &Tally) -> String {
    let lost: u64 = tally.bad.iter().map(|(run, _)| run.end - run.start).sum();
    if holds.body().is_none() {
        "header lost".to_owned()
    } else if lost > 0 {
        format!("{lost} of {} blocks lost", holds.blocks())
    } else if has(findings, Part::Name) {
        "name lost".to_owned()
    } else if has(findings, Part::NameTag) {
        "not bound to this name".to_owned()
    } else {
        "mended".to_owned()
    }
}

fn base_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn report_text(path: &str, findings: &[&Finding]) -> String {
    let mut text = format!("strongroom check --repair found this at {path}:\n");
    for finding in findings {
        let _ = writeln!(text, "  {}: {}", finding.part, finding.what);
    }
    text
}
