//! Finding a key of a token, making one, and finding out what the token can really do with it.
//!
//! Invariant: a mechanism is taken only after the token wrapped and unwrapped with it, and refused what was altered.

use std::sync::Arc;

use super::fault::Fault;
use super::key::{TokenKey, round_trip, unwrap};
use super::object::{Chain, Kind, check_label};
use super::pool::{CALL, MAKING};
use super::token::{Live, Worker};
use super::wraps::Wrapper;
use super::{Mechanism, Token};
use crate::crypto::Secret;
use crate::format::ids::KeyVersion;
use crate::format::wrap::{CONTEXT_LEN, WrapAlgorithm};
use crate::keys::{KeyError, Wrapped};

impl TokenKey {
    /// The existing key of this label. Without an algorithm, tries what the token does with it.
    ///
    /// # Errors
    /// NotFound: no such key. InvalidState: two have the label, or no mechanism works.
    pub fn find(
        token: &Arc<Token>,
        object: &str,
        algorithm: Option<WrapAlgorithm>,
    ) -> Result<Self, KeyError> {
        let kinds = match algorithm {
            Some(algorithm) => vec![kind_of(algorithm)],
            None => vec![Kind::Aes, Kind::Rsa],
        };
        let name = object.to_owned();
        // Only trying mechanisms takes long.
        let limit = if algorithm.is_some() { CALL } else { MAKING };
        let wrapper = token
            .submit(limit, move |worker| {
                let chain = worker.call(&mut |live| {
                    find_first(live, &name, &kinds)?
                        .ok_or_else(|| Fault::Missing(format!("`{name}`")))
                })?;
                match algorithm {
                    Some(algorithm) => Ok(Wrapper::new(chain, algorithm)),
                    None => first_that_works(worker, chain, None),
                }
            })
            .wait()?;
        Ok(Self {
            token: Arc::clone(token),
            wrapper: Arc::new(wrapper),
        })
    }

    /// The key of this label, or a new one: AES-256, or an RSA pair where the token makes no AES key. Takes the first
    /// mechanism that the token really does with it. The second value tells whether the key was made.
    ///
    /// # Errors
    /// InvalidState: the key could leave its token, or nothing works with it; a key that was made is destroyed again.
    pub fn make_or_take(
        token: &Arc<Token>,
        object: &str,
        mechanism: Option<Mechanism>,
    ) -> Result<(Self, bool), KeyError> {
        check_label(object)?;
        let name = object.to_owned();
        let (wrapper, made) = token
            .submit(MAKING, move |worker| make_or_take(worker, &name, mechanism))
            .wait()?;
        let wrapper = Arc::new(wrapper);
        Ok((
            Self {
                token: Arc::clone(token),
                wrapper,
            },
            made,
        ))
    }
}

fn make_or_take(
    worker: &mut Worker,
    object: &str,
    mechanism: Option<Mechanism>,
) -> Result<(Wrapper, bool), Fault> {
    let kinds = [Kind::Aes, Kind::Rsa];
    let there = worker.call(&mut |live| find_first(live, object, &kinds))?;
    if let Some(chain) = there {
        worker.call(&mut |live| {
            let version = live.current(&chain)?;
            live.check(&chain, version)
        })?;
        return Ok((first_that_works(worker, chain, mechanism)?, false));
    }
    let mut refused = None;
    for kind in kinds {
        if mechanism.is_some_and(|mechanism| kind_for(mechanism) != kind) {
            continue;
        }
        match make(worker, &Chain::new(object, kind), mechanism) {
            Ok(wrapper) => return Ok((wrapper, true)),
            Err(fault @ Fault::Decided(KeyError::AccessDenied(_) | KeyError::Unavailable(_))) => {
                return Err(fault);
            }
            Err(fault) => refused = refused.or(Some(fault)),
        }
    }
    Err(refused.unwrap_or(Fault::Misbehaves("no kind of key fits the mechanism")))
}

/// Makes the first version, and takes it away again where nothing works with it.
fn make(
    worker: &mut Worker,
    chain: &Chain,
    mechanism: Option<Mechanism>,
) -> Result<Wrapper, Fault> {
    let first = KeyVersion(1);
    worker.call(&mut |live| live.make(chain, first))?;
    let works = worker
        .call(
            &mut |live| match live.find_chain(&chain.object, chain.kind)? {
                Some(found) if found == *chain => Ok(()),
                _ => Err(Fault::Missing(format!("`{}`, just made,", chain.object))),
            },
        )
        .and_then(|()| first_that_works(worker, chain.clone(), mechanism));
    if works.is_err() {
        let _ = worker.call(&mut |live| live.destroy(chain, first));
    }
    works
}

fn find_first(live: &mut Live, object: &str, kinds: &[Kind]) -> Result<Option<Chain>, Fault> {
    for kind in kinds {
        if let Some(chain) = live.find_chain(object, *kind)? {
            return Ok(Some(chain));
        }
    }
    Ok(None)
}

/// The first algorithm of the mechanism, or of all in their order, that passes the trial.
fn first_that_works(
    worker: &mut Worker,
    chain: Chain,
    mechanism: Option<Mechanism>,
) -> Result<Wrapper, Fault> {
    let candidates = match mechanism {
        None => vec![
            WrapAlgorithm::AesGcm,
            WrapAlgorithm::RsaOaepSha256,
            WrapAlgorithm::RsaOaepSha1,
            WrapAlgorithm::AesCbcHmac,
        ],
        Some(Mechanism::AesGcm) => vec![WrapAlgorithm::AesGcm],
        Some(Mechanism::RsaOaep) => vec![WrapAlgorithm::RsaOaepSha256, WrapAlgorithm::RsaOaepSha1],
        Some(Mechanism::AesCbcHmac) => vec![WrapAlgorithm::AesCbcHmac],
    };
    let mut tried = Vec::new();
    for algorithm in candidates {
        if kind_of(algorithm) != chain.kind {
            continue;
        }
        let wrapper = Wrapper::new(chain.clone(), algorithm);
        match trial(worker, &wrapper) {
            Ok(()) => return Ok(wrapper),
            Err(fault) => tried.push(format!("{algorithm:?}: {}", fault.for_caller("it"))),
        }
    }
    let what = format!("the {} `{}`", chain.kind.name(), chain.object);
    let text = match (tried.is_empty(), mechanism) {
        (true, Some(mechanism)) => format!("{what} is no key for {mechanism}"),
        _ => format!(
            "the token does nothing that wraps with {what}: {}",
            tried.join("; ")
        ),
    };
    Err(KeyError::InvalidState(text).into())
}

/// Wraps twice, unwraps, and sees another context and altered bytes refused; then unwraps again, so that a token that failed
/// meanwhile is not taken for one that refused.
fn trial(worker: &mut Worker, wrapper: &Wrapper) -> Result<(), Fault> {
    // As long as those of volumes, and ending in 0 as they do: a TPM takes no other label.
    let (mut context, mut other) = ([1u8; CONTEXT_LEN], [2u8; CONTEXT_LEN]);
    for text in [&mut context, &mut other] {
        text.iter_mut().rev().take(1).for_each(|last| *last = 0);
    }
    let secret = Secret::random();
    let version = worker.call(&mut |live| live.current(&wrapper.chain))?;
    let mut wrap = |live: &mut Live| wrapper.wrap(live, version, &context, &secret);
    let wrapped = worker.call(&mut wrap)?;
    let again = worker.call(&mut wrap)?;
    if wrapped.bytes.get(..12) == again.bytes.get(..12) {
        return Err(Fault::Misbehaves("two wraps begin with the same vector"));
    }
    let opens = |worker: &mut Worker, context: &[u8], wrapped: &Wrapped| {
        unwrap(worker, wrapper, context, wrapped).map(|key| key.ct_eq(&secret))
    };
    if !opens(worker, &context, &wrapped)? {
        return Err(Fault::Misbehaves("it unwraps another key than it wrapped"));
    }
    refuses(
        opens(worker, &other, &wrapped),
        "it unwraps under another context",
    )?;
    for at in [0, wrapped.bytes.len() / 2, wrapped.bytes.len() - 1] {
        let mut altered = wrapped.clone();
        altered
            .bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= 1);
        refuses(
            opens(worker, &context, &altered),
            "it unwraps what was altered",
        )?;
    }
    worker.call(&mut |live| round_trip(live, wrapper, version))
}

/// Only a refusal of the wrap itself is one.
fn refuses(opened: Result<bool, Fault>, otherwise: &'static str) -> Result<(), Fault> {
    match opened {
        Ok(_) => Err(Fault::Misbehaves(otherwise)),
        Err(fault) if fault.is_damage() => Ok(()),
        Err(Fault::Decided(KeyError::InvalidCiphertext)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn kind_of(algorithm: WrapAlgorithm) -> Kind {
    match algorithm {
        WrapAlgorithm::RsaOaepSha256 | WrapAlgorithm::RsaOaepSha1 => Kind::Rsa,
        _ => Kind::Aes,
    }
}

fn kind_for(mechanism: Mechanism) -> Kind {
    match mechanism {
        Mechanism::RsaOaep => Kind::Rsa,
        Mechanism::AesGcm | Mechanism::AesCbcHmac => Kind::Aes,
    }
}
