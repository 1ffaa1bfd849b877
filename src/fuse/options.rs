//! What `-o` of a mount understands, and what the kernel is told of it.

use std::path::PathBuf;
use std::time::Duration;

use crate::volume::{CHECK_EVERY, InPlace, KeyLoss, KeyLossError, parse_duration};

/// How a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The backing directory; shown as the source of the mount.
    pub vault: PathBuf,
    /// Other users than the one who mounts may look in; the kernel checks permissions either way.
    pub allow_other: bool,
    /// Nothing is written, neither here nor to the backing directory.
    pub read_only: bool,
    /// Set-id bits count.
    pub suid: bool,
    /// Device files work.
    pub dev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Access times stay as they are.
    pub noatime: bool,
    /// Small writes gather in the kernel's cache; they die with the daemon.
    pub writeback: bool,
    /// Another process goes on where the one that serves died.
    pub supervise: bool,
    /// Serving threads go where programs wait for them; as root, idle processors of a virtual machine stay awake while requests follow
    /// each other, and with `writeback` more dirty pages of the mount may gather.
    pub tune: bool,
    /// Threads that serve requests; without it, twice the processors and at least 4.
    pub threads: Option<usize>,
    /// Whether whole groups may be overwritten in place.
    pub in_place: InPlace,
    /// What becomes of the mount when its master key is disabled or gone.
    pub on_key_loss: KeyLoss,
    /// How often the key's home is asked, where that matters.
    pub key_check: Duration,
}

/// Why a list of options was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// Not one of ours.
    #[error("there is no mount option \"{0}\" (known: {KNOWN})")]
    Unknown(String),
    /// The value does not fit.
    #[error("mount option \"{option}\" takes {takes}, not \"{value}\"")]
    Value {
        /// The option.
        option: &'static str,
        /// What it takes.
        takes: &'static str,
        /// What it was given.
        value: String,
    },
    /// `on-key-loss` or `key-check`.
    #[error("mount option on-key-loss or key-check: {0}")]
    KeyLoss(#[from] KeyLossError),
}

const KNOWN: &str = "allow_other, ro, rw, suid, nosuid, dev, nodev, exec, noexec, atime, noatime, relatime, writeback, \
                     supervise, no-tune, max-threads=N, inplace=auto|never|always, on-key-loss=keep|grace=DURATION|lock, key-check=DURATION";
/// More threads than this only take memory.
const MAX_THREADS: usize = 256;

impl MountOptions {
    /// The defaults: nosuid, nodev, write-through, for the mounting user alone.
    pub fn new(vault: PathBuf) -> Self {
        Self {
            vault,
            allow_other: false,
            read_only: false,
            suid: false,
            dev: false,
            noexec: false,
            noatime: false,
            writeback: false,
            supervise: false,
            tune: true,
            threads: None,
            in_place: InPlace::Auto,
            on_key_loss: KeyLoss::Keep,
            key_check: CHECK_EVERY,
        }
    }

    /// Takes in a comma-separated list as `-o` has it; a later option wins over an earlier one.
    pub fn take(&mut self, list: &str) -> Result<(), OptionError> {
        list.split(',')
            .map(str::trim)
            .filter(|option| !option.is_empty())
            .try_for_each(|option| self.take_one(option))
    }

    fn take_one(&mut self, option: &str) -> Result<(), OptionError> {
        match option
            .split_once('=')
            .map_or((option, None), |(name, value)| (name, Some(value)))
        {
            ("max-threads", Some(value)) => self.threads = Some(threads(value)?),
            ("inplace", Some(value)) => self.in_place = in_place(value)?,
            ("on-key-loss", Some(value)) => self.on_key_loss = value.parse()?,
            ("key-check", Some(value)) => self.key_check = parse_duration(value)?,
            (name, None) => self.switch(name)?,
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    fn switch(&mut self, name: &str) -> Result<(), OptionError> {
        match name {
            "allow_other" => self.allow_other = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.noexec = false,
            "noexec" => self.noexec = true,
            "noatime" => self.noatime = true,
            "atime" | "relatime" => self.noatime = false,
            "writeback" => self.writeback = true,
            "supervise" => self.supervise = true,
            "no-tune" => self.tune = false,
            _ => return Err(OptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// How many threads serve requests: enough that some wait for the disk while others compute.
    pub(super) fn thread_count(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        self.threads.unwrap_or_else(|| (2 * processors).max(4))
    }
}

fn threads(value: &str) -> Result<usize, OptionError> {
    value
        .parse()
        .ok()
        .filter(|count| (1..=MAX_THREADS).contains(count))
        .ok_or_else(|| OptionError::Value {
            option: "max-threads",
            takes: "a number from 1 to 256",
            value: value.to_owned(),
        })
}

fn in_place(value: &str) -> Result<InPlace, OptionError> {
    match value {
        "auto" => Ok(InPlace::Auto),
        "never" => Ok(InPlace::Never),
        "always" => Ok(InPlace::Always),
        _ => Err(OptionError::Value {
            option: "inplace",
            takes: "auto, never or always",
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(list: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::new(PathBuf::from("/vault"));
        options.take(list).map(|()| options)
    }

    #[test]
    fn later_options_win() {
        let options =
            taken("suid,dev,noexec,noatime,nosuid,exec,max-threads=3,inplace=never").unwrap();
        let wanted = (false, true, false, true, Some(3), InPlace::Never);
        let (suid, dev, noexec) = (options.suid, options.dev, options.noexec);
        assert_eq!(
            (
                suid,
                dev,
                noexec,
                options.noatime,
                options.threads,
                options.in_place
            ),
            wanted
        );
    }

    #[test]
    fn defaults_are_the_careful_ones() {
        let options = taken("").unwrap();
        assert!(!options.suid && !options.dev && !options.allow_other && !options.writeback);
        assert!(options.thread_count() >= 4);
    }

    #[test]
    fn an_unknown_option_is_named() {
        for list in ["ro,bogus", "bogus=1", "ro=1", "max-threads", "inplace"] {
            let refused = taken(list).unwrap_err();
            assert!(
                matches!(refused, OptionError::Unknown(_)),
                "{list}: {refused}"
            );
            assert!(
                refused
                    .to_string()
                    .contains(list.split(',').next_back().unwrap())
            );
        }
    }

    #[test]
    fn what_a_lost_key_means_is_chosen() {
        let options = taken("on-key-loss=grace=5m,key-check=2s").unwrap();
        assert_eq!(
            (options.on_key_loss, options.key_check),
            (
                KeyLoss::Grace(Duration::from_secs(300)),
                Duration::from_secs(2)
            )
        );
        assert_eq!(taken("").unwrap().on_key_loss, KeyLoss::Keep);
        assert_eq!(
            taken("on-key-loss=lock").unwrap().on_key_loss,
            KeyLoss::Lock
        );
        for list in [
            "on-key-loss=maybe",
            "on-key-loss=grace",
            "key-check=0s",
            "key-check=5",
        ] {
            assert!(
                matches!(taken(list), Err(OptionError::KeyLoss(_))),
                "{list}"
            );
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused() {
        for list in [
            "max-threads=0",
            "max-threads=257",
            "max-threads=x",
            "inplace=maybe",
        ] {
            assert!(
                matches!(taken(list), Err(OptionError::Value { .. })),
                "{list}"
            );
        }
    }
}
