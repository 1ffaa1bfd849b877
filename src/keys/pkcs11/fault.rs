//! What a token or its library answered, and what that means for who asked. Codes mean different things from token to token;
//! only those of which the meaning is sure decide something here.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::keys::KeyError;

/// PKCS#11 3.0, not in the crate.
const CKR_AEAD_DECRYPT_FAILED: u64 = 0x42;

/// Why a call into a library failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// A function answered with this code.
    Code(RvError, Function),
    /// The library could not be loaded or called.
    Library(String),
    /// The library did what the standard forbids.
    Misbehaves(&'static str),
    /// The token, or an object on it, was not found.
    Missing(String),
    /// Decided; trying again changes nothing.
    Decided(KeyError),
}

/// What may help after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing: the answer is final.
    None,
    /// Another session.
    Reopen,
    /// Finalising and initialising the library: the token went away, or handles died.
    Recover,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(code, function) => Self::Code(code, function),
            Error::NullFunctionPointer => Self::Misbehaves("a function of the standard is missing"),
            other => Self::Library(other.to_string()),
        }
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::Decided(error)
    }
}

impl Fault {
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Decided(_) | Self::Misbehaves(_) => Remedy::None,
            Self::Missing(_) => Remedy::Recover,
            Self::Library(_) => Remedy::Reopen,
            Self::Code(code, _) if is_gone(*code) => Remedy::Recover,
            Self::Code(code, _) if is_refusal(*code) || is_damage(*code) => Remedy::None,
            Self::Code(..) => Remedy::Reopen,
        }
    }

    /// Whether the token, the session or the login is no more.
    pub fn is_gone(&self) -> bool {
        self.remedy() == Remedy::Recover
    }

    /// Whether the code says for sure that the text to decrypt is not what was encrypted.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Code(code, _) if is_damage(*code))
    }

    /// Whether the code may mean that the text to decrypt is damaged as well as that the token is.
    pub fn is_unsure(&self) -> bool {
        matches!(self, Self::Code(..)) && self.remedy() == Remedy::Reopen
    }

    /// Whether the key's usage may be why.
    pub fn may_be_disabled(&self) -> bool {
        matches!(self, Self::Code(code, _) if !is_gone(*code) && !is_damage(*code))
    }

    /// Whether a call refused the parameters of its mechanism.
    pub fn refuses_parameters(&self) -> bool {
        matches!(
            self,
            Self::Code(
                RvError::MechanismParamInvalid | RvError::ArgumentsBad | RvError::FunctionFailed,
                Function::EncryptInit | Function::Encrypt
            )
        )
    }

    /// The error for who called, about this key or token.
    pub fn for_caller(self, what: &str) -> KeyError {
        match self {
            Self::Decided(error) => error,
            Self::Missing(what) => KeyError::NotFound(what),
            Self::Library(text) => KeyError::Unavailable(format!("{what}: {text}")),
            Self::Misbehaves(text) => {
                KeyError::Unavailable(format!("{what}: its library misbehaves: {text}"))
            }
            Self::Code(code, function) => by_code(code, function, what),
        }
    }
}

fn by_code(code: RvError, function: Function, what: &str) -> KeyError {
    let said = format!("{what}: C_{function:?} answered {code:?}");
    match code {
        RvError::DeviceRemoved | RvError::TokenNotPresent => KeyError::NotFound(what.to_owned()),
        RvError::KeyFunctionNotPermitted => KeyError::Disabled(what.to_owned()),
        RvError::UserNotLoggedIn | RvError::SessionReadOnly => KeyError::AccessDenied(said),
        code if is_damage(code) => KeyError::InvalidCiphertext,
        code if is_refusal(code) => KeyError::InvalidState(said),
        _ => KeyError::Unavailable(said),
    }
}

/// The session, the login, the handles or the token are no more.
fn is_gone(code: RvError) -> bool {
    matches!(
        code,
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::UserNotLoggedIn
            | RvError::SlotIdInvalid
            | RvError::CryptokiNotInitialized
    )
}

fn is_damage(code: RvError) -> bool {
    matches!(
        code,
        RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::SignatureInvalid
            | RvError::SignatureLenRange
            | RvError::UnknownErrorCode(CKR_AEAD_DECRYPT_FAILED)
    )
}

/// The token will not do this, however often it is asked.
fn is_refusal(code: RvError) -> bool {
    matches!(
        code,
        RvError::FunctionNotSupported
            | RvError::MechanismInvalid
            | RvError::MechanismParamInvalid
            | RvError::KeyFunctionNotPermitted
            | RvError::KeyTypeInconsistent
            | RvError::KeySizeRange
            | RvError::ActionProhibited
            | RvError::AttributeReadOnly
            | RvError::AttributeTypeInvalid
            | RvError::AttributeValueInvalid
            | RvError::TemplateIncomplete
            | RvError::TemplateInconsistent
            | RvError::TokenWriteProtected
            | RvError::SessionReadOnly
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: RvError) -> Fault {
        Fault::Code(code, Function::Decrypt)
    }

    #[test]
    fn a_general_error_decides_nothing() {
        assert_eq!(code(RvError::GeneralError).remedy(), Remedy::Reopen);
        assert!(!code(RvError::GeneralError).is_damage());
        assert!(matches!(
            code(RvError::GeneralError).for_caller("k"),
            KeyError::Unavailable(_)
        ));
    }

    #[test]
    fn only_sure_codes_are_damage() {
        for sure in [RvError::EncryptedDataInvalid, RvError::SignatureInvalid] {
            assert!(matches!(
                code(sure).for_caller("k"),
                KeyError::InvalidCiphertext
            ));
            assert_eq!(code(sure).remedy(), Remedy::None);
        }
        for unsure in [
            RvError::DeviceError,
            RvError::FunctionFailed,
            RvError::DataInvalid,
        ] {
            assert!(matches!(
                code(unsure).for_caller("k"),
                KeyError::Unavailable(_)
            ));
        }
    }

    #[test]
    fn dead_handles_ask_for_recovery_and_are_an_outage_after_it() {
        for gone in [
            RvError::SessionHandleInvalid,
            RvError::ObjectHandleInvalid,
            RvError::KeyHandleInvalid,
            RvError::CryptokiNotInitialized,
        ] {
            assert_eq!(code(gone).remedy(), Remedy::Recover);
            assert!(matches!(
                code(gone).for_caller("k"),
                KeyError::Unavailable(_)
            ));
        }
    }

    #[test]
    fn a_removed_token_is_not_an_outage() {
        for gone in [RvError::DeviceRemoved, RvError::TokenNotPresent] {
            assert_eq!(code(gone).remedy(), Remedy::Recover);
            assert!(matches!(code(gone).for_caller("k"), KeyError::NotFound(_)));
        }
    }
}
