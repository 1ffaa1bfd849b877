//! Fixed-size secrets in locked memory. A secret is exposed only by name, compared in constant time and never cloned.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::Locked;

/// `N` secret bytes in locked memory, wiped when dropped.
pub struct Secret<const N: usize>(Locked<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Fresh bytes from the OS generator.
    pub fn random() -> Self {
        let mut secret = Self::zero();
        random_bytes(secret.expose_mut());
        secret
    }

    /// Takes the bytes and wipes their source.
    pub fn from_bytes(bytes: &mut [u8; N]) -> Self {
        let mut secret = Self::zero();
        secret.expose_mut().copy_from_slice(bytes);
        bytes.zeroize();
        secret
    }

    /// Copies the bytes; `None` unless there are exactly `N`. Wiping the source stays with the caller.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; N] = bytes.try_into().ok()?;
        let mut secret = Self::zero();
        secret.expose_mut().copy_from_slice(bytes);
        Some(secret)
    }

    /// The bytes themselves; do not copy them out of here without need.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Whether both are equal, in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }

    pub(crate) fn zero() -> Self {
        Self(Locked::new([0; N]))
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({N} bytes)")
    }
}

/// Fills `buf` from the OS generator with one call.
///
/// Panics where the kernel has no random bytes to give, which leaves nothing safe to do.
pub fn random_bytes(buf: &mut [u8]) {
    #[cfg(test)]
    if crate::repeated::fill(buf) {
        return;
    }
    getrandom::fill(buf).expect("the operating system's random generator failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wipes_the_source_it_takes() {
        let mut source = [9u8; 32];
        let secret = Secret::from_bytes(&mut source);
        assert_eq!(secret.expose(), &[9; 32]);
        assert_eq!(source, [0; 32]);
    }

    #[test]
    fn refuses_a_slice_of_another_length() {
        assert!(Secret::<32>::from_slice(&[0; 31]).is_none());
        assert!(Secret::<32>::from_slice(&[0; 33]).is_none());
    }

    #[test]
    fn compares_by_content_and_prints_none_of_it() {
        let one = Secret::<32>::random();
        let same = Secret::<32>::from_slice(one.expose()).expect("32 bytes");
        assert!(one.ct_eq(&same));
        assert!(!one.ct_eq(&Secret::random()));
        assert_eq!(format!("{one:?}"), "Secret(32 bytes)");
    }
}
