//! The descriptors of the kernel's connection, by their numbers: fuser keeps them to itself, and has no session without a
//! handshake of its own and no way to end one that is not the kernel's.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, makedev};

/// The character device `fuse` (Documentation/admin-guide/devices.txt).
const MAJOR: u32 = 10;
const MINOR: u32 = 229;
/// What fuser's threads are called, before a number.
const SERVERS: &[u8] = b"fuser-";

/// Makes the descriptor `place` another one for what `device` is.
pub(super) fn put(device: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    put_at(device, place.as_raw_fd())
}

fn put_at(device: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: `device` is open; the number is open and stays its owner's, who goes on to use it for what it now stands for.
    match unsafe { libc::dup3(device.as_raw_fd(), number, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Puts `dead` in the place of every descriptor of a fuse connection in this process but `ours` and those `kept`, and keeps
/// what was there: requests that were read through one end with it.
pub(super) fn put_aside(
    dead: BorrowedFd<'_>,
    ours: BorrowedFd<'_>,
    kept: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    for number in numbers(b"/proc/self/fd")? {
        let is_kept = kept.iter().any(|kept| kept.as_raw_fd() == number);
        if is_kept || ours.as_raw_fd() == number || !is_device(number) {
            continue;
        }
        // SAFETY: the number is open: a session owns it, and none ends while this runs but by what is done here.
        let live = unsafe { BorrowedFd::borrow_raw(number) };
        kept.push(rustix::io::fcntl_dupfd_cloexec(live, 0)?);
        put_at(dead, number)?;
    }
    Ok(())
}

fn is_device(number: RawFd) -> bool {
    let path = format!("/proc/self/fd/{number}");
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::empty()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == makedev(MAJOR, MINOR)
    })
}

/// The names in a directory of /proc that are numbers.
fn numbers(directory: &[u8]) -> io::Result<Vec<i32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        found.extend(name.and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Interrupts whatever fuser's threads wait for in the kernel; they try it again.
pub(super) fn interrupt_servers() -> io::Result<()> {
    make_interruptible()?;
    for thread in numbers(b"/proc/self/task")? {
        if is_server(thread) {
            // SAFETY: a signal whose handler does nothing, to a thread of this process or (it may have ended) to none.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGURG) };
        }
    }
    Ok(())
}

fn is_server(thread: i32) -> bool {
    let path = format!("/proc/self/task/{thread}/comm");
    let mut name = [0; 32];
    let read = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut name));
    read.is_ok() && name.starts_with(SERVERS)
}

/// Whether a thread of this name takes requests from the device.
pub(super) fn is_servers_name(name: &str) -> bool {
    name.as_bytes().starts_with(SERVERS)
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// SIGURG, which nobody else uses here, ends a call with EINTR from now on.
fn make_interruptible() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a zeroed sigaction is one without flags (SA_RESTART neither) and with an empty mask; the handler does nothing.
    let done = unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGURG, &raw const action, null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
