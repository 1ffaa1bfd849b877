//! Files encrypted anew: what stays, what changes, who is refused, and a kill at every write.

use std::sync::Arc;

use super::{Bench, READ_WRITE, code, list, me};
use crate::format::suite::Suite;
use crate::store::{Access, Call, FailingStore, Kind, Store, Time, TimeSpec};
use crate::volume::{Node, OpenFlags, SetAttr, Volume};

const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
};
const SUITES: [Suite; 2] = [Suite::Gcm, Suite::Xts];

fn put(volume: &Volume, dir: &Arc<Node>, name: &[u8], data: &[u8]) -> Arc<Node> {
    let (node, _, file) = volume.create(dir, name, 0o644, &me(), READ_WRITE).unwrap();
    volume.write(&file, 0, data).unwrap();
    volume.fsync(&file, false).unwrap();
    node
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

fn read(volume: &Volume, node: &Arc<Node>) -> Result<Vec<u8>, i32> {
    let read = || {
        let attr = volume.attr(node)?;
        let file = volume.open(node, READ)?;
        let mut data = vec![0; attr.size as usize];
        let len = volume.read(&file, 0, &mut data)?;
        data.truncate(len);
        crate::volume::Result::Ok(data)
    };
    read().map_err(|error| error.code())
}

fn get(volume: &Volume, name: &[u8]) -> Result<Vec<u8>, i32> {
    let (node, _) = volume
        .lookup(&volume.root(), name)
        .map_err(|error| error.code())?;
    read(volume, &node)
}

/// File id and commitment, as the store has them.
fn identity(store: &dyn Store, ino: u64) -> [u8; 48] {
    let root = store.root();
    let entry = root
        .entries(0)
        .unwrap()
        .into_iter()
        .find(|entry| entry.ino == ino)
        .unwrap();
    let mut bytes = [0; 48];
    let file = root.open(&entry.name, Access::Read).unwrap();
    file.read_at(&mut bytes, 32).unwrap();
    bytes
}

fn hidden(store: &dyn Store) -> usize {
    let entries = store.root().entries(0).unwrap();
    entries
        .iter()
        .filter(|entry| entry.name.starts_with(b"strongroom.tmp."))
        .count()
}

fn rekey(volume: &Volume, path: &[u8]) -> crate::volume::Result<crate::volume::RekeyData> {
    volume.rekey_data(&[path.to_vec()], &mut |_| {})
}

#[test]
fn a_file_gets_another_id_and_key_and_keeps_all_else() {
    for suite in SUITES {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let root = volume.root();
        let data = bytes(3, 700_000);
        let node = put(&volume, &root, b"a", &data);
        volume
            .set_xattr(&node, b"user.x", b"value", false, false)
            .unwrap();
        let times = SetAttr {
            mode: Some(0o4640),
            uid: Some(1234),
            gid: Some(2345),
            atime: Some(TimeSpec::At(Time { sec: 5, nsec: 6 })),
            mtime: Some(TimeSpec::At(Time { sec: 7, nsec: 8 })),
            ..SetAttr::default()
        };
        let before = volume.set_attr(&node, &times, None).unwrap();
        let above = volume.attr(&root).unwrap();
        let old = identity(&*bench.store, node.ino());
        let report = rekey(&volume, b"a").unwrap();
        assert_eq!(
            (report.files, report.bytes, report.refused),
            (1, 700_000, 0)
        );
        let new = identity(&*bench.store, node.ino());
        assert!(old[..16] != new[..16] && old[16..] != new[16..]);
        assert_eq!(hidden(&*bench.store), 0);
        assert_eq!(list(&volume, &root).unwrap(), [b"a"]);
        // The node that everybody knows stands for the new file.
        let after = volume.attr(&node).unwrap();
        let same = |attr: &crate::volume::Attr| {
            (
                attr.id, attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.atime,
                attr.mtime,
            )
        };
        assert_eq!(same(&after), same(&before));
        assert_eq!(volume.attr(&root).unwrap().mtime, above.mtime);
        let (found, _) = volume.lookup(&root, b"a").unwrap();
        assert!(Arc::ptr_eq(&found, &node));
        assert_eq!(read(&volume, &node).unwrap(), data);
        assert_eq!(volume.xattr(&node, b"user.x").unwrap(), b"value");
        // What is written now is not written into the void.
        let file = volume.open(&node, READ_WRITE).unwrap();
        volume.write(&file, 5, b"after").unwrap();
        drop((file, found, node));
        volume.close().unwrap();
        let volume = bench.open();
        let mut data = data;
        data[5..10].copy_from_slice(b"after");
        assert_eq!(get(&volume, b"a").unwrap(), data);
    }
}

#[test]
fn a_file_in_use_is_refused_and_goes_on_working() {
    for suite in SUITES {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let node = put(&volume, &volume.root(), b"a", b"data");
        put(&volume, &volume.root(), b"b", b"other");
        let file = volume.open(&node, READ_WRITE).unwrap();
        let old = identity(&*bench.store, node.ino());
        let report = rekey(&volume, b"").unwrap();
        assert_eq!((report.files, report.refused), (1, 1));
        assert_eq!(report.reasons[0].path, "a");
        assert!(report.reasons[0].why.contains("in use"));
        assert_eq!(identity(&*bench.store, node.ino()), old);
        volume.write(&file, 0, b"DATA").unwrap();
        assert_eq!(read(&volume, &node).unwrap(), b"DATA");
        drop(file);
        assert_eq!(rekey(&volume, b"a").unwrap().files, 1);
        assert_ne!(identity(&*bench.store, node.ino()), old);
        assert_eq!(read(&volume, &node).unwrap(), b"DATA");
        assert_eq!(hidden(&*bench.store), 0);
    }
}

#[test]
fn a_file_with_several_names_is_refused_with_a_sentence() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    let node = put(&volume, &volume.root(), b"a", b"data");
    volume.link(&node, &volume.root(), b"b").unwrap();
    let report = rekey(&volume, b"a").unwrap();
    assert_eq!((report.files, report.refused), (0, 1));
    assert!(report.reasons[0].why.contains("several names"));
    assert_eq!(read(&volume, &node).unwrap(), b"data");
    volume.unlink(&volume.root(), b"b").unwrap();
    assert_eq!(rekey(&volume, b"a").unwrap().files, 1);
    assert_eq!(get(&volume, b"a").unwrap(), b"data");
}

#[test]
fn directories_are_walked_and_what_has_no_key_is_passed_over() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    let root = volume.root();
    let (deep, _) = volume.make_dir(&root, b"d", 0o755, &me()).unwrap();
    let (deeper, _) = volume.make_dir(&deep, b"e", 0o755, &me()).unwrap();
    put(&volume, &deep, b"one", b"1");
    put(&volume, &deeper, b"two", b"22");
    volume
        .create(&deeper, b"empty", 0o600, &me(), READ_WRITE)
        .unwrap();
    volume.make_symlink(&deep, b"link", b"one", &me()).unwrap();
    volume
        .make_node(&deep, b"fifo", Kind::Fifo, 0o600, 0, &me())
        .unwrap();
    put(&volume, &root, b"outside", b"0");
    let mut told = 0;
    let report = volume
        .rekey_data(&[b"/d/".to_vec()], &mut |progress| told = progress.files)
        .unwrap();
    assert_eq!(
        (report.files, report.bytes, report.empty, told),
        (2, 3, 1, 2)
    );
    let missing = rekey(&volume, b"d/none").unwrap_err();
    assert_eq!(
        (missing.code(), missing.to_string().contains("d/none")),
        (libc::ENOENT, true)
    );
    assert_eq!(code(&rekey(&volume, b"d/../d")), libc::EINVAL);
}

#[test]
fn holes_stay_holes() {
    for suite in SUITES {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let node = put(&volume, &volume.root(), b"a", b"start");
        let file = volume.open(&node, READ_WRITE).unwrap();
        volume.write(&file, 50_000_000, b"end").unwrap();
        drop(file);
        let before = volume.attr(&node).unwrap();
        rekey(&volume, b"a").unwrap();
        let after = volume.attr(&node).unwrap();
        assert_eq!(after.size, before.size);
        assert!(
            after.blocks <= before.blocks + 64,
            "{} {}",
            after.blocks,
            before.blocks
        );
        let file = volume.open(&node, READ).unwrap();
        let mut end = [0; 8];
        volume.read(&file, 49_999_995, &mut end).unwrap();
        assert_eq!(&end, b"\0\0\0\0\0end");
    }
}

#[test]
fn a_kill_at_any_write_or_sync_leaves_the_old_file_or_the_new_one() {
    let calls = [
        Call::Write,
        Call::SetLen,
        Call::Create,
        Call::Rename,
        Call::Remove,
        Call::SetMode,
        Call::SetOwner,
        Call::SetTimes,
        Call::SetXattr,
        Call::SyncFile,
        Call::SyncDir,
        Call::SyncStore,
        Call::Allocate,
    ];
    for suite in SUITES {
        let mut bench = Bench::new(suite);
        let volume = bench.open();
        let node = put(&volume, &volume.root(), b"a", &bytes(1, 300_000));
        volume
            .set_xattr(&node, b"user.x", b"value", false, false)
            .unwrap();
        let old = identity(&*bench.store, node.ino());
        drop(node);
        volume.close().unwrap();
        drop(volume);
        let (mut olds, mut news) = (0, 0);
        for kill in 0.. {
            let memory = Arc::new(bench.store.snapshot());
            let failing = Arc::new(FailingStore::new(memory.clone()));
            let volume = bench.open_on(failing.clone());
            failing.fail_from(&calls, kill, libc::EIO);
            let done = rekey(&volume, b"a");
            let killed = failing.failed() > 0;
            let left = Arc::new(memory.snapshot());
            drop(volume);
            let mut after = Bench {
                fixture: std::mem::replace(
                    &mut bench.fixture,
                    crate::volume::fixture::Fixture::new(suite),
                ),
                store: left,
                epoch: bench.epoch,
                listed: bench.listed.clone(),
            };
            let volume = after.open_after_kill();
            assert_eq!(
                get(&volume, b"a").unwrap(),
                bytes(1, 300_000),
                "kill {kill}"
            );
            let (node, _) = volume.lookup(&volume.root(), b"a").unwrap();
            assert_eq!(volume.xattr(&node, b"user.x").unwrap(), b"value");
            assert_eq!(list(&volume, &volume.root()).unwrap(), [b"a"]);
            let now = identity(&*after.store, node.ino());
            if now == old {
                olds += 1;
            } else {
                news += 1;
            }
            // Run again, it clears up.
            assert_eq!(rekey(&volume, b"a").unwrap().files, 1);
            assert_eq!(get(&volume, b"a").unwrap(), bytes(1, 300_000));
            assert_eq!(hidden(&*after.store), 0);
            drop(node);
            volume.close().unwrap();
            drop(volume);
            bench.fixture = after.fixture;
            if !killed {
                done.unwrap();
                break;
            }
        }
        assert!(olds > 5 && news >= 1, "{olds} {news}");
    }
}

#[test]
fn a_sync_that_fails_once_keeps_the_old_file() {
    let mut bench = Bench::new(Suite::Gcm);
    let failing = Arc::new(FailingStore::new(bench.store.clone()));
    let volume = {
        bench.open();
        bench.open_on(failing.clone())
    };
    let node = put(&volume, &volume.root(), b"a", b"data");
    let old = identity(&*bench.store, node.ino());
    for after in 0..2 {
        failing.fail_once(&[Call::SyncFile], after, libc::EIO);
        let failed = rekey(&volume, b"a").unwrap_err();
        assert_eq!((failed.code(), failing.failed()), (libc::EIO, after + 1));
        assert_eq!(identity(&*bench.store, node.ino()), old);
        assert_eq!(read(&volume, &node).unwrap(), b"data");
        assert_eq!(hidden(&*bench.store), 0);
    }
    failing.heal();
    assert_eq!(rekey(&volume, b"a").unwrap().files, 1);
}

#[test]
fn not_while_another_run_or_a_rotation_is_under_way() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    put(&volume, &volume.root(), b"a", b"data");
    let _running = volume.rotating.lock().unwrap();
    assert!(matches!(
        rekey(&volume, b"a"),
        Err(crate::volume::Error::Key(
            crate::keys::KeyError::InvalidState(_)
        ))
    ));
}

#[test]
fn looking_at_a_file_all_the_while_loses_nothing() {
    let mut bench = Bench::new(Suite::Gcm);
    let volume = bench.open();
    let root = volume.root();
    put(&volume, &root, b"a", b"data");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    assert_eq!(get(&volume, b"a"), Ok(b"data".to_vec()));
                    assert_eq!(list(&volume, &root).unwrap(), [b"a"]);
                }
            });
        }
        let mut files = 0;
        for _ in 0..200 {
            files += rekey(&volume, b"a").unwrap().files;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(files > 0, "it went through between two looks");
    });
    assert_eq!(hidden(&*bench.store), 0);
}
