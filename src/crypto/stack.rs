//! Wiping the stack after work with keys: ciphers are built, expanded and moved there, and their crates wipe an object where it
//! ends, not where it was before it was moved.

use std::hint::black_box;

/// Bytes wiped: the frames of an HKDF, of a key schedule that is built and moved, of the keys of four messages and of round
/// keys that a wide cipher spills from registers, also without optimisation.
const DEPTH: usize = 16384;

/// Runs `work` and wipes the stack that it used. What it returns must be no secret by value, only in locked memory.
pub(super) fn leaving_no_trace<R>(work: impl FnOnce() -> R) -> R {
    let result = apart(work);
    wipe();
    result
}

/// A frame of its own, below the caller's, where [`wipe`] then has its.
#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// One memset, a hundred times as fast as volatile writes; `tests/hygiene.rs` sees that the compiler keeps it.
#[inline(never)]
fn wipe() {
    black_box(&mut [0u8; DEPTH]);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use crate::crypto::{GcmSiv, Message, Secret, Xts};

    /// What of the stack is looked at, below the frame of who looks.
    const LOOKED_AT: usize = 128 << 10;

    /// Bytes of this thread's stack below this frame.
    #[inline(never)]
    fn below() -> Vec<u8> {
        let here = 0u8;
        let end = std::ptr::from_ref(&here).addr();
        let mut bytes = vec![0; LOOKED_AT];
        let memory = File::open("/proc/self/mem").unwrap();
        memory
            .read_exact_at(&mut bytes, (end - LOOKED_AT) as u64)
            .unwrap();
        bytes
    }

    fn is_below(needle: &[u8]) -> bool {
        below().windows(needle.len()).any(|seen| seen == needle)
    }

    /// The first two round keys of AES-256 are the key.
    fn assert_gone(what: &str, key: &[u8]) {
        for half in key.chunks(16) {
            assert!(!is_below(half), "{what}: a round key is on the stack");
        }
    }

    /// Runs it on a stack of its own, which is large enough to be looked at.
    fn apart(run: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        thread.spawn(run).unwrap().join().unwrap();
    }

    #[test]
    fn no_round_key_of_xts_is_left_wide_or_portable() {
        for make in [Xts::new, Xts::portable] {
            apart(move || {
                let key = Secret::random();
                let xts = make(&key).unwrap();
                let mut pages = vec![7; 37 * 4096];
                for units in [1, 4, 37] {
                    xts.encrypt(5, &mut pages[..units * 4096]);
                    assert_gone("encryption", key.expose());
                    xts.decrypt(5, &mut pages[..units * 4096]);
                    assert_gone("decryption", key.expose());
                }
            });
        }
    }

    #[test]
    fn no_round_key_of_gcm_siv_is_left_wide_or_portable() {
        for make in [GcmSiv::new, GcmSiv::portable] {
            apart(move || {
                let key = Secret::random();
                let cipher = make(&key);
                let mut pages = vec![7; 37 * 4096];
                let mut messages: Vec<_> = pages
                    .chunks_mut(4096)
                    .map(|text| Message {
                        nonce: [1; 12],
                        aad: b"data",
                        text,
                        from: None,
                        tag: [0; 16],
                    })
                    .collect();
                cipher.seal_all(&mut messages);
                assert_gone("sealing", key.expose());
                assert!(cipher.open_all(&mut messages).is_empty());
                assert_gone("opening", key.expose());
            });
        }
    }

    #[test]
    fn what_is_left_would_be_found() {
        apart(|| {
            #[inline(never)]
            fn leaves() {
                std::hint::black_box(&mut [0xA7u8; 8192]); // deeper than the look's own frames
            }
            leaves();
            assert!(is_below(&[0xA7; 16]));
        });
    }
}
