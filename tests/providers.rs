//! What the volume demands of a home of master keys, demanded of every one: the software keystore and five real tokens.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

#[path = "providers/conformance.rs"]
mod conformance;
#[path = "providers/faults.rs"]
mod faults;
#[path = "providers/homes.rs"]
mod homes;
#[path = "providers/traps.rs"]
mod traps;

use homes::{Software, TokenHome};
use support::tokens::{Kind, on_token};

#[test]
fn the_software_keystore_conforms() {
    conformance::assert_conforms(&Software::new());
}

#[test]
fn soft_hsm_conforms() {
    on_token(Kind::SoftHsm, "soft_hsm_conforms", |access| {
        conformance::assert_conforms(&TokenHome::new(access));
    });
}

#[test]
fn kryoptic_conforms() {
    on_token(Kind::Kryoptic, "kryoptic_conforms", |access| {
        conformance::assert_conforms(&TokenHome::new(access));
    });
}

#[test]
fn nss_conforms() {
    on_token(Kind::Nss, "nss_conforms", |access| {
        conformance::assert_conforms(&TokenHome::new(access));
    });
}

#[test]
fn a_tpm_conforms() {
    on_token(Kind::Tpm, "a_tpm_conforms", |access| {
        conformance::assert_conforms(&TokenHome::new(access));
    });
}

#[test]
fn opencryptoki_conforms() {
    on_token(Kind::OpenCryptoki, "opencryptoki_conforms", |access| {
        conformance::assert_conforms(&TokenHome::new(access));
    });
}
