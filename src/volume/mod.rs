//! The encrypted store over a backing directory, without FUSE. May call keys, format, crypto and store.

pub(crate) mod chain;
pub(crate) mod check;
mod copy;
mod create;
pub(crate) mod env;
pub mod error;
pub(crate) mod file;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod keyring;
pub(crate) mod lock;
mod lock_down;
pub(crate) mod master;
mod pin;
pub(crate) mod redo;
pub(crate) mod replace;
pub(crate) mod settle;
pub(crate) mod volume_key;

mod access;
mod ahead;
mod attr;
pub(crate) mod bell;
mod binding;
mod carry;
mod dir;
mod dir_id;
pub(crate) mod facade;
mod files;
mod handle;
mod heap;
mod held;
mod housekeeping;
pub(crate) mod key_loss;
mod key_watch;
mod link;
mod listing;
mod log;
mod lookup;
mod make;
mod names;
mod node;
mod open;
#[cfg(test)]
mod open_tests;
mod parallel;
mod path;
pub(crate) mod ready;
mod rekey;
mod rekey_data;
#[cfg(test)]
mod rekey_tests;
mod rename;
pub(crate) mod repair;
mod rotate;
pub(crate) mod rotate_gate;
mod spot;
mod symlink;
mod sync;
#[cfg(test)]
pub(crate) mod test_keys;
mod unlink;
mod xattr;

#[cfg(test)]
mod tests;

pub use attr::{Attr, SetAttr};
pub use carry::{Carried, CarriedFile, CarriedNode, CarriedReplaced, Restored};
pub use check::{CheckOptions, CheckProgress, Finding, Part, Report, Severity, check};
pub use copy::{CopyOptions, CopyProgress, CopyReport, copy};
pub use create::{CreateOptions, create, suitable};
pub use error::{Error, Result};
pub use facade::Volume;
pub use handle::{Fallocate, OpenFile, OpenFlags, SeekTo};
pub use key_loss::{CHECK_EVERY, KeyLoss, KeyLossError, parse_duration};
pub use listing::DirEntry;
pub use lock_down::LockHook;
pub use log::{Generation, Keeper, Left, Opened, Rebuilt};
pub use make::Caller;
pub use node::{Node, NodeTable, Privileges};
pub use open::{
    InPlace, Info, OpenOptions, Predecessor, info, info_anyway, open, open_after, open_again,
};
pub use pin::{pinned_modules, volumes_under};
pub use rekey::Target;
pub use rekey_data::{RefusedFile, RekeyData, RekeyDataProgress};
pub use repair::{Action, Repair, restore};
pub use rotate::{Phase, Progress, Rotation};
pub(crate) use xattr::{ACCESS_ACL, CAPABILITY};
