//! Random operations on a volume that goes from one `Volume` to the next while files in it are open, as `reexec` has it: over a
//! real store, since descriptors are carried.

use std::path::Path;
use std::sync::Arc;

use super::model::{Body, Model, Rng, Story, compare, count, run, walk};
use super::{Bench, READ_WRITE};
use crate::format::suite::Suite;
use crate::store::{RealStore, Store};
use crate::volume::carry::{Carried, CarriedFile, CarriedNode, Restored};
use crate::volume::{OpenFile, SetAttr, Volume};

/// A file held open, which object of the model it is, and its number.
pub(super) struct Held {
    pub(super) file: OpenFile,
    pub(super) object: usize,
    pub(super) id: u64,
}

/// Opens one of the model's files.
pub(super) fn hold(rng: &mut Rng, volume: &Volume, model: &Model) -> Option<Held> {
    let dirs = model.dirs();
    let (dir, path) = &dirs[rng.below(dirs.len())];
    let entries: Vec<_> = model.entries(*dir).iter().collect();
    let (name, object) = entries.get(rng.below(entries.len().max(1)))?;
    if !matches!(model.objects[**object].body, Body::File(_)) {
        return None;
    }
    let node = volume.lookup(&walk(volume, path), name).unwrap().0;
    Some(Held {
        id: node.id(),
        object: **object,
        file: volume.open(&node, READ_WRITE).unwrap(),
    })
}

/// Writes through a held file, which may have no name any more.
pub(super) fn write(rng: &mut Rng, volume: &Volume, model: &mut Model, held: &Held) {
    let Body::File(content) = &mut model.objects[held.object].body else {
        panic!("not a file");
    };
    let (offset, data) = (
        rng.below(9_000),
        vec![rng.below(256) as u8; 1 + rng.below(5_000)],
    );
    content.resize(content.len().max(offset + data.len()), 0);
    content[offset..offset + data.len()].copy_from_slice(&data);
    volume.write(&held.file, offset as u64, &data).unwrap();
}

pub(super) fn compare_held(volume: &Volume, model: &Model, held: &Held) {
    let object = &model.objects[held.object];
    let Body::File(content) = &object.body else {
        panic!("not a file");
    };
    let mut read = vec![0xEE; content.len() + 10];
    let len = volume.read(&held.file, 0, &mut read).unwrap();
    assert!(read[..len] == *content, "object {}", held.object);
    let attr = volume.attr(held.file.node()).unwrap();
    assert_eq!((attr.id, attr.nlink), (held.id, object.links));
    assert_eq!(attr.size, content.len() as u64);
}

/// What goes from one process to the next, through the form that it has between them.
fn by_text<T: serde::Serialize + serde::de::DeserializeOwned>(all: &[T]) -> Vec<T> {
    serde_json::from_str(&serde_json::to_string(all).unwrap()).unwrap()
}

/// The volume as the next process has it, in the same epoch.
fn gone_on(
    bench: &Bench,
    store: &Arc<dyn Store>,
    volume: &Arc<Volume>,
    all: &mut [Held],
) -> Arc<Volume> {
    volume.rest().unwrap();
    let mut carried = Carried::default();
    let places: Vec<_> = all
        .iter()
        .map(|held| carried.add_open(&held.file).unwrap())
        .collect();
    let nodes: Vec<CarriedNode> = by_text(&carried.nodes);
    let files: Vec<CarriedFile> = by_text(&carried.files);
    let descriptors = carried.descriptors.iter().map(|file| {
        let descriptor = file.descriptor().unwrap();
        store
            .file_of(descriptor.try_clone_to_owned().unwrap())
            .unwrap()
    });
    volume.leave();
    let next = bench.open_on(Arc::clone(store));
    let files = files.into_iter().zip(descriptors).collect();
    let restored = Restored::of(&next, nodes, files).unwrap();
    for (held, place) in all.iter_mut().zip(places) {
        held.file = restored.open(held.id, place, READ_WRITE).unwrap();
    }
    next
}

/// Each ends cleanly or by a kill, after it went on three times.
fn sequences(suite: Suite, count: u64, steps: usize) {
    let memory = Path::new("/dev/shm"); // a real file system whose syncs cost nothing
    for seed in 0..count {
        let place = tempfile::Builder::new()
            .prefix("strongroom-test-")
            .tempdir_in(memory)
            .unwrap();
        let store: Arc<dyn Store> = Arc::new(RealStore::open(place.path()).unwrap());
        let mut rng = Rng(seed * 6007 + 3);
        let mut story = Story(seed, Vec::new());
        let mut bench = Bench::new(suite);
        bench.epoch = 1;
        let mut model = Model::new();
        let mut volume = bench.open_on(Arc::clone(&store));
        let top = SetAttr {
            mode: Some(0o755),
            ..SetAttr::default()
        };
        volume.set_attr(&volume.root(), &top, None).unwrap();
        let mut all: Vec<Held> = Vec::new();
        for _ in 0..4 {
            for _ in 0..steps {
                let (got, want) = run(&mut rng, &volume, &mut model, &mut story, &|| {});
                assert_eq!(got, want, "{:?}", story.1.last());
                match rng.below(6) {
                    0 | 1 => all.extend(hold(&mut rng, &volume, &model)),
                    2 if !all.is_empty() => drop(all.swap_remove(rng.below(all.len()))),
                    3 if !all.is_empty() => {
                        let held = &all[rng.below(all.len())];
                        write(&mut rng, &volume, &mut model, held);
                    }
                    _ => {}
                }
            }
            story.1.push(format!("goes on with {} files", all.len()));
            volume = gone_on(&bench, &store, &volume, &mut all);
            all.iter()
                .for_each(|held| compare_held(&volume, &model, held));
            compare(&volume, &model);
        }
        drop(all);
        if rng.below(2) == 0 {
            volume.close().unwrap();
        } else {
            bench.listed.push(bench.epoch);
        }
        drop(volume);
        bench.epoch += 1;
        compare(&bench.open_on(store), &model);
    }
}

#[test]
fn open_files_go_on_with_the_volume_under_xts() {
    sequences(Suite::Xts, count(40).min(400), 25);
}

#[test]
fn open_files_go_on_with_the_volume_under_gcm_siv() {
    sequences(Suite::Gcm, count(40).min(400), 25);
}
