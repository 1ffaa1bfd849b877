//! The arguments of `check`.

use std::path::PathBuf;

use clap::Args;

use super::{Output, Trust};

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Read headers and tag pages only, no data
    #[arg(long)]
    pub(in crate::cli) metadata_only: bool,
    /// Bring back what can be, move what is damaged into lost+found, settle what unclean ends left
    #[arg(long, conflicts_with = "metadata_only")]
    pub(in crate::cli) repair: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    #[command(flatten)]
    pub(in crate::cli) trust: Trust,
    /// Backing directory
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
}
