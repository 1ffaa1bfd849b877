//! The same random operations on a mount and on a plain directory give the same results: return values, errno, contents,
//! sizes, attributes, listings. In both suites, with remounts on the way.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags};
use support::random::Random;
use support::{SUITES, Sandbox};

const SEQUENCES: u64 = 60;
const STEPS: usize = 120;
/// Sizes stay around a few groups of the format, so that edges are met often.
const MAX_OFFSET: u64 = 900_000;

/// What operations are about, drawn.
trait Draw {
    /// An offset, often at or beside a block or group edge.
    fn offset(&mut self) -> u64;
    fn name(&mut self) -> PathBuf;
    fn directory(&mut self) -> PathBuf;
    fn bytes(&mut self) -> Vec<u8>;
}

impl Draw for Random {
    fn offset(&mut self) -> u64 {
        let edge = [4096, 32 * 4096, 96 * 4096, 160 * 4096][self.below(4) as usize];
        match self.below(4) {
            0 => self.below(MAX_OFFSET),
            1 => (self.below(40) * 4096).min(MAX_OFFSET),
            2 => edge,
            _ => edge + self.below(9) - 4,
        }
    }

    fn name(&mut self) -> PathBuf {
        let base = match self.below(12) {
            0 => OsStr::from_bytes(b"odd\xff\n").to_owned(),
            1 => "n".repeat(255).into(),
            2 => "m".repeat(200).into(),
            n => format!("f{n}").into(),
        };
        match self.below(3) {
            0 => Path::new(&format!("d{}", self.below(3))).join(base),
            1 => Path::new("d0")
                .join(format!("d{}", self.below(3)))
                .join(base),
            _ => PathBuf::from(base),
        }
    }

    fn directory(&mut self) -> PathBuf {
        let inner = format!("d{}", self.below(3));
        if self.below(2) == 0 {
            PathBuf::from(inner)
        } else {
            Path::new("d0").join(inner)
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = match self.below(4) {
            0 => self.below(100),
            1 => self.below(5000),
            2 => 4096 * self.below(4),
            _ => self.below(300_000),
        };
        let seed = self.next();
        (0..length)
            .map(|at| (seed.wrapping_mul(at | 1) >> 32) as u8)
            .collect()
    }
}

/// An operation; every value in it is drawn before it runs, so that both sides get the same.
#[derive(Debug, Clone)]
enum Op {
    Create(PathBuf, u32),
    Write(PathBuf, u64, Vec<u8>),
    Append(PathBuf, Vec<u8>),
    WriteTruncated(PathBuf, Vec<u8>),
    Read(PathBuf, u64, usize),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf, RenameFlags),
    RenameDir(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Unlink(PathBuf),
    MakeDir(PathBuf),
    RemoveDir(PathBuf),
    Symlink(PathBuf, Vec<u8>),
    Fifo(PathBuf),
    Mode(PathBuf, u32),
    Times(PathBuf, i64, i64),
    SetXattr(PathBuf, u64, Vec<u8>),
    RemoveXattr(PathBuf, u64),
    Allocate(PathBuf, FallocateFlags, u64, u64),
    CopyRange(PathBuf, u64, PathBuf, u64, usize),
    Sync(PathBuf),
    Describe(PathBuf),
    List(PathBuf),
}

fn draw(random: &mut Random) -> Op {
    let name = random.name();
    match random.below(30) {
        0 | 1 => Op::Create(name, [0o644, 0o600, 0o755, 0o444][random.below(4) as usize]),
        2..=6 => Op::Write(name, random.offset(), random.bytes()),
        7 => Op::Append(name, random.bytes()),
        8 => Op::WriteTruncated(name, random.bytes()),
        9..=11 => Op::Read(name, random.offset(), random.below(200_000) as usize),
        12 | 13 => Op::Truncate(name, random.offset()),
        14 => Op::Truncate(name, 0),
        15 => {
            let flags = [
                RenameFlags::empty(),
                RenameFlags::NOREPLACE,
                RenameFlags::EXCHANGE,
            ];
            Op::Rename(name, random.name(), flags[random.below(3) as usize])
        }
        16 => Op::RenameDir(random.directory(), random.directory()),
        17 => Op::Link(name, random.name()),
        18 => Op::Unlink(name),
        19 => Op::MakeDir(random.directory()),
        20 => Op::RemoveDir(random.directory()),
        21 => Op::Symlink(
            name,
            "t".repeat(1 + random.below(3000) as usize).into_bytes(),
        ),
        22 => Op::Fifo(name),
        23 => Op::Mode(
            name,
            [0o600, 0o644, 0o4755, 0o2750, 0o777][random.below(5) as usize],
        ),
        24 => Op::Times(
            name,
            random.below(2_000_000_000) as i64,
            random.below(1_000_000_000) as i64,
        ),
        25 => Op::SetXattr(
            name,
            random.below(4),
            random.bytes().into_iter().take(300).collect(),
        ),
        26 => Op::RemoveXattr(name, random.below(4)),
        27 => {
            let flags = [
                FallocateFlags::empty(),
                FallocateFlags::KEEP_SIZE,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                FallocateFlags::ZERO_RANGE,
                FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            ];
            Op::Allocate(
                name,
                flags[random.below(5) as usize],
                random.offset(),
                1 + random.below(200_000),
            )
        }
        28 => Op::CopyRange(
            name,
            random.offset(),
            random.name(),
            random.offset(),
            random.below(150_000) as usize,
        ),
        _ => match random.below(3) {
            0 => Op::Sync(name),
            1 => Op::Describe(name),
            _ => Op::List(random.directory()),
        },
    }
}

fn open(top: &Path, name: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Never wait for the other end of a fifo.
    options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(top.join(name))
}

fn xattr_name(n: u64) -> String {
    format!("user.attribute-{n}")
}

/// Runs an operation below `top`; what a program can see of its result.
fn run(top: &Path, op: &Op) -> io::Result<Vec<u8>> {
    match op {
        Op::Create(name, mode) => open(
            top,
            name,
            OpenOptions::new().write(true).create_new(true).mode(*mode),
        )
        .map(|_| Vec::new()),
        Op::Write(name, offset, bytes) => open(top, name, OpenOptions::new().write(true))?
            .write_all_at(bytes, *offset)
            .map(|()| Vec::new()),
        Op::Append(name, bytes) => io::Write::write_all(
            &mut open(top, name, OpenOptions::new().append(true))?,
            bytes,
        )
        .map(|()| Vec::new()),
        Op::WriteTruncated(name, bytes) => {
            let file = open(top, name, OpenOptions::new().write(true).truncate(true))?;
            file.write_all_at(bytes, 0).map(|()| Vec::new())
        }
        Op::Read(name, offset, length) => {
            let mut bytes = vec![0; *length];
            let read =
                open(top, name, OpenOptions::new().read(true))?.read_at(&mut bytes, *offset)?;
            bytes.truncate(read);
            Ok(bytes)
        }
        Op::Truncate(name, size) => open(top, name, OpenOptions::new().write(true))?
            .set_len(*size)
            .map(|()| Vec::new()),
        Op::Rename(from, to, flags) => {
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                top.join(from),
                rustix::fs::CWD,
                top.join(to),
                *flags,
            )?;
            Ok(Vec::new())
        }
        Op::RenameDir(from, to) => {
            std::fs::rename(top.join(from), top.join(to)).map(|()| Vec::new())
        }
        Op::Link(from, to) => std::fs::hard_link(top.join(from), top.join(to)).map(|()| Vec::new()),
        Op::Unlink(name) => std::fs::remove_file(top.join(name)).map(|()| Vec::new()),
        Op::MakeDir(name) => std::fs::create_dir(top.join(name)).map(|()| Vec::new()),
        Op::RemoveDir(name) => std::fs::remove_dir(top.join(name)).map(|()| Vec::new()),
        Op::Symlink(name, target) => {
            std::os::unix::fs::symlink(OsStr::from_bytes(target), top.join(name))
                .map(|()| Vec::new())
        }
        Op::Fifo(name) => {
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(
                rustix::fs::CWD,
                top.join(name),
                kind,
                rustix::fs::Mode::RUSR,
                0,
            )?;
            Ok(Vec::new())
        }
        Op::Mode(name, mode) => {
            let file = open(top, name, OpenOptions::new().read(true))?;
            file.set_permissions(std::fs::Permissions::from_mode(*mode))
                .map(|()| Vec::new())
        }
        Op::Times(name, sec, nsec) => {
            let time = rustix::fs::Timespec {
                tv_sec: *sec,
                tv_nsec: *nsec as _,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, top.join(name), &times, flags)?;
            Ok(format!("{:?}", top.join(name).symlink_metadata()?.modified()?).into_bytes())
        }
        Op::SetXattr(name, n, value) => {
            let file = open(top, name, OpenOptions::new().read(true))?;
            rustix::fs::fsetxattr(file.as_fd(), xattr_name(*n), value, XattrFlags::empty())?;
            Ok(Vec::new())
        }
        Op::RemoveXattr(name, n) => {
            let file = open(top, name, OpenOptions::new().read(true))?;
            rustix::fs::fremovexattr(file.as_fd(), xattr_name(*n))?;
            Ok(Vec::new())
        }
        Op::Allocate(name, flags, offset, length) => {
            let file = open(top, name, OpenOptions::new().write(true))?;
            rustix::fs::fallocate(file.as_fd(), *flags, *offset, *length)?;
            Ok(Vec::new())
        }
        Op::CopyRange(from, from_offset, to, to_offset, length) => {
            let source = open(top, from, OpenOptions::new().read(true))?;
            let target = open(top, to, OpenOptions::new().write(true))?;
            let (mut at, mut put) = (*from_offset, *to_offset);
            let end = at + *length as u64;
            while at < end {
                let left = (end - at) as usize;
                if rustix::fs::copy_file_range(
                    &source,
                    Some(&mut at),
                    &target,
                    Some(&mut put),
                    left,
                )? == 0
                {
                    break;
                }
            }
            Ok((at - from_offset).to_string().into_bytes())
        }
        Op::Sync(name) => open(top, name, OpenOptions::new().read(true))?
            .sync_all()
            .map(|()| Vec::new()),
        Op::Describe(name) => describe(&top.join(name)),
        Op::List(name) => {
            let mut names: Vec<_> = std::fs::read_dir(top.join(name))?
                .map(|entry| entry.map(|e| e.file_name()))
                .collect::<Result<_, _>>()?;
            names.sort();
            Ok(format!("{names:?}").into_bytes())
        }
    }
}

/// Everything that both sides must agree on about one object.
fn describe(path: &Path) -> io::Result<Vec<u8>> {
    let meta = path.symlink_metadata()?;
    let kind = meta.file_type();
    let links = if kind.is_dir() { 0 } else { meta.nlink() };
    let size = if kind.is_dir() { 0 } else { meta.size() };
    let mut said = format!(
        "{:o} {links} {size} {} {}",
        meta.mode(),
        meta.uid(),
        meta.gid()
    )
    .into_bytes();
    if kind.is_symlink() {
        said.extend(path.read_link()?.as_os_str().as_bytes());
    } else if kind.is_file() {
        said.extend(std::fs::read(path)?);
        let file = File::open(path)?;
        for n in 0..4 {
            let mut value = vec![0; 4096];
            match rustix::fs::fgetxattr(file.as_fd(), xattr_name(n), &mut value[..]) {
                Ok(length) => said.extend(&value[..length]),
                Err(error) => said.extend(error.raw_os_error().to_string().into_bytes()),
            }
        }
    } else if kind.is_fifo() {
        said.push(b'|');
    }
    Ok(said)
}

fn tree(top: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                left.push(path.clone());
            }
            found.push((
                path.strip_prefix(top).unwrap().to_path_buf(),
                describe(&path).unwrap(),
            ));
        }
    }
    found.sort();
    found
}

fn outcome(result: io::Result<Vec<u8>>) -> Result<Vec<u8>, Option<i32>> {
    result.map_err(|error| error.raw_os_error())
}

fn brief(result: &Result<Vec<u8>, Option<i32>>) -> String {
    match result {
        Ok(bytes) => format!(
            "{} bytes: {:?}",
            bytes.len(),
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        ),
        Err(errno) => format!("errno {errno:?}"),
    }
}

fn compare(cipher: &str) {
    let sandbox = Sandbox::mounted(cipher);
    for seed in 1..=SEQUENCES {
        let mut random = Random::new(seed);
        let name = format!("s{seed}");
        let (plain, mounted) = (sandbox.path("plain").join(&name), sandbox.mnt().join(&name));
        std::fs::create_dir_all(&plain).unwrap();
        std::fs::create_dir(&mounted).unwrap();
        let mut log = Vec::new();
        for step in 0..STEPS {
            let op = draw(&mut random);
            let expected = outcome(run(&plain, &op));
            let found = outcome(run(&mounted, &op));
            let mut short = format!("{op:?}");
            short.truncate(160);
            log.push(short);
            assert!(
                expected == found,
                "{cipher}, seed {seed}, step {step}: plain gives {}, the mount gives {}; the last operations:\n{}",
                brief(&expected),
                brief(&found),
                log[log.len().saturating_sub(25)..].join("\n")
            );
        }
        if seed % 6 == 0 {
            sandbox.remount();
        }
        let (expected, found) = (tree(&plain), tree(&mounted));
        for (left, right) in expected.iter().zip(&found) {
            assert!(
                left == right,
                "{cipher}, seed {seed}: {:?} and {:?} differ:\n{}",
                left.0,
                right.0,
                log.join("\n")
            );
        }
        assert_eq!(expected.len(), found.len(), "{cipher}, seed {seed}");
        std::fs::remove_dir_all(&plain).unwrap();
        std::fs::remove_dir_all(&mounted).unwrap();
    }
}

#[test]
fn random_operations_agree_with_a_plain_directory_gcm_siv() {
    compare(SUITES[0]);
}

#[test]
fn random_operations_agree_with_a_plain_directory_xts() {
    compare(SUITES[1]);
}
