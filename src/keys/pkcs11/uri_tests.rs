//! URIs as RFC 7512 gives them, and as users get them wrong.

use super::*;

fn uri(text: &str) -> KeyUri {
    text.parse().unwrap()
}

#[track_caller]
fn refuses(text: &str, refused: &UriError) {
    assert_eq!(text.parse::<KeyUri>().as_ref(), Err(refused), "{text}");
}

// The examples of RFC 7512 section 3, in its order.

#[test]
fn an_empty_uri_matches_everything() {
    assert_eq!(uri("pkcs11:"), KeyUri::default());
}

#[test]
fn a_public_key_and_a_certificate_unwrap_nothing() {
    refuses("pkcs11:object=my-pubkey;type=public", &UriError::Type);
    refuses("pkcs11:object=my-certificate;type=cert", &UriError::Type);
}

#[test]
fn a_private_key_with_the_file_that_holds_the_pin() {
    let key = uri("pkcs11:object=my-key;type=private?pin-source=file:/etc/token");
    assert_eq!(key.object.as_deref(), Some("my-key"));
    assert_eq!(key.class, Some(KeyClass::Private));
    assert_eq!(key.pin_source.as_deref(), Some(Path::new("/etc/token")));
    assert_eq!(key.module, None);
}

#[test]
fn a_key_by_everything_that_a_token_says_of_itself() {
    let key = uri(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;\
         object=my-key;type=private;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
    );
    assert_eq!(key.token.as_deref(), Some("The Software PKCS#11 Softtoken"));
    assert_eq!(key.manufacturer.as_deref(), Some("Snake Oil, Inc."));
    assert_eq!(key.model.as_deref(), Some("1.0"));
    assert_eq!(
        key.id.as_deref(),
        Some(&b"\x69\x95\x3E\x5C\xF4\xBD\xEC\x91"[..])
    );
    assert_eq!(
        key.serial.as_deref(),
        Some(""),
        "an empty value is not a missing one"
    );
    assert_eq!(key.pin_source.as_deref(), Some(Path::new("/etc/token_pin")));
}

#[test]
fn a_module_by_path_and_none_by_name() {
    refuses(
        "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
        &UriError::ModuleName,
    );
    let key = uri("pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1");
    let module = key.module.unwrap();
    assert_eq!(
        (module.path.as_path(), module.init),
        (Path::new("/mnt/libmypkcs11.so.1"), None)
    );
}

#[test]
fn a_pin_in_a_uri_is_refused_and_not_repeated() {
    for text in [
        "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
        "pkcs11:object=k;pin-value=the-pin",
        "pkcs11:object=k?module-path=/l.so?pin-value=the-pin",
        "pkcs11:object=k?module-path=/l.so;PIN-VALUE=the-pin",
        "pkcs11:object=k?pin-source=/etc/token&pin-value=the-pin",
    ] {
        refuses(text, &UriError::PinValue);
    }
    let said = UriError::PinValue.to_string();
    assert!(said.contains("ps") && said.contains("--pin-file") && !said.contains("the-pin"));
}

#[test]
fn what_finds_no_token_here_is_refused_and_not_ignored() {
    refuses(
        "pkcs11:slot-description=Sun%20Metaslot",
        &UriError::Unused("slot-description"),
    );
    refuses(
        "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
        &UriError::Unused("library-manufacturer"),
    );
}

#[test]
fn escapes_of_either_case_and_of_the_escape_itself() {
    let key =
        uri("pkcs11:token=My%20token%25%20created%20by%20Joe;id=%01%02%03%Ba%dd%Ca%fe%04%05%06");
    assert_eq!(key.token.as_deref(), Some("My token% created by Joe"));
    assert_eq!(
        key.id.as_deref(),
        Some(&[1, 2, 3, 0xBA, 0xDD, 0xCA, 0xFE, 4, 5, 6][..])
    );
    let key = uri("pkcs11:token=A%20name%20with%20a%20%25%3B;object=my-key");
    assert_eq!(key.token.as_deref(), Some("A name with a %;"));
    let key = uri("pkcs11:token=Small%20A%20with%20acute:%20%C3%A1;object=my-key");
    assert_eq!(key.token.as_deref(), Some("Small A with acute: \u{e1}"));
}

#[test]
fn attributes_that_nobody_knows() {
    refuses(
        "pkcs11:token=t;object=k;vendor-aaa=value-a?pin-source=/etc/token_pin",
        &UriError::Unknown,
    );
    refuses(
        "pkcs11:object=k?pin-source=/etc/token_pin&vendor-bbb=value-b",
        &UriError::Unknown,
    );
}

// What users get wrong.

#[test]
fn other_schemes_and_shapes() {
    for text in [
        "",
        "pkcs11",
        "alias/default",
        "http://pkcs11:",
        "pkcs12:token=t",
        "pk\u{e9}s11:",
    ] {
        refuses(text, &UriError::Scheme);
        assert!(!KeyUri::is_one(text));
    }
    for text in [
        "pkcs11:token",
        "pkcs11:token=t;",
        "pkcs11:;token=t",
        "pkcs11:token=t?",
        "pkcs11:?module-path",
    ] {
        refuses(text, &UriError::Shape);
    }
    assert!(KeyUri::is_one("PKCS11:token=t"));
    assert_eq!(uri("PKCS11:token=t").token.as_deref(), Some("t"));
}

#[test]
fn the_same_attribute_twice() {
    refuses("pkcs11:token=a;token=a", &UriError::Twice("token"));
    refuses("pkcs11:id=%01;id=%02", &UriError::Twice("id"));
    refuses(
        "pkcs11:?module-path=/a&module-path=/b",
        &UriError::Twice("module-path"),
    );
    refuses(
        "pkcs11:?pin-source=/a&pin-source=/b",
        &UriError::Twice("pin-source"),
    );
}

#[test]
fn bad_escapes() {
    for value in ["%", "%2", "%zz", "a%+1", "a b", "a#b", "a/b", "\u{e1}"] {
        refuses(&format!("pkcs11:token={value}"), &UriError::Escape("token"));
    }
    refuses("pkcs11:token=%FF", &UriError::NotText("token"));
    refuses("pkcs11:?module-path=/a%2", &UriError::Escape("module-path"));
}

#[test]
fn lengths() {
    let long = "x".repeat(33);
    let length = |what, len, most| UriError::Length { what, len, most };
    refuses(&format!("pkcs11:token={long}"), &length("token", 33, 32));
    refuses(&format!("pkcs11:serial={long}"), &length("serial", 33, 16));
    refuses("pkcs11:object=", &length("object", 0, 200));
    refuses("pkcs11:id=", &length("id", 0, 128));
    let long = "x".repeat(201);
    refuses(
        &format!("pkcs11:object={long}"),
        &length("object", 201, 200),
    );
    let most = "x".repeat(200);
    assert_eq!(
        uri(&format!("pkcs11:object={most}")).object,
        Some(most.clone())
    );
}

#[test]
fn slots_are_numbers() {
    assert_eq!(uri("pkcs11:slot-id=327").slot_id, Some(327));
    for value in ["", "+1", "-1", "0x1", "18446744073709551616"] {
        refuses(&format!("pkcs11:slot-id={value}"), &UriError::SlotId);
    }
}

#[test]
fn modules_must_be_absolute() {
    refuses(
        "pkcs11:?module-path=lib.so",
        &UriError::Relative("lib.so".into()),
    );
    refuses("pkcs11:?module-path=", &UriError::Relative(PathBuf::new()));
    refuses("pkcs11:?module-path=/lib%00.so", &UriError::Nul);
    refuses("pkcs11:?x-init=a", &UriError::InitAlone);
    let module = uri("pkcs11:?x-init=configDir%3D%27sql:/d%27%20x&module-path=/l.so")
        .module
        .unwrap();
    assert_eq!(module.init.as_deref(), Some("configDir='sql:/d' x"));
}

#[test]
fn pins_come_from_files_only() {
    for (value, path) in [
        ("file:/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("/a%20b", "/a b"),
    ] {
        let key = uri(&format!("pkcs11:?pin-source={value}"));
        assert_eq!(key.pin_source, Some(PathBuf::from(path)));
    }
    refuses("pkcs11:?pin-source=|/bin/echo", &UriError::PinCommand);
    refuses("pkcs11:?pin-source=%7C/bin/echo", &UriError::PinCommand);
    for value in ["", "a/b", "file:a", "file://host/a", "https://a/b", "/a%00"] {
        refuses(&format!("pkcs11:?pin-source={value}"), &UriError::PinSource);
    }
}

#[test]
fn keys_are_named_by_two_labels() {
    let home = uri("pkcs11:token=t;object=k").home().unwrap();
    assert_eq!((home.token.as_str(), home.object.as_str()), ("t", "k"));
    assert_eq!(KeyUri::from(&home).to_string(), "pkcs11:token=t;object=k");
    for (text, refused) in [
        ("pkcs11:token=t", UriError::NoObject),
        ("pkcs11:object=k", UriError::NoToken),
        ("pkcs11:token=;object=k", UriError::NoToken),
        ("pkcs11:token=t;id=%01", UriError::ById),
        ("pkcs11:token=t;id=%01;object=k", UriError::ById),
    ] {
        assert_eq!(uri(text).home(), Err(refused));
    }
}

#[test]
fn is_shown_so_that_it_can_be_given_again() {
    for text in [
        "pkcs11:",
        "pkcs11:token=A%20%25%3B;serial=;slot-id=3;object=caf%C3%A9;id=%00%FF",
        "pkcs11:token=t;manufacturer=m;model=1.0;object=k;type=secret-key",
    ] {
        assert_eq!(uri(text).to_string(), text);
    }
    let secretive = uri("pkcs11:object=k?module-path=/l.so&pin-source=/p");
    assert_eq!(secretive.to_string(), "pkcs11:object=k");
}

#[test]
fn mechanisms_by_name() {
    for name in ["aes-gcm", "rsa-oaep", "aes-cbc-hmac"] {
        assert_eq!(name.parse::<Mechanism>().unwrap().to_string(), name);
    }
    assert!("AES-GCM".parse::<Mechanism>().is_err());
}
