//! Checked readers and writers of fixed little-endian fields. A reader rejects what is missing and what is left over.

use super::error::{FormatError, Result};

/// Reads fields in turn; `what` names the structure in errors.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(FormatError::Length(self.what))?;
        self.rest = rest;
        Ok(*field)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (field, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(FormatError::Length(self.what))?;
        self.rest = rest;
        Ok(field)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// All that is left, of any length.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes must be zero.
    pub(super) fn zeros(&mut self, len: usize, what: &'static str) -> Result<()> {
        is_zero(self.bytes(len)?)
            .then_some(())
            .ok_or(FormatError::NotZero(what))
    }

    /// Everything that is left must be zero.
    pub(super) fn zeros_to_end(self, what: &'static str) -> Result<()> {
        is_zero(self.rest)
            .then_some(())
            .ok_or(FormatError::NotZero(what))
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        self.rest
            .is_empty()
            .then_some(())
            .ok_or(FormatError::Length(self.what))
    }
}

/// Puts fields in turn into `N` bytes; what is not written stays zero.
pub(super) struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }

    /// Panics when the fields exceed the structure: a mistake of this crate, never of its input.
    pub(super) fn put(mut self, field: &[u8]) -> Self {
        let end = self.at + field.len();
        self.bytes
            .get_mut(self.at..end)
            .expect("fields fit their structure")
            .copy_from_slice(field);
        self.at = end;
        self
    }

    /// Continues at this offset.
    pub(super) fn at(mut self, offset: usize) -> Self {
        self.at = offset;
        self
    }

    pub(super) fn finish(self) -> [u8; N] {
        self.bytes
    }
}

/// Whether every byte is zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
