//! Where things lie on this host: keystore, key file, state directory (pins, log), runtime directory (control sockets).

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::exit::{Code, at, failure};

/// The keystore file: `--keystore`, STRONGROOM_KEYSTORE, or `strongroom/keystore` in the user's configuration.
pub(super) fn keystore(global: &Global) -> anyhow::Result<PathBuf> {
    if let Some(path) = global
        .keystore
        .clone()
        .or_else(|| variable("STRONGROOM_KEYSTORE"))
    {
        return Ok(path);
    }
    Ok(user_dir("XDG_CONFIG_HOME", ".config")?.join("strongroom/keystore"))
}

/// The key file that lies beside a keystore.
pub(super) fn key_file_beside(keystore: &Path) -> PathBuf {
    let mut name = OsString::from(keystore);
    name.push(".key");
    name.into()
}

/// This host's state: STRONGROOM_STATE_DIR, `/var/lib/strongroom` for root, else in the user's state. Made if missing.
pub(super) fn state_dir() -> anyhow::Result<PathBuf> {
    let path = match variable("STRONGROOM_STATE_DIR") {
        Some(path) => path,
        None if is_root() => PathBuf::from("/var/lib/strongroom"),
        None => user_dir("XDG_STATE_HOME", ".local/state")?.join("strongroom"),
    };
    make_private(&path)?;
    Ok(path)
}

/// For control sockets: STRONGROOM_RUNTIME_DIR, `/run/strongroom` for root, else in XDG_RUNTIME_DIR or the state directory.
/// Made if missing.
pub(super) fn runtime_dir() -> anyhow::Result<PathBuf> {
    let path = match (
        variable("STRONGROOM_RUNTIME_DIR"),
        variable("XDG_RUNTIME_DIR"),
    ) {
        (Some(path), _) => path,
        (None, _) if is_root() => PathBuf::from("/run/strongroom"),
        (None, Some(path)) => path.join("strongroom"),
        (None, None) => return state_dir(),
    };
    make_private(&path)?;
    Ok(path)
}

/// Makes a directory, and those above it, for its owner alone.
pub(super) fn make_private(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at(path))
}

/// The value of a variable that names a file; empty counts as not set.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn user_dir(variable_name: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    let given = variable(variable_name).filter(|path| path.is_absolute());
    given.or_else(|| variable("HOME").map(|home| home.join(below_home))).ok_or_else(|| {
        failure(Code::Usage, format!("neither {variable_name} nor HOME is set, so say with --keystore where the keystore is"))
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
