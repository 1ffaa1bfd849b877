//! Writes handed to a device from a ring of memory, and what became of them.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::aio::{Done, Queue};
use super::{locked, retry};
use crate::store::{ALIGNED, Pages};

/// Memory for what is under way, of one file, bytes.
const RING: usize = 8 << 20;
/// Writes under way at most, of one file.
const MANY: u32 = 64;
/// Files at a time that have any, in this process; its many tests at once do not wait for each other.
const FILES: usize = if cfg!(test) { 100 } else { 4 };

/// What takes writes from memory.
pub(super) trait Device: Send + Sync {
    /// Has a write made.
    ///
    /// # Safety
    /// `bytes` stays where it is and as it is until `completed` has told of this write.
    #[allow(unsafe_code)]
    unsafe fn submit(&self, number: u64, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes that are done, each told once; waits for one if it is to.
    fn completed(&self, wait: bool) -> io::Result<Vec<Done>>;
}

/// A device, and what it was given.
pub(super) struct Line {
    device: Box<dyn Device>,
    /// None once it was left to a device that does not tell any more.
    ring: Option<Pages>,
    /// Oldest first; their memory follows each other in the ring.
    under_way: VecDeque<Post>,
    /// The number of the next.
    next: u64,
}

struct Post {
    offset: u64,
    at: usize,
    len: usize,
    done: bool,
}

/// Memory of the last file that was written so.
static SPARE: Mutex<Option<Pages>> = Mutex::new(None);

/// A write that the device did not make.
pub(super) struct Refused<'a> {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
}

impl Line {
    /// A way past the cache to this file; `None` where there is none, no memory, or no room for another file.
    pub(super) fn open(file: &OwnedFd) -> Option<Self> {
        let direct = Direct::open(file)?;
        let ring = locked(&SPARE).take();
        let ring = ring.map_or_else(|| Pages::new(RING).ok(), Some)?;
        Some(Self::with(Box::new(direct), ring))
    }

    pub(super) fn with(device: Box<dyn Device>, ring: Pages) -> Self {
        Self {
            device,
            ring: Some(ring),
            under_way: VecDeque::new(),
            next: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn overlaps(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let mut under_way = self.under_way.iter();
        under_way.any(|post| post.offset < end && offset < post.offset + post.len as u64)
    }

    /// Hands a write over; its number, or `None` where there is no room for it now, or the device takes none.
    pub(super) fn give(&mut self, bytes: &[u8], offset: u64) -> Option<u64> {
        let len = bytes.len();
        let aligned = (len as u64 | offset).is_multiple_of(ALIGNED as u64);
        if !aligned || self.under_way.len() >= MANY as usize {
            return None;
        }
        let at = self.room(len)?;
        let memory = self.ring.as_mut()?.get_mut(at..at + len)?;
        memory.copy_from_slice(bytes);
        // SAFETY: nothing writes to this part of the ring until the post is taken out of `under_way`, which `reap` does once
        // the device has told of it; and `Drop` keeps the ring as long.
        #[allow(unsafe_code)]
        let given = unsafe { self.device.submit(self.next, memory, offset) };
        if let Err(error) = given {
            tracing::debug!("not written past the cache: {error}");
            return None;
        }
        let done = false;
        self.under_way.push_back(Post {
            offset,
            at,
            len,
            done,
        });
        self.next += 1;
        Some(self.next - 1)
    }

    /// Where in the ring so many bytes in a row are free.
    fn room(&self, len: usize) -> Option<usize> {
        let size = self.ring.as_ref()?.len();
        let (Some(oldest), Some(newest)) = (self.under_way.front(), self.under_way.back()) else {
            return (len <= size).then_some(0);
        };
        let head = newest.at + newest.len;
        let (free, at) = match newest.at >= oldest.at {
            true if size - head >= len => (len, head),
            true => (oldest.at, 0),
            false => (oldest.at - head, head),
        };
        (free >= len).then_some(at)
    }

    /// Takes in what is done, if it is to after waiting for one, and has `again` called for each write that the device refused.
    pub(super) fn reap(&mut self, wait: bool, again: &mut dyn FnMut(Refused<'_>)) {
        if self.under_way.is_empty() {
            return;
        }
        match self.device.completed(wait) {
            Ok(done) => {
                for (number, result) in done {
                    self.take_in(number, result, again);
                }
            }
            Err(error) => self.give_up(&error, again),
        }
        while self.under_way.front().is_some_and(|post| post.done) {
            self.under_way.pop_front();
        }
    }

    fn take_in(
        &mut self,
        number: u64,
        result: io::Result<usize>,
        again: &mut dyn FnMut(Refused<'_>),
    ) {
        let first = self.next - self.under_way.len() as u64;
        let index = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        let Some(post) = self.under_way.get_mut(index) else {
            return;
        };
        post.done = true;
        if result.as_ref().is_ok_and(|written| *written == post.len) {
            return;
        }
        tracing::warn!("a write past the cache came to {result:?}; it is made again");
        let ring = self.ring.as_deref().unwrap_or_default();
        again(Refused {
            number,
            offset: post.offset,
            bytes: ring.get(post.at..post.at + post.len).unwrap_or_default(),
        });
    }

    /// The device does not tell any more: everything again, the same bytes in the same place, and the memory is left to it.
    fn give_up(&mut self, error: &io::Error, again: &mut dyn FnMut(Refused<'_>)) {
        tracing::error!("writes past the cache: {error}");
        for number in self.next - self.under_way.len() as u64..self.next {
            let unknown = io::Error::from(error.kind());
            self.take_in(number, Err(unknown), again);
        }
        mem::forget(self.ring.take());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        while !self.is_idle() {
            self.reap(true, &mut |_| ());
        }
        if let Some(ring) = self.ring.take().filter(|ring| ring.len() == RING) {
            locked(&SPARE).get_or_insert(ring);
        }
    }
}

/// A file opened with O_DIRECT, and a queue for its writes.
struct Direct {
    fd: OwnedFd,
    queue: &'static Queue,
}

/// Queues that are not in use. They are never taken down: the kernel takes tens of milliseconds for that.
static QUEUES: Mutex<Queues> = Mutex::new(Queues {
    made: 0,
    free: Vec::new(),
});

struct Queues {
    made: usize,
    free: Vec<&'static Queue>,
}

impl Queues {
    fn take(&mut self) -> Option<&'static Queue> {
        if self.free.is_empty() && self.made < FILES {
            let queue = Queue::new(MANY).inspect_err(|error| tracing::debug!("io_setup: {error}"));
            self.free.push(Box::leak(Box::new(queue.ok()?)));
            self.made += 1;
        }
        self.free.pop()
    }
}

impl Direct {
    fn open(file: &OwnedFd) -> Option<Self> {
        if !takes_aligned(file) {
            return None;
        }
        // The descriptor's own link: no path is followed.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = retry(|| rustix::fs::open(&link, flags, Mode::empty())).ok()?;
        let queue = locked(&QUEUES).take()?;
        Some(Self { fd, queue })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        locked(&QUEUES).free.push(self.queue);
    }
}

impl Device for Direct {
    #[allow(unsafe_code)]
    unsafe fn submit(&self, number: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.queue.submit(number, &self.fd, bytes, offset) }
    }

    fn completed(&self, wait: bool) -> io::Result<Vec<Done>> {
        self.queue.completed(wait)
    }
}

/// Whether the file system says that it takes writes past its cache as we align them (statx, Linux 6.1).
fn takes_aligned(file: &OwnedFd) -> bool {
    let asked = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let fits = |bytes: u32| (1..=ALIGNED as u32).contains(&bytes);
    asked.is_ok_and(|told| {
        told.stx_mask & StatxFlags::DIOALIGN.bits() != 0
            && fits(told.stx_dio_mem_align)
            && fits(told.stx_dio_offset_align)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::repeated::Rng;

    /// A device that does as it is told, later.
    #[derive(Clone, Default)]
    pub(in crate::store::real) struct Later(Arc<Mutex<Told>>);

    #[derive(Default)]
    struct Told {
        /// Where the bytes of what was given lie, and what they were.
        given: Vec<(u64, *const u8, Vec<u8>)>,
        done: Vec<Done>,
        mute: bool,
        refuse: Option<i32>,
        end_too: Option<u64>,
    }

    // SAFETY: the pointer is only compared and read while the line lives.
    #[allow(unsafe_code)]
    unsafe impl Send for Told {}

    impl Later {
        /// Ends a write with this, having looked whether its bytes are still there.
        #[allow(unsafe_code)]
        pub(in crate::store::real) fn end(&self, number: u64, how: io::Result<usize>) {
            let mut told = locked(&self.0);
            let at = told.given.iter().position(|(given, ..)| *given == number);
            let (_, address, bytes) = told.given.remove(at.unwrap());
            // SAFETY: the line keeps what it gave until it is told.
            let now = unsafe { std::slice::from_raw_parts(address, bytes.len()) };
            assert!(now == bytes, "the memory of {number} was used again");
            told.done.push((number, how));
        }

        /// The next write ends with this at once.
        pub(in crate::store::real) fn refuse_next(&self, code: i32) {
            locked(&self.0).refuse = Some(code);
        }

        /// The next write ends with this at once, and so does an earlier one at the same time.
        pub(in crate::store::real) fn refuse_next_and_end(&self, code: i32, earlier: u64) {
            let mut told = locked(&self.0);
            (told.refuse, told.end_too) = (Some(code), Some(earlier));
        }

        fn mute(&self) {
            locked(&self.0).mute = true;
        }
    }

    impl Device for Later {
        #[allow(unsafe_code)]
        unsafe fn submit(&self, number: u64, bytes: &[u8], _offset: u64) -> io::Result<()> {
            let given = (number, bytes.as_ptr(), bytes.to_vec());
            let mut told = locked(&self.0);
            match told.refuse.take() {
                Some(code) => {
                    let earlier = told.end_too.take();
                    told.given.retain(|(given, ..)| Some(*given) != earlier);
                    for number in earlier.into_iter().chain([number]) {
                        let error = io::Error::from_raw_os_error(code);
                        told.done.push((number, Err(error)));
                    }
                }
                None => told.given.push(given),
            }
            Ok(())
        }

        fn completed(&self, wait: bool) -> io::Result<Vec<Done>> {
            let begun = Instant::now();
            let mut told = locked(&self.0);
            while wait && told.done.is_empty() && !told.mute {
                // What no test ends would be waited for for ever.
                told.mute = begun.elapsed() > Duration::from_secs(20);
                drop(told);
                thread::sleep(Duration::from_millis(1));
                told = locked(&self.0);
            }
            match told.mute {
                true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                false => Ok(mem::take(&mut told.done)),
            }
        }
    }

    fn line(pages: usize) -> (Later, Line) {
        let device = Later::default();
        let ring = Pages::new(pages * ALIGNED).unwrap();
        let line = Line::with(Box::new(device.clone()), ring);
        (device, line)
    }

    impl Line {
        /// One whose next write has this number.
        pub(in crate::store::real) fn with_next(
            device: Box<dyn Device>,
            ring: Pages,
            next: u64,
        ) -> Self {
            let mut line = Self::with(device, ring);
            line.next = next;
            line
        }
    }

    fn page(fill: u8, pages: usize) -> Vec<u8> {
        vec![fill; pages * ALIGNED]
    }

    fn nothing_again(refused: Refused<'_>) {
        panic!("{} was refused", refused.number);
    }

    #[test]
    fn memory_is_used_again_once_everything_before_it_is_done() {
        let (device, mut line) = line(8);
        let four = 4 * ALIGNED;
        assert_eq!(line.give(&page(1, 4), 0), Some(0));
        assert_eq!(line.give(&page(2, 4), 1 << 20), Some(1));
        assert_eq!(line.give(&page(3, 1), 2 << 20), None, "full");
        device.end(1, Ok(four));
        line.reap(false, &mut nothing_again);
        assert_eq!(
            line.give(&page(3, 1), 2 << 20),
            None,
            "the oldest is under way"
        );
        assert!(line.overlaps(0, 1) && line.overlaps(1 << 20, 1));
        device.end(0, Ok(four));
        line.reap(false, &mut nothing_again);
        assert!(line.is_idle() && !line.overlaps(0, u64::MAX));
        for (number, pages) in [(2, 3), (3, 3)] {
            assert_eq!(line.give(&page(4, pages), 0), Some(number));
        }
        device.end(2, Ok(3 * ALIGNED));
        line.reap(false, &mut nothing_again);
        // Two pages are left at the end, three at the beginning.
        assert_eq!(line.give(&page(5, 3), 0), Some(4));
        assert_eq!(line.give(&page(6, 1), 0), None);
        device.end(4, Ok(3 * ALIGNED));
        device.end(3, Ok(3 * ALIGNED));
        line.reap(false, &mut nothing_again);
        assert!(line.is_idle());
    }

    #[test]
    fn random_orders_never_touch_what_is_under_way() {
        for seed in 0..200_u64 {
            let (device, mut line) = line(32);
            let mut under_way = Vec::new();
            let mut rng = Rng(seed);
            let mut next = |below: usize| rng.below(below as u64) as usize;
            for step in 0..200 {
                let pages = 1 + next(12);
                if let Some(number) = line.give(&page(step as u8, pages), step << 20) {
                    under_way.push((number, pages));
                }
                if next(3) > 0 && !under_way.is_empty() {
                    let (number, pages) = under_way.remove(next(under_way.len()));
                    device.end(number, Ok(pages * ALIGNED));
                    line.reap(false, &mut nothing_again);
                }
            }
            for (number, pages) in under_way {
                device.end(number, Ok(pages * ALIGNED));
            }
            line.reap(true, &mut nothing_again);
            assert!(line.is_idle());
        }
    }

    #[test]
    fn what_the_device_refuses_or_cuts_short_comes_back_whole() {
        let (device, mut line) = line(8);
        line.give(&page(1, 2), 0).unwrap();
        line.give(&page(2, 2), 1 << 20).unwrap();
        line.give(&page(3, 2), 2 << 20).unwrap();
        device.end(0, Err(io::Error::from_raw_os_error(libc::EIO)));
        device.end(1, Ok(ALIGNED));
        device.end(2, Ok(2 * ALIGNED));
        let mut again = Vec::new();
        line.reap(false, &mut |refused| {
            again.push((refused.number, refused.offset, refused.bytes.to_vec()));
        });
        assert_eq!(again, [(0, 0, page(1, 2)), (1, 1 << 20, page(2, 2))]);
        assert!(line.is_idle());
    }

    #[test]
    fn a_device_that_does_not_tell_any_more_gets_no_more() {
        let (device, mut line) = line(8);
        line.give(&page(1, 2), 0).unwrap();
        line.give(&page(2, 2), 1 << 20).unwrap();
        device.mute();
        let mut again = Vec::new();
        line.reap(true, &mut |refused| again.push(refused.bytes.to_vec()));
        assert_eq!(again, [page(1, 2), page(2, 2)]);
        assert!(line.is_idle());
        assert_eq!(line.give(&page(3, 1), 0), None);
    }

    #[test]
    fn gives_only_what_is_aligned_and_not_too_many_at_once() {
        let (device, mut line) = line(100);
        assert_eq!(line.give(&page(1, 1), 512), None);
        assert_eq!(line.give(&[1; 4095], 0), None);
        assert_eq!(line.give(&page(1, 101), 0), None);
        for number in 0..u64::from(MANY) {
            assert_eq!(line.give(&page(1, 1), number << 12), Some(number));
        }
        assert_eq!(line.give(&page(1, 1), 1 << 30), None);
        (0..u64::from(MANY)).for_each(|number| device.end(number, Ok(ALIGNED)));
    }
}
