//! Rotations that met damage: a directory whose files cannot be seen, a volume file that was lost on the way.

use super::*;
use crate::format::names::{DIR_FILE, VOLUME, VOLUME_OLD};
use crate::store::Kind;

const FILES: u8 = 4;

/// A closed volume with some files, and one in a directory.
fn volume_with_files(keys: &Arc<TestKeys>) -> Arc<MemoryStore> {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    make(&store, keys, Suite::Gcm, true);
    let volume = open(store, providers(keys), &options()).unwrap();
    let root = volume.root();
    let (dir, _) = volume.make_dir(&root, b"dir", 0o700, &USER).unwrap();
    for number in 0..FILES {
        let parent = if number == 0 { &dir } else { &root };
        let name = [b'a' + number];
        let (_, _, file) = volume
            .create(parent, &name, 0o600, &USER, READ_WRITE)
            .unwrap();
        volume.write(&file, 0, &[number + 1; 5000]).unwrap();
    }
    drop(dir);
    volume.close().unwrap();
    memory
}

/// Every file reads, also without the versions that the volume does not need any more.
fn assert_whole(store: &Arc<MemoryStore>, keys: &Arc<TestKeys>, what: &str) {
    let volume = open(store.clone(), providers(keys), &options()).unwrap();
    let current = volume.env.ring.chain().current().stored.wraps_with;
    volume.close().unwrap();
    for version in keys.versions() {
        if version != current {
            keys.destroy(version);
        }
    }
    let volume = open(store.clone(), providers(keys), &options()).unwrap();
    let root = volume.root();
    let (dir, _) = volume.lookup(&root, b"dir").unwrap();
    for number in 0..FILES {
        let parent = if number == 0 { &dir } else { &root };
        let (node, _) = volume.lookup(parent, &[b'a' + number]).unwrap();
        let file = volume.open(&node, READ_WRITE).unwrap();
        let mut bytes = vec![0; 6000];
        let read = volume.read(&file, 0, &mut bytes).unwrap();
        assert_eq!(bytes[..read], [number + 1; 5000], "{what}: file {number}");
    }
    drop((dir, root));
    volume.close().unwrap();
}

#[test]
fn a_rotation_goes_on_past_a_damaged_directory_and_keeps_the_version_before() {
    let keys = Arc::new(TestKeys::with_one_version());
    let store = volume_with_files(&keys);
    let root = store.root();
    let entries = root.entries(0).unwrap();
    let is_dir =
        |entry: &&crate::store::Entry| root.stat_at(&entry.name).unwrap().kind == Kind::Dir;
    let dir = root
        .open_dir(&entries.iter().find(is_dir).unwrap().name)
        .unwrap();
    let planted = dir.create(DIR_FILE, 0o600).unwrap();
    planted.write_at(b"rubbish", 0).unwrap();
    let volume = open(store.clone(), providers(&keys), &options()).unwrap();
    let rotation = volume.rotate(&mut |_| {}).unwrap();
    assert_eq!(
        (rotation.damaged, rotation.rewrapped, rotation.remaining),
        (1, u64::from(FILES) - 1, 0)
    );
    assert!(volume.env.ring.chain().is_unfinished());
    volume.close().unwrap();
    dir.remove(DIR_FILE).unwrap();
    let volume = open(store.clone(), providers(&keys), &options()).unwrap();
    let rotation = volume.rotate(&mut |_| {}).unwrap();
    assert_eq!((rotation.damaged, rotation.rewrapped), (0, 1));
    volume.close().unwrap();
    assert_whole(&store, &keys, "rotated");
}

#[test]
fn a_volume_file_lost_on_the_way_of_a_rotation_comes_back_with_every_key() {
    let mut lost = 0;
    for kill in 0..200 {
        let keys = Arc::new(TestKeys::with_one_version());
        let memory = volume_with_files(&keys);
        let failing = Arc::new(FailingStore::new(memory.clone()));
        let volume = open(failing.clone(), providers(&keys), &options()).unwrap();
        failing.fail_from(&CHANGES, kill, libc::EIO);
        let rotated = volume.rotate(&mut |_| {});
        let left = Arc::new(memory.snapshot());
        drop(volume);
        if left.root().stat_at(VOLUME_OLD).is_ok() {
            left.edit(&[VOLUME], |bytes| bytes.fill(b' ')).unwrap();
            let repaired = repair(left.clone(), &keys).unwrap();
            assert!(repaired.is_sound(), "kill {kill}: {repaired:#?}");
            assert_whole(&left, &keys, &format!("kill {kill}"));
            lost += 1;
        }
        if rotated.is_ok() {
            assert!(lost >= 5, "{lost} rotations had a volume file to lose");
            return;
        }
    }
    panic!("the rotation never came to its end");
}
