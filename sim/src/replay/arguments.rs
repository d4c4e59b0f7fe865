//! `rebloom-sim replay ...`: its arguments, and what it prints and writes.

use super::Replay;
use super::report::{Report, Sensitivity};
use super::scenario::BUILT_IN;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};

/// What `replay --help` says.
pub const HELP: &str = "\
Plays a recorded history under the real engine, and under what its operators did then.

Usage: rebloom-sim replay bloom|llama3|fleet|FILE [--seeds N] [--sensitivity] [--charts DIR] [-o json]
       rebloom-sim replay bloom|llama3|fleet|FILE --explain SEED

  bloom            BLOOM-176B, 384 A100s, 108 days           0.1 s of one core for a seed
  llama3           Llama 3 405B, 16,384 H100s, 54 days       27 s
  fleet            48 nodes at a stress rate, 90 days        0.2 s
  FILE             a scenario of your own; docs/replay.md says how to write one
  --seeds N        play seeds 0 to N - 1, each with other chances [default: 10]
  --durations FILE how long things take [default: built in, the text of sim/histories/durations.toml]
  --sensitivity    also how ETTR falls when detection, restore or saves get worse (five seeds at most)
  --charts DIR     write the charts there, as SVG; the folder is made where it is not there
  --explain SEED   one seed: what was decided, when and why
  -o, --output F   text or json [default: text]

Exit code: 0, 1 where the baseline is off the published figure or the goal is missed, 2 bad input.";

/// Seeds of the sensitivity, at most: it plays seventeen variants of each.
const SENSITIVITY: u64 = 5;

/// What to play.
#[derive(Debug)]
struct Arguments {
    scenario: String,
    durations: Option<PathBuf>,
    seeds: Option<u64>,
    explain: Option<u64>,
    sensitivity: bool,
    charts: Option<PathBuf>,
    json: bool,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        scenario: String::new(),
        durations: None,
        seeds: None,
        explain: None,
        sensitivity: false,
        charts: None,
        json: false,
    };
    while let Some(name) = given.next() {
        let mut value = || {
            given
                .next()
                .ok_or(format!("{name} needs a value; see replay --help"))
        };
        match name.as_str() {
            "--help" | "-h" | "help" => return Ok(None),
            "--seeds" => arguments.seeds = Some(seeds(&value()?)?),
            "--durations" => arguments.durations = Some(value()?.into()),
            "--explain" => arguments.explain = Some(seed(&value()?)?),
            "--sensitivity" => arguments.sensitivity = true,
            "--charts" => arguments.charts = Some(value()?.into()),
            "--output" | "-o" => {
                arguments.json = match value()?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => {
                        return Err(format!(
                            "--output: `{other}` is no format; use text or json"
                        ));
                    }
                };
            }
            _ if name.starts_with('-') => {
                return Err(format!("`{name}` is no option; see replay --help"));
            }
            _ if arguments.scenario.is_empty() => arguments.scenario = name,
            _ => {
                let first = &arguments.scenario;
                return Err(format!(
                    "`{first}` and `{name}` are two histories; give one"
                ));
            }
        }
    }
    if arguments.scenario.is_empty() {
        return Err(
            "say which history: bloom, llama3, fleet or a file; see replay --help".to_owned(),
        );
    }
    let plays_many =
        arguments.seeds.is_some() || arguments.sensitivity || arguments.charts.is_some();
    if arguments.explain.is_some() && (plays_many || arguments.json) {
        let others = "--seeds, --sensitivity, --charts and --output";
        return Err(format!(
            "--explain tells of one seed, in words; leave out {others}"
        ));
    }
    Ok(Some(arguments))
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("--explain: `{text}` is no seed; use a number from 0 on"))
}

fn seeds(text: &str) -> Result<u64, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or_else(|| {
            format!(
                "--seeds: `{text}` is no number of seeds; use 1 to 1000000 (one seed by itself: --explain SEED)"
            )
        })
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// A history by its name or from its file.
fn scenario(name: &str) -> Result<String, String> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok((*text).to_owned());
    }
    let path = Path::new(name);
    if path.exists() {
        return read(path);
    }
    Err(format!(
        "there is no history and no file `{name}`; use bloom, llama3, fleet, or the path of a scenario"
    ))
}

/// Makes sure that charts can be written there, before hours are spent on what they show.
fn prepare(directory: &Path, first: &str) -> Result<(), String> {
    let path = directory.join(first);
    std::fs::create_dir_all(directory)
        .and_then(|()| {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true).open(&path).map(|_| ())
        })
        .map_err(|error| {
            let path = path.display();
            format!("--charts: cannot write {path}: {error}; give a folder that you may write to")
        })
}

/// Says on standard error how far it is, where a person looks on.
fn progress(what: &'static str, all: u64) -> impl Fn(u64) + Sync {
    let is_seen = std::io::stderr().is_terminal();
    move |done| {
        if is_seen {
            let mut line = format!("\r{what}: {done} of {all}");
            if done == all {
                line.push_str("\r\x1b[K");
            }
            let mut out = std::io::stderr();
            // Nobody has to see it.
            out.write_all(line.as_bytes())
                .and_then(|()| out.flush())
                .ok();
        }
    }
}

/// Does what was asked; whether everything came out as it should.
pub fn run(given: impl Iterator<Item = String>, mut say: impl FnMut(&str)) -> Result<bool, String> {
    let Some(arguments) = parse(given)? else {
        say(HELP);
        return Ok(true);
    };
    let text = scenario(&arguments.scenario)?;
    let durations = arguments.durations.as_deref();
    let replay = Replay::new(&text, durations.map(read).transpose()?.as_deref())
        .map_err(|error| named(&error, &arguments))?;
    if let Some(seed) = arguments.explain {
        say(&replay.explain(seed));
        return Ok(true);
    }
    if let Some(directory) = &arguments.charts {
        prepare(directory, &format!("{}-ettr.svg", replay.scenario.name))?;
    }
    let seeds = arguments.seeds.unwrap_or(10);
    let pairs = replay.play_watched(seeds, &progress("seeds played", seeds));
    let report = Report::new(&replay.scenario, pairs);
    let mut charts = report.charts();
    let mut text = report.text();
    if arguments.seeds != Some(1) {
        let (worst, ettr) = report.worst();
        let (name, ettr) = (&arguments.scenario, ettr * 100.0);
        write!(
            text,
            "\nleast ETTR: {ettr:.2} % in seed {worst}; replay {name} --explain {worst} says why\n"
        )
        .expect("a string takes everything");
    }
    let sensitivity = arguments.sensitivity.then(|| {
        let watch = progress("variants played", Sensitivity::VARIANTS);
        Sensitivity::new(&replay, seeds.min(SENSITIVITY), &watch)
    });
    if let Some(sensitivity) = &sensitivity {
        text.push_str(&sensitivity.text());
        charts.push((
            format!("{}-sensitivity.svg", replay.scenario.name),
            sensitivity.chart(),
        ));
    }
    if arguments.json {
        let value = report.json(sensitivity.as_ref());
        say(&serde_json::to_string_pretty(&value).expect("numbers and names"));
    } else {
        say(&text);
    }
    if let Some(directory) = &arguments.charts {
        for (name, svg) in charts {
            let path = directory.join(name);
            std::fs::write(&path, svg)
                .map_err(|error| format!("--charts: cannot write {}: {error}", path.display()))?;
            if !arguments.json {
                say(&format!("wrote {}", path.display()));
            }
        }
    }
    Ok(report.is_calibrated() && report.reaches_goal())
}

/// An error with the file that it is in.
fn named(error: &str, arguments: &Arguments) -> String {
    match (&arguments.durations, error.starts_with("duration")) {
        (Some(file), true) => format!("{}: {error}", file.display()),
        (_, _) => format!("{}: {error}", arguments.scenario),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        run(line.split_whitespace().map(str::to_owned), |_| {}).unwrap_err()
    }

    #[test]
    fn an_error_names_what_is_wrong_and_what_to_use() {
        for (line, parts) in [
            ("", ["bloom, llama3, fleet", "--help"]),
            ("blom", ["`blom`", "bloom, llama3, fleet"]),
            ("bloom llama3", ["`bloom` and `llama3`", "give one"]),
            ("bloom --seeds 0", ["`0`", "use 1 to"]),
            ("bloom --seeds 1..4", ["`1..4`", "--explain"]),
            ("bloom --explain x", ["`x`", "from 0 on"]),
            ("bloom --explain 3 --seeds 4", ["--explain", "leave out"]),
            ("bloom -o yaml", ["`yaml`", "text or json"]),
            ("bloom --charts", ["--charts", "value"]),
            (
                "bloom --charts /dev/null/x",
                ["/dev/null/x", "may write to"],
            ),
            ("bloom --durations /no/such", ["/no/such", "cannot read"]),
            ("bloom --wat", ["`--wat`", "--help"]),
        ] {
            let error = refused(line);
            for part in parts {
                assert!(error.contains(part), "`{line}`: {error}");
            }
        }
    }
}
