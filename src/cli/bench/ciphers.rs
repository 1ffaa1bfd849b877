//! How fast the two suites are on one core: single blocks of 4 KiB, as a random write has them, and 1 MiB with one call,
//! as a stream.

use std::time::Duration;

use super::clock::own_time;
use super::stop;
use crate::cli::args::Cipher;
use crate::crypto::{GcmSiv, Message, NotAuthentic, Secret, Xts, random_bytes};

/// Bytes of a block.
const BLOCK: usize = 4096;
const STREAM: usize = 1 << 20;
/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(200);

/// The speed of a suite.
pub(super) struct Speed {
    pub(super) cipher: Cipher,
    /// Bytes at a time.
    pub(super) bytes: usize,
    /// MB/s.
    pub(super) seal: f64,
    /// MB/s.
    pub(super) open: f64,
}

/// Measures both suites.
pub(super) fn measure() -> anyhow::Result<Vec<Speed>> {
    let mut speeds = Vec::new();
    for bytes in [BLOCK, STREAM] {
        speeds.push(gcm_siv(bytes)?);
    }
    for bytes in [BLOCK, STREAM] {
        speeds.push(xts(bytes)?);
    }
    Ok(speeds)
}

/// Each block has a nonce and a tag of its own, as in a file.
fn gcm_siv(bytes: usize) -> anyhow::Result<Speed> {
    let cipher = GcmSiv::new(&Secret::random());
    let (mut nonce, mut data) = ([0; 12], noise());
    random_bytes(&mut nonce);
    let mut tags = vec![[0; 16]; STREAM / BLOCK];
    let mut seal_all = |data: &mut Vec<u8>| {
        let tags = tags.chunks_mut(bytes / BLOCK);
        for (call, tags) in data.chunks_mut(bytes).zip(tags) {
            let mut messages = messages(call, nonce, tags);
            cipher.seal_all(&mut messages);
            tags.iter_mut()
                .zip(messages)
                .for_each(|(tag, message)| *tag = message.tag);
        }
        Ok(())
    };
    let seal = rate(&mut data, |_| (), &mut seal_all)?;
    let plain = data.clone();
    seal_all(&mut data)?;
    let sealed = data.clone();
    // What was opened once is no ciphertext any more.
    let open = rate(
        &mut data,
        |data| data.copy_from_slice(&sealed),
        |data| {
            let calls = data.chunks_mut(bytes).zip(tags.chunks(bytes / BLOCK));
            for (call, tags) in calls {
                if !cipher.open_all(&mut messages(call, nonce, tags)).is_empty() {
                    return Err(NotAuthentic);
                }
            }
            Ok(())
        },
    )?;
    anyhow::ensure!(
        data == plain,
        "AES-256-GCM-SIV does not open what it sealed"
    );
    Ok(Speed {
        cipher: Cipher::GcmSiv,
        bytes,
        seal,
        open,
    })
}

fn messages<'a>(
    text: &'a mut [u8],
    nonce: [u8; 12],
    tags: &[[u8; 16]],
) -> Vec<Message<'a, &'static [u8]>> {
    let blocks = text.chunks_mut(BLOCK).zip(tags);
    blocks
        .map(|(text, tag)| Message {
            nonce,
            aad: b"bench".as_slice(),
            text,
            from: None,
            tag: *tag,
        })
        .collect()
}

fn xts(bytes: usize) -> anyhow::Result<Speed> {
    let cipher = Xts::new(&Secret::random())?;
    let mut data = noise();
    let plain = data.clone();
    let mut encrypt = |data: &mut Vec<u8>| {
        data.chunks_mut(bytes)
            .for_each(|pages| cipher.encrypt(0, pages));
        Ok(())
    };
    let seal = rate(&mut data, |data| data.copy_from_slice(&plain), &mut encrypt)?;
    let sealed = data.clone();
    let open = rate(
        &mut data,
        |data| data.copy_from_slice(&sealed),
        |data| {
            data.chunks_mut(bytes)
                .for_each(|pages| cipher.decrypt(0, pages));
            Ok(())
        },
    )?;
    anyhow::ensure!(data == plain, "AES-256-XTS does not open what it sealed");
    Ok(Speed {
        cipher: Cipher::Xts,
        bytes,
        seal,
        open,
    })
}

fn noise() -> Vec<u8> {
    let mut data = vec![0; STREAM];
    random_bytes(&mut data);
    data
}

/// MB/s of a call on 1 MiB, without what prepares it; of the time that this thread had a core.
fn rate(
    data: &mut Vec<u8>,
    mut prepare: impl FnMut(&mut Vec<u8>),
    mut call: impl FnMut(&mut Vec<u8>) -> Result<(), NotAuthentic>,
) -> anyhow::Result<f64> {
    stop::check()?;
    prepare(data);
    call(data)?;
    let (mut spent, mut calls) = (Duration::ZERO, 0_u32);
    while spent < TIME {
        prepare(data);
        let begun = own_time();
        call(data)?;
        spent += own_time().saturating_sub(begun);
        calls += 1;
    }
    Ok(f64::from(calls) * STREAM as f64 / spent.as_secs_f64() / 1e6)
}
