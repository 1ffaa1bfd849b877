//! The control socket of a running daemon, asked as a program of another make would.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use strongroom::fuse::control::{Client, ControlError};

use crate::support::{SUITES, Sandbox, tool};

#[test]
fn a_daemon_says_who_it_is_and_when_it_is_gone() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let path = sandbox.socket();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(PathBuf::from(format!("/proc/{}", sandbox.server())).exists());
    let watch = Client::connect(&path).unwrap().watch().unwrap();
    sandbox.umount();
    watch.closed(Duration::from_secs(60)).unwrap();
    assert!(!path.exists());
    let refused = Client::connect(&path).err().expect("nobody there");
    assert!(matches!(refused, ControlError::Unreachable { .. }));
}

#[test]
fn rotates_while_mounted_and_tells_how_it_went() {
    for suite in SUITES {
        let sandbox = Sandbox::mounted(suite);
        for at in 0..50 {
            fs::write(sandbox.mnt().join(at.to_string()), b"content").unwrap();
        }
        let client = Client::connect(&sandbox.socket()).unwrap();
        let rotation = client.rotate(&mut |_| {}).unwrap();
        assert_eq!((rotation.headers, rotation.remaining), (50, 0));
        assert!(rotation.to_version > rotation.from_version);
        assert_eq!(fs::read(sandbox.mnt().join("7")).unwrap(), b"content");
        sandbox.remount();
        assert_eq!(fs::read(sandbox.mnt().join("49")).unwrap(), b"content");
    }
}

#[test]
fn what_is_no_request_gets_an_error_and_hurts_nobody() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let path = sandbox.socket();
    let long = "x".repeat(100_000);
    for request in ["", "{}", "{\"command\":\"destroy\"}", "\u{0}", &long] {
        let mut connection = UnixStream::connect(&path).unwrap();
        // The daemon may hang up before it has read all of what is too long.
        let _ = writeln!(connection, "{request}");
        let mut said = String::new();
        match BufReader::new(connection).read_line(&mut said) {
            Ok(_) => assert!(said.contains("\"error\""), "{said}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    sandbox.server();
}

#[test]
fn other_users_are_not_answered_even_where_the_socket_is_open_to_them() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    let path = sandbox.socket();
    for open in [sandbox.path(""), sandbox.path("run"), path.clone()] {
        fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
    }
    let script = "use IO::Socket::UNIX; $SIG{PIPE} = 'IGNORE'; \
                  my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
                  syswrite $s, qq({\"command\":\"info\"}\\n); \
                  print sysread($s, my $said, 100) || 0";
    let mut asker = Command::new("setpriv");
    asker.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    asker.args(["perl", "-e", script]).arg(&path);
    assert_eq!(tool(&mut asker, "util-linux and perl-base"), "0");
    sandbox.server();
}

#[test]
fn the_socket_of_a_killed_daemon_is_replaced() {
    let sandbox = Sandbox::mounted(SUITES[1]);
    let killed = sandbox.server();
    kill_process(Pid::from_raw(killed).unwrap(), Signal::KILL).unwrap();
    while PathBuf::from(format!("/proc/{killed}/fd/0")).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = Command::new("umount")
        .arg("--lazy")
        .arg(sandbox.mnt())
        .status()
        .unwrap();
    sandbox.mount();
    assert_ne!(sandbox.server(), killed);
}
