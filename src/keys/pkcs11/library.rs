//! A PKCS#11 library in this process: loaded once, initialised while a token of it is open, recovered by finalising and
//! initialising it again. Knows no token and no key.
//!
//! Invariant: C_Initialize and C_Finalize run alone. Every other call runs between `enter` and the drop of what it gives,
//! and belongs to one generation; sessions and handles of an older generation are dead and never closed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::Function;
use cryptoki::error::RvError;
use sha2::{Digest, Sha256};

use super::Module;
use super::fault::Fault;
use super::raw::Functions;
use crate::crypto::{Secret, mac32};
use crate::keys::KeyError;

/// How long a recovery waits for calls that are under way; a call that hangs may never be finalised under.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a login that failed for a reason that need not be the PIN.
const LOGIN_PAUSE: Duration = Duration::from_secs(30);

/// Every library this process has loaded; none is ever unloaded.
static LIBRARIES: Mutex<BTreeMap<PathBuf, Arc<Library>>> = Mutex::new(BTreeMap::new());

pub(super) struct Library {
    module: Module,
    functions: Mutex<Option<Arc<Functions>>>,
    state: Mutex<State>,
    changed: Condvar,
    logins: Mutex<Logins>,
}

#[derive(Default)]
struct State {
    initialised: bool,
    generation: u64,
    inside: usize,
    alone: bool,
    /// Recoveries that wait to be alone; who comes lets them go first.
    recovering: usize,
    /// Calls at a time; 0: any number.
    limit: usize,
    users: usize,
}

/// PINs that were refused, and when a login failed otherwise. Held during C_Login, so that several sessions never try one
/// wrong PIN several times.
pub(super) struct Logins {
    mask: Secret<32>,
    refused: Vec<[u8; 32]>,
    failed: Option<Instant>,
}

/// The right to call the library until this is dropped.
pub(super) struct Inside<'a> {
    library: &'a Library,
    pub functions: Arc<Functions>,
    pub generation: u64,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.library.state().inside -= 1;
        self.library.changed.notify_all();
    }
}

/// The library of this module.
pub(super) fn library(module: &Module) -> Result<Arc<Library>, KeyError> {
    if !module.path.is_absolute() {
        let text = format!(
            "the path of a PKCS#11 module is absolute: {}",
            module.path.display()
        );
        return Err(KeyError::InvalidState(text));
    }
    // Links to one library are one library: initialised once.
    let path = module.path.canonicalize().map_err(|error| {
        KeyError::Unavailable(format!("the module {}: {error}", module.path.display()))
    })?;
    let mut all = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let library = all
        .entry(path)
        .or_insert_with(|| Arc::new(Library::new(module.clone())));
    if library.module.init != module.init {
        let text = "this process has already given the module another text for its initialisation";
        return Err(KeyError::InvalidState(text.into()));
    }
    Ok(Arc::clone(library))
}

impl Library {
    fn new(module: Module) -> Self {
        Self {
            module,
            functions: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            logins: Mutex::new(Logins {
                mask: Secret::random(),
                refused: Vec::new(),
                failed: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a user; the library is finalised when the last one left.
    pub fn join(&self) {
        self.state().users += 1;
    }

    /// The last user's leaving finalises the library, unless a call hangs in it.
    pub fn leave(&self) {
        let mut state = self.state();
        state.users -= 1;
        if state.users > 0 || !state.initialised || state.alone || state.inside > 0 {
            return;
        }
        state.alone = true;
        drop(state);
        if let Ok(functions) = self.functions() {
            let _ = functions.context().clone().finalize();
        }
        self.done_alone(|state| state.initialised = false);
    }

    /// Waits for its turn, and initialises the library where it is not.
    pub fn enter(&self) -> Result<Inside<'_>, Fault> {
        let functions = self.functions()?;
        let mut state = self.state();
        loop {
            let full = state.limit > 0 && state.inside >= state.limit;
            if state.alone
                || state.recovering > 0
                || full
                || (!state.initialised && state.inside > 0)
            {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            } else if state.initialised {
                state.inside += 1;
                let generation = state.generation;
                return Ok(Inside {
                    library: self,
                    functions,
                    generation,
                });
            } else {
                state.alone = true;
                drop(state);
                self.initialise(&functions)?;
                state = self.state();
            }
        }
    }

    /// As `enter`, where the library is still of that generation.
    pub fn enter_again(&self, generation: u64) -> Result<Inside<'_>, Fault> {
        if !self.state().initialised {
            return Err(Fault::Code(
                RvError::CryptokiNotInitialized,
                Function::CloseSession,
            ));
        }
        let inside = self.enter()?;
        if inside.generation != generation {
            return Err(Fault::Code(
                RvError::SessionHandleInvalid,
                Function::CloseSession,
            ));
        }
        Ok(inside)
    }

    /// Finalises and initialises the library, unless somebody did since `seen`.
    ///
    /// # Errors
    /// Where calls stay in the library, or where it does not initialise.
    pub fn recover(&self, seen: u64) -> Result<(), Fault> {
        let functions = self.functions()?;
        let mut state = self.state();
        state.recovering += 1;
        let busy =
            |state: &mut State| state.generation == seen && (state.alone || state.inside > 0);
        let (mut state, waited) = self
            .changed
            .wait_timeout_while(state, PATIENCE, busy)
            .unwrap_or_else(PoisonError::into_inner);
        state.recovering -= 1;
        let ours = state.generation == seen && !waited.timed_out();
        state.alone |= ours;
        drop(state);
        self.changed.notify_all();
        if waited.timed_out() {
            let text = "another call does not return from the library";
            return Err(Fault::Library(text.into()));
        }
        if !ours {
            return Ok(());
        }
        // What it answers changes nothing: initialising tells whether it worked.
        let _ = functions.context().clone().finalize();
        self.initialise(&functions)
    }

    /// C_Initialize, alone; a new generation whether or not it worked.
    fn initialise(&self, functions: &Functions) -> Result<(), Fault> {
        let result = match functions.initialize() {
            // Something else in this process uses the library, and shares its sessions and logins with us.
            Err(Fault::Code(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            Err(Fault::Code(RvError::ArgumentsBad, _)) if self.module.init.is_none() => {
                let text =
                    "the module wants a text when it is initialised (NSS: configDir='sql:DIR')";
                Err(KeyError::InvalidState(text.into()).into())
            }
            other => other,
        };
        let limit = result.as_ref().map_or(0, |()| limit_of(functions));
        self.done_alone(|state| {
            state.initialised = result.is_ok();
            state.generation += 1;
            state.limit = limit;
        });
        result
    }

    fn done_alone(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        state.alone = false;
        change(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    fn functions(&self) -> Result<Arc<Functions>, Fault> {
        let mut loaded = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(functions) = &*loaded {
            return Ok(Arc::clone(functions));
        }
        let functions = Functions::load(&self.module.path, self.module.init.as_deref())?;
        Ok(Arc::clone(loaded.insert(Arc::new(functions))))
    }

    /// How many calls it may serve at a time, once it was entered; 0: any number.
    pub fn limit(&self) -> usize {
        self.state().limit
    }

    pub fn logins(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Libraries that serve one call at a time, by manufacturer and description. SoftHSM2 crashes under concurrent calls (its issue
/// 688), opencryptoki ("Meta PKCS11") where sessions are closed beside others; the rest answer fewer calls side by side than one
/// after the other (docs/TOKENS.md), or as many: they wait for nothing but this machine or one chip.
const ONE_AT_A_TIME: [&str; 5] = ["SoftHSM", "Kryoptic", "Mozilla", "tpm2", "Meta PKCS11"];

fn limit_of(functions: &Functions) -> usize {
    let one_at_a_time = functions.context().get_library_info().is_ok_and(|info| {
        ONE_AT_A_TIME.iter().any(|name| {
            info.manufacturer_id().contains(name) || info.library_description().contains(name)
        })
    });
    usize::from(one_at_a_time)
}

impl Logins {
    /// Refuses a PIN that this token refused before, and any so soon after a failure that says nothing.
    pub fn may_try(&self, token: &str, name: &str, pin: &[u8]) -> Result<(), KeyError> {
        if self.refused.contains(&self.masked(token, pin)) {
            let text = format!("the token `{name}` refused this PIN before; it is not tried again");
            return Err(KeyError::AccessDenied(text));
        }
        match self.failed {
            Some(at) if at.elapsed() < LOGIN_PAUSE => Err(KeyError::Unavailable(format!(
                "the token `{name}` did not take a login; the next is tried {} s after it",
                LOGIN_PAUSE.as_secs()
            ))),
            _ => Ok(()),
        }
    }

    pub fn refused(&mut self, token: &str, pin: &[u8]) {
        let masked = self.masked(token, pin);
        self.refused.push(masked);
    }

    pub fn failed(&mut self) {
        self.failed = Some(Instant::now());
    }

    pub fn worked(&mut self) {
        self.failed = None;
    }

    fn masked(&self, token: &str, pin: &[u8]) -> [u8; 32] {
        let pin: [u8; 32] = Sha256::digest(pin).into();
        mac32(&self.mask, &[b"refused PIN", token.as_bytes(), &pin])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_is_not_tried_again_on_that_token() {
        let library = Library::new(Module {
            path: "/m".into(),
            init: None,
        });
        let mut logins = library.logins();
        assert!(logins.may_try("a", "a", b"1234").is_ok());
        logins.refused("a", b"1234");
        assert!(matches!(
            logins.may_try("a", "a", b"1234"),
            Err(KeyError::AccessDenied(_))
        ));
        assert!(logins.may_try("a", "a", b"4321").is_ok());
        assert!(logins.may_try("b", "b", b"1234").is_ok());
    }

    #[test]
    fn waits_after_a_login_that_failed_for_another_reason() {
        let library = Library::new(Module {
            path: "/m".into(),
            init: None,
        });
        let mut logins = library.logins();
        logins.failed();
        assert!(matches!(
            logins.may_try("a", "a", b"1234"),
            Err(KeyError::Unavailable(_))
        ));
        logins.worked();
        assert!(logins.may_try("a", "a", b"1234").is_ok());
    }

    #[test]
    fn refuses_a_module_by_relative_path() {
        let module = Module {
            path: "lib.so".into(),
            init: None,
        };
        assert!(matches!(library(&module), Err(KeyError::InvalidState(_))));
    }
}
