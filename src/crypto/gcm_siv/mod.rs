//! AES-256-GCM-SIV (RFC 8452): the block suite and software wraps. A repeated nonce only shows that two texts are equal.
//!
//! Many messages at once, because each has keys of its own, which are quicker to derive together.

mod portable;

use super::stack::leaving_no_trace;
#[cfg(target_arch = "x86_64")]
use super::wide::{Encryption, Wide};
use super::{Locked, NotAuthentic, Secret};
use portable::Portable;

/// A key, expanded.
pub struct GcmSiv(Expanded);

enum Expanded {
    #[cfg(target_arch = "x86_64")]
    Wide(Wide, Locked<Encryption>),
    Portable(Locked<Portable>),
}

/// One of many messages: a nonce, additional data, a text and its tag. Data and text are at most 2^36 bytes each.
#[derive(Debug)]
pub struct Message<'a, A> {
    /// Random.
    pub nonce: [u8; 12],
    /// What is authenticated beside the text.
    pub aad: A,
    /// Encrypted or decrypted in place, or from `from`.
    pub text: &'a mut [u8],
    /// Where the text is read, as long as `text`, of which then nothing is read.
    pub from: Option<&'a [u8]>,
    /// Set by sealing, compared when opening.
    pub tag: [u8; 16],
}

impl<A> Message<'_, A> {
    /// What is to be encrypted or decrypted.
    pub(super) fn source(&self) -> &[u8] {
        self.from.unwrap_or(self.text)
    }

    /// Has the text stand where it is worked on in place.
    fn bring(&mut self) {
        if let Some(from) = self.from {
            self.text.copy_from_slice(from);
        }
    }
}

fn assert_lengths<A>(messages: &[Message<'_, A>]) {
    let mut messages = messages.iter();
    let fit = messages.all(|message| message.source().len() == message.text.len());
    assert!(fit, "a text and where it is read are of one length");
}

impl GcmSiv {
    /// Expands the key.
    pub fn new(key: &Secret<32>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = Wide::detect() {
            let expand = || Locked::new(wide.expand(key.expose()));
            return Self(Expanded::Wide(wide, leaving_no_trace(expand)));
        }
        Self::portable(key)
    }

    /// As `new`, without the wide instructions: what other processors get. For tests and measurements.
    pub fn portable(key: &Secret<32>) -> Self {
        let expand = || Locked::new(Portable::new(key.expose()));
        Self(Expanded::Portable(leaving_no_trace(expand)))
    }

    /// Encrypts each text and sets its tag.
    ///
    /// # Panics
    /// If a `from` is not as long as its text.
    pub fn seal_all<A: AsRef<[u8]>>(&self, messages: &mut [Message<'_, A>]) {
        assert_lengths(messages);
        leaving_no_trace(|| match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Expanded::Wide(wide, key) => wide.seal_all(key, messages),
            Expanded::Portable(key) => key.seal_all(messages),
        });
    }

    /// Decrypts each text, and gives the indexes of those that are not what was sealed: they hold their ciphertext,
    /// no plaintext.
    ///
    /// # Panics
    /// If a `from` is not as long as its text.
    #[must_use = "what is not authentic must not be used"]
    pub fn open_all<A: AsRef<[u8]>>(&self, messages: &mut [Message<'_, A>]) -> Vec<usize> {
        assert_lengths(messages);
        leaving_no_trace(|| match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Expanded::Wide(wide, key) => wide.open_all(key, messages),
            Expanded::Portable(key) => key.open_all(messages),
        })
    }

    /// Encrypts `buf` in place and returns its tag. `aad` and `buf` are at most 2^36 bytes each.
    pub fn seal(&self, nonce: &[u8; 12], aad: &[u8], buf: &mut [u8]) -> [u8; 16] {
        let mut message = Message {
            nonce: *nonce,
            aad,
            text: buf,
            from: None,
            tag: [0; 16],
        };
        self.seal_all(std::slice::from_mut(&mut message));
        message.tag
    }

    /// Decrypts `buf` in place. After an error `buf` holds its ciphertext still, no plaintext.
    pub fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotAuthentic> {
        let mut message = Message {
            nonce: *nonce,
            aad,
            text: buf,
            from: None,
            tag: *tag,
        };
        match self.open_all(std::slice::from_mut(&mut message)).is_empty() {
            true => Ok(()),
            false => Err(NotAuthentic),
        }
    }
}
