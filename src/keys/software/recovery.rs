//! The recovery key as people write it down: 32 random bytes and 44 bits of check, as 12 groups of 5 letters and digits
//! (Crockford's base32: no I, L, O or U; read without regard to case, dashes and spaces). The check tells a typing error
//! from the recovery key of another keystore.

use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{Secret, mac32};
use crate::keys::secret_bytes::SecretBytes;
use crate::keys::software::KeystoreError;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const SYMBOLS: usize = 60;
const GROUP: usize = 5;
const LABEL: &[u8] = b"strongroom/1/recovery check";

/// The text of a recovery key, to be shown once.
pub fn recovery_text(key: &Secret<32>) -> Zeroizing<String> {
    let symbols = symbols(key);
    let mut text = Zeroizing::new(String::with_capacity(SYMBOLS + SYMBOLS / GROUP));
    for (index, symbol) in symbols.iter().enumerate() {
        if index > 0 && index % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(*symbol));
    }
    text
}

/// Reads a recovery key back.
///
/// # Errors
/// `InvalidSecret` where the text is no recovery key: wrong length, letters that do not occur, or the check differs.
pub fn parse_recovery(text: &SecretBytes) -> Result<Secret<32>, KeystoreError> {
    let mut typed = Zeroizing::new(Vec::with_capacity(SYMBOLS));
    for byte in text
        .expose()
        .iter()
        .filter(|byte| !matches!(byte, b'-' | b' ' | b'\t' | b'\n' | b'\r'))
    {
        let symbol = match byte.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            other => other,
        };
        if typed.len() == SYMBOLS {
            return Err(invalid("it is too long"));
        }
        typed.push(symbol);
    }
    if typed.len() != SYMBOLS {
        return Err(invalid("it has fewer than 60 letters and digits"));
    }
    let mut bytes = decode(&typed)
        .ok_or_else(|| invalid("it has a letter that does not occur in recovery keys"))?;
    let key = Secret::from_bytes(&mut bytes);
    if symbols(&key).as_slice() != typed.as_slice() {
        return Err(invalid("its check does not fit, so something is mistyped"));
    }
    Ok(key)
}

fn invalid(why: &str) -> KeystoreError {
    KeystoreError::InvalidSecret(format!("this is not a recovery key: {why}"))
}

/// The 60 symbols: 256 bits of key, 44 bits of check.
fn symbols(key: &Secret<32>) -> Zeroizing<Vec<u8>> {
    let mut check = mac32(key, &[LABEL]);
    let mut out = Zeroizing::new(Vec::with_capacity(SYMBOLS));
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in key.expose().iter().chain(check.iter()) {
        bits = (bits << 8 | u32::from(*byte)) & 0xffff;
        count += 8;
        while count >= 5 && out.len() < SYMBOLS {
            count -= 5;
            let index = (bits >> count & 31) as usize;
            out.extend(ALPHABET.get(index));
        }
    }
    check.zeroize();
    bits.zeroize();
    out
}

fn decode(symbols: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    let (mut bits, mut count) = (0u32, 0u32);
    let mut out = bytes.iter_mut();
    for symbol in symbols {
        let value = ALPHABET.iter().position(|known| known == symbol)? as u32;
        bits = (bits << 5 | value) & 0xffff;
        count += 5;
        if count >= 8 {
            count -= 8;
            if let Some(byte) = out.next() {
                *byte = (bits >> count & 0xff) as u8;
            }
        }
    }
    bits.zeroize();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::take(&mut text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn reads_what_it_printed_however_typed() {
        for _ in 0..100 {
            let key = Secret::<32>::random();
            let text = recovery_text(&key);
            assert_eq!(text.len(), 71);
            assert!(parse_recovery(&secret(&text)).unwrap().ct_eq(&key));
            let sloppy = format!(
                " {}\n",
                text.to_lowercase()
                    .replace('-', " ")
                    .replace('0', "o")
                    .replace('1', "l")
            );
            assert!(parse_recovery(&secret(&sloppy)).unwrap().ct_eq(&key));
        }
    }

    #[test]
    fn tells_every_single_typing_error() {
        let key = Secret::<32>::random();
        let text = recovery_text(&key);
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
            let mut typed = text.as_bytes().to_vec();
            typed[at] = if typed[at] == b'7' { b'8' } else { b'7' };
            let typed = SecretBytes::take(&mut typed).unwrap();
            assert!(
                matches!(parse_recovery(&typed), Err(KeystoreError::InvalidSecret(_))),
                "position {at}"
            );
        }
    }

    #[test]
    fn refuses_what_is_too_short_too_long_or_strange() {
        let text = recovery_text(&Secret::random()).to_string();
        for wrong in [
            "",
            "hello",
            &text[..70],
            &format!("{text}0"),
            &text.replace('-', "U"),
        ] {
            assert!(parse_recovery(&secret(wrong)).is_err(), "{wrong:?}");
        }
    }
}
