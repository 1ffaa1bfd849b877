//! A process that serves a token: ended, and waited for, when dropped.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends with the test.
pub struct Running(Child);

impl Running {
    /// Starts it in the foreground; says what to install where it is not there.
    pub fn start(command: &mut Command, package: &str) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| {
            panic!("{program}: {error}; install {package} (tests/all does)")
        }))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Panics when it has ended already.
    pub fn assert_runs(&mut self, what: &str) {
        if let Some(status) = self.0.try_wait().expect("a child") {
            panic!("{what} ended at once: {status}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something to become true, a minute at most.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < patience, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
