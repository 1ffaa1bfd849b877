//! Set-id bits and file capabilities: who loses them by which change, and what an ordinary user may do in root's mount.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::support::{SUITES, Sandbox, tool};

/// A user without a name.
const USER: u32 = 54_321;

/// A mount that others may use, with a file of mode 06777 of its own user.
fn shared(suite: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.ok(&["mount", "--allow-other", "vault", "mnt"]);
    open_up(sandbox.mnt().parent().unwrap());
    open_up(&sandbox.mnt());
    let path = sandbox.mnt().join("file");
    fs::write(&path, b"0123456789").unwrap();
    chown(&path, Some(USER), Some(USER)).unwrap();
    (sandbox, path)
}

fn open_up(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn as_user(script: &str, path: &Path) -> Output {
    let mut command = Command::new("setpriv");
    let id = USER.to_string();
    command.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    command
        .arg(path)
        .output()
        .expect("setpriv; install util-linux (tests/all does)")
}

fn user_does(script: &str, path: &Path) {
    let output = as_user(script, path);
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn each_change_of_content_by_a_user_clears_set_id_bits() {
    let changes = [
        "echo x >> \"$1\"",
        "echo x > \"$1\"",
        "truncate -s 3 \"$1\"",
        "fallocate -l 20000 \"$1\"",
        "fallocate -p -l 4096 \"$1\"",
        "dd if=/dev/zero of=\"$1\" bs=1 count=1 conv=notrunc status=none",
    ];
    for suite in SUITES {
        let (_sandbox, path) = shared(suite);
        for change in changes {
            set_mode(&path, 0o6777);
            user_does(change, &path);
            assert_eq!(mode(&path), 0o777, "{change}");
            user_does(change, &path); // again, with nothing left to clear
        }
    }
}

/// Without the group's x, setgid means locking, and a write leaves it; an ACL can give the group that x.
#[test]
fn a_setgid_bit_that_an_acl_makes_count_is_cleared() {
    for suite in SUITES {
        let (_sandbox, path) = shared(suite);
        set_mode(&path, 0o2664);
        user_does("echo x >> \"$1\"", &path);
        assert_eq!(mode(&path), 0o2664);
        tool(
            Command::new("setfacl").args(["-m", "g::rwx"]).arg(&path),
            "setfacl; install acl (tests/all does)",
        );
        assert_eq!(mode(&path), 0o2674);
        user_does("echo x >> \"$1\"", &path);
        assert_eq!(mode(&path), 0o674);
    }
}

#[test]
fn a_write_by_root_leaves_set_id_bits_and_takes_capabilities() {
    for suite in SUITES {
        let (_sandbox, path) = shared(suite);
        set_mode(&path, 0o6755);
        // cap_net_raw, permitted and effective, in the form of revision 2 (capabilities(7)).
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let name = "security.capability";
        for _ in 0..2 {
            setxattr(&path, name, &capability, XattrFlags::empty()).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            assert_eq!(mode(&path), 0o6755);
            let gone = getxattr(&path, name, &mut [0_u8; 64]).unwrap_err();
            assert_eq!(gone, rustix::io::Errno::NODATA);
        }
    }
}

#[test]
fn a_change_of_owner_clears_set_id_bits() {
    for suite in SUITES {
        let (_sandbox, path) = shared(suite);
        set_mode(&path, 0o6777);
        chown(&path, Some(USER), Some(1)).unwrap();
        assert_eq!(mode(&path), 0o777);
        set_mode(&path, 0o2767);
        chown(&path, Some(USER), Some(USER)).unwrap();
        assert_eq!(
            mode(&path),
            0o2767,
            "without the group's x, setgid means locking"
        );
    }
}

#[test]
fn a_user_is_held_to_permissions() {
    for suite in SUITES {
        let (sandbox, path) = shared(suite);
        set_mode(&path, 0o600);
        user_does("cat \"$1\" && rm -f \"$1.none\"", &path);
        chown(&path, Some(0), Some(0)).unwrap();
        assert!(!as_user("cat \"$1\"", &path).status.success());
        assert!(
            !as_user("echo x > \"$1/new\"", &sandbox.mnt())
                .status
                .success()
        );
        let made = sandbox.mnt().join("open");
        fs::create_dir(&made).unwrap();
        set_mode(&made, 0o1777);
        user_does("echo x > \"$1/own\"", &made);
        let own = fs::metadata(made.join("own")).unwrap();
        assert_eq!((own.uid(), own.gid()), (USER, USER));
    }
}

#[test]
fn others_cannot_look_into_a_mount_for_one_user() {
    let sandbox = Sandbox::mounted(SUITES[0]);
    open_up(sandbox.mnt().parent().unwrap());
    set_mode(&sandbox.mnt(), 0o777);
    assert!(!as_user("ls \"$1\"", &sandbox.mnt()).status.success());
}
