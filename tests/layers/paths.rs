//! Which paths a Rust source names, found in its tokens. No parser: `use` trees and `a::b` chains are all the grammar
//! that the layering needs.

use std::fs;
use std::path::Path;

mod tokens;

use tokens::{Token, tokens};

/// One source file of the crate.
pub struct Source {
    /// Path below `src`, with `/`.
    pub file: String,
    module: Vec<String>,
    tokens: Vec<Token>,
    /// Modules that this file declares for tests only.
    test_modules: Vec<Vec<String>>,
}

/// A path that a source names, resolved: `crate::…` for this crate, else as from the outside.
pub struct Named {
    pub path: String,
    pub line: usize,
    /// Set where the naming would hide later ones.
    pub hidden: Option<&'static str>,
}

impl Source {
    pub fn new(file: &str, text: &str) -> Self {
        let module = module_of(file);
        let tokens = tokens(text);
        let (tokens, test_modules) = without_tests(&tokens, &module);
        Self {
            file: file.to_owned(),
            module,
            tokens,
            test_modules,
        }
    }

    /// All `.rs` files below a folder, without those that are declared for tests only.
    pub fn all_below(src: &Path) -> Vec<Self> {
        let mut files = Vec::new();
        collect(src, src, &mut files);
        let for_tests: Vec<_> = files
            .iter()
            .flat_map(|source| source.test_modules.clone())
            .collect();
        files.retain(|source| {
            !for_tests
                .iter()
                .any(|module| source.module.starts_with(module))
        });
        files
    }

    /// First folder below `src`.
    pub fn layer(&self) -> Option<&str> {
        self.file.split_once('/').map(|(layer, _)| layer)
    }

    pub fn named_paths(&self) -> Vec<Named> {
        let mut reader = Reader {
            tokens: &self.tokens,
            at: 0,
            module: self.module.clone(),
            open: Vec::new(),
            out: Vec::new(),
        };
        reader.read_all();
        reader.out
    }
}

fn collect(src: &Path, folder: &Path, files: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(src, &path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let file = path.strip_prefix(src).unwrap().to_str().unwrap();
            files.push(Source::new(file, &fs::read_to_string(&path).unwrap()));
        }
    }
}

fn module_of(file: &str) -> Vec<String> {
    let mut module: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    module
}

/// Drops items that are compiled for tests only, and says which modules in files of their own those are.
fn without_tests(tokens: &[Token], module: &[String]) -> (Vec<Token>, Vec<Vec<String>>) {
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        let inner = text(tokens, at + 1) == "!";
        let bracket = at + 1 + usize::from(inner);
        if text(tokens, at) != "#" || text(tokens, bracket) != "[" {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = group_end(tokens, bracket);
        if !is_for_tests(&tokens[bracket + 1..end - 1]) {
            kept.extend_from_slice(&tokens[at..end]);
            at = end;
        } else if inner {
            return (Vec::new(), vec![module.to_vec()]);
        } else {
            let item_end = item_end(tokens, end);
            let item = &tokens[end..item_end];
            if let Some(name) = item
                .iter()
                .position(|token| token.text == "mod")
                .map(|at| text(item, at + 1))
            {
                modules.push(module.iter().cloned().chain([name.to_owned()]).collect());
            }
            at = item_end;
        }
    }
    (kept, modules)
}

/// `test`, or a `cfg` that needs it.
fn is_for_tests(attribute: &[Token]) -> bool {
    let words: Vec<&str> = attribute.iter().map(|token| token.text.as_str()).collect();
    let alternatives = words.iter().any(|word| *word == "not" || *word == "any");
    words == ["test"] || (words.first() == Some(&"cfg") && words.contains(&"test") && !alternatives)
}

/// Where the item ends that begins at `at`, its other attributes included.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match text(tokens, at) {
            ";" => return at + 1,
            "{" => return group_end(tokens, at),
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// Past the bracket that closes the one at `open`.
fn group_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    /// For each open brace, whether it opened an inline module.
    open: Vec<bool>,
    out: Vec<Named>,
}

impl Reader<'_> {
    fn text(&self) -> &str {
        text(self.tokens, self.at)
    }

    fn read_all(&mut self) {
        while self.at < self.tokens.len() {
            let (now, next, after) = (
                self.text(),
                text(self.tokens, self.at + 1),
                text(self.tokens, self.at + 2),
            );
            match now {
                "mod" if is_name(next) && after == "{" => {
                    self.module.push(next.to_owned());
                    self.open.push(true);
                    self.at += 3;
                }
                "{" => {
                    self.open.push(false);
                    self.at += 1;
                }
                "}" => {
                    if self.open.pop() == Some(true) {
                        self.module.pop();
                    }
                    self.at += 1;
                }
                // `use<'a>` bounds a return type and names nothing.
                "use" if next != "<" => {
                    self.at += 1;
                    self.use_tree(&[]);
                }
                "extern" if next == "crate" => self.hides("renames a root:", after.to_owned()),
                "include" if next == "!" => {
                    self.hides("takes in another file:", "include!".to_owned())
                }
                "[" if next == "path" && after == "=" => {
                    self.hides("takes in another file:", "#[path]".to_owned())
                }
                _ if is_name(now) => self.chain(),
                _ => self.at += 1,
            }
        }
    }

    /// `a::b::c` outside of a `use`; a single name is no path.
    fn chain(&mut self) {
        let line = self.tokens[self.at].line;
        let mut path = vec![self.text().to_owned()];
        self.at += 1;
        while self.text() == "::" && is_name(text(self.tokens, self.at + 1)) {
            path.push(text(self.tokens, self.at + 1).to_owned());
            self.at += 2;
        }
        if path.len() > 1 {
            self.name(&path, line, None);
        }
    }

    /// One tree of a `use`, below `prefix`; ends at the `,`, `}` or `;` after it.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        loop {
            match self.text() {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(), "}" | ";" | "") {
                        self.use_tree(&path);
                        if self.text() == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    let root = self.is_root(&path);
                    return self.name(&path, line, root.then_some("takes in all of"));
                }
                "as" => {
                    self.at += 2;
                    let root = self.is_root(&path);
                    return self.name(&path, line, root.then_some("renames a root:"));
                }
                "self" if !path.is_empty() => self.at += 1,
                now if is_name(now) => {
                    path.push(now.to_owned());
                    self.at += 1;
                }
                // Anything else is no `use` tree; a step keeps the reader from standing still.
                now => {
                    if !matches!(now, "," | "}" | ";") {
                        self.at += 1;
                    }
                    return self.name(&path, line, None);
                }
            }
        }
    }

    fn hides(&mut self, how: &'static str, path: String) {
        let line = self.tokens[self.at].line;
        self.out.push(Named {
            path,
            line,
            hidden: Some(how),
        });
        self.at += 3;
    }

    /// Whether what a rule forbids could follow directly.
    fn is_root(&self, path: &[String]) -> bool {
        matches!(&*self.resolve(path), [root] if root == "crate" || root == "std")
    }

    fn name(&mut self, path: &[String], line: usize, hidden: Option<&'static str>) {
        if !path.is_empty() {
            let path = self.resolve(path).join("::");
            self.out.push(Named { path, line, hidden });
        }
    }

    /// From `crate` for what is in this crate by `crate`, `self`, `super` or the crate's name; else unchanged.
    fn resolve(&self, path: &[String]) -> Vec<String> {
        let mut module = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate" | "strongroom") => {
                module.clear();
                rest = &path[1..];
            }
            Some("self") => rest = &path[1..],
            Some("super") => {}
            _ => return path.to_vec(),
        }
        while rest.first().is_some_and(|first| first == "super") {
            module.pop();
            rest = &rest[1..];
        }
        ["crate".to_owned()]
            .into_iter()
            .chain(module)
            .chain(rest.iter().cloned())
            .collect()
    }
}
