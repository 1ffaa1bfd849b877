//! How a key in a token is named: a PKCS#11 URI (RFC 7512); and how it wraps.
//!
//! Invariant: no PIN is ever read from a URI, and none of its text stands in an error where a PIN could be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::module::Module;
use crate::format::volume_file::TokenObject;

/// Longest label of a token, bytes (CK_TOKEN_INFO).
const TOKEN_LABEL: usize = 32;
/// Longest label of a key, bytes (`TokenObject`).
const OBJECT_LABEL: usize = 200;
/// Longest CKA_ID that is looked for, bytes.
const ID: usize = 128;
/// Longest path or init string, bytes.
const TEXT: usize = 4096;
/// Longest serial number and model, bytes (CK_TOKEN_INFO).
const SHORT: usize = 16;

/// The scheme, with its colon; case does not matter.
const SCHEME: &str = "pkcs11:";

/// A key, or only its token, as a URI names it. An attribute that is not there matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyUri {
    /// Label of the token, at most 32 bytes.
    pub token: Option<String>,
    /// Serial number of the token.
    pub serial: Option<String>,
    /// Who made the token.
    pub manufacturer: Option<String>,
    /// Model of the token.
    pub model: Option<String>,
    /// Number of the slot, which may change from one start to the next.
    pub slot_id: Option<u64>,
    /// Label of the key (CKA_LABEL), 1 to 200 bytes.
    pub object: Option<String>,
    /// CKA_ID of the key, 1 to 128 bytes.
    pub id: Option<Vec<u8>>,
    /// What kind of object the key is.
    pub class: Option<KeyClass>,
    /// The library that talks to the token.
    pub module: Option<Module>,
    /// A file that holds the PIN.
    pub pin_source: Option<PathBuf>,
}

/// Objects that unwrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyClass {
    /// `type=secret-key`
    Secret,
    /// `type=private`
    Private,
}

impl KeyClass {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Secret => b"secret-key",
            Self::Private => b"private",
        }
    }
}

/// How a token's key wraps; chosen by trying where nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// CKM_AES_GCM, the context as additional data.
    AesGcm,
    /// CKM_RSA_PKCS_OAEP: wraps with the public key, without the token.
    RsaOaep,
    /// CKM_AES_CBC, and an HMAC of our own.
    AesCbcHmac,
}

impl FromStr for Mechanism {
    type Err = UriError;

    fn from_str(name: &str) -> Result<Self, UriError> {
        match name {
            "aes-gcm" => Ok(Self::AesGcm),
            "rsa-oaep" => Ok(Self::RsaOaep),
            "aes-cbc-hmac" => Ok(Self::AesCbcHmac),
            other => Err(UriError::Mechanism(other.to_owned())),
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AesGcm => "aes-gcm",
            Self::RsaOaep => "rsa-oaep",
            Self::AesCbcHmac => "aes-cbc-hmac",
        })
    }
}

/// Why a URI, a module or a mechanism was refused; whole sentences.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriError {
    /// Another scheme.
    #[error("a key in a token is named by a URI that begins with \"pkcs11:\"")]
    Scheme,
    /// An attribute without `=`, or an empty one.
    #[error(
        "a PKCS#11 URI is attributes as NAME=VALUE with \";\" between them, and after a \"?\" with \"&\" between them"
    )]
    Shape,
    /// `pin-value`.
    #[error(
        "a PIN in a URI (pin-value) is refused: arguments are shown to every user by ps and kept in the shell's history; use \
         pin-source=file:/PATH, --pin-file, or the prompt"
    )]
    PinValue,
    /// The same attribute twice.
    #[error("the PKCS#11 URI has {0} twice")]
    Twice(&'static str),
    /// An attribute that RFC 7512 does not know.
    #[error(
        "the PKCS#11 URI has an attribute that is not known here (known: token, serial, manufacturer, model, slot-id, object, id, \
         type; after \"?\": module-path, x-init, pin-source)"
    )]
    Unknown,
    /// An attribute of RFC 7512 by which nothing is found here.
    #[error("nothing is found by {0} here: leave it out of the PKCS#11 URI")]
    Unused(&'static str),
    /// `module-name`.
    #[error(
        "module-name is refused, as no directory is searched for a library: give module-path=/PATH"
    )]
    ModuleName,
    /// A `%` without two hexadecimal digits, or a character that must be written with one.
    #[error(
        "{0} of the PKCS#11 URI is not well escaped: write a blank as %20, \"%\" as %25, \";\" as %3B"
    )]
    Escape(&'static str),
    /// Not text.
    #[error("{0} of the PKCS#11 URI is not UTF-8 text")]
    NotText(&'static str),
    /// Longer than it can be, or empty where something must stand.
    #[error("{what} of the PKCS#11 URI has {len} bytes, and can have 1 to {most}")]
    Length {
        /// The attribute.
        what: &'static str,
        /// What it has, bytes.
        len: usize,
        /// What it may have, bytes.
        most: usize,
    },
    /// `slot-id` is a decimal number.
    #[error("slot-id of the PKCS#11 URI is not a number")]
    SlotId,
    /// A type that cannot unwrap.
    #[error("type of the PKCS#11 URI names no key that unwraps: it is secret-key or private")]
    Type,
    /// `pin-source=|command`.
    #[error("a pin-source that is a command is refused: give a file, as file:/PATH")]
    PinCommand,
    /// Not a file.
    #[error("pin-source is a file by its absolute path, as file:/PATH")]
    PinSource,
    /// A library that is named by a relative path.
    #[error(
        "the module's path must be absolute, and {0:?} is not: another library could be loaded from another directory"
    )]
    Relative(PathBuf),
    /// A zero byte, which would end the string for the library.
    #[error("a module's path or init string cannot hold a zero byte")]
    Nul,
    /// `x-init` without `module-path`.
    #[error(
        "x-init of the PKCS#11 URI is for the library that module-path names, and there is none"
    )]
    InitAlone,
    /// No label of a key.
    #[error("the PKCS#11 URI does not say which key: give its label as object=LABEL")]
    NoObject,
    /// No label of a token.
    #[error("the PKCS#11 URI does not say which token: give its label as token=LABEL")]
    NoToken,
    /// A key that is named by `id`.
    #[error(
        "a key is found by its label here: give object=LABEL, and leave id out of the PKCS#11 URI"
    )]
    ById,
    /// Not a mechanism.
    #[error("there is no mechanism {0:?} (known: aes-gcm, rsa-oaep, aes-cbc-hmac)")]
    Mechanism(String),
}

impl KeyUri {
    /// Whether a text means a key in a token, by its scheme.
    pub fn is_one(text: &str) -> bool {
        without_scheme(text).is_some()
    }

    /// Token and key by their labels, as a volume remembers them.
    ///
    /// # Errors
    /// `NoToken`, `NoObject`, `ById`.
    pub fn home(&self) -> Result<TokenObject, UriError> {
        let token = self.token.clone().filter(|label| !label.is_empty());
        let object = match (&self.object, &self.id) {
            (_, Some(_)) => return Err(UriError::ById),
            (Some(object), None) => object.clone(),
            (None, None) => return Err(UriError::NoObject),
        };
        Ok(TokenObject {
            token: token.ok_or(UriError::NoToken)?,
            object,
        })
    }

    fn take_path(&mut self, attribute: &str) -> Result<(), UriError> {
        let (name, value) = attribute.split_once('=').ok_or(UriError::Shape)?;
        match name {
            "token" => once(&mut self.token, "token", text("token", value, TOKEN_LABEL)?),
            "serial" => once(&mut self.serial, "serial", text("serial", value, SHORT)?),
            "manufacturer" => {
                let value = text("manufacturer", value, TOKEN_LABEL)?;
                once(&mut self.manufacturer, "manufacturer", value)
            }
            "model" => once(&mut self.model, "model", text("model", value, SHORT)?),
            "slot-id" => once(&mut self.slot_id, "slot-id", slot_id(value)?),
            "object" => {
                let value = some("object", text("object", value, OBJECT_LABEL)?, OBJECT_LABEL)?;
                once(&mut self.object, "object", value)
            }
            "id" => {
                let value = some("id", decoded("id", value, PATH_EXTRA, ID)?, ID)?;
                once(&mut self.id, "id", value)
            }
            "type" => once(&mut self.class, "type", class(value)?),
            other => Err(unused(other)),
        }
    }

    fn take_query(&mut self, attribute: &str, query: &mut Query) -> Result<(), UriError> {
        let (name, value) = attribute.split_once('=').ok_or(UriError::Shape)?;
        match name {
            "module-path" => {
                let path = decoded("module-path", value, QUERY_EXTRA, TEXT)?;
                once(&mut query.module_path, "module-path", path_of(path))
            }
            "x-init" => {
                let init = decoded("x-init", value, QUERY_EXTRA, TEXT)?;
                once(&mut query.init, "x-init", utf8("x-init", init)?)
            }
            "pin-source" => {
                let value = decoded("pin-source", value, QUERY_EXTRA, TEXT)?;
                once(&mut self.pin_source, "pin-source", pin_source(&value)?)
            }
            "module-name" => Err(UriError::ModuleName),
            _ => Err(UriError::Unknown),
        }
    }
}

#[derive(Default)]
struct Query {
    module_path: Option<PathBuf>,
    init: Option<String>,
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = without_scheme(text).ok_or(UriError::Scheme)?;
        // Also where a wrong separator makes it part of another value, which an error would show.
        if rest.to_ascii_lowercase().contains("pin-value=") {
            return Err(UriError::PinValue);
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::default();
        if !path.is_empty() {
            path.split(';')
                .try_for_each(|attribute| uri.take_path(attribute))?;
        }
        let mut named = Query::default();
        if let Some(query) = query {
            query
                .split('&')
                .try_for_each(|attribute| uri.take_query(attribute, &mut named))?;
        }
        uri.module = match (named.module_path, named.init) {
            (Some(path), init) => Some(Module::new(path, init)?),
            (None, Some(_)) => return Err(UriError::InitAlone),
            (None, None) => None,
        };
        Ok(uri)
    }
}

impl From<&TokenObject> for KeyUri {
    fn from(home: &TokenObject) -> Self {
        Self {
            token: Some(home.token.clone()),
            object: Some(home.object.clone()),
            ..Self::default()
        }
    }
}

/// What finds the key, escaped; not the module, nor where the PIN lies.
impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot_id = self.slot_id.map(|number| number.to_string());
        let attributes = [
            ("token", self.token.as_deref().map(str::as_bytes)),
            (
                "manufacturer",
                self.manufacturer.as_deref().map(str::as_bytes),
            ),
            ("model", self.model.as_deref().map(str::as_bytes)),
            ("serial", self.serial.as_deref().map(str::as_bytes)),
            ("slot-id", slot_id.as_deref().map(str::as_bytes)),
            ("object", self.object.as_deref().map(str::as_bytes)),
            ("id", self.id.as_deref()),
            ("type", self.class.map(KeyClass::name)),
        ];
        f.write_str(SCHEME)?;
        let mut between = "";
        for (name, value) in attributes {
            let Some(value) = value else { continue };
            write!(f, "{between}{name}=")?;
            between = ";";
            for byte in value {
                if is_plain(*byte, b"") {
                    write!(f, "{}", *byte as char)?;
                } else {
                    write!(f, "%{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}

fn without_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

/// What RFC 7512 knows and this program does not find tokens by, or what nobody knows.
fn unused(name: &str) -> UriError {
    const OF_THE_STANDARD: [&str; 5] = [
        "library-manufacturer",
        "library-description",
        "library-version",
        "slot-description",
        "slot-manufacturer",
    ];
    let known = OF_THE_STANDARD.into_iter().find(|known| *known == name);
    known.map_or(UriError::Unknown, UriError::Unused)
}

fn once<T>(place: &mut Option<T>, what: &'static str, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Twice(what)),
    }
}

fn text(what: &'static str, value: &str, most: usize) -> Result<String, UriError> {
    utf8(what, decoded(what, value, PATH_EXTRA, most)?)
}

fn utf8(what: &'static str, bytes: Vec<u8>) -> Result<String, UriError> {
    String::from_utf8(bytes).map_err(|_| UriError::NotText(what))
}

fn some<T: AsRef<[u8]>>(what: &'static str, value: T, most: usize) -> Result<T, UriError> {
    if value.as_ref().is_empty() {
        return Err(UriError::Length { what, len: 0, most });
    }
    Ok(value)
}

fn slot_id(value: &str) -> Result<u64, UriError> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UriError::SlotId);
    }
    value.parse().map_err(|_| UriError::SlotId)
}

fn class(value: &str) -> Result<KeyClass, UriError> {
    match value {
        "secret-key" => Ok(KeyClass::Secret),
        "private" => Ok(KeyClass::Private),
        _ => Err(UriError::Type),
    }
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

/// `file:/PATH`, `file:///PATH` (RFC 8089) or `/PATH`.
fn pin_source(value: &[u8]) -> Result<PathBuf, UriError> {
    if value.first() == Some(&b'|') {
        return Err(UriError::PinCommand);
    }
    let path = value.strip_prefix(b"file:").unwrap_or(value);
    let path = match path.strip_prefix(b"//") {
        Some(local) if local.starts_with(b"/") => local,
        Some(_) => return Err(UriError::PinSource), // file://host/
        None => path,
    };
    let path = path_of(path.to_vec());
    if Path::is_absolute(&path) && !value.contains(&0) {
        Ok(path)
    } else {
        Err(UriError::PinSource)
    }
}

/// What may stand unescaped in a value beside letters and digits (RFC 7512 section 2.3: unreserved, pk11-res-avail).
const ALWAYS: &[u8] = b"-._~:[]@!$'()*+,=";
/// Also in the path; as a value's text is split at `;`, `?` and `&` before, those never get here.
const PATH_EXTRA: &[u8] = b"&";
/// Also in the query. (`;` is not among them, but NSS's strings and careless scripts have it, and nothing is split there.)
const QUERY_EXTRA: &[u8] = b"/?|;";

fn is_plain(byte: u8, extra: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || ALWAYS.contains(&byte) || extra.contains(&byte)
}

fn decoded(
    what: &'static str,
    value: &str,
    extra: &[u8],
    most: usize,
) -> Result<Vec<u8>, UriError> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'%' => escaped(after).ok_or(UriError::Escape(what))?,
            plain if is_plain(plain, extra) => (plain, after),
            _ => return Err(UriError::Escape(what)),
        };
        bytes.push(byte);
        rest = after;
    }
    if bytes.len() > most {
        let len = bytes.len();
        return Err(UriError::Length { what, len, most });
    }
    Ok(bytes)
}

fn escaped(after: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = after.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = digit(*high)? * 16 + digit(*low)?;
    Some((u8::try_from(byte).ok()?, rest))
}

#[cfg(test)]
#[path = "uri_tests.rs"]
mod tests;
