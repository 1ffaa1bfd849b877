//! Everything that derives from a volume's secret, each key for one use.

use std::sync::Arc;

use super::ids::VolumeId;
use crate::crypto::{Secret, Siv, hkdf};

/// The keys of an open volume.
pub struct VolumeKeys {
    /// File names.
    pub name: Siv,
    /// Symlink targets.
    pub symlink: Siv,
    /// Names of extended attributes.
    pub xattr_name: Siv,
    /// Values of extended attributes.
    pub xattr_value: Siv,
    /// Directory ids and place tags.
    pub dir: Secret<32>,
    /// The volume file and the mount file; shared with who ends a mount, also of a volume that was locked.
    pub mac: Arc<Secret<32>>,
    /// What a host remembers to know the volume again; not secret.
    pub pin: [u8; 16],
    /// Goes into every header key, so that who can only wrap cannot forge a header.
    pub bind: Secret<32>,
}

impl VolumeKeys {
    /// HKDF(volume secret, volume id, purpose, n).
    pub fn derive(volume_secret: &Secret<32>, volume: &VolumeId) -> Self {
        let siv =
            |purpose: &[u8]| Siv::new(&hkdf(&[volume_secret.expose()], &volume.0, &[purpose]));
        let key = |purpose: &[u8]| hkdf(&[volume_secret.expose()], &volume.0, &[purpose]);
        Self {
            name: siv(b"name"),
            symlink: siv(b"symlink"),
            xattr_name: siv(b"xattr-name"),
            xattr_value: siv(b"xattr-value"),
            dir: key(b"dir"),
            mac: Arc::new(key(b"volume-mac")),
            pin: *hkdf(&[volume_secret.expose()], &volume.0, &[b"pin"]).expose(),
            bind: key(b"bind"),
        }
    }
}

impl std::fmt::Debug for VolumeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeKeys(..)")
    }
}
