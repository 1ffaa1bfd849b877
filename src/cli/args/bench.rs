//! The arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, value_parser};

use super::{Cipher, Output};

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    /// Cipher of the temporary volume
    #[arg(long, value_enum, default_value = "aes-256-gcm-siv")]
    pub(in crate::cli) cipher: Cipher,
    /// Mount options of the temporary volume, separated by commas
    #[arg(short, value_name = "OPTIONS")]
    pub(in crate::cli) options: Vec<String>,
    /// Size of the large file
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = value_parser!(u64).range(1..=1 << 20))]
    pub(in crate::cli) size: u64,
    /// Number of small files
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) files: u32,
    /// How often everything is measured; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(in crate::cli) rounds: u32,
    /// Write a chart in SVG
    #[arg(long, value_name = "FILE.svg")]
    pub(in crate::cli) chart: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Directory on the disk to measure
    #[arg(value_name = "DIR", default_value = ".")]
    pub(in crate::cli) directory: PathBuf,
}
