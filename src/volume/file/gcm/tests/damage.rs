//! An enemy at the store: whatever changes, a read is an error or the bytes that were written, never others.

use super::{Rng, bytes_of, gcm, holding, mount, open};
use crate::format::layout;
use crate::volume::error::{Error, Result};
use crate::volume::fixture::Fixture;

const BLOCKS: usize = 70;

struct Victim {
    fixture: Fixture,
    bytes: Vec<u8>,
    plain: Vec<u8>,
}

/// A settled file of two groups, its last block not full, some blocks written twice.
fn victim(seed: u64) -> Victim {
    let fixture = gcm();
    let disk = holding(b"");
    let mounted = mount(&fixture, 1, &[]);
    let file = open(&mounted, disk.clone());
    let mut rng = Rng(seed);
    let mut plain = rng.bytes((BLOCKS * 4096 - 100) as u64);
    file.write(0, &plain).unwrap();
    for block in [3, 40] {
        let data = rng.bytes(4096);
        file.write(block as u64 * 4096, &data).unwrap();
        plain[block * 4096..][..4096].copy_from_slice(&data);
    }
    mounted.settler.settle_all().unwrap();
    Victim {
        fixture,
        bytes: bytes_of(&*disk),
        plain,
    }
}

impl Victim {
    fn read(&self, bytes: Vec<u8>, listed: &[u64]) -> Result<Vec<u8>> {
        let mounted = mount(&self.fixture, 9, listed);
        let file = open(&mounted, holding(&bytes));
        let mut out = vec![0; file.size()? as usize];
        file.read(0, &mut out)?;
        Ok(out)
    }

    /// Whether it is found out; panics where other bytes are shown.
    fn is_found_out(&self, bytes: Vec<u8>, what: &str) -> bool {
        for listed in [&[][..], &[1]] {
            match self.read(bytes.clone(), listed) {
                Ok(shown) => assert!(
                    shown == self.plain,
                    "{what}: other bytes, listed {listed:?}"
                ),
                Err(Error::Damaged(_) | Error::Key(_)) if listed.is_empty() => return true,
                Err(_) => {}
            }
        }
        false
    }
}

#[test]
fn finds_out_every_flipped_sector_that_counts() {
    let victim = victim(1);
    let mut unseen = Vec::new();
    for sector in 0..victim.bytes.len() / 512 {
        let mut bytes = victim.bytes.clone();
        bytes[sector * 512 + 37] ^= 4;
        if !victim.is_found_out(bytes, &format!("sector {sector}")) {
            unseen.push(sector);
        }
    }
    // What holds nothing that is read: the unused key area, four spares and the slot that block 3 left in group 0; of group
    // 1, from page 38 on, the records past the end, five spares, the slot that block 40 left, and what the length's last
    // page says of the size.
    let pages = [4, 34, 35, 36, 37, 47, 78, 79, 80, 81, 82, 83];
    let free: Vec<usize> = pages
        .iter()
        .flat_map(|page| page * 8..page * 8 + 8)
        .collect();
    let expected = [&[2], &free[..40], &[309, 310, 311], &free[40..]].concat();
    let whole = |sectors: &[usize]| {
        sectors
            .iter()
            .copied()
            .filter(|sector| *sector < victim.bytes.len() / 512)
            .collect()
    };
    let expected: Vec<usize> = whole(&expected);
    assert_eq!(unseen, expected);
}

#[test]
fn finds_out_swapped_zeroed_and_cut_pages() {
    let victim = victim(2);
    let page = |n: usize| n * 4096..(n + 1) * 4096;
    let mut swapped = victim.bytes.clone();
    let (a, b) = (
        victim.bytes[page(6)].to_vec(),
        victim.bytes[page(7)].to_vec(),
    );
    swapped[page(6)].copy_from_slice(&b);
    swapped[page(7)].copy_from_slice(&a);
    assert!(victim.is_found_out(swapped, "swapped slots"));
    for zeroed in [0, 1, 38, 39] {
        let mut bytes = victim.bytes.clone();
        bytes[page(zeroed)].fill(0);
        assert!(victim.is_found_out(bytes, &format!("zeroed page {zeroed}")));
    }
    let mut records = victim.bytes.clone();
    let (a, b) = (records[2048..2112].to_vec(), records[2112..2176].to_vec());
    records[2048..2112].copy_from_slice(&b);
    records[2112..2176].copy_from_slice(&a);
    assert!(victim.is_found_out(records, "swapped records"));
    for len in [
        victim.bytes.len() - 1,
        victim.bytes.len() - 4096,
        38 * 4096,
        4096,
        100,
    ] {
        assert!(victim.is_found_out(victim.bytes[..len].to_vec(), &format!("cut to {len}")));
    }
    let longer = [victim.bytes.clone(), vec![0; 4096]].concat();
    assert!(victim.is_found_out(longer, "a page more"));
}

#[test]
fn finds_out_a_file_in_the_place_of_another() {
    let fixture = gcm();
    let disk = holding(b"");
    let mounted = mount(&fixture, 1, &[]);
    open(&mounted, disk.clone()).write(0, b"mine").unwrap();
    mounted.settler.settle_all().unwrap();
    let again = mount(&fixture, 2, &[]);
    let other = crate::volume::file::FileState::new(
        &again.env,
        &again.settler,
        holding(&bytes_of(&*disk)),
        true,
        crate::volume::fixture::place("g"),
        again.env.root.clone(),
    );
    let error = other.load(&crate::volume::fixture::place("g"));
    assert!(matches!(error, Err(Error::Damaged(_))), "{error:?}");
    open(&again, holding(&bytes_of(&*disk)))
        .load(&crate::volume::fixture::place("f"))
        .unwrap();
}

#[test]
fn damage_in_a_file_that_is_fetched_ahead_is_found_where_it_is() {
    const REQUEST: usize = 128 << 10;
    let fixture = gcm();
    let disk = holding(b"");
    let mounted = mount(&fixture, 1, &[]);
    let file = open(&mounted, disk.clone());
    let mut rng = Rng(21);
    let plain = rng.bytes(6 << 20);
    file.write(0, &plain).unwrap();
    mounted.settler.settle_all().unwrap();
    let bytes = bytes_of(&*disk);
    for block in [0, 31, 32, 95, 500, 1023] {
        let mut bytes = bytes.clone();
        let group = layout::group_of(block);
        let slot = (block - layout::first_block(group)) as u8;
        bytes[layout::slot_offset(group, slot) as usize + 4000] ^= 1;
        let mounted = mount(&fixture, 9, &[]);
        let file = open(&mounted, holding(&bytes));
        file.read_ahead(0, plain.len() as u64);
        for (number, wanted) in plain.chunks(REQUEST).enumerate() {
            let mut out = vec![0; REQUEST];
            let read = file.read((number * REQUEST) as u64, &mut out);
            match number == block as usize * 4096 / REQUEST {
                true => assert!(matches!(read, Err(Error::Damaged(_))), "block {block}"),
                false => assert!(read.is_ok() && out == wanted, "request {number}"),
            }
        }
    }
}
