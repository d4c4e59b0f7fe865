//! The Rust files of the checkout, read as text: enough of the grammar to tell code from comments,
//! strings and tests, so that a rule about names does not trip over a sentence that mentions one.

use anyhow::{Context, Result};
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

/// One file.
pub(crate) struct Source {
    /// Its path in the checkout.
    pub(crate) path: PathBuf,
    /// All of it.
    pub(crate) text: String,
}

/// Every file of the checkout with one of these extensions, in order of path; what is built,
/// installed or hidden is left out.
pub(crate) fn files(root: &Path, extensions: &[&str]) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    walk(root, root, extensions, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(root: &Path, folder: &Path, extensions: &[&str], found: &mut Vec<Source>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let left_out = name.to_string_lossy().starts_with('.') || name == "target";
            if !left_out {
                walk(root, &path, extensions, found)?;
            }
        } else if kind.is_file()
            && extensions
                .iter()
                .any(|e| path.extension().is_some_and(|x| x == *e))
        {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = path
                .strip_prefix(root)
                .expect("the walk began at the root")
                .to_owned();
            found.push(Source { path, text });
        }
    }
    Ok(())
}

/// The text with comments, strings and character literals blanked out; lines stay lines.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut last = ' ';
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.peek() == Some(&'*') => block_comment(&mut rest, &mut out),
            'r' if starts_raw(last, rest.peek()) => raw(&mut rest, &mut out),
            '"' => quoted(&mut rest, &mut out),
            '\'' => character(&mut rest, &mut out),
            c => out.push(c),
        }
        last = c;
    }
    out
}

/// Whether an `r` begins a raw string or a raw name, and does not end a longer name.
fn starts_raw(before: char, after: Option<&char>) -> bool {
    after == Some(&'"')
        || (after == Some(&'#') && (!is_word(before) || matches!(before, 'b' | 'c')))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn keep_line(c: char, out: &mut String) {
    if c == '\n' {
        out.push(c);
    }
}

fn block_comment(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut depth = 0;
    let mut last = '/';
    for c in rest.by_ref() {
        keep_line(c, out);
        match (last, c) {
            ('/', '*') => (depth, last) = (depth + 1, ' '),
            ('*', '/') => (depth, last) = (depth - 1, ' '),
            _ => last = c,
        }
        if depth == 0 {
            return;
        }
    }
}

fn quoted(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    while let Some(c) = rest.next() {
        keep_line(c, out);
        match c {
            '"' => return,
            '\\' => rest.next().into_iter().for_each(|c| keep_line(c, out)),
            _ => {}
        }
    }
}

/// A raw string, or a raw name such as `r#type`.
fn raw(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut hashes = 0;
    while rest.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if rest.next_if_eq(&'"').is_none() {
        return;
    }
    let mut seen = None;
    for c in rest.by_ref() {
        keep_line(c, out);
        seen = match (c, seen) {
            ('"', _) => Some(0),
            ('#', Some(n)) => Some(n + 1),
            _ => None,
        };
        if seen == Some(hashes) {
            return;
        }
    }
}

/// A character literal; a lifetime stays.
fn character(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut ahead = rest.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), _) => {
            rest.next();
            rest.next();
            while rest.next_if(|c| *c != '\'').is_some() {}
            rest.next();
        }
        (Some(_), Some('\'')) => {
            rest.next();
            rest.next();
        }
        _ => out.push('\''),
    }
}

/// Code (as [`code`] gives it) with every item under `#[cfg(test)]` blanked out; lines stay lines.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        out.push_str(&rest[..start]);
        let item = &rest[start + MARK.len()..];
        let end = item_end(item);
        item[..end].chars().for_each(|c| keep_line(c, &mut out));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// Where the item ends that the text starts with: after its block, or its semicolon.
fn item_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a word stands in a text by itself, not as a part of a longer one.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_keeps_code_and_lines_and_nothing_else() {
        let text = "a(\"x\\\"y\n\", 'z', '\\'', '{'); // b\n/* c /* d */\n e */ f::<'a>(r#\"g\"h\"#, br\"i\") // j";
        assert_eq!(code(text), "a(\n, , , ); \n\n f::<'a>(, b) ");
        assert_eq!(code("for r in r#loop {}"), "for r in loop {}");
    }

    #[test]
    fn tests_are_blanked_and_what_follows_them_is_not() {
        let text = "one();\n#[cfg(test)]\nmod tests {\n fn two() { {} }\n}\nthree();\n#[cfg(test)]\nuse four;\nfive();";
        assert_eq!(without_tests(text), "one();\n\n\n\n\nthree();\n\n\nfive();");
    }

    #[test]
    fn a_word_is_not_a_part_of_a_longer_one() {
        assert!(has_word("S1, S11 and (S2)", "S2"));
        assert!(!has_word("S11 and S12", "S1"));
    }
}
