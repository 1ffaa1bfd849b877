//! Files that are opened when they are needed, by who names them by their nodes.

use super::*;
use crate::store::{Call, FailingStore, RenameMode};
use crate::volume::Node;

const TEXT: &[u8] = b"what was written";

/// A volume used so, and a way to break it.
fn by_need(suite: Suite) -> (Arc<Volume>, Arc<FailingStore>) {
    let bench = Bench::new(suite);
    let store = Arc::new(FailingStore::new(bench.store.clone()));
    let volume = bench.open_on(store.clone());
    volume.open_by_need();
    (volume, store)
}

/// A file that the caller knows, settled and closed.
fn made(volume: &Volume, name: &[u8]) -> Arc<Node> {
    let made = volume.create(&volume.root(), name, 0o644, &me(), READ_WRITE);
    let (node, _, file) = made.unwrap();
    node.hold(1);
    volume.write(&file, 0, TEXT).unwrap();
    volume.keep_open(file);
    at_rest(volume);
    node
}

fn at_rest(volume: &Volume) {
    volume.settler.settle_all().unwrap();
    volume.held.close_all();
}

fn read(volume: &Volume, node: &Arc<Node>) -> Result<Vec<u8>> {
    let file = volume.file(node, false)?;
    let mut bytes = vec![0; 100];
    let len = volume.read(&file, 0, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads and writes a file whose last name went, open or not, until its node is let go.
fn goes_on(volume: &Volume, node: &Arc<Node>) {
    assert_eq!(read(volume, node).unwrap(), TEXT);
    volume.held.close_all();
    let file = volume.file(node, true).unwrap();
    volume.write(&file, 0, b"W").unwrap();
    volume.fsync(&file, false).unwrap();
    drop(file);
    at_rest(volume);
    assert_eq!(read(volume, node).unwrap(), [b"W", &TEXT[1..]].concat());
    assert_eq!(volume.files.all_live().len(), 1);
    node.let_go(1);
    volume.let_go_file(node);
}

#[test]
fn a_removed_file_is_there_until_its_node_is_let_go() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let (volume, _) = by_need(suite);
        let node = made(&volume, b"f");
        assert_eq!(volume.files.all_live().len(), 0, "it is closed");
        volume.unlink(&volume.root(), b"f").unwrap();
        goes_on(&volume, &node);
        drop(node);
        assert_eq!(volume.files.all_live().len(), 0, "its space is free");
        volume.close().unwrap();
    }
}

/// A request that found the file closed, and then no name of it.
#[test]
fn who_needs_a_file_while_its_last_name_goes_gets_it() {
    for suite in [Suite::Gcm, Suite::Xts] {
        let (volume, _) = by_need(suite);
        let (root, both) = (volume.root(), std::sync::Barrier::new(2));
        for round in 0..2000_u32 {
            let name = round.to_string();
            let node = made(&volume, name.as_bytes());
            let seen = std::thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    both.wait();
                    (0..round % 500 * 10).for_each(|_| std::hint::spin_loop());
                    read(&volume, &node)
                });
                both.wait();
                volume.unlink(&root, name.as_bytes()).unwrap();
                reading.join().unwrap()
            });
            assert_eq!(seen.unwrap(), TEXT, "round {round}");
            node.let_go(1);
            volume.let_go_file(&node);
        }
    }
}

#[test]
fn so_is_one_that_another_took_the_place_of_and_one_with_a_name_that_nobody_knows() {
    for suite in [Suite::Gcm, Suite::Xts] {
        for replaced in [false, true] {
            let mut bench = Bench::new(suite);
            let volume = bench.open();
            let root = volume.root();
            let first = volume.create(&root, b"f", 0o644, &me(), READ_WRITE);
            let (node, _, file) = first.unwrap();
            volume.write(&file, 0, TEXT).unwrap();
            drop(file);
            volume.link(&node, &root, b"unknown").unwrap();
            let other = volume.create(&root, b"other", 0o644, &me(), READ_WRITE);
            drop((node, other));
            volume.close().unwrap();
            let volume = bench.open();
            volume.open_by_need();
            let root = volume.root();
            let (node, _) = volume.lookup(&root, b"f").unwrap();
            node.hold(1);
            if replaced {
                let renamed = volume.rename(&root, b"other", &root, b"f", RenameMode::Replace);
                renamed.unwrap();
            } else {
                volume.unlink(&root, b"f").unwrap();
            }
            goes_on(&volume, &node);
        }
    }
}

#[test]
fn one_with_another_known_name_is_opened_by_that() {
    let (volume, _) = by_need(Suite::Gcm);
    let (root, node) = (volume.root(), made(&volume, b"f"));
    volume.link(&node, &root, b"g").unwrap();
    at_rest(&volume);
    volume.unlink(&root, b"f").unwrap();
    assert_eq!(volume.files.all_live().len(), 0, "nothing is kept");
    assert_eq!(read(&volume, &node).unwrap(), TEXT);
}

#[test]
fn a_name_does_not_go_without_a_descriptor_for_what_it_leads_to() {
    let (volume, store) = by_need(Suite::Gcm);
    let (root, node) = (volume.root(), made(&volume, b"f"));
    drop(made(&volume, b"other"));
    for errno in [libc::EMFILE, libc::ENFILE] {
        store.fail_from(&[Call::Open], 0, errno);
        assert_eq!(code(&volume.unlink(&root, b"f")), errno);
        let renamed = volume.rename(&root, b"other", &root, b"f", RenameMode::Replace);
        assert_eq!(code(&renamed), errno);
        store.heal();
        assert_eq!(read(&volume, &node).unwrap(), TEXT);
        at_rest(&volume);
    }
    // One more is to be had once others are closed.
    let _ = volume.file(&node, false).unwrap();
    let other = made(&volume, b"third");
    store.fail_once(&[Call::Open], 0, libc::EMFILE);
    assert_eq!(read(&volume, &other).unwrap(), TEXT);
    // What cannot be opened anyway can be removed.
    at_rest(&volume);
    store.fail_from(&[Call::Open], 0, libc::EIO);
    volume.unlink(&root, b"third").unwrap();
    assert_eq!(code(&read(&volume, &other)), libc::ENOENT);
}

#[test]
fn what_fails_to_be_removed_is_there_as_before() {
    let (volume, store) = by_need(Suite::Gcm);
    let (root, node) = (volume.root(), made(&volume, b"f"));
    store.fail_once(&[Call::Remove], 0, libc::EROFS);
    assert_eq!(code(&volume.unlink(&root, b"f")), libc::EROFS);
    assert_eq!(volume.files.all_live().len(), 0);
    assert_eq!(read(&volume, &node).unwrap(), TEXT);
}

#[test]
fn files_are_closed_when_nobody_needed_them_for_a_while_and_where_too_many_are_open() {
    let (volume, _) = by_need(Suite::Gcm);
    let nodes: Vec<_> = (0..2000)
        .map(|n| made(&volume, format!("f{n}").as_bytes()))
        .collect();
    for node in &nodes {
        assert_eq!(read(&volume, node).unwrap(), TEXT);
    }
    let open = volume.files.all_live().len();
    assert!((500..=1024).contains(&open), "{open}");
    volume.held.close_idle();
    let needed = volume.file(&nodes[0], false).unwrap();
    volume.held.close_idle();
    assert_eq!(volume.files.all_live().len(), 1);
    volume.held.close_idle();
    assert_eq!(read(&volume, &nodes[0]).unwrap(), TEXT);
    drop(needed);
    volume.held.close_idle();
    volume.held.close_idle();
    assert_eq!(volume.files.all_live().len(), 0);
}

#[test]
fn a_file_open_for_reading_is_opened_to_write() {
    let (volume, _) = by_need(Suite::Xts);
    let node = made(&volume, b"f");
    let reading = volume.file(&node, false).unwrap();
    let writing = volume.file(&node, true).unwrap();
    volume.write(&writing, 0, b"W").unwrap();
    assert!(Arc::ptr_eq(&writing, &volume.file(&node, false).unwrap()));
    let mut byte = [0];
    volume.read(&reading, 0, &mut byte).unwrap();
    assert_eq!(&byte, b"W");
}
