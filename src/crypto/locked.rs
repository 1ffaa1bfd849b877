//! Memory for secrets: an arena of pages that are locked (`mlock`), kept out of core dumps (`MADV_DONTDUMP`) and cut into
//! slots of a few sizes. The one place of the crate where objects live outside the ordinary heap, hence `unsafe`.
//!
//! Invariant: a slot belongs to exactly one [`Locked`] from its allocation to its drop, and holds only zero bytes while
//! it is free. Locks do not survive `fork`: make secrets after the last one.

#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mm::{self, MapFlags, ProtFlags};

const PAGE: usize = 4096;
/// One call to the kernel serves this many bytes of slots.
const CHUNK: usize = 4 * PAGE;
const SMALLEST: usize = 16;
const CLASSES: usize = 9;

static ARENA: Mutex<Arena> = Mutex::new(Arena {
    free: [const { Vec::new() }; CLASSES],
});
static LOCK_FAILURES: AtomicU64 = AtomicU64::new(0);

/// Pages of secret memory that could not be locked, because RLIMIT_MEMLOCK is exhausted: they may be swapped out.
pub fn lock_failures() -> u64 {
    LOCK_FAILURES.load(Ordering::Relaxed)
}

/// A `T` in locked memory, dropped and then wiped. `T` is at most 4096 bytes (checked when compiled).
pub struct Locked<T> {
    slot: NonNull<T>,
}

// SAFETY: a Locked owns its T as a Box does; the slot is reachable through nothing else.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: as above; shared access only hands out `&T`.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    const CLASS: usize = class_of(size_of::<T>(), align_of::<T>());

    /// Moves `value` into locked memory and wipes the place it was handed over in.
    pub fn new(value: T) -> Self {
        let slot = allocate(Self::CLASS).cast::<T>();
        let mut value = ManuallyDrop::new(value);
        // SAFETY: the slot is exclusively ours, aligned and large enough for T (CLASS); `value` is never dropped nor read
        // again, so its bytes may be copied out and then overwritten.
        unsafe {
            ptr::copy_nonoverlapping(&raw const *value, slot.as_ptr(), 1);
            zeroize::zeroize_flat_type((&raw mut value).cast::<T>());
        }
        Self { slot }
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot holds a valid T from `new` to `drop`.
        unsafe { self.slot.as_ref() }
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { self.slot.as_mut() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: the T is valid and dropped once; afterwards its bytes are ours to wipe before the slot is free again.
        unsafe {
            ptr::drop_in_place(self.slot.as_ptr());
            zeroize::zeroize_flat_type(self.slot.as_ptr());
        }
        arena(|arena| arena.release(Self::CLASS, self.slot.cast()));
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

/// Free slots by size class; pages are never given back, so the arena is as large as the peak need.
struct Arena {
    free: [Vec<Slot>; CLASSES],
}

struct Slot(NonNull<u8>);

// SAFETY: a free slot is plain memory that no thread uses.
unsafe impl Send for Slot {}

impl Arena {
    fn release(&mut self, class: usize, slot: NonNull<u8>) {
        if let Some(free) = self.free.get_mut(class) {
            free.push(Slot(slot));
        }
    }
}

/// The class whose slots hold `size` bytes at `align`; fails to compile where none does.
const fn class_of(size: usize, align: usize) -> usize {
    let needed = if size > align { size } else { align };
    assert!(needed <= PAGE, "a locked object is at most one page");
    let mut class = 0;
    while SMALLEST << class < needed {
        class += 1;
    }
    class
}

fn arena<R>(use_it: impl FnOnce(&mut Arena) -> R) -> R {
    use_it(&mut ARENA.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A slot of zero bytes, aligned to its size.
fn allocate(class: usize) -> NonNull<u8> {
    arena(|arena| {
        let reused = arena.free.get_mut(class).and_then(Vec::pop);
        match reused {
            Some(slot) => slot.0,
            None => {
                let size = SMALLEST << class;
                let chunk = map_chunk();
                for offset in (size..CHUNK).step_by(size) {
                    // SAFETY: offset + size ≤ CHUNK (both powers of two), so the slot lies within the new mapping.
                    arena.release(class, unsafe { chunk.add(offset) });
                }
                chunk
            }
        }
    })
}

/// A fresh mapping of CHUNK zero bytes, locked if the limit allows.
///
/// Panics when the process is out of address space, as every allocation does.
fn map_chunk() -> NonNull<u8> {
    // SAFETY: a new anonymous private mapping at an address that the kernel chooses touches no existing memory.
    let mapped = unsafe {
        mm::mmap_anonymous(
            ptr::null_mut(),
            CHUNK,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    let address = mapped.expect("no memory for secrets");
    // SAFETY: address and length are those of the mapping just made.
    unsafe {
        if mm::mlock(address, CHUNK).is_err() {
            LOCK_FAILURES.fetch_add((CHUNK / PAGE) as u64, Ordering::Relaxed);
        }
        // Best effort: the process also switches core dumps off as a whole.
        let _ = mm::madvise(address, CHUNK, mm::Advice::LinuxDontDump);
    }
    NonNull::new(address.cast()).expect("mmap gave a null address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_values_apart_and_drops_them_once() {
        use std::sync::Arc;
        let alive = Arc::new(());
        let many: Vec<_> = (0..1000u32)
            .map(|n| Locked::new((n, alive.clone())))
            .collect();
        assert!(
            many.iter()
                .enumerate()
                .all(|(n, locked)| locked.0 == n as u32)
        );
        assert_eq!(Arc::strong_count(&alive), 1001);
        drop(many);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn wipes_a_slot_when_dropped() {
        // A size no other test uses, so that nobody takes the slot between drop and look.
        let locked = Locked::new([0xA5u8; 3000]);
        let slot = locked.slot.as_ptr().cast::<u8>();
        drop(locked);
        // SAFETY: pages of the arena are never unmapped.
        let bytes = unsafe { std::slice::from_raw_parts(slot, 3000) };
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn aligns_what_it_holds() {
        #[repr(align(64))]
        struct Wide(#[allow(dead_code)] u8);
        let many: Vec<_> = (0..300).map(|_| Locked::new(Wide(1))).collect();
        assert!(
            many.iter()
                .all(|locked| locked.slot.as_ptr().addr() % 64 == 0)
        );
    }

    #[test]
    fn is_locked_and_left_out_of_dumps() {
        let secret = Locked::new([7u8; 48]);
        let address = secret.slot.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut inside = false;
        let mut flags = None;
        for line in maps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|field| field.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (
                    usize::from_str_radix(from, 16),
                    usize::from_str_radix(to, 16),
                )
            {
                inside = (from..to).contains(&address);
            }
            if inside && line.starts_with("VmFlags:") {
                flags = Some(line.to_owned());
            }
        }
        let flags = flags.expect("the mapping of the arena is listed");
        assert!(flags.contains(" dd"), "no dump: {flags}");
        assert!(
            flags.contains(" lo") || lock_failures() > 0,
            "locked: {flags}"
        );
    }
}
