//! Linux's asynchronous writes: io_setup(2), io_submit(2), io_getevents(2), io_destroy(2), which no crate here has.
//!
//! Not io_uring: what io_submit took of a regular file has gone to the device's queue when it returns, and the end of the
//! process waits for it before it gives locks back; io_uring may keep it for a thread that ends with the process.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;

/// `IOCB_CMD_PWRITE` of linux/aio_abi.h.
const PWRITE: u16 = 1;

/// `struct iocb` of linux/aio_abi.h, as little-endian machines with 64 bits have it.
#[repr(C)]
#[derive(Default)]
struct Block {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buf: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// A write that is done: the number it was given, and the bytes written or what it failed with.
pub(super) type Done = (u64, io::Result<usize>);

/// An `aio_context_t`.
pub(super) struct Queue {
    context: u64,
}

impl Queue {
    /// One for so many writes at a time. EAGAIN past /proc/sys/fs/aio-max-nr, ENOSYS where there is no such thing.
    pub(super) fn new(writes: u32) -> io::Result<Self> {
        let mut context = 0_u64;
        // SAFETY: a number, and a pointer to a value of this frame, as io_setup(2) wants it.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, writes, &raw mut context) };
        match made {
            0 => Ok(Self { context }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives a write to the kernel, which then takes it to its end whatever becomes of this process.
    ///
    /// # Safety
    /// `bytes` stays where it is and as it is until `completed` has told of this write, or the queue was dropped.
    pub(super) unsafe fn submit(
        &self,
        number: u64,
        fd: &OwnedFd,
        bytes: &[u8],
        offset: u64,
    ) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let block = Block {
            data: number,
            opcode: PWRITE,
            fd: fd.as_raw_fd().try_into().map_err(|_| invalid())?,
            buf: bytes.as_ptr() as u64,
            bytes: bytes.len() as u64,
            offset: offset.try_into().map_err(|_| invalid())?,
            ..Block::default()
        };
        let blocks = [&raw const block];
        // SAFETY: the context is ours and alive; one block, read during the call only; the descriptor is open during it; the
        // caller keeps the bytes.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, blocks.as_ptr()) };
        match taken {
            1 => Ok(()),
            0 => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writes that are done, each told once; waits for one if it is to.
    pub(super) fn completed(&self, wait: bool) -> io::Result<Vec<Done>> {
        let mut events = [Event::default(); 32];
        let least = libc::c_long::from(wait);
        let room = events.len() as libc::c_long;
        let no_limit = null_mut::<libc::timespec>();
        // SAFETY: the context is ours and alive; the kernel writes at most `room` events to an array that has so many.
        let told = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                least,
                room,
                events.as_mut_ptr(),
                no_limit,
            )
        };
        if told < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        }
        let done = |event: &Event| {
            let written = usize::try_from(event.res);
            (
                event.data,
                written.map_err(|_| io::Error::from_raw_os_error(-event.res as i32)),
            )
        };
        Ok(events.iter().take(told as usize).map(done).collect())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and nobody uses it any more. The kernel waits for what is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
