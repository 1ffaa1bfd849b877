//! The three processes: the test, the supervisor that it talks to over pipes, and the servers that this one starts.
//!
//! Invariant: the supervisor never has a file of the mount open and is never forked from a process that has: such a process
//! closes its copy before it runs its own program, and waits for the very server that it is about to become.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tempfile::TempDir;

use super::intents::Intents;
use super::place;
use super::plain::Plain;

/// Which process this is.
pub const ROLE: &str = "RESEND_ROLE";
const PLACE: &str = "RESEND_PLACE";
const MODE: &str = "RESEND_MODE";
/// What a supervisor says when it did as told; the test harness prints lines of its own.
const DONE: &str = "resend: done";

/// Threads of a server.
pub const THREADS: usize = 4;

/// FUSE_NOTIFY_RESEND (linux/fuse.h): a header alone, number 0, the code in the place of the errno.
fn resend_notification() -> Vec<u8> {
    let mut header = 16u32.to_ne_bytes().to_vec();
    header.extend(7i32.to_ne_bytes());
    header.extend(0u64.to_ne_bytes());
    header
}

fn role(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "plays_a_role_when_asked", "--nocapture"])
        .env(ROLE, role)
        .env(PLACE, dir)
        .current_dir("/");
    command
}

/// A mount under a supervisor; dropped, it leaves none of it.
pub struct Rig {
    supervisor: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
    dir: TempDir,
}

impl Rig {
    /// Mounted, without a server yet.
    pub fn mounted() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("strongroom-test-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("back")).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let mut supervisor = role("supervisor", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let tell = supervisor.stdin.take();
        let hear = BufReader::new(supervisor.stdout.take().unwrap());
        let mut rig = Self {
            supervisor,
            tell,
            hear,
            dir,
        };
        rig.done();
        rig
    }

    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn backing(&self) -> PathBuf {
        self.dir.path().join("back")
    }

    /// Starts a server; see `Plain` for the words of a mode.
    pub fn start(&mut self, mode: &str) {
        self.told(&format!("start {mode}"));
        // The first to come answers the INIT, which is done once; a supervisor would do it itself.
        while !self.dir.path().join("agreed").exists() {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the server with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.told("kill");
    }

    /// What the servers noted.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn wait_for(&self, line: &str) {
        self.wait_times(line, 1);
    }

    pub fn wait_times(&self, line: &str, times: usize) {
        let begun = Instant::now();
        while self.log().matches(line).count() < times {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no \"{line}\" in:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn told(&mut self, command: &str) {
        writeln!(self.tell.as_mut().unwrap(), "{command}").unwrap();
        self.done();
    }

    fn done(&mut self) {
        let mut line = String::new();
        while self.hear.read_line(&mut line).unwrap() > 0 {
            if line.contains(DONE) {
                return;
            }
            line.clear();
        }
        panic!("the supervisor ended");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.tell.take()); // it ends with its orders
        let _ = self.supervisor.wait();
    }
}

/// The supervisor: mounts, keeps the device and the INIT request, and does as it is told until nobody tells it.
pub fn supervise() {
    let dir = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let mnt = dir.join("mnt");
    let device: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap()
        .into();
    let data = format!(
        "fd={},rootmode=40755,user_id=0,group_id=0,default_permissions",
        device.as_raw_fd()
    );
    let data = CString::new(data).unwrap();
    rustix::mount::mount(
        "resend",
        &mnt,
        "fuse.resend",
        MountFlags::empty(),
        data.as_c_str(),
    )
    .unwrap();
    let mut init = vec![0; 1 << 16];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(&device, &mut init)).unwrap();
    fs::write(dir.join("init"), &init[..len]).unwrap();
    println!("{DONE}");
    let server = Mutex::new(None);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&server, &mnt, &stop));
        obey(&dir, &device, &server);
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    abort(&mnt);
    end(server.lock().unwrap().take());
}

fn obey(dir: &Path, device: &OwnedFd, server: &Mutex<Option<Child>>) {
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut server = server.lock().unwrap();
        match line.split_once(' ') {
            Some(("start", mode)) => {
                let mut command = role("server", dir);
                command.env(MODE, mode).stdout(Stdio::null());
                command.stdin(device.try_clone().unwrap());
                *server = Some(command.spawn().unwrap());
            }
            _ => end(server.take()),
        }
        println!("{DONE}");
    }
}

/// A server that ended by itself, or a test that was killed, would leave programs waiting for ever.
fn watch(server: &Mutex<Option<Child>>, mnt: &Path, stop: &AtomicBool) {
    let test = format!("/proc/{}/stat", std::os::unix::process::parent_id());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        let mut server = server.lock().unwrap();
        let ended = server
            .as_mut()
            .is_some_and(|server| server.try_wait().unwrap().is_some());
        let stat = fs::read_to_string(&test).unwrap_or_default();
        if ended || !stat.contains(") ") || stat.contains(") Z") {
            abort(mnt);
            return;
        }
    }
}

/// Forced: what waits for an answer gets an error instead.
fn abort(mnt: &Path) {
    let _ = rustix::mount::unmount(mnt, UnmountFlags::FORCE | UnmountFlags::DETACH);
}

fn end(server: Option<Child>) {
    if let Some(mut server) = server {
        let _ = server.kill();
        let _ = server.wait();
    }
}

/// A server: its standard input is the device.
pub fn serve() {
    let dir = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let mode = std::env::var(MODE).unwrap();
    let input = std::io::stdin();
    let device = input.as_fd();
    let backing = dir.join("back");
    let on = !mode.contains("no-intents");
    let served = Plain {
        log: OpenOptions::new()
            .append(true)
            .create(true)
            .open(dir.join("log"))
            .unwrap(),
        intents: Intents::decided(dir.join("intents"), &backing, on),
        dir: backing,
        mode,
        serves: Once::new(),
    };
    if served.does("locked") {
        // A kill while the kernel copies a request into a page that is not there costs that request an I/O error.
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).unwrap();
    }
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    config.clone_fd = served.does("clones");
    let session = resumed(served, device, &dir, config);
    let _ = session.run();
}

/// A session that takes the first one's agreement with the kernel as its own.
fn resumed(
    served: Plain,
    device: std::os::fd::BorrowedFd<'_>,
    dir: &Path,
    config: Config,
) -> Session<Plain> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::io::write(&ours, &fs::read(dir.join("init")).unwrap()).unwrap();
    let session = Session::from_fd(served, theirs, SessionACL::All, config).unwrap();
    let mut agreed = vec![0; 4096];
    let len = rustix::io::read(&ours, &mut agreed).unwrap();
    agreed.truncate(len);
    place::put(device, session.as_fd()).unwrap();
    let kept = dir.join("agreed");
    if kept.exists() {
        assert_eq!(fs::read(&kept).unwrap(), agreed, "the same agreement");
        again(device);
    } else {
        rustix::io::write(device, &agreed).unwrap();
        let whole = dir.join("agreed.new");
        fs::write(&whole, &agreed).unwrap();
        fs::rename(&whole, &kept).unwrap();
    }
    session
}

fn again(device: std::os::fd::BorrowedFd<'_>) {
    let sent = rustix::io::write(device, &resend_notification());
    assert!(
        !matches!(sent, Err(Errno::INVAL)),
        "this kernel cannot send requests again (Linux 6.9 can)"
    );
    sent.unwrap();
}
