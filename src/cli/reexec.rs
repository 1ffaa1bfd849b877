//! `strongroom reexec`: the program that runs this command takes the place of the one that serves a mount. Programs in the mount
//! see a pause.
//!
//! The daemon that goes runs nothing that it is told, and gives no key away: the new one is started and unlocked here, as for
//! a mount, and asks it for the mount. Of a supervised mount the supervisor and its worker are both replaced so.

use std::path::Path;

use serde_json::Value;

use super::args::{Global, MountArgs, Trust};
use super::exit::{Code, failure};
use super::providers::{self, Known};
use super::{daemon, mounts};
use crate::fuse::control::Client;

/// Runs the command.
pub(super) fn reexec(global: &Global, mountpoint: &Path) -> anyhow::Result<Code> {
    let mounted = mounts::mounted_on(mountpoint)?;
    let about = Client::connect(&mounts::socket(&mounted)?)?.info()?;
    let options = options(&about)?;
    let trust = Trust::default();
    let args = MountArgs {
        foreground: false,
        read_only: mounted.read_only,
        allow_other: about.get("allow_other") == Some(&Value::Bool(true)),
        options,
        trust: trust.clone(),
        ready_fd: None,
        worker_fd: None,
        succeed: true,
        directory: mounted.vault.clone(),
        mountpoint: mounted.mountpoint,
    };
    let secrets = providers::gather(global, &Known::of(&mounted.vault)?, &trust)?;
    daemon::start(global, &args, secrets)
}

/// What the daemon was told with `-o`.
fn options(about: &Value) -> anyhow::Result<Vec<String>> {
    let lists = about.get("options").and_then(Value::as_array);
    let lists = lists.and_then(|lists| {
        let each = lists.iter().map(|list| list.as_str().map(str::to_owned));
        each.collect()
    });
    lists.ok_or_else(|| {
        failure(
            Code::Mount,
            "the program that serves this mount is of a version that cannot be replaced: unmount and mount again",
        )
    })
}
