//! Which PIN and which library belong to which token: from options, the environment, a URI, this host's pins, the terminal.
//!
//! Invariant: a PIN that was given for one token is never tried on another.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::args::{Global, TokenArgs};
use super::exit::{Code, failure};
use super::places;
use crate::format::ids::KeyId;
use crate::format::volume_file::KeyEntry;
use crate::keys::SecretBytes;
use crate::keys::pkcs11::Module;
use crate::keys::source::Source;

/// The tokens that a command deals with, by label.
#[derive(Debug, Clone, Default)]
pub(super) struct InPlay {
    /// Those that hold a volume's keys now; several only while it moves from one to another.
    pub(super) held: Vec<String>,
    /// The one that it moves to, or that a new volume gets.
    pub(super) target: Option<String>,
}

/// PINs, by the label of the token.
#[derive(Debug, Default)]
pub(super) struct Pins(Vec<(String, SecretBytes)>);

impl InPlay {
    /// The tokens that these keys are in.
    pub(super) fn of(keys: &[KeyEntry]) -> Self {
        let mut held: Vec<_> = keys
            .iter()
            .filter_map(|entry| Some(entry.home.as_ref()?.token.clone()))
            .collect();
        held.sort();
        held.dedup();
        Self { held, target: None }
    }

    /// As before, with the token that a volume moves to.
    pub(super) fn with_target(mut self, label: &str) -> Self {
        self.target = Some(label.to_owned());
        self
    }

    /// The only token, which is meant where none is named: the one that holds the volume's key, else the one that shall.
    fn only(&self) -> Option<&str> {
        match (self.held.as_slice(), &self.target) {
            ([held], _) => Some(held),
            ([], Some(target)) => Some(target),
            _ => None,
        }
    }

    fn labels(&self) -> impl Iterator<Item = &str> {
        self.held.iter().chain(&self.target).map(String::as_str)
    }

    /// What `[TOKEN=]VALUE` options say for a token.
    fn given<'a>(
        &self,
        values: &'a [OsString],
        option: &str,
        label: &str,
    ) -> anyhow::Result<Option<&'a OsStr>> {
        let mut found = None;
        for value in values {
            let named = self
                .labels()
                .find_map(|of| Some((of, without_label(value, of)?)));
            let (of, value) = match (named, self.only()) {
                (Some(named), _) => named,
                (None, Some(only)) => (only, value.as_os_str()),
                (None, None) if self.held.is_empty() => continue,
                (None, None) => {
                    let sentence = format!(
                        "the volume has keys in the tokens {}, as its move is not finished: say for which {option} is, as \
                         {option} TOKEN=VALUE",
                        self.held
                            .iter()
                            .map(|label| format!("{label:?}"))
                            .collect::<Vec<_>>()
                            .join(" and ")
                    );
                    return Err(failure(Code::Usage, sentence));
                }
            };
            if of == label && found.replace(value).is_some() {
                let sentence = format!("{option} is given twice for the token {label:?}");
                return Err(failure(Code::Usage, sentence));
            }
        }
        Ok(found)
    }
}

fn without_label<'a>(value: &'a OsStr, label: &str) -> Option<&'a OsStr> {
    let rest = value.as_bytes().strip_prefix(label.as_bytes())?;
    rest.strip_prefix(b"=").map(OsStr::from_bytes)
}

impl Pins {
    /// Remembers the PIN of a token.
    pub(super) fn put(&mut self, label: &str, pin: Option<SecretBytes>) {
        self.0.extend(pin.map(|pin| (label.to_owned(), pin)));
    }

    /// A copy of the PIN of a token.
    pub(super) fn of(&self, label: &str) -> Option<SecretBytes> {
        let (_, pin) = self.0.iter().find(|(of, _)| of == label)?;
        let mut bytes = zeroize::Zeroizing::new(pin.expose().to_vec());
        SecretBytes::take(&mut bytes)
    }

    /// All, with their labels.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, &SecretBytes)> {
        self.0.iter().map(|(label, pin)| (label.as_str(), pin))
    }
}

/// The PIN of a token: from the first of options, the file that a URI names, STRONGROOM_PIN_FILE and the terminal that gives
/// one. `None` where there is none, as some tokens want none.
pub(super) fn pin(
    global: &Global,
    in_play: &InPlay,
    label: &str,
    of_uri: Option<&Path>,
) -> anyhow::Result<Option<SecretBytes>> {
    let TokenArgs {
        pin_file, pin_fd, ..
    } = &global.token;
    let file = in_play.given(pin_file, "--pin-file", label)?;
    let source = match (file, in_play.given(pin_fd, "--pin-fd", label)?) {
        (Some(_), Some(_)) => {
            return Err(failure(
                Code::Usage,
                "give --pin-file or --pin-fd, not both",
            ));
        }
        (Some(file), None) => Some(Source::File(file.into())),
        (None, Some(number)) => Some(Source::Descriptor(descriptor(number)?)),
        (None, None) => of_uri.map(|path| Source::File(path.to_owned())),
    };
    let named = || {
        let meant = in_play.only() == Some(label);
        places::variable("STRONGROOM_PIN_FILE").filter(|_| meant)
    };
    match source.or_else(|| named().map(Source::File)) {
        Some(source) => Ok(Some(source.read()?)),
        None => Ok(asked(label)),
    }
}

fn descriptor(number: &OsStr) -> anyhow::Result<i32> {
    let parsed = number.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        failure(
            Code::Usage,
            "--pin-fd takes the number of an inherited file descriptor",
        )
    })
}

/// Nothing where there is no terminal, or nothing was typed.
fn asked(label: &str) -> Option<SecretBytes> {
    let pin = super::secrets::prompt(&format!("PIN of the token {label:?}: "))?;
    (!pin.is_empty()).then_some(pin)
}

/// The library that serves a token: `given` by option or URI, else what this host remembers of the key.
///
/// A library that differs from the remembered one is refused, since to load it is to run it; `accept` lets it pass.
pub(super) fn module(
    global: &Global,
    in_play: &InPlay,
    label: &str,
    remembered: Option<&Module>,
    accept: bool,
) -> anyhow::Result<Module> {
    let TokenArgs {
        module,
        module_init,
        ..
    } = &global.token;
    let path = in_play.given(module, "--module", label)?.map(PathBuf::from);
    let init = in_play.given(module_init, "--module-init", label)?;
    let init = init.map(|text| text.to_string_lossy().into_owned());
    let path = path.or_else(|| remembered.map(|module| module.path.clone()));
    let Some(path) = path else {
        return Err(no_module(label));
    };
    let of_same = remembered.filter(|module| module.path == path);
    let init = init.or_else(|| of_same.and_then(|module| module.init.clone()));
    let chosen = checked(path, init)?;
    match remembered {
        Some(before) if *before != chosen && !accept => Err(failure(
            Code::Pinned,
            format!(
                "on this host the token {label:?} was served by another library, {}, so {} was not loaded; leave --module out, or \
                 accept it with --expect-volume and the volume's pin",
                shown(before),
                shown(&chosen)
            ),
        )),
        _ => Ok(chosen),
    }
}

/// A library that may be loaded.
pub(super) fn checked(path: PathBuf, init: Option<String>) -> anyhow::Result<Module> {
    Module::new(path, init).map_err(|error| failure(Code::Usage, error.to_string()))
}

/// The library of a token that no volume of this host used so far.
pub(super) fn new_module(
    global: &Global,
    in_play: &InPlay,
    label: &str,
    of_uri: Option<&Module>,
) -> anyhow::Result<Module> {
    let given = module(global, in_play, label, None, false);
    match (of_uri, given) {
        (None, given) => given,
        (Some(uri), Ok(given)) if *uri != given => Err(failure(
            Code::Usage,
            "--module names another library than module-path of the PKCS#11 URI",
        )),
        (Some(uri), _) => Ok(uri.clone()),
    }
}

fn no_module(label: &str) -> anyhow::Error {
    let sentence = format!(
        "a PKCS#11 library is needed to reach the token {label:?}, and this host does not know which: give its file with \
         --module /PATH (SoftHSM's is /usr/lib/softhsm/libsofthsm2.so on Debian)"
    );
    failure(Code::Usage, sentence)
}

fn shown(module: &Module) -> String {
    match &module.init {
        Some(init) => format!("{} with {init:?}", module.path.display()),
        None => module.path.display().to_string(),
    }
}

/// What this host remembers, by key.
pub(super) type Remembered = BTreeMap<KeyId, Module>;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(held: &[&str], target: Option<&str>) -> InPlay {
        InPlay {
            held: held.iter().map(|label| (*label).to_owned()).collect(),
            target: target.map(str::to_owned),
        }
    }

    fn given(in_play: &InPlay, values: &[&str], label: &str) -> anyhow::Result<Option<String>> {
        let values: Vec<_> = values.iter().map(OsString::from).collect();
        let found = in_play.given(&values, "--pin-file", label)?;
        Ok(found.map(|value| value.to_string_lossy().into_owned()))
    }

    #[test]
    fn a_plain_value_is_for_the_only_token() {
        let one = of(&["a"], None);
        assert_eq!(given(&one, &["/x=y"], "a").unwrap().unwrap(), "/x=y");
        assert_eq!(given(&one, &["a=/x"], "a").unwrap().unwrap(), "/x");
        assert_eq!(given(&one, &[], "a").unwrap(), None);
        let new = of(&[], Some("b"));
        assert_eq!(given(&new, &["/x"], "b").unwrap().unwrap(), "/x");
    }

    #[test]
    fn a_plain_value_never_reaches_the_token_moved_to() {
        let moving = of(&["a"], Some("b"));
        assert_eq!(given(&moving, &["/x"], "a").unwrap().unwrap(), "/x");
        assert_eq!(given(&moving, &["/x"], "b").unwrap(), None);
        assert_eq!(given(&moving, &["b=/x"], "b").unwrap().unwrap(), "/x");
        assert_eq!(given(&moving, &["b=/x"], "a").unwrap(), None);
    }

    #[test]
    fn with_two_tokens_each_value_says_for_which() {
        let two = of(&["a", "b"], None);
        assert!(given(&two, &["/x"], "a").is_err());
        assert!(given(&two, &["/x"], "b").is_err());
        let both = ["b=/y", "a=/x"];
        assert_eq!(given(&two, &both, "a").unwrap().unwrap(), "/x");
        assert_eq!(given(&two, &both, "b").unwrap().unwrap(), "/y");
        assert!(given(&two, &["a=/x", "a=/y"], "a").is_err());
    }
}
