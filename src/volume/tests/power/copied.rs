//! A volume copied into another directory of the same disk, cut after every change, with syncs that fail: what is left is
//! the whole copy or no volume, the source is as it was, and a copy can be made again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::format::names;
use crate::keys::KeyProvider;
use crate::store::{Dir, Kind as StoreKind, MemoryStore};
use crate::volume::{CopyOptions, Error, copy};

use super::Setup;
use super::machine::{COPY, backing, host, key, mount_in};
use super::oracle::{Object, Shown};
use super::scripts::{PAGE, at, create, fsync, settled, write};
use super::session::{Outcome, Session, both, show};
use super::step::{Path, Step};

use Step::*;

/// What is at each path: the first path of the same object, what it is, and what it holds.
type Seen = BTreeMap<Path, (Path, Object, Option<Vec<u8>>)>;

fn seen(shown: &Shown) -> Seen {
    let mut firsts: HashMap<u64, Path> = HashMap::new();
    let mut paths = shown.tree.paths(&|_| true);
    paths.sort();
    let paths = paths.into_iter().filter(|path| !path.is_empty());
    paths
        .map(|path| {
            let ino = shown.tree.find(&path).expect("an object");
            let first = firsts.entry(ino).or_insert_with(|| path.clone());
            let mut object = shown.tree.get(&path).clone();
            object.entries.clear();
            let content = shown.contents.get(&ino).cloned();
            let what = (first.clone(), object, content);
            (path, what)
        })
        .collect()
}

/// Some of everything, not all of it durable.
fn tree() -> Vec<Step> {
    [
        settled("f", 3 * PAGE + 5),
        vec![
            SetXattr(at("f"), b"user.a".to_vec(), vec![1; 50]),
            SetMode(at("f"), 0o640),
            fsync("f"),
            MakeDir(at("d")),
            create("d/a*"),
            write("d/a*", 40 * PAGE, 100),
            MakeDir(at("b*")),
            Link(at("f"), at("b*/g")),
            Symlink(at("d/s"), b"../f".to_vec()),
            create("d/empty"),
            write("f", PAGE, 10),
        ],
    ]
    .concat()
}

impl Session {
    fn copy(&self, share: bool) -> Result<(), Error> {
        let options = CopyOptions {
            envelope: None,
            share_data_keys: share,
        };
        let provider: Arc<dyn KeyProvider> = self.keys.clone();
        let (to, key) = (backing(&self.shared(), COPY)?, key(&self.keys));
        let source = &self.volume;
        copy(source, to, provider, &key, &options, &host(), &mut |_| {}).map(drop)
    }

    fn copied(&self) -> std::io::Result<Arc<dyn Dir>> {
        self.shared().root().open_dir(COPY)
    }

    /// The copy, if it is a volume, is `wanted`; whether it is one.
    fn check_copy(&self, setup: &Setup, wanted: &Seen) -> Outcome<bool> {
        let there = self.copied().map_err(|error| self.what(error))?;
        let there = there.stat_at(names::VOLUME).is_ok();
        let copy = match mount_in(&self.shared(), setup, COPY) {
            Ok((copy, _)) if there => copy,
            Err(Error::NotAVolume(_)) if !there => return Ok(false),
            Ok(_) => return Err(self.what("it mounts without a volume file")),
            Err(error) => return Err(self.what(format!("the copy does not mount: {error}"))),
        };
        let shown = show(&copy).map_err(|error| self.what(error))?;
        if seen(&shown) != *wanted {
            return Err(self.what("the copy is not what was copied"));
        }
        copy.close().map_err(|error| self.what(error))?;
        Ok(true)
    }

    /// Empties the copy's directory, as who is refused is told, and copies again.
    fn copy_again(&self, setup: &Setup, share: bool) -> Outcome<()> {
        let again = || {
            let directory = self.copied()?;
            empty(&*directory)?;
            self.copy(share)
        };
        again().map_err(|error| self.what(format!("a second copy: {error}")))?;
        let wanted = seen(&show(&self.volume)?);
        if self.check_copy(setup, &wanted)? {
            Ok(())
        } else {
            Err(self.what("a second copy is no volume"))
        }
    }
}

fn empty(directory: &dyn Dir) -> std::io::Result<()> {
    loop {
        let entries = directory.entries(0)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if directory.stat_at(&entry.name)?.kind == StoreKind::Dir {
                empty(&*directory.open_dir(&entry.name)?)?;
                directory.remove_dir(&entry.name)?;
            } else {
                directory.remove(&entry.name)?;
            }
        }
    }
}

/// One source, and what its copy shows.
struct Case {
    setup: Setup,
    share: bool,
    seed: u64,
}

/// Cuts, and how many of them left a whole copy.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Copies {
    cuts: u64,
    whole: u64,
    failed: u64,
}

impl Case {
    fn begin(&self) -> Outcome<(Session, Seen)> {
        let mut session = Session::new(self.setup, self.seed);
        for step in &tree() {
            session.step(step)?;
        }
        let wanted = seen(&show(&session.volume)?);
        Ok((session, wanted))
    }

    /// Cut after every change of the copy.
    fn cut(&self, samples: u64, copies: &mut Copies) -> Outcome<()> {
        let (session, wanted) = self.begin()?;
        session.watch(1000, samples);
        session
            .copy(self.share)
            .map_err(|error| session.what(error))?;
        for image in session.disk().taken() {
            self.check(&session, &image, &wanted, copies)?;
        }
        self.must_be_whole(&session, &wanted, copies)
    }

    /// One sync of the copy fails: it says so or goes on to be whole.
    fn fail(&self, after: u64, copies: &mut Copies) -> Outcome<()> {
        let (session, wanted) = self.begin()?;
        session.disk().fail_sync(Some(after));
        let copied = session.copy(self.share);
        let failed = session.disk().failed_syncs();
        session.disk().spare();
        copies.failed += failed;
        match copied {
            Ok(()) => self.must_be_whole(&session, &wanted, copies),
            Err(error) if failed == 0 => Err(session.what(error)),
            Err(_) => {
                for _ in 0..8 {
                    self.check(&session, &session.disk().cut(), &wanted, copies)?;
                }
                Ok(())
            }
        }
    }

    fn must_be_whole(&self, session: &Session, wanted: &Seen, copies: &mut Copies) -> Outcome<()> {
        for _ in 0..20 {
            if !self.check(session, &session.disk().cut(), wanted, copies)? {
                return Err(session.what("a power cut after a copy lost it"));
            }
        }
        Ok(())
    }

    /// What a cut left; whether the copy is there.
    fn check(
        &self,
        session: &Session,
        image: &MemoryStore,
        wanted: &Seen,
        copies: &mut Copies,
    ) -> Outcome<bool> {
        copies.cuts += 1;
        let log = vec!["copy".into(), "power cut".into()];
        let known = Some(&session.oracle);
        let after = Session::over(image, self.setup, copies.cuts, known, log)?;
        let whole = after.check_copy(&self.setup, wanted)?;
        copies.whole += u64::from(whole);
        if copies.cuts.is_multiple_of(16) {
            after.copy_again(&self.setup, self.share)?;
        }
        Ok(whole)
    }
}

/// Contents anew and shared, both journals, and a store without a sync for all.
pub(super) fn each_way(samples: u64) -> Outcome<Copies> {
    let mut copies = Copies::default();
    let setups = [Setup::GCM, Setup::XTS, Setup::FILE_SYNCS].map(both);
    for (seed, setup) in setups.concat().into_iter().enumerate() {
        for share in [false, true] {
            let seed = seed as u64;
            let case = Case { setup, share, seed };
            let what =
                |how: String| move |error| format!("{setup:?}, shared: {share}, {how}: {error}");
            case.cut(samples, &mut copies).map_err(what("cut".into()))?;
            for after in 0..12 {
                let failed = case.fail(after, &mut copies);
                failed.map_err(what(format!("sync {after} failed")))?;
            }
        }
    }
    Ok(copies)
}

#[test]
fn a_copy_is_whole_or_no_volume_and_can_be_made_again() {
    let copies = each_way(3).unwrap();
    println!("{copies:?}");
    assert!(copies.cuts > 2000 && copies.failed > 50);
    assert!(copies.whole > 100 && copies.whole < copies.cuts);
}
