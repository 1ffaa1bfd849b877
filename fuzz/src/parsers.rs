//! The parsers of `strongroom::format` and of the keystore file, one target each.

use std::cell::OnceCell;
use std::sync::Arc;

use strongroom::crypto::{Secret, Siv, mac16, mac32};
use strongroom::format::dir_file::DirFile;
use strongroom::format::header::{Core, KeyArea, PAGE0, SECTOR, STATES_AT};
use strongroom::format::ids::{DirId, FileId};
use strongroom::format::mount_file::MountFile;
use strongroom::format::names;
use strongroom::format::record::{RECORD_LEN, Record};
use strongroom::format::state::{STATE_LEN, State};
use strongroom::format::texts;
use strongroom::format::volume_file::VolumeFile;
use strongroom::keys::software::Place;
use strongroom::keys::{Keystore, Unlock};
use strongroom::store::{MemoryStore, Store};

const FILE: FileId = FileId([0xB0; 16]);
const DIR: DirId = DirId([0xC0; 16]);

fn key() -> Secret<32> {
    Secret::from_bytes(&mut [5; 32])
}

fn siv() -> Siv {
    Siv::new(&Secret::from_bytes(&mut [6; 64]))
}

/// The first N bytes of the input, zeros after its end.
fn fixed<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let length = data.len().min(N);
    bytes[..length].copy_from_slice(&data[..length]);
    bytes
}

/// A whole header page: core, areas, states as they stand, records.
pub fn header(data: &[u8]) {
    let page: [u8; PAGE0] = fixed(data);
    if let Ok(core) = Core::parse(page.first_chunk().unwrap()) {
        assert_eq!(core.encode()[..], page[..SECTOR]);
    }
    for offset in [512, 1024] {
        let _ = KeyArea::parse(page[offset..].first_chunk().unwrap());
    }
    for offset in STATES_AT {
        let _ = State::parse(page[offset..].first_chunk().unwrap(), &key(), &FILE);
    }
    for record in page[2048..].as_chunks::<RECORD_LEN>().0 {
        one_record(record);
    }
}

/// A key area with a right checksum and MAC.
pub fn key_area(data: &[u8]) {
    let mut bytes: [u8; SECTOR] = fixed(data);
    let _ = KeyArea::parse(&bytes);
    let sum = crc32c::crc32c(&bytes[..432]);
    bytes[432..436].copy_from_slice(&sum.to_le_bytes());
    bytes[436..452].fill(0);
    let mac = mac16(&key(), &[b"wrap", &FILE.0, &bytes]);
    bytes[436..452].copy_from_slice(&mac);
    if let Ok(Some(area)) = KeyArea::parse(&bytes) {
        KeyArea::verify(&bytes, &key(), &FILE).expect("it was signed");
        assert_eq!(area.encode(&key(), &FILE), bytes);
    }
}

/// Records of a tag page.
pub fn records(data: &[u8]) {
    for record in data.as_chunks::<RECORD_LEN>().0 {
        one_record(record);
    }
}

fn one_record(bytes: &[u8; RECORD_LEN]) {
    let lenient = Record::parse_in_doubt(bytes);
    let _ = lenient.newest();
    if let Ok(record) = Record::parse(bytes) {
        assert_eq!(record.encode(), *bytes);
        assert_eq!(record, lenient);
        assert_eq!(
            record.newest().is_none(),
            bytes.iter().all(|byte| *byte == 0)
        );
    }
}

/// A state with a right MAC.
pub fn states(data: &[u8]) {
    let mut bytes: [u8; STATE_LEN] = fixed(data);
    let _ = State::parse(&bytes, &key(), &FILE);
    bytes[48..64].fill(0);
    let mac = mac16(&key(), &[b"state", &FILE.0, &bytes]);
    bytes[48..64].copy_from_slice(&mac);
    if let Ok(Some(state)) = State::parse(&bytes, &key(), &FILE) {
        assert_eq!(state.encode(&key(), &FILE), bytes);
    }
}

/// An entry of a backing directory, a side file, and a name to seal.
pub fn names(data: &[u8]) {
    let _ = names::classify(data);
    let _ = names::open_name(&siv(), &DIR, data, None);
    if let Some(at) = data.iter().position(|byte| *byte == 0) {
        let (entry, side) = data.split_at(at);
        let _ = names::open_name(&siv(), &DIR, entry, Some(&side[1..]));
    }
    let name = &data[..data.len().min(names::MAX_NAME)];
    let is_name = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, 0 | b'/'));
    // What was sealed comes back; what no caller can have made is refused.
    let sealed = names::seal_name(&siv(), &DIR, name);
    let opened = names::open_name(&siv(), &DIR, &sealed.entry, sealed.long.as_deref());
    assert_eq!(opened.ok().as_deref(), is_name.then_some(name));
    assert!(sealed.entry.len() <= 255);
}

/// `strongroom.dir`.
pub fn dir_file(data: &[u8]) {
    if let Ok(file) = DirFile::parse(data) {
        assert_eq!(file.encode(), data);
        let _ = file.fits(&key(), &DIR, b"stored");
    }
}

/// JSON with a right MAC.
fn signed(json: &[u8], label: &[u8]) -> Vec<u8> {
    let mac = mac32(&key(), &[label, json]);
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    [json, b"\n", hex.as_bytes(), b"\n"].concat()
}

/// `strongroom.mount`, as it is and signed.
pub fn mount_file(data: &[u8]) {
    let _ = MountFile::parse(data, &key());
    if let Ok(file) = MountFile::parse(&signed(data, b"mount"), &key()) {
        let bytes = file.encode(&key()).expect("it was not too long");
        assert_eq!(MountFile::parse(&bytes, &key()).as_ref(), Ok(&file));
        assert!(file.listed.is_sorted());
    }
}

/// `strongroom.volume`, as it is and signed.
pub fn volume_file(data: &[u8]) {
    let _ = VolumeFile::parse_unverified(data);
    let file =
        VolumeFile::parse_unverified(&signed(data, b"volume")).and_then(|file| file.verify(&key()));
    if let Ok(file) = file {
        file.current_key().expect("one key is current");
        let bytes = file.encode(&key()).expect("it was not too long");
        let again = VolumeFile::parse_unverified(&bytes).and_then(|file| file.verify(&key()));
        assert_eq!(again.as_ref(), Ok(&file));
    }
}

/// Stored names and values of extended attributes.
pub fn xattrs(data: &[u8]) {
    let _ = texts::open_xattr_name(&siv(), data);
    let stored = [texts::XATTR_PREFIX, data].concat();
    let _ = texts::open_xattr_name(&siv(), &stored);
    let _ = texts::open_xattr_value(&siv(), b"name", data);
    let sealed = texts::seal_xattr_name(&siv(), data);
    assert_eq!(texts::open_xattr_name(&siv(), &sealed).as_deref(), Ok(data));
}

/// Stored symlink targets.
pub fn symlink(data: &[u8]) {
    let _ = texts::open_symlink(&siv(), data);
    let _ = texts::symlink_len(data.len() as u64);
    let target = &data[..data.len().min(texts::SYMLINK_MAX)];
    let sealed = texts::seal_symlink(&siv(), target);
    assert_eq!(texts::open_symlink(&siv(), &sealed).as_deref(), Ok(target));
    assert_eq!(
        texts::symlink_len(sealed.len() as u64),
        Some(target.len() as u64)
    );
}

/// A keystore file, as it is and with a right checksum.
pub fn keystore(data: &[u8]) {
    thread_local! {
        static STORE: OnceCell<Arc<MemoryStore>> = const { OnceCell::new() };
    }
    STORE.with(|store| {
        let store = store.get_or_init(|| Arc::new(MemoryStore::new()));
        let root = store.root();
        let text = [
            b"strongroom keystore 1\n",
            data,
            b"\nmac ",
            &[b'0'; 64],
            b"\n",
        ]
        .concat();
        let check = format!("check {:08x}\n", crc32c::crc32c(&text));
        for bytes in [data.to_vec(), [&text[..], check.as_bytes()].concat()] {
            let _ = root.remove(b"keystore");
            let file = root.create(b"keystore", 0o600).expect("it is free");
            file.write_at(&bytes, 0).expect("memory");
            let place = Place::new(Arc::clone(&root), b"keystore");
            // A key file opens without the cost of a passphrase.
            let opened = Keystore::open(&place, &[Unlock::KeyFile(key())]);
            assert!(opened.is_err(), "nothing that was not sealed opens");
        }
    });
}
