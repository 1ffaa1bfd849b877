//! A key in a token as a provider of wraps.

use std::fmt;
use std::sync::Arc;

use super::Token;
use super::fault::Fault;
use super::pool::{CALL, MAKING, Pending};
use super::token::{Live, Worker};
use super::wraps::Wrapper;
use crate::crypto::Secret;
use crate::format::ids::{KeyId, KeyVersion};
use crate::format::volume_file::{TOKEN_PROVIDER, TokenObject};
use crate::format::wrap::WrapAlgorithm;
use crate::keys::{KeyDescription, KeyError, KeyProvider, KeyState, Wrapped};

/// Data keys to hold ready: making one waits for the token.
const READY_AHEAD: usize = 256;

/// One key of one token, with its versions.
pub struct TokenKey {
    pub(super) token: Arc<Token>,
    pub(super) wrapper: Arc<Wrapper>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TokenKey({} in {:?})",
            self.wrapper.chain.object, self.token
        )
    }
}

impl TokenKey {
    /// The key's id.
    pub fn key(&self) -> KeyId {
        self.wrapper.chain.key
    }

    /// How it wraps.
    pub fn algorithm(&self) -> WrapAlgorithm {
        self.wrapper.algorithm
    }

    /// Where it is.
    pub fn home(&self) -> TokenObject {
        TokenObject {
            token: self.token.label().to_owned(),
            object: self.wrapper.chain.object.clone(),
        }
    }

    fn expect(&self, key: &KeyId) -> Result<(), KeyError> {
        if *key == self.key() {
            Ok(())
        } else {
            Err(KeyError::NotFound(key.to_string()))
        }
    }

    fn start_wrap(
        &self,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Pending<Worker, Wrapped> {
        let wrapper = Arc::clone(&self.wrapper);
        let context = context.to_vec();
        let mut theirs = Secret::zero();
        theirs.expose_mut().copy_from_slice(secret.expose());
        self.token.submit(CALL, move |worker| {
            let mut wrap = |live: &mut Live| wrapper.wrap(live, version, &context, &theirs);
            let fault = match worker.call(&mut wrap) {
                Err(fault) => cause(worker, &wrapper, version, fault),
                wrapped => return wrapped,
            };
            if !fault.is_unsure() {
                return Err(fault);
            }
            worker.call_recovered(&mut wrap).map_err(|_| fault)
        })
    }

    fn start_unwrap(&self, context: &[u8], wrapped: &Wrapped) -> Pending<Worker, Secret<32>> {
        let wrapper = Arc::clone(&self.wrapper);
        let (context, wrapped) = (context.to_vec(), wrapped.clone());
        self.token.submit(CALL, move |worker| {
            unwrap(worker, &wrapper, &context, &wrapped)
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        limit: std::time::Duration,
        mut call: impl FnMut(&mut Live, &Wrapper) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, KeyError> {
        let wrapper = Arc::clone(&self.wrapper);
        self.token
            .submit(limit, move |worker| {
                worker.call(&mut |live| call(live, &wrapper))
            })
            .wait()
    }
}

impl KeyProvider for TokenKey {
    fn kind(&self) -> &'static str {
        TOKEN_PROVIDER
    }

    fn describe(&self, key: &KeyId) -> Result<KeyDescription, KeyError> {
        self.expect(key)?;
        let home = Some(self.home());
        self.ask(CALL, move |live, wrapper| {
            live.handles.clear();
            let versions = wrapper.versions(live)?;
            wrapper.keep_only(&versions);
            let current = versions
                .last()
                .copied()
                .ok_or_else(|| wrapper.chain.missing())?;
            Ok(KeyDescription {
                key: wrapper.chain.key,
                state: live.state(&wrapper.chain, current)?,
                current,
                versions,
                algorithm: wrapper.algorithm,
                home: home.clone(),
            })
        })
    }

    fn wrap(
        &self,
        key: &KeyId,
        version: KeyVersion,
        context: &[u8],
        secret: &Secret<32>,
    ) -> Result<Wrapped, KeyError> {
        self.expect(key)?;
        match self.wrapper.wrap_offline(version, context, secret) {
            Some(wrapped) => wrapped,
            None => self.start_wrap(version, context, secret).wait(),
        }
    }

    fn unwrap(
        &self,
        key: &KeyId,
        context: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Secret<32>, KeyError> {
        self.expect(key)?;
        self.start_unwrap(context, wrapped).wait()
    }

    fn generate_batch(
        &self,
        key: &KeyId,
        version: KeyVersion,
        contexts: &[&[u8]],
    ) -> Result<Vec<(Secret<32>, Wrapped)>, KeyError> {
        self.expect(key)?;
        if contexts.is_empty() || self.wrapper.is_public_known(version) {
            return contexts
                .iter()
                .map(|context| self.generate(key, version, context))
                .collect();
        }
        let started: Vec<_> = contexts
            .iter()
            .map(|context| {
                let secret = Secret::random();
                let pending = self.start_wrap(version, context, &secret);
                (secret, pending)
            })
            .collect();
        started
            .into_iter()
            .map(|(secret, pending)| Ok((secret, pending.wait()?)))
            .collect()
    }

    fn unwrap_batch(
        &self,
        key: &KeyId,
        items: &[(&[u8], &Wrapped)],
    ) -> Vec<Result<Secret<32>, KeyError>> {
        let started: Vec<_> = items
            .iter()
            .map(|(context, wrapped)| {
                self.expect(key)
                    .map(|()| self.start_unwrap(context, wrapped))
            })
            .collect();
        started.into_iter().map(|pending| pending?.wait()).collect()
    }

    fn rotate(&self, key: &KeyId) -> Result<KeyVersion, KeyError> {
        self.expect(key)?;
        let mut chosen = None;
        self.ask(MAKING, move |live, wrapper| {
            // Chosen once: a call made again finds what it made, and makes no second.
            let next = match chosen {
                Some(version) => version,
                None => KeyVersion(live.current(&wrapper.chain)?.0 + 1),
            };
            chosen = Some(next);
            live.make(&wrapper.chain, next)?;
            round_trip(live, wrapper, next)?;
            Ok(next)
        })
    }

    fn destroy(&self, key: &KeyId, version: KeyVersion) -> Result<(), KeyError> {
        self.expect(key)?;
        self.wrapper.forget(version);
        let wrapper = Arc::clone(&self.wrapper);
        let destroy = move |live: &mut Live| {
            if version == live.current(&wrapper.chain)? {
                let text = format!("version {version} is the newest of its key: it stays");
                return Err(KeyError::InvalidState(text).into());
            }
            live.destroy(&wrapper.chain, version)
        };
        self.token
            .submit(CALL, move |worker| match worker.call(&mut { &destroy }) {
                // tpm2-pkcs11 takes an object for busy after a decryption that failed, until it is finalised.
                Err(fault) if fault.is_unsure() => worker.call_recovered(&mut { &destroy }),
                other => other,
            })
            .wait()
    }

    fn ready_ahead(&self) -> usize {
        match self.algorithm() {
            WrapAlgorithm::AesGcm => READY_AHEAD,
            _ => 0,
        }
    }

    fn parallel(&self) -> Option<usize> {
        Some(self.token.parallel())
    }
}

/// A token refuses a disabled key with codes of its own choice: what the key says of itself decides.
fn cause(worker: &mut Worker, wrapper: &Wrapper, version: KeyVersion, fault: Fault) -> Fault {
    if !fault.may_be_disabled() {
        return fault;
    }
    match worker.call(&mut |live| live.state(&wrapper.chain, version)) {
        Ok(KeyState::Disabled) => KeyError::Disabled(wrapper.chain.key.to_string()).into(),
        _ => fault,
    }
}

/// Unwraps. A code that may mean damage as well as an outage is cleared up by what the token does with a wrap that is right.
pub(super) fn unwrap(
    worker: &mut Worker,
    wrapper: &Wrapper,
    context: &[u8],
    wrapped: &Wrapped,
) -> Result<Secret<32>, Fault> {
    let mut open = |live: &mut Live| wrapper.unwrap(live, context, wrapped);
    let version = wrapped.version;
    let fault = match worker.call(&mut open) {
        Err(fault) => cause(worker, wrapper, version, fault),
        opened => return opened,
    };
    if !fault.is_unsure() {
        return Err(fault);
    }
    match worker.call(&mut |live| round_trip(live, wrapper, version)) {
        Ok(()) => Err(KeyError::InvalidCiphertext.into()),
        // After a logout kryoptic answers everything with CKR_GENERAL_ERROR; finalising helps there.
        Err(_) => worker.call_recovered(&mut open).map_err(|_| fault),
    }
}

/// Whether the token opens what it wraps, now.
pub(super) fn round_trip(
    live: &mut Live,
    wrapper: &Wrapper,
    version: KeyVersion,
) -> Result<(), Fault> {
    const CONTEXT: &[u8] = b"strongroom/1/pkcs11 round trip\0";
    let secret = Secret::random();
    let wrapped = wrapper.wrap(live, version, CONTEXT, &secret)?;
    if wrapper.unwrap(live, CONTEXT, &wrapped)?.ct_eq(&secret) {
        Ok(())
    } else {
        Err(Fault::Misbehaves("it unwraps another key than it wrapped"))
    }
}
