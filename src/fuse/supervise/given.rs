//! A mount as one supervisor gives it: to a worker, or to another supervisor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::wire::{self, FORM, Order};
use crate::volume::Generation;

/// What is given.
pub(super) struct Given {
    pub(super) device: OwnedFd,
    pub(super) listener: OwnedFd,
    pub(super) log: OwnedFd,
    /// None where a volume is read that has no lock file.
    pub(super) lock: Option<OwnedFd>,
    pub(super) kept: Vec<(u64, OwnedFd)>,
    /// Whether the worker before brought everything to rest, and then whether something forbids a clean end.
    pub(super) rested: Option<bool>,
}

/// All that was said until there was no more.
pub(super) struct Heard {
    pub(super) given: Option<Given>,
    pub(super) generation: Generation,
    pub(super) attached: bool,
}

/// Hears it.
pub(super) fn hear(socket: impl AsFd) -> io::Result<Heard> {
    let mut given: Option<Given> = None;
    loop {
        let Some((order, beside)) = wire::hear(&socket)? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut beside = beside.into_iter();
        let mut next = || beside.next().ok_or(io::ErrorKind::InvalidData);
        match (order, &mut given) {
            (Order::Mount { form: FORM, rested }, _) => {
                given = Some(Given {
                    device: next()?,
                    listener: next()?,
                    log: next()?,
                    lock: next().ok(),
                    kept: Vec::new(),
                    rested,
                });
            }
            (Order::Kept { keys }, Some(given)) => {
                for key in keys {
                    given.kept.push((key, next()?));
                }
            }
            (
                Order::Go {
                    generation,
                    attached,
                },
                _,
            ) => {
                return Ok(Heard {
                    given,
                    generation: Generation(generation),
                    attached,
                });
            }
            (Order::Mount { form, .. }, _) => {
                return Err(io::Error::other(format!(
                    "the mount is kept in form {form}, of which this program knows nothing: unmount and mount again"
                )));
            }
            (order, _) => return Err(io::Error::other(format!("unexpected: {order:?}"))),
        }
    }
}
