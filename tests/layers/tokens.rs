//! Cuts a Rust source into tokens, so that no comment or string is taken for code.

/// An identifier, `::`, a single punctuation mark, or `""` for any literal text.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The tokens of a source, without comments and numbers.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut out) = (0, 1, Vec::new());
    while let Some(&c) = chars.get(at) {
        let rest = &chars[at..];
        let (len, token) = match c {
            '/' if rest.get(1) == Some(&'/') => {
                (rest.iter().take_while(|&&c| c != '\n').count(), None)
            }
            '/' if rest.get(1) == Some(&'*') => (block_comment(rest), None),
            '"' => (quoted(rest), Some("\"\"".to_owned())),
            '\'' => match char_literal(rest) {
                Some(len) => (len, Some("\"\"".to_owned())),
                None => (1, None), // a lifetime: its name follows as an identifier, which is harmless
            },
            _ if c.is_alphabetic() || c == '_' => word(rest),
            _ if c.is_ascii_digit() => (
                rest.iter()
                    .take_while(|c| c.is_alphanumeric() || **c == '_')
                    .count(),
                None,
            ),
            ':' if rest.get(1) == Some(&':') => (2, Some("::".to_owned())),
            _ if c.is_whitespace() => (1, None),
            _ => (1, Some(c.to_string())),
        };
        out.extend(token.map(|text| Token { text, line }));
        line += rest[..len].iter().filter(|&&c| c == '\n').count();
        at += len;
    }
    out
}

/// An identifier, or the string literal that a prefix such as `br#` begins.
fn word(rest: &[char]) -> (usize, Option<String>) {
    let len = rest
        .iter()
        .take_while(|c| c.is_alphanumeric() || **c == '_')
        .count();
    let word: String = rest[..len].iter().collect();
    let hashes = rest[len..].iter().take_while(|&&c| c == '#').count();
    let quote = rest.get(len + hashes) == Some(&'"');
    match word.as_str() {
        "r" | "br" | "cr" if quote => (len + raw_string(&rest[len..], hashes), Some("\"\"".into())),
        "b" | "c" if quote && hashes == 0 => (len + quoted(&rest[len..]), Some("\"\"".into())),
        "r" if hashes == 1 => (len + 1, None), // a raw identifier: the name follows
        _ => (len, Some(word)),
    }
}

fn raw_string(rest: &[char], hashes: usize) -> usize {
    let end: Vec<char> = ['"']
        .into_iter()
        .chain(std::iter::repeat_n('#', hashes))
        .collect();
    let body = hashes + 1;
    let close = rest[body..]
        .windows(end.len())
        .position(|window| window == end);
    close.map_or(rest.len(), |close| body + close + end.len())
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn char_literal(rest: &[char]) -> Option<usize> {
    if rest.get(1) == Some(&'\\') {
        return rest
            .iter()
            .skip(3)
            .position(|&c| c == '\'')
            .map(|at| at + 4);
    }
    (rest.get(2) == Some(&'\'')).then_some(3)
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}
