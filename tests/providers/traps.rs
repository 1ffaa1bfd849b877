//! What single tokens get wrong, each seen on the token itself and then held against our provider.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::MechanismType;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use strongroom::format::ids::KeyVersion;
use strongroom::keys::pkcs11::{KeyUri, Module, Token, TokenKey};
use strongroom::keys::{KeyError, KeyProvider};

use super::homes::open_token;
use super::support::tokens::{Access, Kind, on_token};

const CONTEXT: &[u8] = b"a context of the volume's kind\0";
const V1: KeyVersion = KeyVersion(1);

fn key_on(access: &Access) -> TokenKey {
    let token = open_token(access, &access.pin).unwrap();
    TokenKey::make_or_take(&token, "trap", None).unwrap().0
}

/// The one object of this class labelled "trap".
fn object(session: &Session, class: cryptoki::object::ObjectClass) -> ObjectHandle {
    let wanted = [Attribute::Class(class), Attribute::Label(b"trap".to_vec())];
    let [object] = session.find_objects(&wanted).unwrap()[..] else {
        panic!("one object")
    };
    object
}

fn code<T>(answer: Result<T, Error>) -> RvError {
    match answer {
        Err(Error::Pkcs11(code, _)) => code,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it worked"),
    }
}

fn assert_round_trip(key: &TokenKey) {
    let (secret, wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
    assert!(
        key.unwrap(&key.key(), CONTEXT, &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
}

#[test]
fn nss_answers_a_wrong_length_and_is_never_asked() {
    on_token(
        Kind::Nss,
        "traps::nss_answers_a_wrong_length_and_is_never_asked",
        |access| {
            let key = key_on(access);
            let session = access.session(&access.loaded());
            let object = object(&session, cryptoki::object::ObjectClass::SECRET_KEY);
            let mut iv = [9; 12];
            let gcm = GcmParams::new(&mut iv, CONTEXT, 128.into()).unwrap();
            // The crate asks for the length first, believes it, and has no room then.
            let asked = session.encrypt(&Mechanism::AesGcm(gcm), object, &[1; 32]);
            assert_eq!(code(asked), RvError::BufferTooSmall);
            assert_round_trip(&key);
        },
    );
}

#[test]
fn nss_without_its_text_is_refused_with_a_sentence() {
    on_token(
        Kind::Nss,
        "traps::nss_without_its_text_is_refused_with_a_sentence",
        |access| {
            let module = Module {
                path: access.module.clone(),
                init: None,
            };
            let wanted: KeyUri = access.uri("any").parse().unwrap();
            let error = Token::open(&module, &wanted, None)
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(error.len() > 20, "{error}");
            println!("{error}");
        },
    );
}

#[test]
fn a_tpm_session_that_failed_is_thrown_away() {
    on_token(
        Kind::Tpm,
        "traps::a_tpm_session_that_failed_is_thrown_away",
        |access| {
            let key = key_on(access);
            let (secret, wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
            let session = access.session(&access.loaded());
            let object = object(&session, cryptoki::object::ObjectClass::PRIVATE_KEY);
            let oaep = || {
                let source = PkcsOaepSource::data_specified(CONTEXT);
                Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
                    MechanismType::SHA256,
                    PkcsMgfType::MGF1_SHA256,
                    source,
                ))
            };
            assert!(session.decrypt(&oaep(), object, &[3; 256]).is_err());
            // The failed call should have ended the operation.
            assert_eq!(
                code(session.decrypt(&oaep(), object, &wrapped.bytes)),
                RvError::OperationActive
            );
            let mut damaged = wrapped.clone();
            damaged.bytes[100] ^= 1;
            for _ in 0..10 {
                assert!(matches!(
                    key.unwrap(&key.key(), CONTEXT, &damaged),
                    Err(KeyError::InvalidCiphertext)
                ));
                assert!(
                    key.unwrap(&key.key(), CONTEXT, &wrapped)
                        .unwrap()
                        .ct_eq(&secret)
                );
            }
        },
    );
}

#[test]
fn opencryptoki_is_found_by_a_label_that_the_crate_cannot_read() {
    let name = "traps::opencryptoki_is_found_by_a_label_that_the_crate_cannot_read";
    on_token(Kind::OpenCryptoki, name, |access| {
        let module = access.loaded();
        assert!(module.get_token_info(access.slot(&module)).is_err());
        assert_round_trip(&key_on(access));
        let mut other = access.clone();
        other.label = "another".to_owned();
        let refused = open_token(&other, &access.pin).map(|_| ());
        assert!(matches!(refused, Err(KeyError::NotFound(_))), "{refused:?}");
    });
}

#[test]
fn a_flipped_byte_that_cbc_does_not_see_is_seen() {
    on_token(
        Kind::OpenCryptoki,
        "traps::a_flipped_byte_that_cbc_does_not_see_is_seen",
        |access| {
            let key = key_on(access);
            let (secret, wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
            let session = access.session(&access.loaded());
            let object = object(&session, cryptoki::object::ObjectClass::SECRET_KEY);
            let (iv, rest) = wrapped.bytes.split_first_chunk::<16>().unwrap();
            let mut text = rest[..32].to_vec();
            assert_eq!(
                session
                    .decrypt(&Mechanism::AesCbc(*iv), object, &text)
                    .unwrap(),
                secret.expose()
            );
            text[31] ^= 1;
            assert!(
                session
                    .decrypt(&Mechanism::AesCbc(*iv), object, &text)
                    .is_ok(),
                "CBC has no tag"
            );
            let mut damaged = wrapped.clone();
            damaged.bytes[16 + 31] ^= 1;
            assert!(matches!(
                key.unwrap(&key.key(), CONTEXT, &damaged),
                Err(KeyError::InvalidCiphertext)
            ));
        },
    );
}

#[test]
fn soft_hsm_that_calls_tampering_a_general_error_is_no_outage() {
    let name = "traps::soft_hsm_that_calls_tampering_a_general_error_is_no_outage";
    on_token(Kind::SoftHsm, name, |access| {
        let key = key_on(access);
        let (_, mut damaged) = key.generate(&key.key(), V1, CONTEXT).unwrap();
        damaged.bytes[59] ^= 1;
        let session = access.session(&access.loaded());
        let object = object(&session, cryptoki::object::ObjectClass::SECRET_KEY);
        let (iv, sealed) = damaged.bytes.split_first_chunk::<12>().unwrap();
        let mut iv = *iv;
        let gcm = GcmParams::new(&mut iv, CONTEXT, 128.into()).unwrap();
        assert_eq!(
            code(session.decrypt(&Mechanism::AesGcm(gcm), object, sealed)),
            RvError::GeneralError
        );
        assert!(matches!(
            key.unwrap(&key.key(), CONTEXT, &damaged),
            Err(KeyError::InvalidCiphertext)
        ));
    });
}

/// Moves a path away, lets the key be used, moves it back, and expects the same wrap to open again.
fn is_found_again(access: &Access, what: &str) {
    let key = key_on(access);
    let (secret, wrapped) = key.generate(&key.key(), V1, CONTEXT).unwrap();
    let (here, away) = (access.dir.join(what), access.dir.join("away"));
    std::fs::rename(&here, &away).unwrap();
    for _ in 0..3 {
        match key.unwrap(&key.key(), CONTEXT, &wrapped) {
            // kryoptic holds its file open and goes on.
            Ok(same) => assert!(same.ct_eq(&secret) && access.kind == Kind::Kryoptic),
            Err(KeyError::NotFound(_) | KeyError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let _ = std::fs::remove_dir_all(&here); // an empty one may have been made in its place
    std::fs::rename(&away, &here).unwrap();
    assert!(
        key.unwrap(&key.key(), CONTEXT, &wrapped)
            .unwrap()
            .ct_eq(&secret)
    );
    assert_round_trip(&key);
}

#[test]
fn a_soft_hsm_token_that_comes_back_is_found_again() {
    let name = "traps::a_soft_hsm_token_that_comes_back_is_found_again";
    on_token(Kind::SoftHsm, name, |access| {
        is_found_again(access, "tokens")
    });
}

#[test]
fn a_kryoptic_token_that_comes_back_is_found_again() {
    let name = "traps::a_kryoptic_token_that_comes_back_is_found_again";
    on_token(Kind::Kryoptic, name, |access| {
        is_found_again(access, "token.sql")
    });
}

#[test]
fn a_label_that_two_keys_share_is_refused() {
    on_token(
        Kind::SoftHsm,
        "traps::a_label_that_two_keys_share_is_refused",
        |access| {
            let session = access.session(&access.loaded());
            for id in [1u8, 2] {
                let template = [
                    Attribute::Token(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::ValueLen(32.into()),
                    Attribute::Label(b"twice".to_vec()),
                    Attribute::Id(vec![id]),
                ];
                session
                    .generate_key(&Mechanism::AesKeyGen, &template)
                    .unwrap();
            }
            let token = open_token(access, &access.pin).unwrap();
            let refused = TokenKey::make_or_take(&token, "twice", None).map(|_| ());
            assert!(
                matches!(&refused, Err(KeyError::InvalidState(text)) if text.contains("twice")),
                "{refused:?}"
            );
        },
    );
}

#[test]
fn a_key_that_may_leave_its_token_is_refused() {
    on_token(
        Kind::SoftHsm,
        "traps::a_key_that_may_leave_its_token_is_refused",
        |access| {
            let session = access.session(&access.loaded());
            let template = [
                Attribute::Token(true),
                Attribute::Sensitive(false),
                Attribute::Extractable(true),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::ValueLen(32.into()),
                Attribute::Label(b"loose".to_vec()),
            ];
            session
                .generate_key(&Mechanism::AesKeyGen, &template)
                .unwrap();
            let token = open_token(access, &access.pin).unwrap();
            let refused = TokenKey::make_or_take(&token, "loose", None).map(|_| ());
            assert!(
                matches!(refused, Err(KeyError::InvalidState(_))),
                "{refused:?}"
            );
        },
    );
}

#[test]
fn nss_wraps_out_a_key_that_is_not_extractable() {
    // Whoever has the PIN of an NSS database has the key: docs/TOKENS.md says so. The others refuse.
    let name = "traps::nss_wraps_out_a_key_that_is_not_extractable";
    on_token(Kind::Nss, name, |access| {
        key_on(access);
        let answer = wrapped_out(access);
        assert_eq!(answer.unwrap().len(), 48);
    });
}

#[test]
fn soft_hsm_and_kryoptic_let_no_key_be_wrapped_out() {
    let name = "traps::soft_hsm_and_kryoptic_let_no_key_be_wrapped_out";
    for kind in [Kind::SoftHsm, Kind::Kryoptic] {
        on_token(kind, name, |access| {
            key_on(access);
            assert_eq!(code(wrapped_out(access)), RvError::KeyUnextractable);
        });
    }
}

/// What C_WrapKey makes of our key under another key of the same session.
fn wrapped_out(access: &Access) -> Result<Vec<u8>, Error> {
    let session = access.session(&access.loaded());
    let ours = object(&session, cryptoki::object::ObjectClass::SECRET_KEY);
    let template = [
        Attribute::Token(false),
        Attribute::Wrap(true),
        Attribute::ValueLen(32.into()),
    ];
    let other = session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .unwrap();
    session.wrap_key(&Mechanism::AesKeyWrap, other, ours)
}
