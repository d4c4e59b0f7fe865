//! `rebloom-sim replay ...`: its arguments, and what it prints and writes.

use super::Replay;
use super::report::{Report, sensitivity};
use super::scenario::BUILT_IN;
use std::path::{Path, PathBuf};

/// What `replay --help` says.
pub const HELP: &str = "\
Plays a recorded history under the real engine, and under what its operators did then.

Usage: rebloom-sim replay bloom|llama3|fleet|FILE [--seeds N] [--sensitivity] [--charts DIR]
       rebloom-sim replay bloom|llama3|fleet|FILE --explain SEED

  FILE             a scenario of your own; docs/replay.md says how to write one
  --seeds N        how often, each time with other chances [default: 10]
  --durations FILE how long things take [default: sim/histories/durations.toml]
  --sensitivity    also how ETTR falls when detection, restore or saves get worse
  --charts DIR     write the charts there, as SVG
  --explain SEED   one seed: what was decided, when and why

Exit code: 0, 1 where the baseline is off the published figure or the goal is missed, 2 bad arguments.";

/// What to play.
#[derive(Debug)]
struct Arguments {
    scenario: String,
    durations: Option<PathBuf>,
    seeds: u64,
    explain: Option<u64>,
    sensitivity: bool,
    charts: Option<PathBuf>,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        scenario: String::new(),
        durations: None,
        seeds: 10,
        explain: None,
        sensitivity: false,
        charts: None,
    };
    while let Some(name) = given.next() {
        let mut value = || {
            given
                .next()
                .ok_or(format!("{name} needs a value; see replay --help"))
        };
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("`{text}` is not a number; write 0 or more"))
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--seeds" => arguments.seeds = number(value()?)?.max(1),
            "--durations" => arguments.durations = Some(value()?.into()),
            "--explain" => arguments.explain = Some(number(value()?)?),
            "--sensitivity" => arguments.sensitivity = true,
            "--charts" => arguments.charts = Some(value()?.into()),
            _ if name.starts_with('-') => {
                return Err(format!("`{name}` is no option; see replay --help"));
            }
            _ => arguments.scenario = name,
        }
    }
    if arguments.scenario.is_empty() {
        return Err("say which history: bloom, llama3, fleet or a file".to_owned());
    }
    Ok(Some(arguments))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Does what was asked; whether everything came out as it should.
pub fn run(given: impl Iterator<Item = String>, mut say: impl FnMut(&str)) -> Result<bool, String> {
    let Some(arguments) = parse(given)? else {
        say(HELP);
        return Ok(true);
    };
    let built_in = BUILT_IN
        .iter()
        .find(|(name, _)| *name == arguments.scenario);
    let scenario = match built_in {
        Some((_, text)) => (*text).to_owned(),
        None => read(Path::new(&arguments.scenario))?,
    };
    let durations = arguments.durations.as_deref().map(read).transpose()?;
    let replay = Replay::new(&scenario, durations.as_deref())
        .map_err(|error| format!("{}: {error}", arguments.scenario))?;
    if let Some(seed) = arguments.explain {
        say(&replay.explain(seed));
        return Ok(true);
    }
    let report = Report::new(&replay.scenario, replay.play(arguments.seeds));
    say(&report.text());
    let mut charts = report.charts();
    if arguments.sensitivity {
        let (text, chart) = sensitivity(&replay, arguments.seeds.min(5));
        say(&text);
        charts.push((format!("{}-sensitivity.svg", replay.scenario.name), chart));
    }
    if let Some(directory) = &arguments.charts {
        for (name, svg) in charts {
            let path = directory.join(name);
            std::fs::write(&path, svg)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            say(&format!("wrote {}", path.display()));
        }
    }
    Ok(report.is_calibrated() && report.reaches_goal())
}
