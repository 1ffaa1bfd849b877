//! The redo file by itself: when it is made, what is not taken for it, which copies stay.

use std::sync::Arc;

use crate::format::ids::FileId;
use crate::format::names::REDO;
use crate::format::redo::{ENTRIES, ENTRY_LEN, Entry, LEN, entry_offset};
use crate::store::{Access, Call, Dir, FailingStore, Kind, MemoryStore, Store};
use crate::volume::redo::{FOUND, Redo, Use};

const WRITER: Use = Use {
    writes: true,
    makes: true,
    in_doubt: false,
};
const AFTER_A_CRASH: Use = Use {
    in_doubt: true,
    ..WRITER
};
const READER: Use = Use {
    writes: false,
    makes: false,
    in_doubt: true,
};

fn root() -> Arc<dyn Dir> {
    MemoryStore::new().root()
}

fn entry(file: u8, block: u64) -> Entry {
    Entry {
        file: FileId([file; 16]),
        block,
    }
}

fn keep(redo: &Redo, file: u8, blocks: std::ops::Range<u64>) -> u64 {
    let stamp = redo.next_stamp();
    let pages: Vec<_> = blocks.map(|block| (block, [block as u8; 4096])).collect();
    let copies: Vec<_> = pages
        .iter()
        .map(|(block, page)| (entry(file, *block), page))
        .collect();
    redo.turn().unwrap().keep(&copies, stamp).unwrap();
    stamp
}

fn room(redo: &Redo) -> usize {
    redo.turn().unwrap().room()
}

/// Whether the copy of this block, which holds its number, is there.
fn has(redo: &Redo, file: u8, block: u64) -> bool {
    let copies = redo.copies(entry(file, block));
    assert!(copies.iter().all(|copy| *copy == [block as u8; 4096]));
    !copies.is_empty()
}

#[test]
fn it_is_made_once_by_who_may_need_it() {
    let root = root();
    let idle = Use {
        makes: false,
        ..WRITER
    };
    assert!(Redo::open(&root, idle).turn().is_none());
    assert!(Redo::open(&root, READER).turn().is_none());
    assert!(root.stat_at(REDO).is_err());
    assert_eq!(room(&Redo::open(&root, WRITER)), ENTRIES);
    let made = root.stat_at(REDO).unwrap();
    assert_eq!((made.size, made.blocks * 512), (LEN, LEN));
    assert!(Redo::open(&root, AFTER_A_CRASH).turn().is_some());
    assert!(Redo::open(&root, READER).turn().is_none());
    assert_eq!(root.stat_at(REDO).unwrap().ino, made.ino);
    assert_eq!(root.entries(0).unwrap().len(), 1, "nothing hidden is left");
}

#[test]
fn what_is_no_file_of_ours_is_replaced_and_not_written_to() {
    type Plant = fn(&Arc<dyn Dir>);
    let plants: [(&str, Plant); 5] = [
        ("a link", |root| root.make_symlink(REDO, b"other").unwrap()),
        ("a fifo", |root| {
            root.make_node(REDO, Kind::Fifo, 0o600, 0).unwrap()
        }),
        ("another name of a file", |root| {
            root.link(b"other", &**root, REDO).unwrap()
        }),
        ("another length", |root| {
            let file = root.create(REDO, 0o600).unwrap();
            file.write_at(&[1; 5000], 0).unwrap();
        }),
        ("a file without its room", |root| {
            let file = root.create(REDO, 0o600).unwrap();
            file.set_len(LEN).unwrap();
        }),
    ];
    for (what, plant) in plants {
        for how in [WRITER, AFTER_A_CRASH] {
            let root = root();
            let other = root.create(b"other", 0o600).unwrap();
            other.write_at(&[9; LEN as usize], 0).unwrap();
            plant(&root);
            let redo = Redo::open(&root, READER);
            assert!(redo.copies(entry(1, 1)).is_empty(), "{what}");
            let redo = Redo::open(&root, how);
            keep(&redo, 1, 0..3);
            assert!(has(&redo, 1, 2), "{what}");
            let mut bytes = vec![0; LEN as usize];
            other.read_at(&mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 9), "{what}");
        }
    }
}

#[test]
fn where_it_cannot_be_there_is_none() {
    let root = root();
    root.make_dir(REDO, 0o700).unwrap();
    assert!(Redo::open(&root, WRITER).turn().is_none());
    for call in [Call::Create, Call::Write, Call::SyncFile, Call::Rename] {
        let store = FailingStore::new(Arc::new(MemoryStore::new()));
        store.fail_once(&[call], 0, libc::ENOSPC);
        assert!(Redo::open(&store.root(), WRITER).turn().is_none());
        assert!(store.root().entries(0).unwrap().is_empty(), "{call:?}");
    }
}

#[test]
fn copies_go_when_their_file_is_durable_and_found_ones_when_it_is_mended() {
    let root = root();
    let redo = Redo::open(&root, WRITER);
    keep(&redo, 1, 0..2);
    let second = keep(&redo, 1, 2..4);
    keep(&redo, 2, 0..1);
    redo.let_go(&FileId([1; 16]), 1..=second - 1);
    assert!(!has(&redo, 1, 1) && has(&redo, 1, 2) && has(&redo, 2, 0));
    let torn = root.open(REDO, Access::ReadWrite).unwrap();
    torn.write_at(&[7; 20], entry_offset(9)).unwrap();
    // After a crash.
    let redo = Redo::open(&root, AFTER_A_CRASH);
    assert_eq!(room(&redo), ENTRIES - 3);
    let own = keep(&redo, 1, 4..6);
    redo.let_go(&FileId([1; 16]), 1..=own);
    assert!(has(&redo, 1, 2) && has(&redo, 1, 3) && !has(&redo, 1, 4));
    assert!(has(&Redo::open(&root, READER), 2, 0));
    redo.let_go(&FileId([1; 16]), FOUND);
    assert!(!has(&redo, 1, 2) && has(&redo, 2, 0));
    assert_eq!(room(&redo), ENTRIES - 1);
    let again = Redo::open(&root, AFTER_A_CRASH);
    assert!(!has(&again, 1, 2) && has(&again, 2, 0));
    again.let_all_go();
    assert_eq!(room(&Redo::open(&root, AFTER_A_CRASH)), ENTRIES);
    // Without an unclean end nobody needs what stands there.
    keep(&again, 3, 0..1);
    assert_eq!(room(&Redo::open(&root, WRITER)), ENTRIES);
}

#[test]
fn what_is_needed_is_not_written_over() {
    let root = root();
    let redo = Redo::open(&root, WRITER);
    keep(&redo, 1, 0..ENTRIES as u64);
    let turn = redo.turn().unwrap();
    let refused = turn.keep(&[(entry(2, 0), &[0; 4096])], 9).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    drop(turn);
    assert!((0..ENTRIES as u64).all(|block| has(&redo, 1, block)));
    let mut entries = [0; 4096];
    let file = root.open(REDO, Access::Read).unwrap();
    file.read_at(&mut entries, 0).unwrap();
    assert!(entries[ENTRIES * ENTRY_LEN..].iter().all(|byte| *byte == 0));
}
