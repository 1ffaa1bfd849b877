//! What becomes of the extended attributes of a file that is moved to `lost+found`.

use super::*;
use crate::volume::Node;

/// User's, security's, an ACL as it is stored, and a capability.
const ATTRIBUTES: [(&[u8], &[u8]); 4] = [
    (b"user.note", b"a note\0of bytes"),
    (b"security.selinux", b"label"),
    (
        b"system.posix_acl_access",
        b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff",
    ),
    (b"security.capability", b"\x01\0\0\x02"),
];

/// A closed volume with a file of these attributes, and the file's stored name.
fn volume_with_attributes(store: &Arc<dyn Store>, keys: &Arc<TestKeys>) -> Vec<u8> {
    make(store, keys, Suite::Gcm, true);
    let volume = open(store.clone(), providers(keys), &options()).unwrap();
    let root = volume.root();
    let (node, _, file) = volume
        .create(&root, b"file", 0o640, &USER, READ_WRITE)
        .unwrap();
    volume.write(&file, 0, &[1; 9000]).unwrap();
    for (name, value) in ATTRIBUTES {
        volume.set_xattr(&node, name, value, false, false).unwrap();
    }
    let stored = node.location().unwrap().stored;
    drop((file, node));
    volume.close().unwrap();
    stored
}

/// What `lost+found` holds, by name, with the attributes of each.
type Kept = BTreeMap<String, (Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>)>;

fn kept(store: &Arc<dyn Store>, keys: &Arc<TestKeys>) -> Kept {
    let volume = open(store.clone(), providers(keys), &options()).unwrap();
    let (lost, _) = volume.lookup(&volume.root(), b"lost+found").unwrap();
    let names = volume.read_dir(&lost, 0).unwrap();
    let found = names.iter().map(|entry| {
        let (node, _) = volume.lookup(&lost, &entry.name).unwrap();
        let content = fixture::read(&volume, &lost, &entry.name).unwrap();
        let name = String::from_utf8(entry.name.clone()).unwrap();
        (name, (content, attributes(&volume, &node)))
    });
    let found = found.collect();
    drop(lost);
    volume.close().unwrap();
    found
}

fn attributes(volume: &Volume, node: &Arc<Node>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let names = volume.xattr_names(node).unwrap().into_iter();
    names
        .map(|name| {
            let value = volume.xattr(node, &name).unwrap();
            (name, value)
        })
        .collect()
}

fn all_but(left: &[&[u8]]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let kept = ATTRIBUTES.iter().filter(|(name, _)| !left.contains(name));
    kept.map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

fn damage(store: &MemoryStore, stored: &[u8], at: usize) {
    store.edit(&[stored], |bytes| bytes[at] ^= 1).unwrap();
}

/// The copy and its report, as text.
fn copy_and_report(kept: &Kept, what: &str) -> (BTreeMap<Vec<u8>, Vec<u8>>, String) {
    let (_, attributes) = &kept[&format!("file ({what})")];
    let (text, of_report) = &kept[&format!("file ({what}) (report)")];
    assert!(of_report.is_empty());
    (attributes.clone(), String::from_utf8(text.clone()).unwrap())
}

#[test]
fn attributes_go_along_with_the_readable_blocks_but_for_privileges() {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let keys = Arc::new(TestKeys::with_one_version());
    let stored = volume_with_attributes(&store, &keys);
    damage(&memory, &stored, layout::slot_offset(0, 0) as usize);
    assert!(repair(store.clone(), &keys).unwrap().is_sound());
    let (attributes, report) = copy_and_report(&kept(&store, &keys), "1 of 3 blocks lost");
    assert_eq!(attributes, all_but(&[b"security.capability"]));
    let said = "has the attribute security.capability: a damaged file's copy gets no privileges";
    assert!(report.contains(said), "{report}");
    assert_eq!(report.matches("has the attribute").count(), 1, "{report}");
}

#[test]
fn attributes_that_the_store_does_not_take_are_told_and_the_copy_is_kept() {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let keys = Arc::new(TestKeys::with_one_version());
    let stored = volume_with_attributes(&store, &keys);
    damage(&memory, &stored, layout::slot_offset(0, 0) as usize);
    let full = Arc::new(FailingStore::new(store.clone()));
    full.fail_from(&[Call::SetXattr], 0, libc::ENOSPC);
    assert!(repair(full, &keys).unwrap().is_sound());
    let (attributes, report) = copy_and_report(&kept(&store, &keys), "1 of 3 blocks lost");
    assert_eq!(attributes, BTreeMap::new());
    for (name, _) in ATTRIBUTES {
        let line = format!(
            "Only the damaged file has the attribute {}",
            name.escape_ascii()
        );
        assert!(report.contains(&line), "{report}");
    }
    assert_eq!(report.matches("No space left").count(), 3, "{report}");
}

#[test]
fn attributes_of_a_file_without_a_header_are_in_its_report() {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let keys = Arc::new(TestKeys::with_one_version());
    let stored = volume_with_attributes(&store, &keys);
    damage(&memory, &stored, 20);
    assert!(repair(store.clone(), &keys).unwrap().is_sound());
    let kept = kept(&store, &keys);
    let (report, _) = &kept["file (header lost) (report)"];
    let report = String::from_utf8(report.clone()).unwrap();
    for (name, value) in ATTRIBUTES {
        let (name, value) = (name.escape_ascii(), value.escape_ascii());
        let line = format!("It has the attribute {name}: \"{value}\".");
        assert!(report.contains(&line), "{report}");
    }
    assert_eq!(kept.len(), 1);
}

#[test]
fn an_attribute_that_does_not_decipher_does_not_keep_the_others_from_going_along() {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let keys = Arc::new(TestKeys::with_one_version());
    let stored = volume_with_attributes(&store, &keys);
    damage(&memory, &stored, layout::slot_offset(0, 0) as usize);
    let object = store
        .root()
        .open(&stored, crate::store::Access::ReadWrite)
        .unwrap();
    object
        .set_xattr(b"user.strongroom.AAAA", b"x", false, false)
        .unwrap();
    assert!(repair(store.clone(), &keys).unwrap().is_sound());
    let kept = kept(&store, &keys);
    let (attributes, report) = copy_and_report(&kept, "1 of 3 blocks lost");
    assert_eq!(attributes, all_but(&[b"security.capability"]));
    assert!(report.contains("user.strongroom.AAAA"), "{report}");
    let (lost, _) = &kept["file (attributes lost) (report)"];
    let lost = String::from_utf8(lost.clone()).unwrap();
    assert!(lost.contains("user.strongroom.AAAA 78"), "{lost}");
}
