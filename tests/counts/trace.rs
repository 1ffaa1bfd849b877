//! What the daemon's one serving thread does, by strace: the requests that it takes from /dev/fuse, and the system calls that
//! it makes for each. Other threads (settling, keys made ahead) are not traced, so they cannot disturb the counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

/// Calls that touch neither the store nor the mount; fcntl is a check that a debug build makes before each close.
const INTERNAL: [&str; 11] = [
    "brk",
    "clock_nanosleep",
    "fcntl",
    "futex",
    "getrandom",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "restart_syscall",
];

/// LISTXATTR, which divides the trace.
const MARK: &str = "LISTXATTR";

/// strace on a daemon that serves with one thread; ended when dropped.
pub struct Trace {
    strace: Child,
    log: PathBuf,
    mnt: PathBuf,
}

impl Trace {
    /// Attaches to the daemon of this process id, mounted there with `max-threads=1`.
    pub fn of(daemon: u32, mnt: &Path, log: PathBuf) -> Self {
        rustix::fs::statvfs(mnt).unwrap(); // it serves
        let thread = serving_thread(daemon);
        let strace = Command::new("strace")
            .args(["-qq", "-xx", "-s", "8", "-p", &thread.to_string(), "-o"])
            .arg(&log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}; install strace (tests/all does)"));
        let mut trace = Self {
            strace,
            log,
            mnt: mnt.to_owned(),
        };
        trace.wait_until_it_tells();
        trace
    }

    /// How many of the first marks it tells depends on when it attached.
    fn wait_until_it_tells(&mut self) {
        let start = Instant::now();
        while fs::metadata(&self.log).map_or(0, |log| log.len()) == 0 {
            let ended = self.strace.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "strace ended: {ended:?} (may this user trace?)"
            );
            assert!(start.elapsed() < PATIENCE, "strace tells nothing");
            self.mark();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Divides what came before from what comes after: a request that the kernel passes on each time and nobody else makes.
    pub fn mark(&self) {
        rustix::fs::listxattr(&self.mnt, &mut [0u8; 1024][..]).unwrap();
    }

    fn parts(&self) -> Parts {
        let log = fs::read_to_string(&self.log).unwrap();
        let mut parts = Parts::default();
        log.split_inclusive('\n')
            .filter(|line| line.ends_with('\n')) // the last one may be on its way
            .for_each(|line| parts.take(line));
        parts
    }

    /// Ends the trace; what happened before each of the last `marks` marks and after the one before that, as
    /// `REQUEST:call,call REQUEST`.
    pub fn end(mut self, marks: usize) -> Vec<String> {
        self.stop();
        let mut told = self.parts().between_marks();
        assert!(told.len() >= marks, "the trace is not whole");
        told.split_off(told.len() - marks)
    }

    fn stop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            let pid = Pid::from_raw(i32::try_from(self.strace.id()).unwrap()).unwrap();
            let _ = kill_process(pid, Signal::TERM); // lets the thread go, and writes what it holds back
            let _ = self.strace.wait();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serving_thread(daemon: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let names = tasks.map(|task| {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        (
            task.file_name().unwrap().to_string_lossy().parse().unwrap(),
            name,
        )
    });
    let serving: Vec<_> = names
        .filter(|(_, name)| name.starts_with("fuser"))
        .collect();
    assert_eq!(serving.len(), 1, "one thread serves: {serving:?}");
    serving[0].0
}

/// Requests with their calls, in order.
#[derive(Default)]
struct Parts {
    requests: Vec<(&'static str, Vec<String>)>,
    device: Option<String>,
}

impl Parts {
    fn take(&mut self, line: &str) {
        let Some((call, arguments)) = line.split_once('(') else {
            return; // a signal, or that the thread ended
        };
        let descriptor = arguments.split(',').next().unwrap_or_default();
        if call == "read"
            && let Some(request) = request(arguments)
        {
            self.device = Some(descriptor.to_owned());
            self.requests.push((request, Vec::new()));
            return;
        }
        let transport =
            self.device.as_deref() == Some(descriptor) && matches!(call, "read" | "writev");
        if !transport
            && !INTERNAL.contains(&call)
            && let Some((_, calls)) = self.requests.last_mut()
        {
            // ext4 sorts . and .. among the names by their hashes: where they come last, a listing takes one call more.
            let again = call == "getdents64" && calls.last().is_some_and(|last| last == call);
            calls.extend((!again).then(|| call.to_owned()));
        }
    }

    fn between_marks(&self) -> Vec<String> {
        let parts = self.requests.split(|(request, _)| *request == MARK);
        let told = parts.map(|part| {
            // When the kernel forgets is its own affair, and who looks at all mounts is not the test's.
            let told = part
                .iter()
                .filter(|(request, _)| !request.ends_with("FORGET") && *request != "STATFS");
            let told: Vec<_> = told
                .map(|(request, calls)| match calls.as_slice() {
                    [] => (*request).to_owned(),
                    calls => format!("{request}:{}", calls.join(",")),
                })
                .collect();
            told.join(" ")
        });
        let mut told: Vec<_> = told.collect();
        told.pop(); // after the last mark
        told
    }
}

/// The request that a read of /dev/fuse returned: its length and opcode come first.
fn request(arguments: &str) -> Option<&'static str> {
    let (_, result) = arguments.rsplit_once("= ")?;
    let bytes: Vec<u8> = arguments
        .split('"')
        .nth(1)?
        .split("\\x")
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let words: Vec<u32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect();
    match words[..] {
        [len, opcode] if result.trim() == len.to_string() => Some(name(opcode)),
        _ => None,
    }
}

fn name(opcode: u32) -> &'static str {
    match opcode {
        1 => "LOOKUP",
        2 => "FORGET",
        3 => "GETATTR",
        4 => "SETATTR",
        5 => "READLINK",
        6 => "SYMLINK",
        9 => "MKDIR",
        10 => "UNLINK",
        11 => "RMDIR",
        12 => "RENAME",
        14 => "OPEN",
        15 => "READ",
        16 => "WRITE",
        17 => "STATFS",
        18 => "RELEASE",
        20 => "FSYNC",
        22 => "GETXATTR",
        23 => MARK,
        25 => "FLUSH",
        27 => "OPENDIR",
        28 => "READDIR",
        29 => "RELEASEDIR",
        35 => "CREATE",
        42 => "BATCH_FORGET",
        44 => "READDIRPLUS",
        45 => "RENAME2",
        52 => "STATX",
        _ => panic!("request {opcode} is not expected here"),
    }
}
