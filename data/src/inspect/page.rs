//! The report as one HTML page that needs nothing else: no script, no font, no network.

use super::{Amount, Inspected, Report};
use crate::corpus::name;
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6675;--line:#d8dee6;--ground:#fbfcfd;--card:#fff;\
--one:#2f6fb2;--two:#d98a1f;--three:#b3423a;--four:#8b95a3}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa5b4;--line:#313a46;--ground:#14181e;\
--card:#1b2129;--one:#6aa5e0;--two:#e5a84f;--three:#e07a70;--four:#6b7684}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);margin:0 auto;\
max-width:68rem;padding:2rem 1.2rem}h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}\
p{margin:.3rem 0;color:var(--soft)}table{border-collapse:collapse;width:100%;font-size:.88rem}\
td,th{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\
.n{text-align:right;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}\
svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}\
svg .soft{fill:var(--soft)}.one{fill:var(--one)}.two{fill:var(--two)}.three{fill:var(--three)}.four{fill:var(--four)}\
.key span{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 1em}\
details{border:1px solid var(--line);background:var(--card);border-radius:6px;padding:.5rem .8rem;margin:.5rem 0}\
summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem;margin:.6rem 0;\
border-left:3px solid var(--line);padding-left:.8rem}";

/// The page; `title` says what was inspected.
pub fn page(title: &str, report: &Report) -> String {
    let bytes: u64 = report.sources.iter().map(|source| source.all.bytes).sum();
    let left_out: u64 = report
        .sources
        .iter()
        .map(|source| source.left_out.all())
        .sum();
    let languages = report.languages();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n\
         <p>{} documents, {}, {} sources in {} languages; {left_out} left out</p>\n",
        grouped(report.documents()),
        size(bytes),
        report.sources.len(),
        languages.len(),
        title = escaped(title),
    );
    if !report.lacking.is_empty() {
        let names: Vec<String> = report
            .lacking
            .iter()
            .map(|(_, name)| escaped(name))
            .collect();
        page += &format!("<p>Languages without text: {}</p>\n", names.join(", "));
    }
    for line in report.left_aside() {
        page += &format!("<p>{}</p>\n", escaped(&line));
    }
    page += "<h2>Text by language</h2>\n";
    page += &by_language(&languages.into_iter().collect::<Vec<_>>());
    page += "<h2>Sizes of documents</h2>\n";
    page += &by_size(&report.sources);
    page += "<h2>Duplicates by source</h2>\n<p class=\"key\"><span style=\"background:var(--one)\"></span>unique\
             <span style=\"background:var(--two)\"></span>near duplicates\
             <span style=\"background:var(--three)\"></span>duplicates\
             <span style=\"background:var(--four)\"></span>left out</p>\n";
    page += &by_duplicates(&report.sources);
    let compared = grouped(report.compared);
    page += &format!(
        "<p>{compared} documents were compared for likeness by MinHash; two count as near duplicates \
         from a similarity of 0.8 on.</p>\n<h2>Sources</h2>\n"
    );
    page += &table(&report.sources);
    page += "<h2>Samples</h2>\n";
    report
        .sources
        .iter()
        .for_each(|source| page += &samples(source));
    page + "</body></html>\n"
}

/// A row of bars: its label, widths with their colours, and a note.
type Row = (String, Vec<(f64, &'static str)>, String);

/// Bars from the left, one row below the other.
fn bars(rows: &[Row]) -> String {
    const ROW: usize = 22;
    let height = ROW * rows.len() + 6;
    let mut svg = format!("<svg viewBox=\"0 0 900 {height}\" role=\"img\">");
    for (at, (label, parts, note)) in rows.iter().enumerate() {
        let y = ROW * at;
        let base = y + 15;
        let put = write!(
            svg,
            "<text x=\"200\" y=\"{base}\" text-anchor=\"end\">{}</text>",
            escaped(label)
        );
        put.expect("a string takes all");
        let mut x = 210.0;
        for (share, colour) in parts {
            let width = share * 540.0;
            let top = y + 4;
            svg += &format!(
                "<rect class=\"{colour}\" x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>"
            );
            x += width;
        }
        x += 8.0;
        svg += &format!(
            "<text class=\"soft\" x=\"{x:.1}\" y=\"{base}\">{}</text>",
            escaped(note)
        );
    }
    svg + "</svg>\n"
}

fn by_language(languages: &[(&str, Amount)]) -> String {
    let most = languages
        .iter()
        .map(|(_, amount)| amount.bytes)
        .max()
        .unwrap_or(0);
    let mut languages = languages.to_vec();
    languages.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.bytes));
    let rows = languages.iter().map(|(code, amount)| {
        let note = format!(
            "{}, {} documents",
            size(amount.bytes),
            grouped(amount.documents)
        );
        (
            name(code).to_owned(),
            vec![(share(amount.bytes, most), "one")],
            note,
        )
    });
    bars(&rows.collect::<Vec<_>>())
}

fn by_size(sources: &[Inspected]) -> String {
    let powers = sources
        .iter()
        .map(|source| source.sizes.len())
        .max()
        .unwrap_or(0);
    let count = |power: usize| -> u64 { sources.iter().filter_map(|s| s.sizes.get(power)).sum() };
    let used: Vec<usize> = (0..powers).filter(|power| count(*power) > 0).collect();
    let (Some(first), Some(last)) = (used.first(), used.last()) else {
        return bars(&[]);
    };
    let most = used.iter().map(|power| count(*power)).max().unwrap_or(0);
    let rows = (*first..=*last).map(|power| {
        let documents = count(power);
        let label = format!("from {}", size(1 << power));
        (
            label,
            vec![(share(documents, most), "one")],
            grouped(documents),
        )
    });
    bars(&rows.collect::<Vec<_>>())
}

fn by_duplicates(sources: &[Inspected]) -> String {
    let rows = sources.iter().map(|source| {
        let (near, left_out) = (source.near.documents, source.left_out.all());
        let repeated = source.repeated.documents + source.elsewhere.documents;
        let unique = source.all.documents.saturating_sub(near + repeated);
        let all = source.all.documents + left_out;
        let parts = vec![
            (share(unique, all), "one"),
            (share(near, all), "two"),
            (share(repeated, all), "three"),
            (share(left_out, all), "four"),
        ];
        let note = format!("{near} near, {repeated} same");
        (source.name.clone(), parts, note)
    });
    bars(&rows.collect::<Vec<_>>())
}

fn table(sources: &[Inspected]) -> String {
    let mut rows = String::new();
    for source in sources {
        let left_out: Vec<String> = source
            .left_out
            .counts
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        let tokens = source.tokens.map_or_else(|| "–".to_owned(), grouped);
        let said = [
            &source.name,
            name(&source.language),
            &source.licence,
            &source.permission,
            &source.contact,
        ];
        let said: String = said
            .iter()
            .map(|said| format!("<td>{}</td>", escaped(said)))
            .collect();
        let numbers = [
            grouped(source.all.documents),
            size(source.all.bytes),
            tokens,
            grouped(source.repeated.documents),
            grouped(source.elsewhere.documents),
            grouped(source.near.documents),
        ];
        let numbers: String = numbers
            .iter()
            .map(|n| format!("<td class=\"n\">{n}</td>"))
            .collect();
        rows += &format!(
            "<tr>{said}{numbers}<td>{}</td></tr>\n",
            escaped(&left_out.join(", "))
        );
    }
    format!(
        "<div class=\"wide\"><table><tr><th>source</th><th>language</th><th>licence</th><th>permission</th>\
         <th>contact</th><th class=\"n\">documents</th><th class=\"n\">text</th><th class=\"n\">tokens</th>\
         <th class=\"n\">repeated</th><th class=\"n\">in another</th><th class=\"n\">near</th><th>left out</th></tr>\n\
         {rows}</table></div>\n"
    )
}

fn samples(source: &Inspected) -> String {
    let texts: String = source
        .samples
        .iter()
        .map(|text| format!("<pre dir=\"auto\">{}</pre>", escaped(text)))
        .collect();
    let left_out: String = source
        .left_out
        .named
        .iter()
        .take(20)
        .map(|skipped| format!("<p>left out: {}</p>", escaped(&skipped.to_string())))
        .collect();
    format!(
        "<details><summary>{} <span class=\"soft\">({})</span></summary>{texts}{left_out}</details>\n",
        escaped(&source.name),
        escaped(name(&source.language))
    )
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1.5 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).clamp(1, 5);
    let value = bytes as f64 / f64::from(power * 10).exp2();
    format!("{value:.1} {}", UNITS[power as usize - 1])
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            _ => out.push(letter),
        }
    }
    out
}
