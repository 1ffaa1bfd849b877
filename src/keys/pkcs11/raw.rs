//! The calls of a PKCS#11 library that the crate `cryptoki` has not as we need them: loading, a token's description byte for
//! byte, login from locked memory, and encryption in one call into a buffer of known length. The one place here with
//! `unsafe`.
//!
//! Invariant: whatever a library is handed lives until its call has returned, and a library that claims or writes more than
//! it was given room for is refused.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::path::Path;
use std::ptr::{self, NonNull};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::Rv;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::{
    CK_BYTE, CK_EFFECTIVELY_INFINITE, CK_FUNCTION_LIST, CK_GCM_PARAMS, CK_MECHANISM,
    CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RSA_PKCS_MGF_TYPE, CK_RSA_PKCS_OAEP_PARAMS, CK_RV,
    CK_SESSION_HANDLE, CK_TOKEN_INFO, CK_ULONG, CK_UNAVAILABLE_INFORMATION, CKF_LOGIN_REQUIRED,
    CKF_PROTECTED_AUTHENTICATION_PATH, CKF_TOKEN_INITIALIZED, CKF_USER_PIN_FINAL_TRY,
    CKF_USER_PIN_LOCKED, CKG_MGF1_SHA1, CKG_MGF1_SHA256, CKM_AES_CBC, CKM_AES_GCM,
    CKM_RSA_PKCS_OAEP, CKM_SHA_1, CKM_SHA256, CKU_USER, CKZ_DATA_SPECIFIED,
};

use super::fault::Fault;
use crate::crypto::Secret;

/// Bytes of a GCM initialisation vector.
pub(super) const GCM_IV: usize = 12;
/// Bytes of a GCM tag.
pub(super) const GCM_TAG: usize = 16;
/// Room behind every output; what a library is told of is less, the rest shows whether it wrote beyond that.
const ROOM: usize = 1024;

/// A loaded library. It stays loaded: threads of its own may run in it.
pub(super) struct Functions {
    list: CK_FUNCTION_LIST,
    context: Pkcs11,
    init: Option<CString>,
    _library: cryptoki_sys::Pkcs11,
}

/// What a token says of itself, trimmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenInfo {
    pub label: String,
    pub serial: String,
    pub manufacturer: String,
    pub model: String,
    pub initialised: bool,
    pub login_required: bool,
    /// The PIN is entered at the reader.
    pub own_pin_pad: bool,
    /// Sessions that one program may have, where it says.
    pub sessions: Option<usize>,
    /// One more wrong PIN locks the user out, or one did.
    pub last_try: bool,
}

/// A mechanism with its parameters.
pub(super) enum Cipher<'a> {
    /// The vector may be replaced by the token; what stands here after the call counts.
    Gcm {
        iv: &'a mut [u8; GCM_IV],
        context: &'a [u8],
    },
    OaepSha256 {
        label: &'a [u8],
    },
    OaepSha1,
    Cbc {
        iv: [u8; 16],
    },
}

/// What a call gave: locked memory, wiped when dropped.
pub(super) struct Output {
    bytes: Secret<ROOM>,
    length: usize,
}

impl Output {
    pub fn expose(&self) -> &[u8] {
        self.bytes.expose().get(..self.length).unwrap_or_default()
    }
}

type Init = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_ULONG) -> CK_RV;
type Once = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;

impl Functions {
    /// Loads the library; the same one twice is one.
    pub fn load(path: &Path, init: Option<&str>) -> Result<Self, Fault> {
        let init = init
            .map(CString::new)
            .transpose()
            .map_err(|_| Fault::Library("the text for the library has a zero byte".into()))?;
        // SAFETY: loading runs the library's own code; its path comes from the command line or this host's pins only.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }
            .map_err(|error| Fault::Library(error.to_string()))?;
        let context = Pkcs11::new(path)?;
        let get = library
            .C_GetFunctionList
            .as_ref()
            .map_err(|error| Fault::Library(error.to_string()))?;
        let mut list = ptr::null_mut();
        // SAFETY: C_GetFunctionList writes one pointer.
        check(unsafe { get(&raw mut list) }, Function::GetFunctionList)?;
        let list = NonNull::new(list).ok_or(Fault::Misbehaves("no list of functions"))?;
        Ok(Self {
            // SAFETY: the library answered with its list, which it keeps as long as it is loaded; we copy it.
            list: unsafe { list.read() },
            context,
            init,
            _library: library,
        })
    }

    pub fn context(&self) -> &Pkcs11 {
        &self.context
    }

    /// C_Initialize, with the library's own locking.
    pub fn initialize(&self) -> Result<(), Fault> {
        let flags = CInitializeFlags::OS_LOCKING_OK;
        let args = match &self.init {
            None => CInitializeArgs::new(flags),
            Some(text) => {
                let text = NonNull::from(text.as_bytes_with_nul()).cast();
                // SAFETY: a zero-terminated text, as NSS reads it, that lives as long as the library.
                unsafe { CInitializeArgs::new_with_reserved(flags, text) }
            }
        };
        Ok(self.context.initialize(args)?)
    }

    /// C_GetTokenInfo; `cryptoki` refuses whole descriptions for a clock it cannot read.
    pub fn token_info(&self, slot: Slot) -> Result<TokenInfo, Fault> {
        let get = self.list.C_GetTokenInfo.ok_or(MISSING)?;
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: the library fills one CK_TOKEN_INFO.
        check(
            unsafe { get(slot.id(), &raw mut info) },
            Function::GetTokenInfo,
        )?;
        let flag = |flag| info.flags & flag != 0;
        Ok(TokenInfo {
            label: trimmed(&info.label),
            serial: trimmed(&info.serialNumber),
            manufacturer: trimmed(&info.manufacturerID),
            model: trimmed(&info.model),
            initialised: flag(CKF_TOKEN_INITIALIZED),
            login_required: flag(CKF_LOGIN_REQUIRED),
            own_pin_pad: flag(CKF_PROTECTED_AUTHENTICATION_PATH),
            sessions: most(info.ulMaxSessionCount)
                .into_iter()
                .chain(most(info.ulMaxRwSessionCount))
                .min(),
            last_try: flag(CKF_USER_PIN_FINAL_TRY) || flag(CKF_USER_PIN_LOCKED),
        })
    }

    /// C_Login as user, the PIN read from where it is; without one at the reader's own pad.
    pub fn login(&self, session: &Session, pin: Option<&[u8]>) -> Result<(), Fault> {
        let login = self.list.C_Login.ok_or(MISSING)?;
        let (at, length) = match pin {
            Some(pin) => (pin.as_ptr().cast_mut(), length(pin)?),
            None => (ptr::null_mut(), 0),
        };
        // SAFETY: `at` is `length` bytes of the PIN, which the library only reads.
        check(
            unsafe { login(session.handle(), CKU_USER, at, length) },
            Function::Login,
        )
    }

    /// C_EncryptInit and one C_Encrypt into `room` bytes, at most 512.
    pub fn encrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        cipher: &mut Cipher,
        text: &[u8],
        room: usize,
    ) -> Result<Output, Fault> {
        let init = self.list.C_EncryptInit.ok_or(MISSING)?;
        let once = self.list.C_Encrypt.ok_or(MISSING)?;
        let names = [Function::EncryptInit, Function::Encrypt];
        let at = (session.handle(), key.handle());
        cipher.with_mechanism(|mechanism| run(init, once, names, at, mechanism, text, room))
    }

    /// C_DecryptInit and one C_Decrypt into `room` bytes, at most 512.
    pub fn decrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        cipher: &mut Cipher,
        text: &[u8],
        room: usize,
    ) -> Result<Output, Fault> {
        let init = self.list.C_DecryptInit.ok_or(MISSING)?;
        let once = self.list.C_Decrypt.ok_or(MISSING)?;
        let names = [Function::DecryptInit, Function::Decrypt];
        let at = (session.handle(), key.handle());
        cipher.with_mechanism(|mechanism| run(init, once, names, at, mechanism, text, room))
    }
}

impl Cipher<'_> {
    /// Hands the mechanism to `call`; the parameters live until that has returned.
    fn with_mechanism<R>(&mut self, call: impl FnOnce(&mut CK_MECHANISM) -> R) -> R {
        match self {
            Self::Gcm { iv, context } => {
                let mut parameters = CK_GCM_PARAMS {
                    pIv: iv.as_mut_ptr(),
                    ulIvLen: GCM_IV as CK_ULONG,
                    ulIvBits: 8 * GCM_IV as CK_ULONG,
                    pAAD: context.as_ptr().cast_mut(),
                    ulAADLen: context.len() as CK_ULONG,
                    ulTagBits: 8 * GCM_TAG as CK_ULONG,
                };
                call(&mut mechanism(CKM_AES_GCM, &mut parameters))
            }
            Self::OaepSha256 { label } => call(&mut mechanism(
                CKM_RSA_PKCS_OAEP,
                &mut oaep(CKM_SHA256, CKG_MGF1_SHA256, label),
            )),
            Self::OaepSha1 => call(&mut mechanism(
                CKM_RSA_PKCS_OAEP,
                &mut oaep(CKM_SHA_1, CKG_MGF1_SHA1, &[]),
            )),
            Self::Cbc { iv } => call(&mut mechanism(CKM_AES_CBC, iv)),
        }
    }
}

fn oaep(
    hash: CK_MECHANISM_TYPE,
    mask: CK_RSA_PKCS_MGF_TYPE,
    label: &[u8],
) -> CK_RSA_PKCS_OAEP_PARAMS {
    let at = if label.is_empty() {
        ptr::null_mut()
    } else {
        label.as_ptr().cast_mut().cast()
    };
    CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: hash,
        mgf: mask,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: at,
        ulSourceDataLen: label.len() as CK_ULONG,
    }
}

fn mechanism<P>(kind: CK_MECHANISM_TYPE, parameters: &mut P) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: kind,
        pParameter: ptr::from_mut(parameters).cast(),
        ulParameterLen: size_of::<P>() as CK_ULONG,
    }
}

fn run(
    init: Init,
    once: Once,
    names: [Function; 2],
    (session, key): (CK_SESSION_HANDLE, CK_OBJECT_HANDLE),
    mechanism: &mut CK_MECHANISM,
    text: &[u8],
    room: usize,
) -> Result<Output, Fault> {
    let [init_name, once_name] = names;
    let mut bytes = Secret::<ROOM>::zero();
    let mut given = room.min(ROOM / 2) as CK_ULONG;
    let text_length = length(text)?;
    // SAFETY: the mechanism and what it points to outlive both calls (the caller holds them); the library reads `text` and
    // writes at most `given` bytes of a buffer that is twice that long.
    unsafe {
        check(init(session, mechanism, key), init_name)?;
        let result = once(
            session,
            text.as_ptr().cast_mut(),
            text_length,
            bytes.expose_mut().as_mut_ptr(),
            &raw mut given,
        );
        check(result, once_name)?;
    }
    let beyond = bytes.expose().get(room..).unwrap_or_default();
    if given as usize > room || beyond.iter().any(|byte| *byte != 0) {
        return Err(Fault::Misbehaves("more output than there was room for"));
    }
    Ok(Output {
        bytes,
        length: given as usize,
    })
}

/// A count that is one, and not "any number" or "not told".
fn most(count: CK_ULONG) -> Option<usize> {
    let told = count != CK_EFFECTIVELY_INFINITE && count != CK_UNAVAILABLE_INFORMATION;
    told.then(|| usize::try_from(count).ok()).flatten()
}

const MISSING: Fault = Fault::Misbehaves("a function of the standard is missing");

fn check(rv: CK_RV, function: Function) -> Result<(), Fault> {
    Ok(Rv::from(rv).into_result(function)?)
}

fn length(bytes: &[u8]) -> Result<CK_ULONG, Fault> {
    CK_ULONG::try_from(bytes.len()).map_err(|_| Fault::Misbehaves("a length that C cannot hold"))
}

/// A blank-padded field; a library that pads with zero bytes is forgiven.
fn trimmed(field: &[u8]) -> String {
    String::from_utf8_lossy(field)
        .trim_end_matches([' ', '\0'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn init_ok(_: CK_SESSION_HANDLE, _: *mut CK_MECHANISM, _: CK_ULONG) -> CK_RV {
        0
    }

    /// Writes as many bytes as the session's number says, and claims as many as the text is long.
    fn output_of(writes: u64, claims: usize) -> Result<Output, Fault> {
        unsafe extern "C" fn once(
            writes: CK_SESSION_HANDLE,
            _: *mut CK_BYTE,
            claims: CK_ULONG,
            to: *mut CK_BYTE,
            length: *mut CK_ULONG,
        ) -> CK_RV {
            // SAFETY: the tests write no more than the buffer holds.
            unsafe {
                to.write_bytes(0xEE, writes as usize);
                *length = claims;
            }
            0
        }
        let names = [Function::EncryptInit, Function::Encrypt];
        let mut parameters = [0u8; 16];
        let mut mechanism = mechanism(CKM_AES_CBC, &mut parameters);
        run(
            init_ok,
            once,
            names,
            (writes, 1),
            &mut mechanism,
            &vec![0; claims],
            48,
        )
    }

    #[test]
    fn takes_what_fits_and_no_more() {
        assert_eq!(output_of(48, 48).unwrap().expose(), [0xEE; 48]);
        assert_eq!(output_of(32, 32).unwrap().expose(), [0xEE; 32]);
        for (writes, claims) in [(48, 49), (48, 4096), (49, 48), (600, 48), (600, 600)] {
            let refused = output_of(writes, claims);
            assert!(
                matches!(refused, Err(Fault::Misbehaves(_))),
                "{writes} {claims}"
            );
        }
    }

    #[test]
    fn trims_blanks_and_zero_bytes_at_the_end_only() {
        assert_eq!(trimmed(b" a b   \0 "), " a b");
        assert_eq!(trimmed(&[b' '; 32]), "");
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = Functions::load(Path::new("/nonexistent/lib.so"), None).err();
        assert!(
            matches!(error, Some(Fault::Library(text)) if text.contains("/nonexistent/lib.so"))
        );
    }
}
