//! The memory of another process as `/proc` shows it: which mappings it has, what stands in them. Knows no key.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Bytes of a needle: half an AES-256 key, as a vector register that was spilled to a stack holds it.
pub const NEEDLE: usize = 16;
/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// A mapping of a process.
pub struct Mapping {
    pub from: u64,
    pub to: u64,
    pub name: String,
    /// Locked and left out of dumps: where secrets may be.
    pub is_vault: bool,
}

/// A process whose memory we may read (we are root).
pub struct Process {
    pid: u32,
    memory: File,
}

impl Process {
    pub fn new(pid: u32) -> Self {
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        Self { pid, memory }
    }

    /// Every mapping that can be read.
    pub fn mappings(&self) -> Vec<Mapping> {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.pid)).unwrap();
        let mut mappings = Vec::new();
        for line in text.lines() {
            if let Some(mapping) = starts_mapping(line) {
                mappings.push(mapping);
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                let has = |flag| flags.split(' ').any(|one| one == flag);
                let last = mappings.last_mut().unwrap();
                last.is_vault = has("dd") && has("lo");
            }
        }
        mappings
    }

    /// Half keys that stand in locked memory: 16 aligned bytes that look random.
    pub fn secrets(&self) -> Needles {
        let mut found = Needles::default();
        for mapping in self.mappings().iter().filter(|mapping| mapping.is_vault) {
            let bytes = self.read(mapping.from, mapping.to);
            for (index, half) in bytes.chunks_exact(NEEDLE).enumerate() {
                let at = mapping.from + (index * NEEDLE) as u64;
                found.add(half, &format!("locked memory at {at:x}"));
            }
        }
        found
    }

    /// Where these bytes stand: outside of locked memory, or anywhere.
    pub fn finds(&self, needles: &Needles, outside_only: bool) -> Vec<String> {
        let sieve = needles.sieve();
        let mut hits = Vec::new();
        let mut looked_at = 0;
        for mapping in self.mappings() {
            if outside_only && mapping.is_vault {
                continue;
            }
            for from in (mapping.from..mapping.to).step_by(CHUNK) {
                let bytes = self.read(from, mapping.to.min(from + (CHUNK + NEEDLE) as u64));
                looked_at += bytes.len();
                if bytes.iter().all(|byte| *byte == 0) {
                    continue;
                }
                hits.extend(needles.within(&sieve, &bytes).map(|(offset, name)| {
                    format!("{name}: at {:x} in {}", from + offset as u64, mapping.name)
                }));
            }
        }
        assert!(looked_at > 10 << 20, "only {looked_at} bytes could be read");
        hits
    }

    /// What can be read of a range: what the process unmapped meanwhile is empty.
    fn read(&self, from: u64, to: u64) -> Vec<u8> {
        let mut bytes = vec![0; (to - from) as usize];
        match self.memory.read_exact_at(&mut bytes, from) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

/// `from-to perms offset device inode name`.
fn starts_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let (from, to) = (
        u64::from_str_radix(from, 16).ok()?,
        u64::from_str_radix(to, 16).ok()?,
    );
    Some(Mapping {
        from,
        to,
        name: line
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" "),
        is_vault: false,
    })
}

/// Byte strings to look for, with what they are.
#[derive(Default)]
pub struct Needles {
    by_start: HashMap<[u8; NEEDLE], String>,
}

impl Needles {
    /// Adds the halves of a key, or 16 bytes; what does not look random (zeros, pointers, counters) is left out.
    pub fn add(&mut self, key: &[u8], name: &str) {
        for half in key.chunks_exact(NEEDLE).filter(|half| looks_random(half)) {
            self.by_start
                .insert(half.try_into().unwrap(), name.to_owned());
        }
    }

    /// As a set of 16 bytes each.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether all 16-byte parts of the key are among them.
    pub fn contains(&self, key: &[u8]) -> bool {
        key.chunks_exact(NEEDLE)
            .all(|half| self.by_start.contains_key(half))
    }

    /// Takes a key out again.
    pub fn remove(&mut self, key: &[u8]) {
        for half in key.chunks_exact(NEEDLE) {
            self.by_start.remove(half);
        }
    }

    /// Whether one of them stands in `bytes`, as it is or in hexadecimal.
    pub fn is_shown_in(&self, bytes: &[u8]) -> bool {
        let hex = |needle: &[u8]| {
            needle
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        self.within(&self.sieve(), bytes).next().is_some()
            || self
                .by_start
                .keys()
                .any(|needle| text.contains(&hex(needle)))
    }

    /// Which first two bytes a needle has.
    fn sieve(&self) -> Vec<bool> {
        let mut sieve = vec![false; 1 << 16];
        for needle in self.by_start.keys() {
            sieve[usize::from(u16::from_le_bytes([needle[0], needle[1]]))] = true;
        }
        sieve
    }

    fn within<'a>(
        &'a self,
        sieve: &'a [bool],
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (usize, &'a str)> {
        bytes
            .windows(NEEDLE)
            .enumerate()
            .filter_map(|(offset, window)| {
                let start = u16::from_le_bytes([window[0], window[1]]);
                let name = sieve[usize::from(start)].then(|| self.by_start.get(window))??;
                Some((offset, name.as_str()))
            })
    }
}

fn looks_random(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    bytes
        .iter()
        .for_each(|byte| seen[usize::from(*byte)] = true);
    let different = seen.iter().filter(|seen| **seen).count();
    let words_are_big = bytes
        .chunks_exact(8)
        .all(|word| u64::from_le_bytes(word.try_into().unwrap()) >> 48 != 0);
    different >= 12 && words_are_big
}
