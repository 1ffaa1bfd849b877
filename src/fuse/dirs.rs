//! Listings: `.` and `..` before the volume's entries, and the positions by which the kernel goes on.
//!
//! Listings are stateless (there is no opendir): a position alone says where to go on, and stays valid while entries come
//! and go, as the store's does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{FileAttr, ReplyDirectoryPlus};

use super::attr::{TTL, bare_attr, file_attr};
use super::opened::is;
use super::served::{Adapter, GENERATION};
use crate::store::Kind;
use crate::volume::{Node, Result, Volume};

/// One entry on its way to the kernel.
pub(super) struct Listed<'a> {
    /// Its name.
    pub(super) name: &'a [u8],
    /// Its number.
    pub(super) id: u64,
    /// What it is.
    pub(super) kind: Kind,
    /// Position after it.
    pub(super) next: u64,
    /// Whether it is `.` or `..`.
    pub(super) dots: bool,
}

/// What became of an entry that a reply was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is in the reply.
    Taken,
    /// There is no room for it.
    NoRoom,
    /// It is gone since it was listed.
    Gone,
}

impl Offered {
    /// From what fuser says of a reply: whether it is full, so that it did not take the entry.
    pub(super) fn of_full(full: bool) -> Self {
        if full { Self::NoRoom } else { Self::Taken }
    }
}

/// Where a listing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Dot,
    DotDot,
    /// A position of the volume; 0 is its start.
    Entries(u64),
}

/// What the volume's positions are moved by, to make room for `.` and `..`.
const DOTS: u64 = 2;
/// The kernel's positions are signed; stores use the last one for the end of a directory.
const END: u64 = i64::MAX as u64;

impl Position {
    fn of_cookie(cookie: u64) -> Self {
        match cookie {
            0 => Self::Dot,
            1 => Self::DotDot,
            END => Self::Entries(END),
            _ => Self::Entries(cookie - DOTS),
        }
    }

    fn cookie(self) -> u64 {
        match self {
            Self::Dot => 0,
            Self::DotDot => 1,
            Self::Entries(position) if (END - DOTS..=END).contains(&position) => END,
            Self::Entries(position) => position.saturating_add(DOTS),
        }
    }
}

/// Gives the entries from a position to `take`, until it has no room or has a batch of the volume: the kernel asks for more
/// until it gets nothing, so that going on to the end of a directory would only mean to come there twice. An error after
/// the first entry is left for the next call.
pub(super) fn list(
    volume: &Volume,
    directory: &Arc<Node>,
    cookie: u64,
    mut take: impl FnMut(&Listed) -> Result<Offered>,
) -> Result<()> {
    let mut position = Position::of_cookie(cookie);
    let mut taken = false;
    loop {
        let offered = match position {
            Position::Dot => {
                position = Position::DotDot;
                take(&dots(b".", directory.id(), position))
            }
            Position::DotDot => {
                position = Position::Entries(0);
                let above = volume
                    .parent(directory)
                    .map_or(directory.id(), |node| node.id());
                take(&dots(b"..", above, position))
            }
            Position::Entries(from) => {
                match batch(volume, directory, from, &mut taken, &mut take) {
                    Ok(Some(next)) => {
                        position = Position::Entries(next);
                        Ok(Offered::Gone)
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => Err(error),
                }
            }
        };
        match offered {
            Ok(Offered::NoRoom) => return Ok(()),
            Ok(Offered::Taken) => taken = true,
            Ok(Offered::Gone) => {}
            Err(_) if taken => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// One batch of the volume; where to go on if every entry of it is gone, else `None`.
fn batch(
    volume: &Volume,
    directory: &Arc<Node>,
    from: u64,
    taken: &mut bool,
    take: &mut impl FnMut(&Listed) -> Result<Offered>,
) -> Result<Option<u64>> {
    let (mut next, mut any) = (None, false);
    for entry in volume.read_dir(directory, from)? {
        let after = Position::Entries(entry.next).cookie();
        let listed = Listed {
            name: &entry.name,
            id: entry.id,
            kind: entry.kind,
            next: after,
            dots: false,
        };
        match take(&listed)? {
            Offered::NoRoom => return Ok(None),
            Offered::Taken => (any, *taken) = (true, true),
            Offered::Gone => {}
        }
        next = Some(entry.next);
    }
    Ok(next.filter(|_| !any))
}

/// Adds an entry with its attributes, which counts as a lookup of it. An entry that cannot be looked up is shown all the
/// same, as something to ask for again: the kernel gets the error when a program names it.
pub(super) fn add_plus(
    adapter: &Adapter,
    directory: &Arc<Node>,
    entry: &Listed,
    reply: &mut ReplyDirectoryPlus,
) -> Result<Offered> {
    let name = OsStr::from_bytes(entry.name);
    let mut add = |attr: &FileAttr, ttl| {
        Offered::of_full(reply.add(attr.ino, entry.next, name, &ttl, attr, GENERATION))
    };
    if entry.dots {
        return Ok(add(&bare_attr(entry.id, entry.kind), Duration::ZERO));
    }
    let (node, attr) = match adapter.volume.lookup(directory, entry.name) {
        Ok(found) => found,
        Err(error) if is(&error, libc::ENOENT) => return Ok(Offered::Gone),
        Err(_) => match adapter.inodes.known(entry.id) {
            Some(node) => {
                let attr = adapter.volume.attr(&node)?;
                (node, attr)
            }
            None => return Ok(add(&bare_attr(entry.id, entry.kind), Duration::ZERO)),
        },
    };
    adapter.inodes.remember(&node);
    let offered = add(&file_attr(&attr), TTL);
    if offered == Offered::NoRoom {
        adapter.inodes.forget(node.id(), 1);
    }
    Ok(offered)
}

fn dots(name: &'static [u8], id: u64, next: Position) -> Listed<'static> {
    Listed {
        name,
        id,
        kind: Kind::Dir,
        next: next.cookie(),
        dots: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back() {
        let ext4_last = 0x7fff_fffe_ffff_ffff;
        for position in [0, 1, 2, 12, u64::from(u32::MAX), ext4_last, END] {
            let position = Position::Entries(position);
            let cookie = position.cookie();
            assert!(
                (2..=END).contains(&cookie),
                "{cookie} is not the kernel's to give back"
            );
            assert_eq!(Position::of_cookie(cookie), position);
        }
        for position in [Position::Dot, Position::DotDot] {
            assert_eq!(Position::of_cookie(position.cookie()), position);
        }
    }
}
