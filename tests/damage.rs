//! Damage of every region of a file: EIO or a refusal to open, never wrong bytes, and no other file is hurt (GCM-SIV).
//! For XTS the documented limits are shown as such.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;
#[path = "support/victim.rs"]
mod victim;

use std::os::unix::fs::FileExt;

use support::{SUITES, Sandbox};
use victim::*;

#[test]
fn every_header_field_and_every_region_is_guarded() {
    let victim = Victim::new(SUITES[0]);
    for (field, offset) in HEADER {
        assert_eq!(
            victim.under(|path| flip(path, *offset)),
            None,
            "{field} at {offset}"
        );
    }
    let state = active_state(&victim.target);
    for (field, offset) in STATE {
        assert_eq!(
            victim.under(|path| flip(path, state + offset)),
            None,
            "state {field}"
        );
    }
    for (record, what) in [
        (2048, "group 0"),
        (group_page(1) * PAGE, "group 1"),
        (group_page(2) * PAGE, "group 2"),
    ] {
        for field in [0, 12, 28, 29] {
            let half = active_half(&victim.target, record);
            assert_eq!(
                victim.under(|path| flip(path, half + field)),
                None,
                "record of {what}, byte {field}"
            );
        }
    }
    // A record's sequence only says which half is newer; alone, its half still opens to the right bytes.
    let sequence = active_half(&victim.target, 2048) + 30;
    assert_eq!(
        victim.under(|path| flip(path, sequence)).as_deref(),
        Some(&content(1)[..])
    );
    for group in 0..3 {
        for slot in [0, 7, 31] {
            for byte in [0, 2000, 4095] {
                let offset = slot_page(group, slot) * PAGE + byte;
                assert_eq!(
                    victim.under(|path| flip(path, offset)),
                    None,
                    "slot {slot} of group {group}, byte {byte}"
                );
            }
        }
    }
    assert_eq!(
        victim.read("target").as_deref(),
        Some(&content(1)[..]),
        "mended, it reads again"
    );
    assert_eq!(
        victim.read("other").as_deref(),
        Some(&content(2)[..]),
        "no other file is hurt"
    );
}

#[test]
fn no_single_flipped_byte_gives_other_bytes() {
    let victim = Victim::new(SUITES[0]);
    let length = victim.target.metadata().unwrap().len();
    let expected = content(1);
    let offsets = (0..4096)
        .step_by(37)
        .chain((4096..length).step_by(9973))
        .chain(length - 1240..length);
    for offset in offsets.step_by(3) {
        if let Some(read) = victim.under(|path| flip(path, offset)) {
            assert!(read == expected, "byte {offset} flipped gave other bytes");
        }
    }
}

#[test]
fn moved_zeroed_and_cut_blocks_are_refused() {
    let victim = Victim::new(SUITES[0]);
    let table = moved(&victim);
    for (what, damage) in &table {
        assert_eq!(victim.under(|path| damage(path)), None, "{what}");
    }
    assert_eq!(victim.read("target").as_deref(), Some(&content(1)[..]));
    assert_eq!(victim.read("other").as_deref(), Some(&content(2)[..]));
}

#[test]
fn a_block_of_another_volume_is_refused() {
    let victim = Victim::new(SUITES[0]);
    let stranger = Victim::new(SUITES[0]);
    let at = slot_page(0, 1) * PAGE;
    assert_eq!(
        victim.under(|path| copy(&stranger.target, at, path, at, 4096)),
        None,
        "a block"
    );
    assert_eq!(
        victim.under(|path| {
            std::fs::copy(&stranger.target, path).unwrap();
        }),
        None,
        "a whole file"
    );
}

#[test]
fn on_a_mount_damage_is_eio_in_its_block_only() {
    let victim = Victim::new(SUITES[0]);
    flip(&victim.target, slot_page(1, 0) * PAGE + 5); // block 32
    victim.sandbox.mount();
    let file = std::fs::File::open(victim.sandbox.mnt().join("target")).unwrap();
    let mut buf = vec![0; 4096];
    let error = file
        .read_exact_at(&mut buf, 32 * PAGE)
        .expect_err("a damaged block");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    file.read_exact_at(&mut buf, 100 * PAGE).unwrap();
    assert!(buf == content(1)[100 * 4096..101 * 4096]);
    assert!(std::fs::read(victim.sandbox.mnt().join("other")).unwrap() == content(2));
}

#[test]
fn without_bound_names_another_file_is_not_found_out_but_its_blocks_are() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["init", "--no-bind-names", "vault"]);
    sandbox.mount();
    std::fs::write(sandbox.mnt().join("a"), content(1)).unwrap();
    let a = stored_files(&sandbox.vault()).pop().unwrap();
    std::fs::write(sandbox.mnt().join("b"), content(2)).unwrap();
    let b = stored_files(&sandbox.vault())
        .into_iter()
        .find(|path| *path != a)
        .unwrap();
    sandbox.umount();
    std::fs::copy(&b, &a).unwrap();
    assert!(sandbox.run(&["cat", "vault", "a"]).stdout == content(2));
    flip(&a, slot_page(0, 0) * PAGE);
    assert!(!sandbox.run(&["cat", "vault", "a"]).status.success());
}

#[test]
fn xts_shows_its_documented_limits() {
    let victim = Victim::new(SUITES[1]);
    let expected = content(1);
    // A flipped bit garbles one unit of 16 bytes, unnoticed.
    let read = victim
        .under(|path| flip(path, PAGE + 100))
        .expect("XTS does not notice");
    let differing: Vec<usize> = (0..SIZE).filter(|at| read[*at] != expected[*at]).collect();
    assert!(
        !differing.is_empty() && differing.iter().all(|at| at / 16 == 100 / 16),
        "{differing:?}"
    );
    // A zeroed block is a hole, a cut is a shorter file, another file's ciphertext is another file.
    let read = victim
        .under(|path| zero(path, PAGE * 3, 4096))
        .expect("XTS does not notice");
    assert!(read[2 * 4096..3 * 4096].iter().all(|byte| *byte == 0));
    let read = victim
        .under(|path| edit(path).set_len(PAGE * 11).unwrap())
        .expect("XTS does not notice");
    assert!(read == expected[..10 * 4096]);
    let read = victim
        .under(|path| {
            std::fs::copy(&victim.other, path).unwrap();
        })
        .expect("XTS does not notice");
    assert!(read == content(2));
    // The header is guarded in both suites.
    for offset in [0, 16, 32, 48, 544, 948] {
        assert_eq!(
            victim.under(|path| flip(path, offset)),
            None,
            "header byte {offset}"
        );
    }
}
