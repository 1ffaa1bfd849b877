//! What every store must do, run over each of them: a real directory, memory, and a failing store without a plan.
//! One function a behaviour; the stores run all of it or say so by failing.

mod files;
mod names;
mod trees;

use std::io;
use std::sync::Arc;

use super::{Dir, Entry, FailingStore, MemoryStore, RealStore, Store};

/// Runs a behaviour over every store.
fn over_all_stores(behaviour: impl Fn(&Arc<dyn Dir>, &dyn Store)) {
    let folder = tempfile::tempdir().unwrap();
    let real = RealStore::open(folder.path()).unwrap();
    behaviour(&real.root(), &real);
    let memory = MemoryStore::new();
    behaviour(&memory.root(), &memory);
    let failing = FailingStore::new(Arc::new(MemoryStore::new()));
    behaviour(&failing.root(), &failing);
}

/// The errno of a call that must fail.
fn code<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("the call went well"),
        Err(error) => error
            .raw_os_error()
            .unwrap_or_else(|| panic!("no errno in {error:?}")),
    }
}

/// The whole of a directory.
fn list(dir: &dyn Dir) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let batch = dir
            .entries(all.last().map_or(0, |entry| entry.next))
            .unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

fn names(dir: &dyn Dir) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = list(dir).into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

/// Makes a file with this content.
fn put(dir: &dyn Dir, name: &[u8], content: &[u8]) {
    dir.create(name, 0o644)
        .unwrap()
        .write_at(content, 0)
        .unwrap();
}

/// The content of a file.
fn content(dir: &dyn Dir, name: &[u8]) -> Vec<u8> {
    let file = dir.open(name, super::Access::Read).unwrap();
    let mut bytes = vec![0; file.stat().unwrap().size as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}
