use std::io;
use std::sync::Barrier;
use std::time::Instant;

use super::*;
use crate::repeated::Rng;
use crate::store::{MemoryStore, Store};
use crate::volume::file::Backing;

const LEN: usize = 8 << 20;

fn file(bytes: &[u8]) -> (MemoryStore, Arc<dyn File>) {
    let store = MemoryStore::new();
    let file = store.root().create(b"f", 0o600).unwrap();
    file.write_at(bytes, 0).unwrap();
    (store, file)
}

fn copied(fetch: &Fetch, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let done = fetch.copy(&mut bytes, offset);
    bytes.truncate(done);
    bytes
}

/// Waits for all that was asked for.
fn settle(fetch: &Fetch) {
    let mut state = locked(&fetch.shared.state);
    while !state.wanted.is_empty() || state.under_way.is_some() {
        state = fetch.shared.changed.wait(state).unwrap();
    }
}

/// Waits until the thread has gone.
fn wait_for_end(shared: &Shared) {
    let begun = Instant::now();
    while locked(&shared.state).running {
        assert!(begun.elapsed() < Duration::from_secs(60), "it stays");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_asked_for_is_copied_across_pieces_up_to_the_end_of_the_file() {
    let bytes = Rng(1).bytes(LEN - 1000);
    let (_store, file) = file(&bytes);
    let fetch = Fetch::default();
    assert!(copied(&fetch, 0, 4096).is_empty(), "nothing was asked for");
    assert!(fetch.ask(|| file.as_ref(), 4096..LEN as u64));
    for (offset, len) in [
        (4096, 1),
        (5000, 300_000),
        (PIECE + 4000, 2 << 20),
        (6 << 20, LEN),
    ] {
        let wanted = &bytes[offset as usize..(offset as usize + len).min(bytes.len())];
        assert!(
            copied(&fetch, offset, len) == wanted,
            "{len} bytes at {offset}"
        );
    }
    settle(&fetch);
    assert!(
        copied(&fetch, 0, 4096).is_empty(),
        "before what was asked for"
    );
    assert!(copied(&fetch, LEN as u64, 4096).is_empty(), "past the end");
}

fn lent(fetch: &Fetch, offset: u64, pages: usize) -> Option<Vec<u8>> {
    let lent = fetch.lend(offset, pages * ALIGNED)?;
    assert!(lent.page(pages).is_none(), "no more than was asked for");
    let pages = (0..pages).map(|number| lent.page(number).unwrap());
    Some(pages.collect::<Vec<_>>().concat())
}

#[test]
fn pages_are_lent_across_two_pieces_and_only_all_of_them() {
    let bytes = Rng(7).bytes(LEN - 1000);
    let (_store, file) = file(&bytes);
    let fetch = Fetch::default();
    assert!(lent(&fetch, 0, 1).is_none(), "nothing was asked for");
    assert!(fetch.ask(|| file.as_ref(), 8192..LEN as u64));
    for (offset, pages) in [
        (8192, 1),
        (12288, 64),
        (PIECE, 64),
        (PIECE + 8192 - 4096, 3),
    ] {
        let wanted = &bytes[offset as usize..][..pages * ALIGNED];
        assert!(
            lent(&fetch, offset, pages).unwrap() == wanted,
            "{pages} pages at {offset}"
        );
    }
    settle(&fetch);
    assert!(lent(&fetch, 4096, 4).is_none(), "before what was asked for");
    let end = LEN as u64 - 4096;
    assert!(lent(&fetch, end, 1).is_none(), "the file ends within it");
    assert!(lent(&fetch, end - 4096, 1).is_some());
    drop(fetch.writing());
    assert!(lent(&fetch, 8192, 1).is_none(), "a write began since");
}

#[test]
fn no_more_pieces_are_kept_than_it_says() {
    let bytes = Rng(2).bytes(LEN);
    let (_store, file) = file(&bytes);
    let fetch = Fetch::default();
    assert!(fetch.ask(|| file.as_ref(), 0..PIECE));
    for at in (0..LEN as u64).step_by(1 << 20) {
        assert!(at < PIECE || fetch.ask(|| file.as_ref(), at..at + (1 << 20)));
        assert!(copied(&fetch, at, 1 << 20) == bytes[at as usize..at as usize + (1 << 20)]);
        assert!(locked(&fetch.shared.state).pieces.len() <= KEPT);
    }
    assert!(copied(&fetch, 0, 1).is_empty(), "gone");
}

#[test]
fn a_write_makes_what_was_fetched_before_it_worthless_from_its_beginning() {
    let (_store, file) = file(&[1; LEN]);
    let backing = Backing::new(file, true);
    backing.read_ahead(0, 4 << 20);
    let mut byte = [0];
    backing.read_at(&mut byte, 1 << 20).unwrap();
    settle(&backing.fetch);
    assert_eq!(copied(&backing.fetch, 1 << 20, 1), [1]);

    let writing = backing.fetch.writing();
    assert!(
        copied(&backing.fetch, 1 << 20, 1).is_empty(),
        "a write goes on"
    );
    drop(writing);
    backing.write_at(&[2], 1 << 20).unwrap();
    assert!(copied(&backing.fetch, 1 << 20, 1).is_empty());
    backing.read_at(&mut byte, 1 << 20).unwrap();
    assert_eq!(byte, [2]);
    assert!(
        !backing.fetch.ask(|| backing.file(), 0..PIECE),
        "written meanwhile"
    );
    for change in [
        |backing: &Backing| backing.set_len(5 << 20),
        |backing: &Backing| backing.allocate(crate::store::Allocate::Punch, 0, 4096),
        |backing: &Backing| backing.write_vectored_at(&[io::IoSlice::new(&[3])], 9),
    ] {
        let before = backing.fetch.shared.begun.load(Ordering::SeqCst);
        change(&backing).unwrap();
        assert_eq!(
            backing.fetch.shared.begun.load(Ordering::SeqCst),
            before + 1
        );
        assert_eq!(
            backing.fetch.shared.ended.load(Ordering::SeqCst),
            before + 1
        );
    }
}

#[test]
fn one_reader_of_a_file_is_fetched_for_at_a_time() {
    let (_store, file) = file(&[1; LEN]);
    let fetch = Fetch::default();
    assert!(fetch.ask(|| file.as_ref(), 0..PIECE));
    assert!(
        !fetch.ask(|| file.as_ref(), 7 * PIECE..8 * PIECE),
        "another"
    );
    assert!(
        fetch.ask(|| file.as_ref(), PIECE + 4096..2 * PIECE),
        "the same"
    );
    wait_for_end(&fetch.shared);
    assert!(fetch.ask(|| file.as_ref(), 3 * PIECE..4 * PIECE));
    assert_eq!(copied(&fetch, 3 * PIECE, 1), [1]);
}

#[test]
fn no_thread_is_started_for_little() {
    let (_store, file) = file(&[1; LEN]);
    let fetch = Fetch::default();
    assert!(!fetch.ask(|| file.as_ref(), 4096..PIECE));
    assert!(!locked(&fetch.shared.state).running);
    assert!(fetch.ask(|| file.as_ref(), 0..PIECE));
    wait_for_end(&fetch.shared);
    assert!(
        !fetch.shared.active.load(Ordering::Acquire),
        "others need no lock again"
    );
}

#[test]
fn what_is_fetched_while_a_write_goes_on_is_thrown_away() {
    let (_store, file) = file(&[1; LEN]);
    let fetch = Fetch::default();
    let writing = fetch.writing();
    assert!(fetch.ask(|| file.as_ref(), 0..PIECE));
    settle(&fetch);
    drop(writing);
    assert!(copied(&fetch, 0, 4096).is_empty());
}

/// Fails, or panics, and tells when it was called.
struct Bad(Arc<Barrier>, bool);

impl Uncached for Bad {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        self.0.wait();
        assert!(!self.1, "as the test wants it");
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

#[test]
fn a_reader_goes_on_by_itself_after_an_error_and_after_a_panic() {
    for panics in [false, true] {
        let shared = Arc::new(Shared::default());
        let called = Arc::new(Barrier::new(2));
        let bad = Bad(Arc::clone(&called), panics);
        {
            let mut state = locked(&shared.state);
            state.running = true;
            state.wanted.push_back(0..PIECE);
        }
        thread::scope(|scope| {
            scope.spawn(|| shared.run(&bad));
            let reader = scope.spawn(|| shared.piece(4096).is_none());
            called.wait();
            assert!(reader.join().unwrap(), "{panics}");
            if !panics {
                locked(&shared.state).closed = true;
                shared.changed.notify_all();
            }
        });
        assert!(!locked(&shared.state).running);
    }
}

#[test]
fn only_so_many_files_at_a_time_and_one_that_is_closed_makes_room() {
    let (_store, file) = file(&[1; LEN]);
    static FEW: Permits = Permits::new(FILES);
    let mut fetches: Vec<_> = (0..FILES).map(|_| Fetch::with(&FEW)).collect();
    for fetch in &fetches {
        assert!(fetch.ask(|| file.as_ref(), 0..PIECE));
    }
    let one_more = Fetch::with(&FEW);
    assert!(!one_more.ask(|| file.as_ref(), 0..PIECE));
    assert!(copied(&one_more, 0, 1).is_empty());
    let shared = Arc::clone(&fetches.pop().unwrap().shared);
    wait_for_end(&shared);
    let begun = Instant::now();
    while !one_more.ask(|| file.as_ref(), 0..PIECE) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no room");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(copied(&one_more, 0, 1), [1]);
    // Nothing is asked for: the thread ends, and what it held is given back.
    wait_for_end(&one_more.shared);
    assert!(locked(&one_more.shared.state).pieces.is_empty());
}
