//! A real ext4 of a size of our choice: an image on a loop device, mounted below a test's sandbox. Dropped, it leaves no
//! mount and no loop device, also when the test failed or something still uses it.
#![allow(dead_code)] // each test binary uses a part

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Sandbox, is_mounted, tool};

/// A mounted ext4 image.
pub struct Ext4Image {
    device: String,
    top: PathBuf,
}

impl Ext4Image {
    /// Makes and mounts one of `mib` MiB: `name`.img, mounted on `name`, both in `dir`. `sector`: what the device says it
    /// writes atomically, 512 or 4096 bytes.
    pub fn new(dir: &Path, name: &str, mib: u64, sector: u32) -> Self {
        let (image, top) = (dir.join(format!("{name}.img")), dir.join(name));
        let file = std::fs::File::create(&image).expect("the image");
        file.set_len(mib << 20).expect("room for the image");
        std::fs::create_dir(&top).expect("its mount point");
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-b", "4096", "-m", "0"]).arg(&image);
        tool(&mut make, "e2fsprogs");
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--sector-size", &sector.to_string()]);
        let device = tool(attach.arg(&image), "util-linux").trim().to_owned();
        let made = Self { device, top };
        tool(
            Command::new("mount").arg(&made.device).arg(&made.top),
            "util-linux",
        );
        made
    }

    /// Where it is mounted.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Mounts it again with these options.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        tool(
            Command::new("mount").args(["-o", &options]).arg(&self.top),
            "util-linux",
        );
    }

    /// Takes it out of the tree of names while it may be in use.
    pub fn detach(&self) {
        tool(
            Command::new("umount").arg("--lazy").arg(&self.top),
            "util-linux",
        );
    }

    /// Mounts it where it was.
    pub fn attach(&self) {
        tool(
            Command::new("mount").arg(&self.device).arg(&self.top),
            "util-linux",
        );
    }

    /// What `e2fsck` says of it, unmounted; empty where it finds nothing wrong.
    pub fn check(&self) -> String {
        // A program that another test starts just now holds our open files until it runs: not in use, and soon over.
        for _ in 0..100 {
            if quiet(Command::new("umount").arg(&self.top)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(!is_mounted(&self.top), "{} is in use", self.top.display());
        let checked = Command::new("e2fsck")
            .args(["-f", "-n"])
            .arg(&self.device)
            .output();
        let checked = checked.expect("e2fsck; install e2fsprogs (tests/all does)");
        self.attach();
        if checked.status.success() {
            String::new()
        } else {
            String::from_utf8_lossy(&checked.stdout).into_owned()
        }
    }
}

impl Drop for Ext4Image {
    fn drop(&mut self) {
        if is_mounted(&self.top) && !quiet(Command::new("umount").arg(&self.top)) {
            quiet(Command::new("umount").arg("--lazy").arg(&self.top));
        }
        // One still in use goes when its last user does.
        quiet(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

fn quiet(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A sandbox whose backing directory is an ext4 of its own.
pub struct Backed {
    pub sandbox: Sandbox,
    pub image: Option<Ext4Image>,
}

impl Backed {
    /// With a fresh volume of this cipher on `mib` MiB; `sector` as for `Ext4Image`.
    pub fn new(cipher: &str, mib: u64, sector: u32) -> Self {
        let sandbox = Sandbox::new();
        let image = Ext4Image::new(&sandbox.path(""), "vault", mib, sector);
        std::fs::remove_dir(image.top().join("lost+found")).expect("nothing in it");
        Self {
            sandbox: sandbox.init(cipher),
            image: Some(image),
        }
    }

    /// The file system under the volume.
    pub fn image(&self) -> &Ext4Image {
        self.image.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Backed {
    fn drop(&mut self) {
        self.sandbox.end();
        drop(self.image.take());
    }
}

/// A file system in a file, mounted as long as this lives.
pub struct Loop(PathBuf);

impl Loop {
    /// A new XFS of `mib` MiB that shares blocks between files (FICLONE).
    pub fn xfs(image: &Path, at: &Path, mib: u64) -> Self {
        let file = std::fs::File::create(image).expect("the image");
        file.set_len(mib << 20).expect("room for the image");
        let mut make = Command::new("mkfs.xfs");
        tool(make.args(["-q", "-m", "reflink=1"]).arg(image), "xfsprogs");
        Self::mount(image, at)
    }

    /// A new ext4 of `mib` MiB, with its journal.
    pub fn ext4(image: &Path, at: &Path, mib: u64) -> Self {
        let file = std::fs::File::create(image).expect("the image");
        file.set_len(mib << 20).expect("room for the image");
        let mut make = Command::new("mkfs.ext4");
        tool(make.args(["-q", "-F", "-m", "0"]).arg(image), "e2fsprogs");
        Self::mount(image, at)
    }

    /// The file system that is in an image.
    pub fn mount(image: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("its mount point");
        let mut mount = Command::new("mount");
        tool(mount.args(["-o", "loop"]).arg(image).arg(at), "util-linux");
        Self(at.to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Gives the loop device back, at the latest when its last user goes.
        if !quiet(Command::new("umount").arg(&self.0)) {
            quiet(Command::new("umount").arg("--lazy").arg(&self.0));
        }
    }
}
