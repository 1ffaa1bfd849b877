//! A software TPM with a resource manager on a bus of its own: without one, the tools run out of space for objects.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::{Running, until};

/// tpm2-pkcs11.
pub const MODULE: &str = "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1";

/// Starts all three below `dir`; the environment of what uses them. The order is that of their ending.
pub fn serve(dir: &Path) -> (Vec<Running>, Vec<(String, OsString)>) {
    for name in ["state", "store"] {
        std::fs::create_dir(dir.join(name)).expect("a directory for the TPM");
    }
    let (socket, bus) = (dir.join("tpm"), dir.join("bus"));
    let swtpm = Running::start(
        Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.join("state").display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}.ctrl", socket.display())),
        "swtpm",
    );
    let dbus = Running::start(
        Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile"])
            .arg(format!("--address=unix:path={}", bus.display())),
        "dbus",
    );
    until("the TPM's and the bus's sockets", || {
        socket.exists() && bus.exists()
    });
    let tcti = "tabrmd:bus_type=session";
    let env: Vec<(String, OsString)> = [
        (
            "DBUS_SESSION_BUS_ADDRESS",
            format!("unix:path={}", bus.display()),
        ),
        ("TPM2TOOLS_TCTI", tcti.to_owned()),
        ("TPM2_PKCS11_TCTI", tcti.to_owned()),
        ("TPM2_PKCS11_STORE", dir.join("store").display().to_string()),
        ("TSS2_LOG", "all+NONE".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()))
    .into();
    let mut abrmd = Running::start(
        Command::new("tpm2-abrmd")
            .args(["--session", "--allow-root"])
            .arg(format!("--tcti=swtpm:path={}", socket.display()))
            .envs(env.iter().map(|(name, value)| (name, value))),
        "tpm2-abrmd libtss2-tcti-swtpm0",
    );
    until("the TPM", || {
        abrmd.assert_runs("tpm2-abrmd");
        let mut probe = Command::new("tpm2_getrandom");
        probe
            .args(["--hex", "4"])
            .envs(env.iter().map(|(name, value)| (name, value)));
        probe.stdout(Stdio::null()).stderr(Stdio::null());
        let status = probe.status();
        status
            .expect("tpm2_getrandom; install tpm2-tools (tests/all does)")
            .success()
    });
    (vec![abrmd, dbus, swtpm], env)
}
