//! What one writer's directory must hold: names, and for each file the bytes that were acknowledged. Memory only.
//!
//! A block may hold its newest bytes or any that it had since they were last certain: acknowledged, or under writeback
//! synced or closed. The operation that was cut off may have happened or not.

use std::collections::{BTreeMap, HashMap};

const BLOCK: usize = 4096;

/// A file.
#[derive(Debug, Default, Clone)]
pub struct File {
    pub content: Vec<u8>,
    pub attribute: Vec<u8>,
    /// Other values that the attribute may have.
    pub other_attribute: Option<Vec<u8>>,
    /// Sizes it may have, the smallest and the largest.
    sizes: (usize, usize),
    /// Bytes that blocks had since they were last certain.
    earlier: HashMap<usize, Vec<Vec<u8>>>,
}

fn block(content: &[u8], number: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = content
        .iter()
        .skip(number * BLOCK)
        .take(BLOCK)
        .copied()
        .collect();
    bytes.resize(BLOCK, 0);
    bytes
}

impl File {
    fn certain(content: Vec<u8>, attribute: Vec<u8>) -> Self {
        Self {
            sizes: (content.len(), content.len()),
            content,
            attribute,
            ..Self::default()
        }
    }

    /// Everything so far is certain.
    pub fn settle(&mut self) {
        self.earlier.clear();
        self.other_attribute = None;
        self.sizes = (self.content.len(), self.content.len());
    }

    /// Before bytes are written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        // What lies between the old end and the new bytes becomes zeros.
        self.change(
            offset.min(self.content.len()),
            end.max(self.content.len().min(offset)),
        );
        self.content.resize(self.content.len().max(end), 0);
        self.content[offset..end].copy_from_slice(data);
        self.sized();
    }

    /// Before the size changes.
    pub fn resize(&mut self, size: usize) {
        self.change(size.min(self.content.len()), size.max(self.content.len()));
        self.content.resize(size, 0);
        self.sized();
    }

    fn change(&mut self, from: usize, to: usize) {
        for number in from / BLOCK..to.div_ceil(BLOCK) {
            let bytes = block(&self.content, number);
            self.earlier.entry(number).or_default().push(bytes);
        }
    }

    fn sized(&mut self) {
        let len = self.content.len();
        self.sizes = (self.sizes.0.min(len), self.sizes.1.max(len));
    }

    /// What is wrong with the bytes found; `None` if nothing is.
    fn wrong(&self, found: &[u8], attribute: &[u8]) -> Option<String> {
        if found.len() < self.sizes.0 || found.len() > self.sizes.1 {
            return Some(format!("{} bytes long, not {:?}", found.len(), self.sizes));
        }
        if attribute != self.attribute && Some(attribute) != self.other_attribute.as_deref() {
            return Some("another attribute".to_owned());
        }
        (0..found.len().div_ceil(BLOCK)).find_map(|number| {
            let shown = block(found, number);
            let cut =
                |bytes: Vec<u8>| block(&bytes[..(found.len() - number * BLOCK).min(BLOCK)], 0);
            let newest = cut(block(&self.content, number));
            let mut earlier = self.earlier.get(&number).into_iter().flatten();
            let is_known = shown == newest || earlier.any(|bytes| cut(bytes.clone()) == shown);
            let known = 1 + self.earlier.get(&number).map_or(0, Vec::len);
            (!is_known).then(|| format!("block {number} holds none of {known} versions"))
        })
    }
}

/// What stands under a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    File(usize),
    Symlink(String),
}

/// Names: those of the two directories, and of what is in them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shape {
    pub dirs: Vec<String>,
    pub names: BTreeMap<(usize, String), Object>,
}

/// What was found under a name.
pub enum Found {
    File {
        ino: u64,
        content: Vec<u8>,
        attribute: Vec<u8>,
    },
    Symlink(String),
}

/// The whole of one writer.
pub struct Model {
    pub writeback: bool,
    pub shape: Shape,
    /// Names before the operation that was cut off.
    pub before: Option<Shape>,
    pub files: HashMap<usize, File>,
    pub next: usize,
}

impl Model {
    pub fn new(writeback: bool) -> Self {
        Self {
            writeback,
            shape: Shape::default(),
            before: None,
            files: HashMap::new(),
            next: 0,
        }
    }

    /// Takes what was found for what is certain from now on, if it is one of the things that may be there.
    pub fn adopt(
        &mut self,
        dirs: &[String],
        found: BTreeMap<(String, String), Found>,
    ) -> Result<(), String> {
        let mut candidates = vec![self.shape.clone()];
        candidates.extend(self.before.take());
        let mut wrong = Vec::new();
        for shape in candidates {
            match self.wrong(&shape, dirs, &found) {
                None => {
                    self.take(shape, found);
                    return Ok(());
                }
                Some(what) => wrong.push(what),
            }
        }
        Err(wrong.join("; or: "))
    }

    fn wrong(
        &self,
        shape: &Shape,
        dirs: &[String],
        found: &BTreeMap<(String, String), Found>,
    ) -> Option<String> {
        let mut named = shape.dirs.clone();
        named.sort();
        if named != dirs {
            return Some(format!("directories {dirs:?}, not {named:?}"));
        }
        let place = |(dir, name): &(usize, String)| (shape.dirs[*dir].clone(), name.clone());
        let mut wanted: Vec<_> = shape.names.keys().map(place).collect();
        wanted.sort();
        if !wanted.iter().eq(found.keys()) {
            let found: Vec<_> = found.keys().collect();
            return Some(format!("names {found:?}, not {wanted:?}"));
        }
        let mut inodes = HashMap::new();
        shape.names.iter().find_map(|(name, object)| {
            let what = match (object, &found[&place(name)]) {
                (Object::Symlink(target), Found::Symlink(found)) if target == found => None,
                (
                    Object::File(id),
                    Found::File {
                        ino,
                        content,
                        attribute,
                    },
                ) => {
                    if *inodes.entry(*id).or_insert(*ino) != *ino {
                        return Some(format!("{name:?} is another file than its other name"));
                    }
                    self.files[id].wrong(content, attribute)
                }
                _ => Some("another kind or target".to_owned()),
            };
            what.map(|what| format!("{name:?}: {what}"))
        })
    }

    fn take(&mut self, shape: Shape, mut found: BTreeMap<(String, String), Found>) {
        self.files.clear();
        for ((dir, name), object) in &shape.names {
            let place = (shape.dirs[*dir].clone(), name.clone());
            if let (
                Object::File(id),
                Some(Found::File {
                    content, attribute, ..
                }),
            ) = (object, found.remove(&place))
            {
                self.files.insert(*id, File::certain(content, attribute));
            }
        }
        self.shape = shape;
    }
}
