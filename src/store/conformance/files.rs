//! Open files: bytes, holes, locks, attributes, xattrs.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, IoSliceMut};

use super::{code, content, over_all_stores, put};
use crate::repeated::Rng;
use crate::store::{
    Access, Allocate, Kind, MemoryStore, Pages, SetTimes, Store, Taken, Time, TimeSpec, Xattrs,
};

#[test]
fn reads_back_what_was_written_and_is_short_only_at_the_end() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        file.write_at(b"hello", 10).unwrap();
        let mut buf = [9; 20];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 15);
        assert_eq!(&buf[..15], b"\0\0\0\0\0\0\0\0\0\0hello");
        assert_eq!(file.read_at(&mut buf, 15).unwrap(), 0);
        assert_eq!(file.read_at(&mut buf, 1 << 40).unwrap(), 0);
        assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
        file.write_at(b"", 100).unwrap();
        assert_eq!(file.stat().unwrap().size, 15);
    });
}

#[test]
fn takes_more_buffers_than_the_kernel_does_in_one_call() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        let pieces: Vec<Vec<u8>> = (0..2500u32)
            .map(|n| vec![n as u8; (n % 7) as usize])
            .collect();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_vectored_at(&slices, 3).unwrap();
        let whole = pieces.concat();
        assert_eq!(content(&**root, b"f")[3..], whole);

        let mut back: Vec<Vec<u8>> = pieces.iter().map(|piece| vec![0; piece.len()]).collect();
        let mut room = [0; 100];
        let mut slices: Vec<_> = back
            .iter_mut()
            .map(|piece| IoSliceMut::new(piece))
            .collect();
        slices.push(IoSliceMut::new(&mut room));
        assert_eq!(file.read_vectored_at(&mut slices, 3).unwrap(), whole.len());
        assert_eq!(back, pieces);
    });
}

#[test]
fn passes_over_a_thousand_empty_buffers() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        let mut slices = vec![IoSlice::new(b"x")];
        slices.extend(vec![IoSlice::new(b""); 3000]);
        slices.push(IoSlice::new(b"y"));
        file.write_vectored_at(&slices, 0).unwrap();
        assert_eq!(content(&**root, b"f"), b"xy");
        file.write_vectored_at(&[], 0).unwrap();

        let (mut first, mut last) = ([0; 1], [0; 1]);
        let mut empty = [[0u8; 0]; 3000];
        let mut slices = vec![IoSliceMut::new(&mut first)];
        slices.extend(empty.iter_mut().map(|none| IoSliceMut::new(none)));
        slices.push(IoSliceMut::new(&mut last));
        assert_eq!(file.read_vectored_at(&mut slices, 0).unwrap(), 2);
        assert_eq!((first, last), (*b"x", *b"y"));
    });
}

#[test]
fn a_file_open_for_reading_cannot_be_changed() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"old");
        let file = root.open(b"f", Access::Read).unwrap();
        assert_eq!(code(file.write_at(b"new", 0)), libc::EBADF);
        assert_eq!(code(file.set_len(0)), libc::EINVAL);
        assert_eq!(code(file.allocate(Allocate::Punch, 0, 3)), libc::EBADF);
        assert_eq!(content(&**root, b"f"), b"old");
    });
}

#[test]
fn shows_zeros_where_a_file_was_cut_and_grown_again() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        file.write_at(&[7; 9000], 0).unwrap();
        file.set_len(4100).unwrap();
        file.set_len(9000).unwrap();
        let bytes = content(&**root, b"f");
        assert!(bytes[..4100].iter().all(|&b| b == 7) && bytes[4100..].iter().all(|&b| b == 0));
    });
}

#[test]
fn an_end_past_the_longest_file_is_refused() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        assert_eq!(code(file.write_at(b"x", u64::MAX)), libc::EINVAL);
        assert_eq!(code(file.write_at(b"x", i64::MAX as u64)), libc::EINVAL);
        assert_eq!(
            code(file.allocate(Allocate::Punch, i64::MAX as u64, 1)),
            libc::EFBIG
        );
        assert_eq!(code(file.set_len(u64::MAX)), libc::EINVAL);
        assert_eq!(file.stat().unwrap().size, 0);
    });
}

#[test]
fn holes_take_no_room_and_are_skipped() {
    over_all_stores(|root, _| {
        const FAR: u64 = 1 << 40;
        let file = root.create(b"f", 0o600).unwrap();
        file.write_at(&[1; 4096], FAR).unwrap();
        file.set_len(2 * FAR).unwrap();
        file.sync_all().unwrap();
        assert!(file.stat().unwrap().blocks < 1000);
        assert_eq!(file.next_data(0).unwrap(), Some(FAR));
        assert_eq!(file.next_data(FAR + 5).unwrap(), Some(FAR + 5));
        assert_eq!(file.next_data(FAR + 4096).unwrap(), None);
        assert_eq!(file.next_data(3 * FAR).unwrap(), None);
        assert_eq!(file.next_hole(0).unwrap(), Some(0));
        assert_eq!(file.next_hole(FAR + 5).unwrap(), Some(FAR + 4096));
        assert_eq!(file.next_hole(2 * FAR).unwrap(), None);
        file.set_len(FAR + 4000).unwrap();
        assert_eq!(
            file.next_hole(FAR).unwrap(),
            Some(FAR + 4000),
            "the end counts as a hole"
        );
    });
}

#[test]
fn a_punched_range_reads_as_zeros_and_keeps_the_length() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        file.write_at(&[5; 5 * 4096], 0).unwrap();
        file.allocate(Allocate::Punch, 4000, 8292).unwrap();
        file.allocate(Allocate::Punch, 4 * 4096, 100 * 4096)
            .unwrap();
        let mut plain = vec![5; 5 * 4096];
        plain[4000..12292].fill(0);
        plain[4 * 4096..].fill(0);
        assert_eq!(content(&**root, b"f"), plain);
        assert_eq!(file.next_data(4096).unwrap(), Some(12288));
        file.allocate(Allocate::Reserve, 0, 10 * 4096).unwrap();
        assert_eq!(content(&**root, b"f"), plain);
        assert_eq!(code(file.allocate(Allocate::Reserve, 0, 0)), libc::EINVAL);
    });
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"still here");
        let file = root.open(b"f", Access::ReadWrite).unwrap();
        root.remove(b"f").unwrap();
        put(&**root, b"f", b"another");
        assert_eq!(file.stat().unwrap().nlink, 0);
        assert_ne!(file.stat().unwrap().ino, root.stat_at(b"f").unwrap().ino);
        file.write_at(b"S", 0).unwrap();
        let mut buf = [0; 10];
        file.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"Still here");
        assert_eq!(content(&**root, b"f"), b"another");
    });
}

#[test]
fn an_exclusive_lock_keeps_others_out_until_the_file_is_dropped() {
    over_all_stores(|root, _| {
        let first = root.create(b"f", 0o600).unwrap();
        let second = root.open(b"f", Access::Read).unwrap();
        assert!(first.try_lock(false).unwrap());
        assert!(second.try_lock(false).unwrap());
        assert!(!first.try_lock(true).unwrap());
        drop(second);
        assert!(first.try_lock(true).unwrap());
        let third = root.open(b"f", Access::Read).unwrap();
        assert!(!third.try_lock(false).unwrap());
        let same = first.clone();
        drop(first);
        assert!(!third.try_lock(true).unwrap());
        drop(same);
        assert!(third.try_lock(true).unwrap());
    });
}

#[test]
fn attributes_set_by_descriptor_show_by_name() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        file.set_mode(0o7654).unwrap();
        let before = root.stat_at(b"f").unwrap();
        assert_eq!(
            (before.mode, before.kind, before.nlink),
            (0o7654, Kind::File, 1)
        );
        let at = Time {
            sec: -5,
            nsec: 999_999_999,
        };
        file.set_times(SetTimes {
            atime: Some(TimeSpec::At(at)),
            mtime: None,
        })
        .unwrap();
        let after = file.stat().unwrap();
        assert_eq!((after.atime, after.mtime), (at, before.mtime));
        file.set_times(SetTimes {
            atime: None,
            mtime: Some(TimeSpec::Now),
        })
        .unwrap();
        assert!(file.stat().unwrap().mtime >= before.mtime);
        file.set_owner(Some(before.uid), None).unwrap();
        assert_eq!(code(file.set_owner(Some(u32::MAX), None)), libc::EINVAL);
        assert_eq!(
            code(root.set_owner_at(b"f", None, Some(u32::MAX))),
            libc::EINVAL
        );
    });
}

#[test]
fn xattrs_keep_create_and_replace_apart() {
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        root.make_dir(b"d", 0o700).unwrap();
        let dir = root.open_dir(b"d").unwrap();
        let by_name = root.xattrs_at(b"f").unwrap();
        check_xattrs(&*file);
        check_xattrs(&*dir);
        check_xattrs(&*by_name);

        file.set_xattr(b"user.seen", b"by descriptor", false, false)
            .unwrap();
        assert_eq!(by_name.xattr(b"user.seen").unwrap(), b"by descriptor");
    });

    fn check_xattrs(object: &(impl Xattrs + ?Sized)) {
        assert_eq!(code(object.xattr(b"user.a")), libc::ENODATA);
        assert_eq!(
            code(object.set_xattr(b"user.a", b"1", false, true)),
            libc::ENODATA
        );
        object.set_xattr(b"user.a", b"1", true, false).unwrap();
        assert_eq!(
            code(object.set_xattr(b"user.a", b"2", true, false)),
            libc::EEXIST
        );
        object
            .set_xattr(b"user.a", &[2; 3000], false, true)
            .unwrap();
        object
            .set_xattr(b"user.\xff\x80", b"", false, false)
            .unwrap();
        assert_eq!(object.xattr(b"user.a").unwrap(), [2; 3000]);
        assert_eq!(object.xattr(b"user.\xff\x80").unwrap(), b"");
        let mut names = object.xattr_names().unwrap();
        names.retain(|name| name.starts_with(b"user."));
        names.sort();
        assert_eq!(names, [&b"user.a"[..], b"user.\xff\x80"]);
        object.remove_xattr(b"user.a").unwrap();
        object.remove_xattr(b"user.\xff\x80").unwrap();
        assert_eq!(code(object.remove_xattr(b"user.a")), libc::ENODATA);
        assert_eq!(
            code(object.set_xattr(b"nospace", b"", false, false)),
            libc::EOPNOTSUPP
        );
        assert_eq!(
            code(object.set_xattr(&[b"user.", &[b'n'; 251][..]].concat(), b"", false, false)),
            libc::ERANGE
        );
    }
}

#[test]
fn xattrs_of_a_symlink_are_its_own() {
    over_all_stores(|root, _| {
        put(&**root, b"f", b"");
        root.make_symlink(b"s", b"f").unwrap();
        root.xattrs_at(b"f")
            .unwrap()
            .set_xattr(b"user.a", b"1", false, false)
            .unwrap();
        let link = root.xattrs_at(b"s").unwrap();
        assert_eq!(code(link.xattr(b"user.a")), libc::ENODATA);
        assert_eq!(
            code(link.set_xattr(b"user.a", b"2", false, false)),
            libc::EPERM
        );
        assert_eq!(
            root.xattrs_at(b"f").unwrap().xattr(b"user.a").unwrap(),
            b"1"
        );
        let missing = root
            .xattrs_at(b"missing")
            .and_then(|missing| missing.xattr(b"user.a"));
        assert_eq!(code(missing), libc::ENOENT);
    });
}

#[test]
fn syncs_go_well_and_totals_make_sense() {
    over_all_stores(|root: &_, store: &dyn Store| {
        let file = root.create(b"f", 0o600).unwrap();
        file.will_need(0, 4096);
        file.write_back(0, 4096).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        root.sync().unwrap();
        store.sync().unwrap();
        let usage = store.usage().unwrap();
        assert!(
            usage.block_size >= 512 && usage.available <= usage.free && usage.free <= usage.blocks
        );
        assert_eq!(usage.name_max, 255);
    });
}

#[test]
fn a_read_past_the_cache_sees_what_was_written_through_it() {
    let with = Cell::new(0);
    over_all_stores(|root, _| {
        let file = root.create(b"f", 0o600).unwrap();
        let content: Vec<u8> = (0..70_001u32).map(|n| (n % 251) as u8).collect();
        file.write_at(&content, 0).unwrap();
        assert!(file.cached(0, 70_001) <= 18 << 12);
        let Some(uncached) = file.uncached() else {
            return;
        };
        with.set(with.get() + 1);
        // Not in the file's directory any more: nothing goes by a name.
        root.remove(b"f").unwrap();
        file.write_at(b"new", 8192).unwrap();
        let mut pages = Pages::new(2 << 20).unwrap();
        let read = uncached.read_at(&mut pages[..65_536], 8192).unwrap();
        assert_eq!(read, 70_001 - 8192);
        assert_eq!(pages[..3], *b"new");
        assert_eq!(pages[3..read], content[8195..]);
        assert_eq!(
            uncached.read_at(&mut pages, 1 << 20).unwrap(),
            0,
            "past the end"
        );
    });
    assert_eq!(
        with.get(),
        2,
        "memory, and a file system under TMPDIR that knows O_DIRECT"
    );
}

#[test]
fn a_streamed_write_is_seen_by_whatever_is_done_with_the_file() {
    const MIB: u64 = 1 << 20;
    let random = RefCell::new(Rng(31));
    let next = |below: u64| random.borrow_mut().below(below);
    over_all_stores(|root, store| {
        let file = root.create(b"f", 0o600).unwrap();
        file.set_len(64 * MIB).unwrap();
        let mut model = vec![0_u8; 64 << 20];
        let mut pages = Pages::new(1 << 20).unwrap();
        let put = |model: &mut Vec<u8>, at: u64, bytes: &[u8]| {
            let end = at as usize + bytes.len();
            model.resize(model.len().max(end), 0);
            model[at as usize..end].copy_from_slice(bytes);
        };
        for step in 0..600_u64 {
            let fill = step as u8;
            let page = next(14_000) << 12;
            match next(12) {
                0..6 => {
                    let first = vec![fill; 4096];
                    let second = vec![fill ^ 0x80; (16 + next(48) as usize) << 12];
                    let bufs = [IoSlice::new(&first), IoSlice::new(&second)];
                    file.write_streamed_at(&bufs, page).unwrap();
                    put(&mut model, page, &[first, second].concat());
                }
                6 => {
                    let at = page + next(4096);
                    file.write_at(&[fill; 300], at).unwrap();
                    put(&mut model, at, &[fill; 300]);
                }
                7 => {
                    let len = model.len() as u64 - next(3 * MIB);
                    file.set_len(len).unwrap();
                    model.resize(len as usize, 0);
                    file.set_len(64 * MIB).unwrap();
                    model.resize(64 << 20, 0);
                }
                8 => {
                    let (at, len) = (page, 4096 << next(8));
                    file.allocate(Allocate::Punch, at, len).unwrap();
                    put(&mut model, at, &vec![0; len as usize]);
                }
                9 => match next(4) {
                    0 => file.sync_unstreamed().unwrap(),
                    1 => file.sync_data().unwrap(),
                    2 => file.sync_all().unwrap(),
                    _ => store.sync().unwrap(),
                },
                10 => {
                    let read = file.read_at(&mut pages[..4096], page).unwrap();
                    assert!(
                        pages[..read] == model[page as usize..][..read],
                        "step {step}"
                    );
                }
                // Seldom, as a stream goes through the cache for a while after it.
                _ if step % 8 == 0 => {
                    let read = match file.uncached() {
                        Some(uncached) if next(2) == 0 => uncached.read_at(&mut pages, page),
                        _ => file.read_at(&mut pages, page),
                    };
                    let read = read.unwrap();
                    assert!(
                        pages[..read] == model[page as usize..][..read],
                        "step {step}"
                    );
                }
                _ => {}
            }
        }
        assert!(!file.has_failed());
        drop(file);
        assert!(content(&**root, b"f") == model);
    });
}

#[test]
fn takes_over_contents_with_their_holes_and_goes_its_own_way() {
    over_all_stores(|root, _| {
        let from = root.create(b"from", 0o644).unwrap();
        from.write_at(&[1; 5000], 0).unwrap();
        from.write_at(b"end", 40_000_000).unwrap();
        from.set_len(50_000_001).unwrap();
        let to = root.create(b"to", 0o600).unwrap();
        to.take_contents(&*from).unwrap();
        let (theirs, ours) = (from.stat().unwrap(), to.stat().unwrap());
        assert_eq!((ours.size, ours.mode), (50_000_001, 0o600));
        assert!(
            ours.blocks <= theirs.blocks + 16,
            "{} {}",
            ours.blocks,
            theirs.blocks
        );
        from.write_at(b"changed", 0).unwrap();
        to.write_at(b"other", 40_000_000).unwrap();
        let mut start = [0; 5001];
        to.read_at(&mut start, 0).unwrap();
        assert!(start[..5000] == [1; 5000] && start[5000] == 0);
        let mut end = [0; 5];
        from.read_at(&mut end, 40_000_000).unwrap();
        assert_eq!(&end, b"end\0\0");
        let empty = root.create(b"empty", 0o600).unwrap();
        empty
            .take_contents(&*root.create(b"none", 0o600).unwrap())
            .unwrap();
        assert_eq!(empty.stat().unwrap().size, 0);
    });
}

#[test]
fn takes_over_contents_from_another_store() {
    over_all_stores(|root, _| {
        let other = MemoryStore::new().root();
        let from = other.create(b"from", 0o644).unwrap();
        from.write_at(&[7; 3_000_000], 4096).unwrap();
        let to = root.create(b"to", 0o600).unwrap();
        assert_eq!(to.take_contents(&*from).unwrap(), Taken::Copied);
        let mut bytes = vec![0; 3_004_096];
        assert_eq!(to.read_at(&mut bytes, 0).unwrap(), bytes.len());
        assert!(bytes[..4096].iter().all(|byte| *byte == 0));
        assert!(bytes[4096..].iter().all(|byte| *byte == 7));
    });
}
