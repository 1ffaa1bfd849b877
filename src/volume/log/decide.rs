//! What became of the changes that were under way when a process died, found out before anything is served. The kernel keeps
//! others off the directories (or the inode) of a request until it is answered, so that what stands there is what that
//! process left.
//!
//! Each decision can be made again, if this process dies over it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::entry::{Answer, Gone, Intent, Moved};
use crate::format::names::StoredName;
use crate::store::{Kind, Stat};
use crate::volume::carry::Restored;
use crate::volume::error::{Error, Result};
use crate::volume::facade::Volume;
use crate::volume::names::drop_side;
use crate::volume::node::Node;
use crate::volume::spot::{Found, Spot};
use crate::volume::{dir, dir_id, unlink};

impl Intent {
    /// The nodes that it is about.
    pub(super) fn nodes(&self) -> Vec<u64> {
        match self {
            Self::Make { dir, .. } => vec![*dir],
            Self::Remove(gone) => vec![gone.dir, gone.node],
            Self::Move(moved) => {
                let mut nodes = vec![moved.from.0, moved.to.0, moved.node];
                nodes.extend(moved.target.iter().map(|(node, _)| *node));
                nodes
            }
            Self::Attribute => Vec::new(),
        }
    }
}

/// Decides all: those that are to be begun anew are forgotten, those that were made are answered. Left in `still` is what
/// decides itself when it is begun anew.
pub(super) fn all(
    volume: &Volume,
    restored: &Restored,
    mut begun: HashMap<u64, Intent>,
    still: &mut HashMap<u64, Intent>,
    answers: &mut HashMap<u64, Answer>,
) -> Result<()> {
    // A directory can be found only after the renames above it were decided, in whatever order they stand here.
    while !begun.is_empty() {
        let before = begun.len();
        let mut refused = None;
        for (request, intent) in std::mem::take(&mut begun) {
            match one(volume, restored, &intent) {
                Ok(Outcome::Made) => {
                    answers.insert(request, Answer::Done(Value::Null));
                }
                Ok(Outcome::NotMade) => {}
                Ok(Outcome::Later) => {
                    still.insert(request, intent);
                }
                Err(error) => {
                    refused = Some(error);
                    begun.insert(request, intent);
                }
            }
        }
        if let Some(error) = refused.filter(|_| begun.len() == before) {
            return Err(error);
        }
    }
    Ok(())
}

enum Outcome {
    Made,
    NotMade,
    Later,
}

fn one(volume: &Volume, restored: &Restored, intent: &Intent) -> Result<Outcome> {
    match intent {
        Intent::Make { dir, stored } => {
            take_back(volume, &spot(volume, restored, *dir, stored)?)?;
            Ok(Outcome::NotMade)
        }
        Intent::Remove(gone) => removal(volume, restored, gone),
        Intent::Move(moved) => rename(volume, restored, moved),
        Intent::Attribute => Ok(Outcome::Later),
    }
}

/// What was made, half or whole, nobody has seen.
fn take_back(volume: &Volume, spot: &Spot) -> Result<()> {
    match spot.stat()? {
        None => drop_side(&spot.dir, spot.entry()),
        Some(stat) if stat.kind == Kind::Dir => unlink::remove_dir_at(volume, spot)?,
        Some(_) => unlink::unlink_at(volume, spot)?,
    }
    Ok(())
}

fn removal(volume: &Volume, restored: &Restored, gone: &Gone) -> Result<Outcome> {
    let spot = spot(volume, restored, gone.dir, &gone.stored)?;
    let node = restored.node(gone.node)?;
    if is_there(&spot, &gone.stat)? {
        stays(volume, &node);
        return Ok(Outcome::NotMade);
    }
    went(volume, &spot, node, gone.stat)?;
    Ok(Outcome::Made)
}

fn rename(volume: &Volume, restored: &Restored, moved: &Moved) -> Result<Outcome> {
    let from = spot(volume, restored, moved.from.0, &moved.from.1)?;
    let to = spot(volume, restored, moved.to.0, &moved.to.1)?;
    let node = restored.node(moved.node)?;
    let target = match &moved.target {
        Some((target, stat)) => Some((restored.node(*target)?, *stat)),
        None => None,
    };
    if !is_there(&to, &moved.stat)? {
        match target {
            Some((target, stat)) if to.stat()?.is_none() => went(volume, &to, target, stat)?,
            Some((target, _)) => stays(volume, &target),
            None => drop_side(&to.dir, to.entry()),
        }
        return Ok(Outcome::NotMade);
    }
    match target {
        Some((target, _)) if moved.exchange => arrived(volume, &target, &to, &from)?,
        Some((target, stat)) => went(volume, &to, target, stat)?,
        None => {}
    }
    arrived(volume, &node, &from, &to)?;
    drop_side(&from.dir, from.entry());
    Ok(Outcome::Made)
}

/// A name is gone.
fn went(volume: &Volume, spot: &Spot, node: Arc<Node>, stat: Stat) -> Result<()> {
    drop_side(&spot.dir, spot.entry());
    if stat.kind == Kind::Dir {
        unlink::purge_hidden(&spot.dir)?;
    }
    unlink::removed(volume, spot, &Found { node, stat });
    Ok(())
}

fn stays(volume: &Volume, node: &Arc<Node>) {
    if !node.is_found() && !node.is_dead() {
        volume.nodes.back(node);
    }
}

fn arrived(volume: &Volume, node: &Arc<Node>, from: &Spot, to: &Spot) -> Result<()> {
    node.found_at(&to.node, to.entry(), false);
    node.gone_from(&from.node, from.entry(), None);
    match node.kind() {
        Kind::Dir => dir_id::after_rename(volume, node, &from.node),
        _ => Ok(()),
    }
}

fn is_there(spot: &Spot, object: &Stat) -> Result<bool> {
    let now = spot.stat()?;
    Ok(now.is_some_and(|now| now.ino == object.ino && now.kind == object.kind))
}

fn spot(volume: &Volume, restored: &Restored, number: u64, stored: &str) -> Result<Spot> {
    let node = restored.node(number)?;
    if node.is_dead() {
        return Err(Error::errno(libc::ENOENT));
    }
    Ok(Spot {
        dir: dir::open(volume, &node)?,
        id: dir::id(volume, &node)?,
        name: StoredName {
            entry: stored.as_bytes().to_vec(),
            long: None,
        },
        node,
    })
}
