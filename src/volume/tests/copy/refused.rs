//! Copies that are killed, and what is not copied.

use super::*;

#[test]
fn a_store_without_a_sync_to_be_trusted_has_every_file_and_directory_synced() {
    for options in [ANEW, SHARED] {
        let pair = Pair::new(Suite::Gcm);
        let source = pair.source();
        for number in 0..10 {
            put(
                &source,
                &source.root(),
                format!("{number}").as_bytes(),
                b"data",
            );
        }
        let to = Arc::new(MemoryStore::with_traits(Traits {
            syncfs_reports: false,
            atomic_page: true,
            unsafe_journal: false,
        }));
        pair.copy(&source, to.clone(), &options).unwrap();
        assert!(to.calls().of(Call::SyncFile) >= 10);
        assert!(to.calls().of(Call::SyncDir) >= 1);
        assert_eq!(seen(&mount(&to, &pair.others)), seen(&source));
    }
}

#[test]
fn a_kill_at_any_write_or_sync_leaves_no_volume_or_a_whole_one() {
    let calls = [
        Call::Write,
        Call::SetLen,
        Call::Create,
        Call::Rename,
        Call::MakeDir,
        Call::MakeSymlink,
        Call::Link,
        Call::SetMode,
        Call::SetTimes,
        Call::SetXattr,
        Call::SyncFile,
        Call::SyncDir,
        Call::SyncStore,
        Call::TakeContents,
    ];
    for options in [ANEW, SHARED] {
        let pair = Pair::new(Suite::Gcm);
        let source = pair.source();
        let root = source.root();
        let (dir, _) = source.make_dir(&root, b"dir", 0o755, &me()).unwrap();
        let node = put(&source, &dir, b"a", &bytes(1, 10_000));
        source.link(&node, &root, b"b").unwrap();
        source
            .make_symlink(&root, b"link", b"dir/a", &me())
            .unwrap();
        let before = seen(&source);
        let mut nothing = 0;
        for kill in 0.. {
            let memory = Arc::new(MemoryStore::new());
            let failing = Arc::new(FailingStore::new(memory.clone()));
            failing.fail_from(&calls, kill, libc::EIO);
            let done = pair.copy(&source, failing.clone(), &options);
            let left = Arc::new(memory.snapshot());
            if whole(&left) {
                assert_eq!(seen(&mount(&left, &pair.others)), before, "kill {kill}");
            } else {
                nothing += 1;
                done.as_ref().unwrap_err();
                // Again into the same place: whole, or refused with a sentence that says why.
                match pair.copy(&source, left.clone(), &options) {
                    Ok(_) => assert_eq!(seen(&mount(&left, &pair.others)), before),
                    Err(error) => assert!(
                        matches!(&error, Error::NotAVolume(why) if why.contains("interrupted copy")),
                        "{error}"
                    ),
                }
            }
            if failing.failed() == 0 {
                done.unwrap();
                break;
            }
        }
        assert!(nothing > 10);
    }
}

#[test]
fn what_cannot_be_read_ends_the_copy_and_names_the_path() {
    let pair = Pair::new(Suite::Gcm);
    let source = pair.source();
    let (dir, _) = source
        .make_dir(&source.root(), b"dir", 0o755, &me())
        .unwrap();
    put(&source, &dir, b"a", b"data");
    source.close().unwrap();
    drop((source, dir));
    // An entry that nobody here made, in a directory of ours.
    let root = pair.from.root();
    let entries = root.entries(0).unwrap();
    let name = entries.iter().find(|entry| entry.kind == Some(Kind::Dir));
    let inside = root.open_dir(&name.unwrap().name).unwrap();
    inside.create(b"foreign", 0o600).unwrap();
    let source = pair.source();
    for options in [ANEW, SHARED] {
        let to = Arc::new(MemoryStore::new());
        let refused = pair.copy(&source, to.clone(), &options).unwrap_err();
        let sentence = refused.to_string();
        assert!(
            sentence.starts_with("dir: ") && sentence.contains("foreign"),
            "{sentence}"
        );
        assert!(!whole(&to));
    }
}

#[test]
fn refuses_a_directory_with_anything_in_it() {
    let pair = Pair::new(Suite::Gcm);
    let source = pair.source();
    let to = Arc::new(MemoryStore::new());
    to.root().create(b"something", 0o600).unwrap();
    let refused = pair.copy(&source, to, &ANEW).unwrap_err();
    assert!(matches!(&refused, Error::NotAVolume(why) if why.contains("not empty")));
    let itself = pair.copy(&source, pair.from.clone(), &ANEW).unwrap_err();
    assert!(matches!(&itself, Error::NotAVolume(why) if why.contains("already")));
}
