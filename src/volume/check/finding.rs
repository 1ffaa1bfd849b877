//! What a check says: findings with the place and the part concerned, and the totals. Knows no disk.

use std::fmt;

use crate::volume::error::Error;

/// What part of a volume a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// `strongroom.volume` or its older generation.
    VolumeFile,
    /// `strongroom.mount`.
    MountFile,
    /// A file's header: core, commitment, or what cannot be told apart any more.
    Header,
    /// One of the two key areas.
    KeyArea,
    /// A key that cannot be asked, or that the volume file does not allow; the file may well be sound.
    Key,
    /// One of the two state halves.
    State,
    /// The file's length on the store.
    Length,
    /// Records of blocks.
    Record,
    /// Blocks.
    Block,
    /// A stored name.
    Name,
    /// A file that stands under a name it is not bound to.
    NameTag,
    /// A directory: its listing or its `strongroom.dir`.
    Directory,
    /// A symlink's target.
    Symlink,
    /// An extended attribute.
    Xattr,
    /// A hidden file of ours, or remains that were kept.
    Hidden,
    /// What the store itself refuses to read, or what does not belong in a volume.
    Store,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VolumeFile => "volume file",
            Self::MountFile => "mount file",
            Self::Header => "header",
            Self::KeyArea => "key area",
            Self::Key => "key",
            Self::State => "state",
            Self::Length => "length",
            Self::Record => "record",
            Self::Block => "block",
            Self::Name => "name",
            Self::NameTag => "name tag",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Xattr => "xattr",
            Self::Hidden => "hidden",
            Self::Store => "store",
        })
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something that an unclean end, or work that was cut off, may leave: nothing is lost, and using or repairing the
    /// volume clears it.
    Left,
    /// Bytes that are not what Strongroom wrote, or are missing.
    Damaged,
}

/// Something about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) part: Part,
    pub(crate) severity: Severity,
    pub(crate) what: String,
}

impl Note {
    pub(crate) fn damaged(part: Part, what: impl Into<String>) -> Self {
        Self {
            part,
            severity: Severity::Damaged,
            what: what.into(),
        }
    }

    pub(crate) fn left(part: Part, what: impl Into<String>) -> Self {
        Self {
            part,
            severity: Severity::Left,
            what: what.into(),
        }
    }

    /// As damage, or, in a file in doubt, as what its unclean end left.
    pub(crate) fn in_doubt(in_doubt: bool, part: Part, what: impl Into<String>) -> Self {
        if in_doubt {
            Self::left(part, what)
        } else {
            Self::damaged(part, what)
        }
    }

    /// Of an error: the store's own, or `part`'s.
    pub(crate) fn of_error(part: Part, error: &Error) -> Self {
        match error {
            Error::Store(error) => Self::damaged(Part::Store, format!("cannot be read: {error}")),
            Error::Damaged(what) => Self::damaged(part, what.clone()),
            other => Self::damaged(part, other.to_string()),
        }
    }
}

/// Where a finding's object stands in the backing directory; for repair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Locus {
    /// Stored names from the top directory to the one that holds the entry.
    pub(crate) dir: Vec<Vec<u8>>,
    /// The stored name of the entry; empty for the directory itself.
    pub(crate) entry: Vec<u8>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Path inside the volume, from `/`; where a name cannot be deciphered, its stored form in angle brackets.
    pub path: String,
    /// What part of the object.
    pub part: Part,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    #[serde(skip)]
    pub(crate) at: Locus,
}

impl Finding {
    /// About one of the volume's own files.
    pub(crate) fn of_volume(name: &str, note: Note) -> Self {
        Self {
            path: format!("/<{name}>"),
            part: note.part,
            severity: note.severity,
            what: note.what,
            at: Locus::default(),
        }
    }
}

/// What a check saw.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Regular files, empty ones among them; one with several names counts once.
    pub files: u64,
    /// Directories, the top one among them.
    pub directories: u64,
    /// Symlinks and special files.
    pub others: u64,
    /// Headers that were read.
    pub headers: u64,
    /// Headers that name an older version of the master key: a rotation is not finished.
    pub older_versions: u64,
    /// Files that an unclean end left in doubt.
    pub in_doubt: u64,
    /// The newest epoch that the state of a file carries.
    pub newest_epoch: u64,
    /// Blocks with data whose records were read; without `metadata_only`, they were opened too.
    pub blocks: u64,
    /// Blocks that are holes.
    pub holes: u64,
    /// Bytes of the files in the backing directory.
    pub bytes_stored: u64,
    /// Bytes of them that were read.
    pub bytes_read: u64,
    /// Files and directories with at least one damage.
    pub damaged: u64,
    /// Objects with nothing but traces of what was cut off.
    pub left: u64,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Whether data was left unread.
    pub metadata_only: bool,
    /// The findings, ordered by path; at most [`Report::LISTED`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub not_listed: u64,
}

impl Report {
    /// So many findings are listed.
    pub const LISTED: usize = 10_000;

    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
    }
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckProgress {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects with damage.
    pub damaged: u64,
}
