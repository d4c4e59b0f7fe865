//! The model card of an export: what the model is and how it came about, as far as it is known. What is not
//! known is said to be unknown.

use super::Made;
use crate::format::{count, grouped, incidents};
use rebloom_core::chronicle::energy;
use rebloom_core::engine::RunView;
use rebloom_data::build::Meta;
use std::collections::BTreeSet;
use std::path::Path;

/// The card, in Markdown with the head that Hugging Face reads.
pub(super) fn text(made: &Made, run: Option<&RunView>, license: &str) -> String {
    let meta = run.and_then(data);
    let name = made.of.as_ref().map_or("BLOOM", |of| of.run.as_str());
    let mut text = head(license, meta.as_ref());
    let m = &made.model;
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    say(&format!("# {name}\n"));
    say(match made.of {
        Some(_) => "A BLOOM language model, trained with Rebloom.\n",
        None => "A BLOOM language model.\n",
    });
    say("| | |\n|---|---|");
    say(&format!(
        "| parameters | {} |",
        grouped(made.written.parameters)
    ));
    say(&format!(
        "| shape | {} layers, width {}, {} heads, vocabulary {}, samples of {} tokens |",
        m.layers,
        m.hidden,
        m.heads,
        grouped(m.vocab.into()),
        grouped(m.sequence.into())
    ));
    say(&format!("| weights | {} |", made.kind()));
    say(&format!("| licence | {license} |"));
    say("\n## Training\n");
    say("| | |\n|---|---|");
    let Some(of) = &made.of else {
        say("| origin | a model folder; nothing is known of its training |");
        return text;
    };
    say(&format!("| checkpoint | {} |", of.checkpoint.directory()));
    say(&format!("| steps | {} |", grouped(of.checkpoint.step.0)));
    let tokens = of.samples.saturating_mul(m.sequence.into());
    say(&format!("| tokens | {} |", grouped(tokens)));
    say(&format!("| layout | {} |", of.layout));
    match &meta {
        Some(meta) => say(&format!(
            "| data | {} tokens of {} |",
            grouped(meta.tokens),
            count(meta.sources.len() as u64, "source")
        )),
        None => say("| data | unknown |"),
    }
    let Some(run) = run else {
        say("| hardware hours | unknown: the controller was not asked |");
        say("| energy | unknown |");
        say("| incidents | unknown |");
        return text;
    };
    if let Some(init) = &run.spec.init {
        say(&format!("| began with | {init} |"));
    }
    let train = &run.spec.train;
    say(&format!(
        "| batch | {} samples |",
        grouped(train.global_batch.into())
    ));
    say(&format!(
        "| learning rate | {:e}, cosine to {:e} |",
        train.optimizer.learning_rate, train.optimizer.min_learning_rate
    ));
    // The ledger is of the run as it stands, which may be past this checkpoint.
    let of = match run.step {
        step if step > of.checkpoint.step => {
            format!(" (of the whole run, to step {})", grouped(step.0))
        }
        _ => String::new(),
    };
    let hours = run.ledger.device_time().as_secs_f64() / 3600.0;
    say(&format!("| hardware hours{of} | {hours:.2} |"));
    if let Some(ettr) = run.ledger.ettr() {
        say(&format!(
            "| productive share of the time{of} | {:.1} % |",
            ettr * 100.0
        ));
    }
    let energy = energy(run, &run.ledger);
    let energy =
        energy.unwrap_or_else(|| "unknown: the power of the devices is not known".to_owned());
    say(&format!("| energy{of} | {energy} |"));
    say(&format!("| incidents{of} | {} |", incidents(run)));
    if !run.incidents.is_empty() {
        say(&format!("\n## Incidents{of}\n"));
        for incident in &run.incidents {
            say(&format!(
                "{}. {} ({} done again)",
                incident.id,
                incident.cause,
                count(incident.lost_steps, "step")
            ));
        }
    }
    text
}

/// What is written down of the data of a run; of a blend where it is known of every part.
fn data(run: &RunView) -> Option<Meta> {
    let metas = run.spec.data.prefixes();
    let metas = metas.map(|prefix| Meta::read(Path::new(prefix)).ok()?);
    let metas: Vec<Meta> = metas.collect::<Option<_>>()?;
    metas.into_iter().reduce(|mut all, part| {
        all.documents += part.documents;
        all.tokens += part.tokens;
        all.sources.extend(part.sources);
        all
    })
}

/// Licences that Hugging Face knows by these names.
const KNOWN: [&str; 76] = [
    "afl-3.0",
    "agpl-3.0",
    "apache-2.0",
    "apple-amlr",
    "apple-ascl",
    "artistic-2.0",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "bsl-1.0",
    "c-uda",
    "cc",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "cdla-sharing-1.0",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "ecl-2.0",
    "epl-1.0",
    "epl-2.0",
    "etalab-2.0",
    "eupl-1.1",
    "gemma",
    "gfdl",
    "gpl",
    "gpl-2.0",
    "gpl-3.0",
    "isc",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "lppl-1.3c",
    "mit",
    "mpl-2.0",
    "ms-pl",
    "ncsa",
    "odbl",
    "odc-by",
    "ofl-1.1",
    "openrail",
    "openrail++",
    "osl-3.0",
    "other",
    "pddl",
    "postgresql",
    "unknown",
    "unlicense",
    "wtfpl",
    "zlib",
];

/// How a card names a licence: by an identifier of Hugging Face, which writes SPDX's in small letters, or as
/// another with its name.
fn licence(name: &str) -> String {
    let known = name.trim().to_lowercase();
    if KNOWN.contains(&known.as_str()) {
        return format!("license: {known}\n");
    }
    format!("license: other\nlicense_name: {}\n", quoted(name.trim()))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What sources say that are of no language, or of one that nobody knows (ISO 639-2).
const NO_LANGUAGE: [&str; 4] = ["und", "mis", "mul", "zxx"];

fn head(license: &str, meta: Option<&Meta>) -> String {
    let mut head = format!("---\n{}", licence(license));
    let languages: BTreeSet<&str> = meta
        .iter()
        .flat_map(|meta| &meta.sources)
        .filter_map(|source| source.language.as_deref())
        .filter(|language| !NO_LANGUAGE.contains(language))
        .collect();
    if !languages.is_empty() {
        head.push_str("language:\n");
        for language in languages {
            head.push_str(&format!("- {}\n", quoted(language)));
        }
    }
    head.push_str("library_name: transformers\npipeline_tag: text-generation\ntags:\n- bloom\n- rebloom\n---\n\n");
    head
}

#[cfg(test)]
mod tests;
