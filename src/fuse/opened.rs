//! Opening files for the kernel, and what its flag words mean to a volume.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::RenameFlags;

use super::served::Adapter;
use crate::store::{Kind, RenameMode};
use crate::volume::{Attr, Caller, Error, Fallocate, Node, OpenFile, OpenFlags, Result, SeekTo};

impl Adapter {
    /// Opens a file as open(2)'s flags ask; O_TRUNC is a change of the content.
    pub(super) fn open_file(
        &self,
        node: &Arc<Node>,
        flags: i32,
        by_root: bool,
    ) -> Result<OpenFile> {
        let wanted = self::flags(flags, self.agreed.writeback);
        if wanted.truncate {
            self.drop_privileges(node, !by_root)?;
        }
        by_number(node, self.volume.open(node, wanted))
    }

    /// open(2) with O_CREAT.
    pub(super) fn create_file(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        mode: u32,
        flags: i32,
        caller: &Caller,
    ) -> Result<(Attr, u64)> {
        self.volume.room_to_open()?;
        let wanted = self::flags(flags, self.agreed.writeback);
        let made = self
            .volume
            .create(parent, name.as_bytes(), mode, caller, wanted);
        match made {
            Ok((node, attr, file)) => {
                let (_, attr) = self.made((node, attr))?;
                Ok((attr, self.opened(file)?))
            }
            Err(error) if is(&error, libc::EEXIST) && flags & libc::O_EXCL == 0 => {
                self.open_existing(parent, name, flags, caller.uid == 0)
            }
            Err(error) => Err(error),
        }
    }

    /// open(2) with O_CREAT of a name that turned out to be there.
    fn open_existing(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        flags: i32,
        by_root: bool,
    ) -> Result<(Attr, u64)> {
        let (node, _) = self.volume.lookup(parent, name.as_bytes())?;
        self.inodes.remember(&node);
        let opened = self.open_file(&node, flags, by_root).and_then(|file| {
            let attr = self.volume.attr(&node)?; // after a truncation
            Ok((attr, self.opened(file)?))
        });
        opened.inspect_err(|_| drop(self.inodes.forget(node.id(), 1)))
    }
}

/// What open(2)'s flags ask of a volume. Never append: the kernel says where, as it holds the size. A write-back cache
/// fills its pages by reading, whatever the program opened the file for.
pub(super) fn flags(flags: i32, writeback: bool) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    let write = access != libc::O_RDONLY;
    OpenFlags {
        read: access != libc::O_WRONLY || writeback,
        write,
        append: false,
        truncate: flags & libc::O_TRUNC != 0,
    }
}

/// renameat2's flags; EINVAL for those that no volume has.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode> {
    match flags {
        _ if flags.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Error::errno(libc::EINVAL)),
    }
}

/// fallocate's mode; EOPNOTSUPP for those that no volume has (collapse, insert, unshare).
pub(super) fn fallocate_mode(mode: i32) -> Result<Fallocate> {
    const RESERVE_KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(Fallocate::Reserve),
        RESERVE_KEEP => Ok(Fallocate::ReserveKeepSize),
        PUNCH => Ok(Fallocate::PunchHole),
        ZERO => Ok(Fallocate::ZeroRange),
        ZERO_KEEP => Ok(Fallocate::ZeroRangeKeepSize),
        _ => Err(Error::errno(libc::EOPNOTSUPP)),
    }
}

/// What lseek looks for; the kernel does the rest itself.
pub(super) fn seek_to(whence: i32) -> Result<SeekTo> {
    match whence {
        libc::SEEK_DATA => Ok(SeekTo::Data),
        libc::SEEK_HOLE => Ok(SeekTo::Hole),
        _ => Err(Error::errno(libc::EINVAL)),
    }
}

/// What came of a call on an object that the kernel names by its number. Where its name went since the kernel looked that up
/// (another process unlinked it, say), the answer is ESTALE: the kernel then looks the path up once more.
pub(super) fn by_number<T>(node: &Node, done: Result<T>) -> Result<T> {
    match done {
        Err(error) if is(&error, libc::ENOENT) && node.kind() != Kind::Dir => {
            Err(Error::errno(libc::ESTALE))
        }
        done => done,
    }
}

/// Whether a call was refused with this errno, by the volume or by the store.
pub(super) fn is(error: &Error, code: i32) -> bool {
    error.code() == code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_appending_to_the_kernel() {
        let asked = flags(libc::O_WRONLY | libc::O_APPEND, false);
        assert_eq!(
            asked,
            OpenFlags {
                read: false,
                write: true,
                append: false,
                truncate: false
            }
        );
    }

    #[test]
    fn reads_for_a_writeback_cache() {
        assert!(flags(libc::O_WRONLY, true).read);
    }

    #[test]
    fn refuses_modes_that_no_volume_has() {
        let insert = fallocate_mode(libc::FALLOC_FL_INSERT_RANGE).unwrap_err();
        assert!(is(&insert, libc::EOPNOTSUPP));
        let both =
            rename_mode(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE).unwrap_err();
        assert!(is(&both, libc::EINVAL));
    }
}
