//! A look into a token past our own code: through the crate `cryptoki`, in the process that has the token's environment.
#![allow(unsafe_code)] // one call, which hands NSS its configuration

use std::ffi::CString;
use std::ptr::NonNull;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::{Access, Kind, opencryptoki};

impl Access {
    /// The module, initialised by this process: by this call, or before.
    pub fn loaded(&self) -> Pkcs11 {
        let module = Pkcs11::new(&self.module).expect("the module loads");
        let flags = CInitializeFlags::OS_LOCKING_OK;
        let arguments = match &self.init {
            None => CInitializeArgs::new(flags),
            Some(init) => {
                let init = CString::new(init.as_str()).expect("no NUL").into_raw();
                let init = NonNull::new(init.cast()).expect("a pointer");
                // SAFETY: what NSS takes in pReserved is a C string; this one is never freed.
                unsafe { CInitializeArgs::new_with_reserved(flags, init) }
            }
        };
        match module.initialize(arguments) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => module,
            Err(error) => panic!("C_Initialize: {error}"),
        }
    }

    /// The slot of the token.
    pub fn slot(&self, module: &Pkcs11) -> Slot {
        let slots = module.get_slots_with_token().expect("C_GetSlotList");
        let found = slots
            .into_iter()
            .find(|slot| match module.get_token_info(*slot) {
                Ok(info) => info.label() == self.label,
                // The crate cannot read what opencryptoki answers.
                Err(_) => {
                    self.kind == Kind::OpenCryptoki && slot.id().to_string() == opencryptoki::SLOT
                }
            });
        found.expect("a slot with the token")
    }

    /// A session in which the user is logged in.
    pub fn session(&self, module: &Pkcs11) -> Session {
        let session = module
            .open_rw_session(self.slot(module))
            .expect("C_OpenSession");
        match session.login(UserType::User, Some(&AuthPin::new(self.pin.clone().into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => session,
            Err(error) => panic!("C_Login: {error}"),
        }
    }

    /// A session for one look: it does not outlive a C_Finalize.
    pub fn look(&self) -> Session {
        self.session(&self.loaded())
    }

    /// The keys and the data that a session sees (kryoptic has 136 objects more, one for each mechanism).
    pub fn objects(&self, session: &Session) -> Vec<ObjectHandle> {
        let classes = [
            ObjectClass::SECRET_KEY,
            ObjectClass::PRIVATE_KEY,
            ObjectClass::PUBLIC_KEY,
            ObjectClass::DATA,
        ];
        let found = classes.map(|class| session.find_objects(&[Attribute::Class(class)]));
        found
            .into_iter()
            .flat_map(|found| found.expect("C_FindObjects"))
            .collect()
    }
}
