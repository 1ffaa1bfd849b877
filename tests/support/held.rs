//! What programs hold while the process that serves a mount changes: files, also without a name, mappings, directories.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::lives::Map;
use crate::support::Sandbox;

pub fn opened(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

pub fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Files and directories held open over changes of the process.
pub struct Held {
    mnt: PathBuf,
    named: File,
    nameless: File,
    moved: File,
    replaced: File,
    append: File,
    forbidden: File,
    map: Map,
    numbers: Vec<(PathBuf, u64)>,
}

impl Held {
    pub fn in_mount(mnt: &Path) -> Self {
        let at = |name: &str| mnt.join(name);
        fs::create_dir_all(at("dir/below/far")).unwrap();
        let write = |name: &str, byte: u8, len: usize| {
            let file = opened(&at(name));
            file.write_all_at(&vec![byte; len], 0).unwrap();
            file
        };
        let named = write("dir/named", 1, 70_000);
        let nameless = write("nameless", 2, 300_000);
        fs::remove_file(at("nameless")).unwrap();
        nameless.write_all_at(&[22; 5_000], 100_000).unwrap();
        let moved = write("moving", 3, 10_000);
        fs::rename(at("moving"), at("dir/below/moved")).unwrap();
        let replaced = write("replaced", 4, 20_000);
        write("replacing", 5, 20_000);
        fs::rename(at("replacing"), at("replaced")).unwrap();
        let append = OpenOptions::new()
            .append(true)
            .create(true)
            .open(at("log"))
            .unwrap();
        let forbidden = write("forbidden", 6, 100);
        fs::set_permissions(at("forbidden"), fs::Permissions::from_mode(0o000)).unwrap();
        let mapped = write("mapped", 0, 40_000);
        symlink("dir/named", at("link")).unwrap();
        fs::hard_link(at("dir/named"), at("other")).unwrap();
        fs::rename(at("dir/below"), at("below")).unwrap();
        let names = [
            "dir",
            "dir/named",
            "below",
            "below/far",
            "below/moved",
            "link",
            "log",
        ];
        let number = |name: &&str| (at(name), fs::symlink_metadata(at(name)).unwrap().ino());
        Self {
            mnt: mnt.to_owned(),
            named,
            nameless,
            moved,
            replaced,
            append,
            forbidden,
            map: Map::of(&mapped, 40_000),
            numbers: names.iter().map(number).collect(),
        }
    }

    /// Changes everything a little, and looks at it. `round`: from 1, no greater than 50.
    pub fn used(&mut self, round: usize) {
        let byte = round as u8;
        self.named.write_all_at(&[byte; 100], 5_000).unwrap();
        let mut wanted = vec![1; 70_000];
        wanted[5_000..5_100].fill(byte);
        assert!(bytes(&self.named) == wanted);
        assert!(fs::read(self.mnt.join("link")).unwrap() == wanted);
        assert!(fs::read(self.mnt.join("other")).unwrap() == wanted);

        self.nameless.write_all_at(&[byte; 9_000], 200_000).unwrap();
        self.nameless.set_len(300_000 + round as u64).unwrap();
        let mut wanted = vec![2; 300_000];
        wanted[100_000..105_000].fill(22);
        wanted[200_000..209_000].fill(byte);
        wanted.resize(300_000 + round, 0);
        assert!(bytes(&self.nameless) == wanted);
        self.nameless.sync_all().unwrap();
        assert_eq!(self.nameless.metadata().unwrap().nlink(), 0);
        self.nameless.set_len(300_000).unwrap();

        assert!(bytes(&self.moved) == vec![3; 10_000]);
        assert!(bytes(&self.replaced) == vec![4; 20_000]);
        assert!(fs::read(self.mnt.join("replaced")).unwrap() == vec![5; 20_000]);
        self.append.write_all(&[byte]).unwrap();
        let wanted: Vec<_> = (1..=byte).collect();
        assert_eq!(fs::read(self.mnt.join("log")).unwrap(), wanted);
        self.forbidden.rewind().unwrap();
        let mut read = Vec::new();
        self.forbidden.read_to_end(&mut read).unwrap();
        assert_eq!(read, [6; 100]);

        assert!(self.map.bytes().iter().all(|seen| *seen == byte - 1));
        self.map.bytes().fill(byte);
        if round.is_multiple_of(2) {
            self.map.sync().unwrap();
        }
        for (path, number) in &self.numbers {
            assert_eq!(
                fs::symlink_metadata(path).unwrap().ino(),
                *number,
                "{}",
                path.display()
            );
        }
        let far = self.mnt.join("below/far").join(round.to_string());
        fs::write(&far, b"new").unwrap();
        fs::rename(&far, self.mnt.join("dir").join(round.to_string())).unwrap();
        let listed = fs::read_dir(self.mnt.join("dir")).unwrap().count();
        assert_eq!(listed, 1 + round, "all of them, and the one that is named");
    }
}

/// Holds everything open in a mount over six changes of its process, and over two more while it is let go.
pub fn stays_open(suite: &str, options: &str, change: impl Fn(&Sandbox), ends: impl Fn(&Sandbox)) {
    let sandbox = Sandbox::with_volume(suite);
    sandbox.mount_with(options);
    let mut held = Held::in_mount(&sandbox.mnt());
    held.used(1);
    for round in 2..8 {
        change(&sandbox);
        held.used(round);
    }
    change(&sandbox);
    drop(held);
    change(&sandbox);
    let log = fs::read(sandbox.mnt().join("log")).unwrap();
    assert_eq!(log, [1, 2, 3, 4, 5, 6, 7]);
    ends(&sandbox);
    sandbox.mount();
    assert!(fs::read(sandbox.mnt().join("mapped")).unwrap() == vec![7; 40_000]);
    assert!(fs::read(sandbox.mnt().join("below/moved")).unwrap() == vec![3; 10_000]);
}
