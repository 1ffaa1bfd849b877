//! How fast a core encrypts blocks: one at a time, as many as a small write has, a request of 1 MiB; on this processor's wide
//! instructions and without them; beside the crates that do one message at a time. Prints a table in Markdown.
//!
//! Time is the thread's own, so that what else runs on the machine counts little; the median of 25 rounds.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that fails has no result

mod timing;

use std::hint::black_box;

use aes::Aes256;
use aes::cipher::KeyInit;
use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::AeadInOut;
use strongroom::crypto::{GcmSiv, Message, Secret, Xts};
use timing::seconds;
use xts_mode::Xts128;

const BLOCK: usize = 4096;
/// Blocks of a call.
const COUNTS: [usize; 3] = [1, 16, 256];

fn main() {
    println!(
        "| MB/s of one core | {} |",
        COUNTS.map(|count| format!("{count} x 4 KiB")).join(" | ")
    );
    println!("|---|{}", "---|".repeat(COUNTS.len()));
    let key = Secret::random();
    gcm_siv("wide where there is", &GcmSiv::new(&key));
    gcm_siv("portable", &GcmSiv::portable(&key));
    one_message_at_a_time(&Aes256GcmSiv::new(key.expose().into()));
    let key = Secret::random();
    xts("wide where there is", &Xts::new(&key).unwrap());
    xts("portable", &Xts::portable(&key).unwrap());
    one_aes_block_at_a_time(key.expose());
}

fn gcm_siv(name: &str, cipher: &GcmSiv) {
    let mut text = vec![7; COUNTS[2] * BLOCK];
    row(&format!("GCM-SIV seal, {name}"), |count| {
        let mut messages = messages(&mut text[..count * BLOCK], &[]);
        rate(count, || cipher.seal_all(&mut messages))
    });
    row(&format!("GCM-SIV open, {name}"), |count| {
        let mut messages = messages(&mut text[..count * BLOCK], &[]);
        cipher.seal_all(&mut messages);
        let tags: Vec<_> = messages.iter().map(|message| message.tag).collect();
        let sealed: Vec<_> = messages
            .iter()
            .flat_map(|message| message.text.to_vec())
            .collect();
        let mut pages = sealed.clone();
        // What is opened must be sealed each time; its copy is timed apart and taken off.
        let copying = seconds(|| pages.copy_from_slice(black_box(&sealed)));
        let both = seconds(|| {
            pages.copy_from_slice(black_box(&sealed));
            let failed = cipher.open_all(&mut self::messages(&mut pages, &tags));
            assert!(failed.is_empty());
        });
        megabytes(count) / (both - copying)
    });
}

fn one_message_at_a_time(cipher: &Aes256GcmSiv) {
    let mut text = vec![7; COUNTS[2] * BLOCK];
    row("GCM-SIV seal, crate `aes-gcm-siv`", |count| {
        rate(count, || {
            for block in text[..count * BLOCK].chunks_exact_mut(BLOCK) {
                let sealed = cipher.encrypt_inout_detached(&[1; 12].into(), &[2; 30], block.into());
                black_box(sealed.unwrap());
            }
        })
    });
}

fn xts(name: &str, cipher: &Xts) {
    let mut text = vec![7; COUNTS[2] * BLOCK];
    row(&format!("XTS encrypt, {name}"), |count| {
        rate(count, || cipher.encrypt(5, &mut text[..count * BLOCK]))
    });
    row(&format!("XTS decrypt, {name}"), |count| {
        rate(count, || cipher.decrypt(5, &mut text[..count * BLOCK]))
    });
}

fn one_aes_block_at_a_time(key: &[u8; 64]) {
    let half = |half: &[u8]| Aes256::new_from_slice(half).unwrap();
    let cipher = Xts128::new(half(&key[..32]), half(&key[32..]));
    let mut text = vec![7; COUNTS[2] * BLOCK];
    row("XTS encrypt, crate `xts-mode`", |count| {
        rate(count, || {
            let area = &mut text[..count * BLOCK];
            cipher.encrypt_area(area, BLOCK, 5, |unit| unit.to_le_bytes().into());
        })
    });
}

fn messages<'a>(text: &'a mut [u8], tags: &[[u8; 16]]) -> Vec<Message<'a, [u8; 30]>> {
    let tags = tags.iter().copied().chain(std::iter::repeat([0; 16]));
    let blocks = text.chunks_exact_mut(BLOCK).zip(tags);
    blocks
        .map(|(text, tag)| Message {
            nonce: [1; 12],
            aad: [2; 30],
            text,
            from: None,
            tag,
        })
        .collect()
}

fn row(name: &str, mut rate: impl FnMut(usize) -> f64) {
    timing::row(name, &COUNTS.map(|count| format!("{:.0}", rate(count))));
}

fn rate(count: usize, call: impl FnMut()) -> f64 {
    megabytes(count) / seconds(call)
}

fn megabytes(count: usize) -> f64 {
    (count * BLOCK) as f64 / 1e6
}
