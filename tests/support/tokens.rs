//! Five real PKCS#11 tokens, each started for one test in a directory of its own. Dropped, a token leaves no process and
//! no file, also when the test failed. A component that is not installed fails the test with what to install.
//!
//! A module reads its configuration from the environment of its process, and a process initialises a module once: what
//! uses a token in process runs in a child of the test (`on_token`).
#![allow(dead_code, unused_imports)] // each test binary uses a part

mod inside;
mod judge;
mod opencryptoki;
mod process;
mod shim;
mod tpm;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use inside::{behind_shim, on_token};
pub use shim::Shim;

use super::tool;

const SO_PIN: &str = "87654321";
const SOFT_HSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const NSS: &str = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so";

/// The implementations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// SoftHSM 2.
    SoftHsm,
    /// kryoptic, built by `tests/tokens/kryoptic.sh`.
    Kryoptic,
    /// The soft token of NSS, as Firefox has it.
    Nss,
    /// tpm2-pkcs11 on a software TPM.
    Tpm,
    /// The soft token of opencryptoki: one a machine, so that one test at a time has it.
    OpenCryptoki,
}

/// All of them.
pub const KINDS: [Kind; 5] = [
    Kind::SoftHsm,
    Kind::Kryoptic,
    Kind::Nss,
    Kind::Tpm,
    Kind::OpenCryptoki,
];

/// The label of a fresh token of this kind.
fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::SoftHsm => "strong-hsm",
        Kind::Kryoptic => "strong-kryoptic",
        Kind::Nss => "strong-nss",
        Kind::Tpm => "strong-tpm",
        Kind::OpenCryptoki => "strong-ock",
    }
}

/// What a program needs to know to use a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// Which.
    pub kind: Kind,
    /// Everything of this token lies below it.
    pub dir: PathBuf,
    /// The module to load.
    pub module: PathBuf,
    /// What C_Initialize wants in pReserved (NSS).
    pub init: Option<String>,
    /// The token's label.
    pub label: String,
    /// The user's PIN.
    pub pin: String,
    /// Environment of a process that loads the module.
    pub env: Vec<(String, OsString)>,
}

/// A token that runs.
pub struct TestToken {
    access: Access,
    // Ended in this order: what serves, then the machine's lock, then the files.
    _served: Vec<process::Running>,
    _machine: Option<opencryptoki::Machine>,
    _files: TempDir,
}

impl std::ops::Deref for TestToken {
    type Target = Access;
    fn deref(&self) -> &Access {
        &self.access
    }
}

impl TestToken {
    /// A fresh token of this kind, without a key.
    pub fn start(kind: Kind) -> Self {
        match kind {
            Kind::SoftHsm => Self::soft_hsm(),
            Kind::Kryoptic => Self::kryoptic(),
            Kind::Nss => Self::nss(),
            Kind::Tpm => Self::tpm(),
            Kind::OpenCryptoki => Self::opencryptoki(),
        }
    }

    /// SoftHSM 2.
    pub fn soft_hsm() -> Self {
        let mut token = Self::without_service(Kind::SoftHsm, SOFT_HSM, "softhsm2");
        std::fs::create_dir(token.dir.join("tokens")).expect("a token directory");
        let conf = token.dir.join("softhsm2.conf");
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            token.dir.join("tokens").display()
        );
        std::fs::write(&conf, text).expect("softhsm2.conf");
        token.access.env = vec![("SOFTHSM2_CONF".to_owned(), conf.into())];
        token.add_soft_hsm(&token.label);
        token
    }

    /// One more SoftHSM token in the same store (and for the same process).
    pub fn add_soft_hsm(&self, label: &str) {
        let mut init = self.tool("softhsm2-util");
        init.args(["--init-token", "--free", "--label", label]);
        init.args(["--so-pin", SO_PIN, "--pin", &self.pin]);
        tool(&mut init, "softhsm2");
    }

    /// kryoptic.
    pub fn kryoptic() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokens/kryoptic.sh");
        let module = tool(&mut Command::new(script), "bash");
        let mut token = Self::without_service(Kind::Kryoptic, module.trim(), "kryoptic");
        let conf = token.dir.join("kryoptic.conf");
        let text = format!(
            "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
            token.dir.join("token.sql").display()
        );
        std::fs::write(&conf, text).expect("kryoptic.conf");
        token.access.env = vec![("KRYOPTIC_CONF".to_owned(), conf.into())];
        token.init_by_tool("1");
        token
    }

    /// NSS softokn.
    pub fn nss() -> Self {
        let mut token = Self::without_service(Kind::Nss, NSS, "libnss3");
        let db = token.dir.join("db");
        std::fs::create_dir(&db).expect("a database directory");
        let mut create = token.tool("certutil");
        create
            .args(["-N", "-d"])
            .arg(format!("sql:{}", db.display()));
        create.arg("-f").arg(token.pin_file());
        tool(&mut create, "libnss3-tools");
        token.access.init = Some(format!(
            "configDir='sql:{}' dbTokenDescription='{}'",
            db.display(),
            token.label
        ));
        token
    }

    /// tpm2-pkcs11 on a software TPM. `add_key` makes AES keys: the module itself cannot.
    pub fn tpm() -> Self {
        let mut token = Self::without_service(Kind::Tpm, tpm::MODULE, "libtpm2-pkcs11-1");
        let (served, env) = tpm::serve(&token.dir);
        (token._served, token.access.env) = (served, env);
        token.tpm_tool(&["init"]);
        token.tpm_tool(&[
            "addtoken",
            "--pid",
            "1",
            "--label",
            &token.label,
            "--sopin",
            SO_PIN,
            "--userpin",
            &token.pin,
        ]);
        token
    }

    /// Makes a key in a TPM: "aes256", "rsa2048".
    pub fn add_tpm_key(&self, algorithm: &str, label: &str) {
        self.tpm_tool(&[
            "addkey",
            "--label",
            &self.label,
            "--userpin",
            &self.pin,
            "--algorithm",
            algorithm,
            "--key-label",
            label,
        ]);
    }

    fn tpm_tool(&self, args: &[&str]) {
        let mut tpm2_ptool = self.tool("tpm2_ptool");
        tpm2_ptool
            .args(args)
            .arg("--path")
            .arg(self.dir.join("store"));
        tool(&mut tpm2_ptool, "libtpm2-pkcs11-tools");
    }

    /// opencryptoki's soft token; waits for whoever has it.
    pub fn opencryptoki() -> Self {
        let machine = opencryptoki::Machine::start();
        let mut token =
            Self::without_service(Kind::OpenCryptoki, opencryptoki::MODULE, "opencryptoki");
        token._machine = Some(machine);
        token.init_by_tool(opencryptoki::SLOT);
        token
    }

    fn without_service(kind: Kind, module: &str, package: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("strongroom-token-")
            .tempdir()
            .expect("a temporary directory");
        assert!(
            Path::new(module).exists(),
            "{module} is not there; install {package} (tests/all does)"
        );
        let access = Access {
            kind,
            dir: dir.path().to_owned(),
            module: module.into(),
            init: None,
            label: label(kind).to_owned(),
            pin: "12345678".to_owned(),
            env: Vec::new(),
        };
        std::fs::write(access.pin_file(), &access.pin).expect("a PIN file");
        std::fs::set_permissions(
            access.pin_file(),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .expect("a private PIN file");
        Self {
            access,
            _served: Vec::new(),
            _machine: None,
            _files: dir,
        }
    }

    fn init_by_tool(&self, slot: &str) {
        let label = self.label.clone();
        self.pkcs11_tool(&[
            "--slot",
            slot,
            "--init-token",
            "--label",
            &label,
            "--so-pin",
            SO_PIN,
        ]);
        self.pkcs11_tool(&[
            "--slot",
            slot,
            "--login",
            "--login-type",
            "so",
            "--so-pin",
            SO_PIN,
            "--init-pin",
            "--pin",
            &self.pin,
        ]);
    }
}

impl Access {
    /// A file with the PIN, mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.join("pin")
    }

    /// The URI of an object (RFC 7512), with the module and where the PIN stands.
    pub fn uri(&self, object: &str) -> String {
        let init = self
            .init
            .as_deref()
            .map(|init| format!("&x-init={}", escaped(init)));
        format!(
            "pkcs11:token={};object={}?module-path={}&pin-source={}{}",
            escaped(&self.label),
            escaped(object),
            self.module.display(),
            self.pin_file().display(),
            init.unwrap_or_default()
        )
    }

    /// Gives a program what the module looks for in its environment.
    pub fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.env.iter().map(|(name, value)| (name, value)))
    }

    /// A tool with the token's environment.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.configure(&mut command);
        command
    }

    /// Runs OpenSC's pkcs11-tool on the module (which NSS's cannot be: it needs `init`).
    pub fn pkcs11_tool(&self, args: &[&str]) -> String {
        let mut command = self.tool("pkcs11-tool");
        command.arg("--module").arg(&self.module).args(args);
        tool(&mut command, "opensc")
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
