//! Renames: of files, which are bound to their names, and of directories, which keep their id.

use std::sync::Arc;

use crate::store::{Kind, RenameMode};
use crate::volume::binding::{Announced, announce};
use crate::volume::carry::text;
use crate::volume::dir_id;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::files;
use crate::volume::listing::contents;
use crate::volume::log::{Intent, Moved};
use crate::volume::names::{drop_side, put_side};
use crate::volume::node::{Node, lock_names};
use crate::volume::spot::{Found, Spot, rename_to_free};
use crate::volume::unlink::{hide, is_not_empty, removed, take_name};

/// How often entries that keep changing are looked at.
const TRIES: usize = 64;

/// Renames an entry, as renameat2 does.
pub(crate) fn rename(
    volume: &Volume,
    parent: &Arc<Node>,
    name: &[u8],
    new_parent: &Arc<Node>,
    new_name: &[u8],
    mode: RenameMode,
) -> Result<()> {
    volume.require_writable()?;
    let _changing = volume.rotation.changing();
    let from = Spot::new(volume, parent, name)?;
    let to = Spot::new(volume, new_parent, new_name)?;
    volume.settler.make_room();
    if let Some(done) = rename_files(volume, &from, &to, mode) {
        return done;
    }
    for _ in 0..TRIES {
        let mut moved = from.find(volume)?;
        let mut target = if_there(to.find(volume))?;
        let mut involved = vec![
            Arc::clone(&from.node),
            Arc::clone(&to.node),
            Arc::clone(&moved.node),
        ];
        involved.extend(target.as_ref().map(|target| Arc::clone(&target.node)));
        let _names = lock_names(&involved.iter().collect::<Vec<_>>());
        from.require_living()?;
        to.require_living()?;
        if from.still(Some(&mut moved))? && to.still(target.as_mut())? {
            return Rename {
                volume,
                from: &from,
                to: &to,
                moved,
                target,
            }
            .run(mode);
        }
    }
    Err(Error::errno(libc::ESTALE))
}

/// Where no directory takes part but the two that hold the names, one look at each is enough; `None` where one does.
fn rename_files(volume: &Volume, from: &Spot, to: &Spot, mode: RenameMode) -> Option<Result<()>> {
    let _names = lock_names(&[&from.node, &to.node]);
    let find = || {
        let moved = from.find_locked(volume)?;
        to.require_living()?;
        Ok((moved, if_there(to.find_locked(volume))?))
    };
    let (moved, target) = match find() {
        Ok(found) => found,
        Err(error) => return Some(Err(error)),
    };
    let is_dir = |found: &Found| found.stat.kind == Kind::Dir;
    let rename = Rename {
        volume,
        from,
        to,
        moved,
        target,
    };
    let files = !is_dir(&rename.moved) && !rename.target.as_ref().is_some_and(is_dir);
    files.then(|| rename.run(mode))
}

fn if_there(found: Result<Found>) -> Result<Option<Found>> {
    match found {
        Err(error) if error.code() == libc::ENOENT => Ok(None),
        found => found.map(Some),
    }
}

/// A rename with the names of all directories in it locked.
struct Rename<'a> {
    volume: &'a Volume,
    from: &'a Spot,
    to: &'a Spot,
    moved: Found,
    target: Option<Found>,
}

impl Rename<'_> {
    fn run(mut self, mode: RenameMode) -> Result<()> {
        match (&self.target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Error::errno(libc::EEXIST)),
            (None, RenameMode::Exchange) => return Err(Error::errno(libc::ENOENT)),
            (Some(target), _) if Arc::ptr_eq(&target.node, &self.moved.node) => return Ok(()),
            _ => self.require_possible(mode)?,
        }
        let exchange = mode == RenameMode::Exchange;
        self.volume.intend(|| self.intent(exchange))?;
        let forth = self.prepare(self.from, &self.moved, self.to)?;
        let back = match &self.target {
            Some(target) if exchange => self.prepare(self.to, target, self.from),
            _ => Ok(Announced::nothing()),
        };
        let back = match back {
            Ok(back) => back,
            Err(error) => {
                forth.failed();
                return Err(error);
            }
        };
        let done = if exchange {
            self.exchange()
        } else {
            self.replace()
        };
        if let Err(error) = done {
            forth.failed();
            back.failed();
            drop_side(&self.to.dir, self.to.entry());
            return Err(error);
        }
        match &self.target {
            Some(target) if exchange => self.arrived(back, target, self.to, self.from)?,
            Some(target) => removed(self.volume, self.to, target),
            None => {}
        }
        self.arrived(forth, &self.moved, self.from, self.to)?;
        drop_side(&self.from.dir, self.from.entry());
        Ok(())
    }

    fn intent(&self, exchange: bool) -> Result<Intent> {
        let at = |spot: &Spot| Ok::<_, Error>((spot.node.id(), text(spot.entry())?));
        let target = self.target.as_ref();
        Ok(Intent::Move(Box::new(Moved {
            from: at(self.from)?,
            to: at(self.to)?,
            exchange,
            node: self.moved.node.id(),
            stat: self.moved.stat,
            target: target.map(|target| (target.node.id(), target.stat)),
        })))
    }

    /// What POSIX refuses, before anything is written.
    fn require_possible(&self, mode: RenameMode) -> Result<()> {
        let exchange = mode == RenameMode::Exchange;
        if is_below(&self.to.node, &self.moved.node) {
            return Err(Error::errno(libc::EINVAL));
        }
        let Some(target) = &self.target else {
            return Ok(());
        };
        if is_below(&self.from.node, &target.node) {
            return Err(Error::errno(if exchange {
                libc::EINVAL
            } else {
                libc::ENOTEMPTY
            }));
        }
        if exchange {
            return Ok(());
        }
        match (self.moved.stat.kind, target.stat.kind) {
            (Kind::Dir, Kind::Dir) => {
                let dir = self.to.dir.open_dir(self.to.entry())?;
                if contents(&dir)?.foreign {
                    Err(Error::errno(libc::ENOTEMPTY))
                } else {
                    Ok(())
                }
            }
            (Kind::Dir, _) => Err(Error::errno(libc::ENOTDIR)),
            (_, Kind::Dir) => Err(Error::errno(libc::EISDIR)),
            _ => Ok(()),
        }
    }

    /// Before an object goes from one place to another.
    fn prepare(&self, from: &Spot, object: &Found, to: &Spot) -> Result<Announced> {
        if object.stat.kind == Kind::Dir {
            dir_id::before_rename(self.volume, &object.node, from, to)?;
            return Ok(Announced::nothing());
        }
        announce(self.volume, object, &from.file(), to.place(), false)
    }

    fn exchange(&self) -> Result<()> {
        Ok(self.from.dir.rename(
            self.from.entry(),
            &*self.to.dir,
            self.to.entry(),
            RenameMode::Exchange,
        )?)
    }

    fn replace(&mut self) -> Result<()> {
        let (from, to) = (self.from, self.to);
        let Some(target) = &mut self.target else {
            put_side(&to.dir, &to.name)?;
            return Ok(rename_to_free(
                &from.dir,
                from.entry(),
                &to.dir,
                to.entry(),
            )?);
        };
        files::keep_replaced(self.volume, to, target)?;
        let replaced = take_name(self.volume, to, target, || {
            from.dir
                .rename(from.entry(), &*to.dir, to.entry(), RenameMode::Replace)
        });
        if replaced.is_err() {
            target.node.keep_replaced(None);
        }
        match replaced {
            Err(error) if target.stat.kind == Kind::Dir && is_not_empty(&error) => {
                let going = self.volume.nodes.going(&target.node);
                replace_hidden(from, to)?;
                going.gone();
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// After an object went from one place to another.
    fn arrived(&self, announced: Announced, object: &Found, from: &Spot, to: &Spot) -> Result<()> {
        let node = &object.node;
        node.found_at(&to.node, to.entry(), false);
        node.gone_from(&from.node, from.entry(), None);
        if announced.appeared(Some(&from.place())) {
            node.checked_at(&to.node, to.entry());
        }
        if object.stat.kind == Kind::Dir {
            dir_id::after_rename(self.volume, node, &from.node)?;
            self.volume.rotation.moved_dir(node);
        }
        Ok(())
    }
}

/// Replaces a directory that holds only our own files.
fn replace_hidden(from: &Spot, to: &Spot) -> Result<()> {
    let hidden = hide(to)?;
    match rename_to_free(&from.dir, from.entry(), &to.dir, to.entry()) {
        Ok(()) => {
            hidden.purge();
            Ok(())
        }
        Err(error) => {
            hidden.restore();
            Err(error.into())
        }
    }
}

/// Whether `node` is `above` or lies below it.
fn is_below(node: &Arc<Node>, above: &Arc<Node>) -> bool {
    let mut at = Arc::clone(node);
    loop {
        if Arc::ptr_eq(&at, above) {
            return true;
        }
        match at.location() {
            Ok(location) => at = location.parent,
            Err(_) => return false,
        }
    }
}
