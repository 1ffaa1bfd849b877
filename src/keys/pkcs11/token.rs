//! A token: found by what it says of itself, logged in, and called through a bounded pool of sessions. Knows no key.
//!
//! Invariant: every call is made by a worker thread with a session of its own; a session that saw a fault is thrown away.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::fault::{Fault, Remedy};
use super::library::{Inside, Library, library};
use super::pool::{Pending, Pool};
use super::raw::{Functions, TokenInfo};
use super::{KeyUri, Module};
use crate::keys::{KeyError, SecretBytes};

/// Sessions at a time.
const SESSIONS: usize = 4;
/// How long opening a token may take: a module may connect to a server, a PIN may be entered at the reader.
const OPENING: Duration = Duration::from_secs(60);
/// How long the end waits for a library to be finalised.
const FAREWELL: Duration = Duration::from_secs(2);

/// An opened token.
pub struct Token {
    pool: Pool<Worker>,
    shared: Arc<Shared>,
    parallel: usize,
}

struct Shared {
    library: Arc<Library>,
    wanted: KeyUri,
    pin: Option<SecretBytes>,
    /// What was found first; the same is found again.
    found: OnceLock<TokenInfo>,
}

/// A thread's session.
pub(super) struct Worker {
    token: Arc<Shared>,
    live: Option<Live>,
}

/// A session that is logged in, with the handles found in it.
pub(super) struct Live {
    pub session: Session,
    pub functions: Arc<Functions>,
    pub handles: BTreeMap<Vec<u8>, ObjectHandle>,
    /// Of the token.
    pub label: String,
    pub serial: String,
    generation: u64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.label())
    }
}

impl Token {
    /// Loads the module, finds the token by what the URI says of it, and logs in.
    ///
    /// # Errors
    /// NotFound: no such token. AccessDenied: the PIN is wrong or missing; a wrong one is not tried again by this process.
    /// InvalidState: several tokens are meant. Unavailable: the module or the token does not answer.
    pub fn open(
        module: &Module,
        wanted: &KeyUri,
        pin: Option<SecretBytes>,
    ) -> Result<Arc<Self>, KeyError> {
        let library = library(module)?;
        library.join();
        let shared = Arc::new(Shared {
            library,
            wanted: wanted.clone(),
            pin,
            found: OnceLock::new(),
        });
        let theirs = Arc::clone(&shared);
        let make_worker = move || Worker {
            token: Arc::clone(&theirs),
            live: None,
        };
        let mut token = Self {
            pool: Pool::new(1, make_worker),
            shared,
            parallel: 1,
        };
        token
            .submit(OPENING, |worker| worker.call(&mut |_| Ok(())))
            .wait()?;
        if token.shared.library.limit() == 0 {
            let most = token.info().and_then(|info| info.sessions);
            token.parallel = most.unwrap_or(SESSIONS).min(SESSIONS);
            token.pool.allow(token.parallel);
        }
        Ok(Arc::new(token))
    }

    /// The label, without the blanks at its end.
    pub fn label(&self) -> &str {
        self.info().map_or("", |info| &info.label)
    }

    /// The serial number, without the blanks at its end.
    pub fn serial(&self) -> &str {
        self.info().map_or("", |info| &info.serial)
    }

    fn info(&self) -> Option<&TokenInfo> {
        self.shared.found.get()
    }

    /// How many sessions there are.
    pub(super) fn parallel(&self) -> usize {
        self.parallel
    }

    /// Hands in what a worker shall do.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&mut Worker) -> Result<T, Fault> + Send + 'static,
    ) -> Pending<Worker, T> {
        let what = format!("the token `{}`", self.shared.name());
        self.pool.submit(&what, limit, move |worker| {
            let name = format!("the token `{}`", worker.token.name());
            job(worker).map_err(|fault| fault.for_caller(&name))
        })
    }
}

impl Worker {
    /// Makes a call; after a fault once more, in a new session or after a recovery of the library, where that may help.
    pub fn call<T>(
        &mut self,
        call: &mut dyn FnMut(&mut Live) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (fault, generation) = match self.attempt(call) {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        match fault.remedy() {
            Remedy::None => return Err(fault),
            Remedy::Reopen => {}
            Remedy::Recover => self.token.library.recover(generation)?,
        }
        self.attempt(call).map_err(|(fault, _)| fault)
    }

    /// As `call`, after a recovery in any case.
    pub fn call_recovered<T>(
        &mut self,
        call: &mut dyn FnMut(&mut Live) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let generation = self.token.library.enter()?.generation;
        self.live = None;
        self.token.library.recover(generation)?;
        self.attempt(call).map_err(|(fault, _)| fault)
    }

    fn attempt<T>(
        &mut self,
        call: &mut dyn FnMut(&mut Live) -> Result<T, Fault>,
    ) -> Result<T, (Fault, u64)> {
        let token = Arc::clone(&self.token);
        let inside = token.library.enter().map_err(|fault| (fault, 0))?;
        let generation = inside.generation;
        // A session of an older generation died with it; its number may be another's by now, so it is not closed.
        self.live.take_if(|live| live.generation != generation);
        let live = match &mut self.live {
            Some(live) => live,
            none => none.insert(
                token
                    .connect(&inside)
                    .map_err(|fault| (fault, generation))?,
            ),
        };
        call(live).map_err(|fault| {
            self.close();
            (fault, generation)
        })
    }

    /// Closes the session; called inside only.
    fn close(&mut self) {
        if let Some(live) = self.live.take() {
            // A session that is broken cannot be closed, and is gone all the same.
            let _ = live.session.close();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(live) = &self.live else { return };
        let generation = live.generation;
        let token = Arc::clone(&self.token);
        if let Ok(inside) = token.library.enter_again(generation) {
            self.close();
            drop(inside);
        }
    }
}

impl Shared {
    fn name(&self) -> &str {
        match self.found.get() {
            Some(info) => &info.label,
            None => self.wanted.token.as_deref().unwrap_or("?"),
        }
    }

    /// Opens a session and logs in.
    fn connect(&self, inside: &Inside<'_>) -> Result<Live, Fault> {
        let (slot, info) = self.find(inside)?;
        // Read and write always: CloudHSM refuses any other. Closed by hand: see `attempt`.
        let context = inside.functions.context();
        let session = match context.open_rw_session_no_drop(slot) {
            Err(Error::Pkcs11(RvError::TokenWriteProtected, _)) => {
                context.open_ro_session_no_drop(slot)?
            }
            other => other?,
        };
        let live = Live {
            session,
            functions: Arc::clone(&inside.functions),
            handles: BTreeMap::new(),
            label: info.label.clone(),
            serial: info.serial.clone(),
            generation: inside.generation,
        };
        if let Err(fault) = self.log_in(&live, &info) {
            let _ = live.session.close();
            return Err(fault);
        }
        let _ = self.found.set(info);
        Ok(live)
    }

    /// The one slot whose token is meant.
    fn find(&self, inside: &Inside<'_>) -> Result<(Slot, TokenInfo), Fault> {
        let mut found = Vec::new();
        let mut silent = None;
        for slot in inside.functions.context().get_slots_with_token()? {
            match inside.functions.token_info(slot) {
                Ok(info) if info.initialised && self.means(slot.id(), &info) => {
                    found.push((slot, info));
                }
                Ok(_) => {}
                // A token that was taken out meanwhile is not there; one that does not answer may be the one.
                Err(fault) if fault.is_gone() => {}
                Err(fault) => silent = Some(fault),
            }
        }
        if found.len() > 1 {
            let names: Vec<_> = found
                .iter()
                .map(|(slot, info)| {
                    format!(
                        "token={};serial={};slot-id={}",
                        info.label,
                        info.serial,
                        slot.id()
                    )
                })
                .collect();
            let text = format!("several tokens are meant, name one: {}", names.join(", "));
            return Err(KeyError::InvalidState(text).into());
        }
        let missing = || Fault::Missing(format!("token `{}`", self.name()));
        found.pop().ok_or_else(|| silent.unwrap_or_else(missing))
    }

    fn means(&self, slot: u64, info: &TokenInfo) -> bool {
        if let Some(found) = self.found.get()
            && (found.label != info.label || found.serial != info.serial)
        {
            return false;
        }
        let is = |wanted: &Option<String>, has: &String| wanted.as_ref().is_none_or(|it| it == has);
        is(&self.wanted.token, &info.label)
            && is(&self.wanted.serial, &info.serial)
            && is(&self.wanted.manufacturer, &info.manufacturer)
            && is(&self.wanted.model, &info.model)
            && self.wanted.slot_id.is_none_or(|wanted| wanted == slot)
    }

    /// C_Login. Being logged in already is success: a login counts for the whole process.
    fn log_in(&self, live: &Live, info: &TokenInfo) -> Result<(), Fault> {
        let pin = match &self.pin {
            Some(pin) => Some(pin.expose()),
            None if info.own_pin_pad => None,
            None if info.login_required => {
                let text = format!("the token `{}` wants a PIN", info.label);
                return Err(KeyError::AccessDenied(text).into());
            }
            None => return Ok(()),
        };
        let token = format!("{}\0{}", info.label, info.serial);
        let name = &info.label;
        let tried = pin.unwrap_or_default();
        let mut logins = self.library.logins();
        logins.may_try(&token, name, tried)?;
        // A PIN that worked before is not the one that spent the tries.
        if info.last_try && pin.is_some() && self.found.get().is_none() {
            let text = format!(
                "one more wrong PIN locks the token `{name}`, or one did: log in once with the token's own tool"
            );
            return Err(KeyError::AccessDenied(text).into());
        }
        let result = live.functions.login(&live.session, pin);
        match result {
            Ok(()) | Err(Fault::Code(RvError::UserAlreadyLoggedIn, _)) => {
                logins.worked();
                Ok(())
            }
            Err(Fault::Code(code, _)) if is_about_pin(code) => {
                logins.refused(&token, tried);
                let text = format!("the token `{name}` refused the PIN ({code:?})");
                Err(KeyError::AccessDenied(text).into())
            }
            Err(fault) => {
                // Some tokens answer a wrong PIN with a code for anything; five of those would lock the user out.
                if !fault.is_gone() {
                    logins.failed();
                }
                Err(fault)
            }
        }
    }
}

impl Drop for Token {
    /// Closes the sessions, and finalises the library where this was its last token; neither is waited for for ever.
    fn drop(&mut self) {
        self.pool.close();
        let library = Arc::clone(&self.shared.library);
        let (ended, wait) = mpsc::channel::<()>();
        let leaving = thread::Builder::new().name("token".into()).spawn(move || {
            library.leave();
            drop(ended);
        });
        if leaving.is_ok() {
            let _ = wait.recv_timeout(FAREWELL);
        }
    }
}

fn is_about_pin(code: RvError) -> bool {
    matches!(
        code,
        RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
            | RvError::UserPinNotInitialized
            | RvError::UserAnotherAlreadyLoggedIn
    )
}
