//! The keys that a volume's daemon has held, computed here a second time from keystore, volume file and headers.

use std::path::Path;

use strongroom::crypto::Secret;
use strongroom::format::header::{Core, KeyArea, content_key_gcm, content_key_xts, header_key};
use strongroom::format::ids::{KeyId, KeyVersion};
use strongroom::format::suite::Suite;
use strongroom::format::volume_file::VolumeFile;
use strongroom::format::volume_keys::VolumeKeys;
use strongroom::format::wrap::{Purpose, context};
use strongroom::keys::software::Place;
use strongroom::keys::{KeyProvider, Keystore, SecretBytes, Unlock, Wrapped};

use super::support::Sandbox;

/// A key by name.
pub struct Known {
    pub name: String,
    pub key: Vec<u8>,
    /// Whether a daemon holds it as long as the file is open, not only while it derives others.
    pub is_held: bool,
}

fn known(name: &str, key: &[u8], is_held: bool) -> Known {
    Known {
        name: name.to_owned(),
        key: key.to_vec(),
        is_held,
    }
}

/// The keys of the volume and of every file right below its backing root.
pub fn known_keys(sandbox: &Sandbox, passphrase: &str) -> Vec<Known> {
    let place = Place::at(&sandbox.path("keystore")).unwrap();
    let secret = SecretBytes::take(&mut passphrase.as_bytes().to_vec()).unwrap();
    let keystore = Keystore::open(&place, &[Unlock::Passphrase(secret)]).unwrap();
    let bytes = std::fs::read(sandbox.vault().join("strongroom.volume")).unwrap();
    let file = VolumeFile::parse_unverified(&bytes).unwrap();
    let wrapped = file.volume_secret();
    let wrapped = Wrapped {
        version: wrapped.version,
        algorithm: wrapped.algorithm,
        bytes: wrapped.bytes.clone(),
    };
    let key = file.current_key().unwrap().key;
    let secret_context = context(Purpose::VolumeSecret, &file.volume(), None, 0);
    let secret = keystore.unwrap(&key, &secret_context, &wrapped).unwrap();
    let keys = VolumeKeys::derive(&secret, &file.volume());
    let mut all = vec![
        known("volume secret", secret.expose(), false),
        known("directory key", keys.dir.expose(), true),
        known("MAC key", keys.mac.expose(), true),
        known("binding key", keys.bind.expose(), true),
    ];
    for path in super::stored_files(&sandbox.vault()) {
        all.extend(keys_of_file(&path, &keystore, &key, &keys.bind));
    }
    all
}

fn keys_of_file(path: &Path, keystore: &Keystore, key: &KeyId, bind: &Secret<32>) -> Vec<Known> {
    let bytes = std::fs::read(path).unwrap();
    let sector = |n: usize| bytes[n * 512..(n + 1) * 512].try_into().unwrap();
    let core = Core::parse(&sector(0)).unwrap();
    let areas = [1, 2].map(|n| KeyArea::parse(&sector(n)).unwrap());
    let area = areas
        .into_iter()
        .flatten()
        .max_by_key(|area| area.sequence)
        .unwrap();
    let wrapped = Wrapped {
        version: KeyVersion(area.key_version),
        algorithm: area.algorithm,
        bytes: area.wrapped.clone(),
    };
    let wrap_context = context(Purpose::DataKey, &core.volume, Some(&core.file), 0);
    let data_key = keystore.unwrap(key, &wrap_context, &wrapped).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let content = match core.suite {
        Suite::Gcm => content_key_gcm(&data_key, &core.file).expose().to_vec(),
        Suite::Xts => content_key_xts(&data_key, &core.file).expose().to_vec(),
    };
    vec![
        known(&format!("data key of {name}"), data_key.expose(), false),
        known(&format!("content key of {name}"), &content, true),
        known(
            &format!("header key of {name}"),
            header_key(&data_key, bind, &core.file).expose(),
            core.suite == Suite::Gcm, // an XTS file needs it to open and to change the header
        ),
    ]
}
