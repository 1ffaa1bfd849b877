//! Where secrets come from: a prompt (given by the caller), a file, an inherited descriptor, a systemd credential. Never an
//! argument or the value of a variable. Everything read goes straight into locked, wiped memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use super::descriptor;
pub use super::descriptor::{claim as claim_descriptor, keep_from_children};
use super::secret_bytes::{MAX_SECRET, SecretBytes};
use super::software::{KeystoreError, parse_recovery};
use crate::crypto::Secret;

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file, descriptor or credential cannot be read, or a key file not be written.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// Longer than a secret may be.
    #[error("{0} holds more than 1024 bytes")]
    TooLong(String),
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// Not 32 bytes, nor 43 characters of base64url.
    #[error("{0} is not a key file: it must hold 32 bytes, or their 43 characters of base64url")]
    NotAKeyFile(String),
    /// No recovery key.
    #[error("{0}: {1}")]
    NotARecoveryKey(String, KeystoreError),
    /// `$CREDENTIALS_DIRECTORY` is not set, or the name is not one component.
    #[error("there is no systemd credential {0:?}")]
    NoCredential(String),
}

/// A place that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file; one newline at its end is not part of the secret.
    File(PathBuf),
    /// A descriptor that this process inherited; read to its end and closed.
    Descriptor(i32),
    /// `$CREDENTIALS_DIRECTORY/NAME`, as systemd's LoadCredential gives it.
    Credential(String),
}

impl Source {
    /// Reads a passphrase or other text.
    ///
    /// # Errors
    /// `Io`, `TooLong`, `Empty`, `NoCredential`.
    pub fn read(&self) -> Result<SecretBytes, SourceError> {
        let label = self.label();
        let bytes = self.bytes(&label)?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if text.is_empty() {
            return Err(SourceError::Empty(label));
        }
        let mut text = Zeroizing::new(text.to_vec());
        SecretBytes::take(&mut text).ok_or(SourceError::TooLong(label))
    }

    /// Reads a key file: 32 raw bytes, or their base64url on one line.
    ///
    /// # Errors
    /// As `read`, and `NotAKeyFile`.
    pub fn read_key(&self) -> Result<Secret<32>, SourceError> {
        let label = self.label();
        let bytes = self.bytes(&label)?;
        if let Some(key) = Secret::from_slice(&bytes) {
            return Ok(key);
        }
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let mut key = Zeroizing::new([0; 32]);
        match Base64UrlUnpadded::decode(text, key.as_mut_slice()) {
            Ok(decoded) if decoded.len() == 32 => Ok(Secret::from_bytes(&mut key)),
            _ => Err(SourceError::NotAKeyFile(label)),
        }
    }

    /// Reads a recovery key, as it was printed or typed.
    ///
    /// # Errors
    /// As `read`, and `NotARecoveryKey`.
    pub fn read_recovery(&self) -> Result<Secret<32>, SourceError> {
        parse_recovery(&self.read()?)
            .map_err(|error| SourceError::NotARecoveryKey(self.label(), error))
    }

    fn label(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Descriptor(number) => format!("descriptor {number}"),
            Self::Credential(name) => format!("credential {name}"),
        }
    }

    fn bytes(&self, label: &str) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let file = match self {
            Self::File(path) => open(path, label),
            Self::Descriptor(number) => {
                descriptor::claim(*number).map_err(|error| SourceError::Io(label.to_owned(), error))
            }
            Self::Credential(name) => open(&credential(name)?, label),
        }?;
        read_bounded(file, label)
    }
}

/// Writes a new key file for its owner alone (mode 0600), durable on return; never over another file.
///
/// # Errors
/// `Io`.
pub fn write_key_file(path: &Path, key: &Secret<32>) -> Result<(), SourceError> {
    let write = || {
        let mut text = Zeroizing::new(Base64UrlUnpadded::encode_string(key.expose()));
        text.push('\n');
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    };
    write().map_err(|error| SourceError::Io(path.display().to_string(), error))
}

fn credential(name: &str) -> Result<PathBuf, SourceError> {
    let refused = || SourceError::NoCredential(name.to_owned());
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(refused());
    }
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(refused)?;
    Ok(Path::new(&directory).join(name))
}

fn open(path: &Path, label: &str) -> Result<File, SourceError> {
    let failed = |error| SourceError::Io(label.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_file() && about.mode() & 0o077 != 0 {
        tracing::warn!("{label} can be read by others: chmod 600 it");
    }
    Ok(file)
}

fn read_bounded(file: File, label: &str) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    // Of its final size from the start, so that no copy stays behind in a buffer that was too small.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 64));
    let mut limited = file.take(MAX_SECRET as u64 + 2);
    limited
        .read_to_end(&mut bytes)
        .map_err(|error| SourceError::Io(label.to_owned(), error))?;
    match bytes.len() {
        0 => Err(SourceError::Empty(label.to_owned())),
        length if length > MAX_SECRET + 1 => Err(SourceError::TooLong(label.to_owned())),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, content).unwrap();
        (dir, Source::File(path))
    }

    #[test]
    fn strips_one_newline_only() {
        for (content, secret) in [
            (&b"a\n"[..], &b"a"[..]),
            (b"a", b"a"),
            (b"a\n\n", b"a\n"),
            (b" a \n", b" a "),
        ] {
            let (_dir, source) = file(content);
            assert_eq!(source.read().unwrap().expose(), secret);
        }
    }

    #[test]
    fn refuses_empty_and_too_long_ones() {
        for (content, refused) in [
            (vec![], "is empty"),
            (b"\n".to_vec(), "is empty"),
            (vec![b'a'; 1026], "1024"),
        ] {
            let (_dir, source) = file(&content);
            assert!(source.read().unwrap_err().to_string().contains(refused));
        }
        let (_dir, source) = file(&[b'a'; 1024]);
        assert_eq!(source.read().unwrap().expose().len(), 1024);
    }

    #[test]
    fn reads_key_files_raw_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = Secret::<32>::random();
        write_key_file(&path, &key).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(Source::File(path.clone()).read_key().unwrap().ct_eq(&key));
        assert!(write_key_file(&path, &key).is_err());
        let (_dir, source) = file(key.expose());
        assert!(source.read_key().unwrap().ct_eq(&key));
        let (_dir, source) = file(&[7; 31]);
        assert!(matches!(
            source.read_key(),
            Err(SourceError::NotAKeyFile(_))
        ));
    }

    #[test]
    fn refuses_credentials_that_leave_their_directory() {
        for name in ["", ".", "..", "../x", "a/b"] {
            assert!(matches!(
                Source::Credential(name.into()).read(),
                Err(SourceError::NoCredential(_))
            ));
        }
    }
}
