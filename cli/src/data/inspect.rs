//! `rebloom data inspect`: a report in the terminal and as a web page.

use crate::args::InspectData;
use crate::failure::Failure;
use crate::format::{self, Output, bytes, grouped, line};
use rebloom_data::indexed::idx_path;
use rebloom_data::inspect::{Report, corpus, dataset, page};
use rebloom_data::sources::Sources;

/// Bytes of text after which progress is told once more.
const STEP: u64 = 256 << 20;

pub(super) fn run(args: &InspectData, output: Output) -> Result<(), Failure> {
    let target = &args.target;
    let mut next = STEP;
    let progress = |done| {
        if done >= next && output != Output::Json {
            line(&format!("read {}", bytes(done)));
            next = done + STEP;
        }
    };
    let report = if target.is_file() {
        let listed = Sources::open(target).map_err(|error| super::bad(&error))?;
        corpus(&listed, args.samples, progress)
    } else if idx_path(target).exists() {
        dataset(target, args.samples, progress).map_err(|error| super::bad(&error))?
    } else {
        return Err(Failure::NotFound(format!(
            "{} is neither a sources file nor a dataset without its .bin and .idx",
            target.display()
        )));
    };
    if let Some(path) = &args.html {
        let page = page(&target.display().to_string(), &report);
        rebloom_runtime::files::write(path, page.as_bytes())?;
    }
    if output == Output::Json {
        return format::json(&report);
    }
    show(&report);
    if let Some(path) = &args.html {
        line(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn show(report: &Report) {
    let rows = report.sources.iter().map(|source| {
        vec![
            source.name.clone(),
            source.language.clone(),
            source.licence.clone(),
            grouped(source.all.documents),
            bytes(source.all.bytes),
            source.tokens.map_or_else(|| "-".to_owned(), grouped),
            grouped(source.repeated.documents),
            grouped(source.elsewhere.documents),
            grouped(source.near.documents),
            grouped(source.left_out.all()),
        ]
    });
    format::table(
        &[
            "SOURCE",
            "LANGUAGE",
            "LICENCE",
            "DOCUMENTS",
            "TEXT",
            "TOKENS",
            "REPEATED",
            "IN ANOTHER",
            "NEAR",
            "LEFT OUT",
        ],
        rows.collect(),
    );
    for source in &report.sources {
        for skipped in source.left_out.named.iter().take(super::MOST_SKIPPED) {
            line(&format!("left out of {}: {skipped}", source.name));
        }
    }
    report.left_aside().iter().for_each(|text| line(text));
    if !report.lacking.is_empty() {
        let names: Vec<&str> = report
            .lacking
            .iter()
            .map(|(_, name)| name.as_str())
            .collect();
        line(&format!("languages without text: {}", names.join(", ")));
    }
    if report.compared < report.documents() {
        line(&format!(
            "near duplicates were looked for among {} texts: the first that are neither too short nor repeated",
            grouped(report.compared)
        ));
    }
}
